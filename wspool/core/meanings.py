"""What the codes and types of errors mean: one table of words, and one of statuses.

Pure data. Words are those that endpoints and gateways were seen to send: OpenAI, Azure, xAI, Anthropic,
Google, Groq, vLLM, LiteLLM, OpenRouter, the Codex backend, one-api and its descendants; and `wspool serve`,
whose model may raise (`model_exception`). They are compared by their letters and digits alone:
`rate_limit_error`, `RateLimitError` and `rate-limit-error` are one word.

A word that can stand beside anything (`invalid_request_error`, `api_error`) is not in the first table: it
only counts where nothing else says more.
"""

from __future__ import annotations

import enum
from typing import Final

__all__ = [
    "FIELD_REFUSED",
    "OVERLOADED",
    "Meaning",
    "meaning_of_status",
    "meaning_of_type",
    "meaning_of_word",
    "same_word",
]


class Meaning(enum.Enum):
    """What an error says about its request."""

    __hash__ = object.__hash__

    #: Too many requests: later.
    RATE = "rate"
    #: The server is in trouble or overloaded: later.
    PASSING = "passing"
    #: A lane or a lock is taken by another request. Nobody knows until when.
    BUSY = "busy"
    #: A quota, a credit, a plan: no waiting mends it.
    SPENT = "spent"
    #: The key, or what it may do.
    CREDENTIAL = "credential"
    #: The model, or what was said to it: it stays refused in whatever way it is sent.
    CONTENT = "content"
    #: The parent is not there, or may not be named.
    PARENT = "parent"
    #: Something in the request.
    REQUEST = "request"


#: Words longer than this mean nothing, however they begin.
_LONGEST: Final = 80


def same_word(word: str) -> str:
    """Return what *word* is compared by."""
    return "".join(filter(str.isalnum, word[:_LONGEST])).lower()


def _words(meaning: Meaning, text: str) -> dict[str, Meaning]:
    return {same_word(word): meaning for word in text.split()}


_WORDS: Final = {
    **_words(
        Meaning.RATE,
        """
        rate_limit_exceeded rate_limit_error rate_limited rate_limit rate_limit_reached too_many_requests
        throttling_error throttling_exception throttling throttled request_limit_exceeded
        concurrency_limit_exceeded resource_exhausted websocket_queue_full
        """,
    ),
    **_words(
        Meaning.PASSING,
        """
        server_error internal_server_error internal_error server_is_overloaded overloaded_error overloaded
        engine_overloaded engine_overloaded_error model_overloaded slow_down service_unavailable_error
        service_unavailable unavailable temporarily_unavailable server_busy timeout_error timeout
        gateway_timeout upstream_timeout deadline_exceeded bad_gateway model_capacity_exhausted
        capacity_exceeded no_capacity vector_store_timeout processing_error service_tier_capacity_exceeded
        stream_incomplete
        """,
    ),
    **_words(Meaning.BUSY, "concurrent_request response_already_in_flight"),
    **_words(
        Meaning.SPENT,
        """
        insufficient_quota quota_exceeded usage_limit_reached usage_limit_exceeded usage_not_included
        subscription_sharing_usage_limit_exceeded credit_balance_exhausted flex_unavailable
        resource_unavailable billing_error billing_hard_limit_reached billing_not_active
        insufficient_balance insufficient_credits insufficient_user_quota pre_consume_token_quota_failed
        payment_required deactivated_workspace budget_exceeded access_terminated
        """,
    ),
    **_words(
        Meaning.CREDENTIAL,
        """
        invalid_api_key incorrect_api_key missing_api_key no_api_key authentication_error auth_error
        invalid_authentication unauthorized unauthenticated permission_error permission_denied
        permission_denied_error access_denied forbidden insufficient_permissions token_expired
        token_invalidated token_revoked invalid_token account_deactivated ip_not_authorized
        unsupported_country_region_territory mismatched_organization mismatched_project
        invalid_organization organization_restricted invalid_issuer
        """,
    ),
    **_words(
        Meaning.CONTENT,
        """
        model_not_found model_not_available model_mismatch unsupported_model deployment_not_found
        key_model_access_denied team_model_access_denied invalid_prompt cyber_policy bio_policy
        misalignment_policy_violation data_residency_mismatch content_policy_violation
        content_policy_violation_error content_filter responsible_ai_policy_violation
        image_content_policy_violation context_length_exceeded context_window_exceeded_error
        request_too_large model_exception
        """,
    ),
    **_words(
        Meaning.PARENT,
        """
        previous_response_not_found previous_response_id_not_found previous_response_expired
        previous_response_stale codex_previous_response_stale invalid_previous_response_id
        """,
    ),
}

#: Words that count where neither another word nor a status says more.
_COMMON: Final = {
    **_words(Meaning.PASSING, "api_error api_connection_error"),
    **_words(
        Meaning.REQUEST,
        """
        invalid_request_error invalid_request bad_request bad_request_error not_found not_found_error
        unprocessable_entity unprocessable_entity_error validation_error invalid_argument
        invalid_value invalid_type missing_required_parameter unknown_parameter unsupported_parameter
        unsupported_value unknown_event_type invalid_json invalid_stream_id websocket_stream_limit_reached
        """,
    ),
}

#: Words of an endpoint that has too much to do, or is away, whoever asks.
OVERLOADED: Final = frozenset(
    _words(
        Meaning.PASSING,
        """
        server_is_overloaded overloaded_error overloaded engine_overloaded engine_overloaded_error
        model_overloaded slow_down service_unavailable_error service_unavailable unavailable
        temporarily_unavailable server_busy model_capacity_exhausted capacity_exceeded no_capacity
        service_tier_capacity_exceeded
        """,
    )
)

#: Words that say that a field is not taken, whatever is in it. `extra_forbidden` is pydantic's.
FIELD_REFUSED: Final = frozenset(
    map(
        same_word,
        (
            "unsupported_parameter",
            "unknown_parameter",
            "unexpected_parameter",
            "unrecognized_parameter",
            "unrecognized_request_argument",
            "extra_forbidden",
        ),
    )
)

#: 408 and 425 ask for the same request again (RFC 9110 section 15.5.9, RFC 8470 section 5.2). 423 and 409 are
#: about the request: what it is in the way of is not said.
_STATUSES: Final = {
    401: Meaning.CREDENTIAL,
    402: Meaning.SPENT,
    403: Meaning.CREDENTIAL,
    407: Meaning.CREDENTIAL,
    408: Meaning.PASSING,
    413: Meaning.CONTENT,
    425: Meaning.PASSING,
    429: Meaning.RATE,
    451: Meaning.CONTENT,
    499: Meaning.PASSING,  # nginx: a client went, seen by a gateway whose own client it was
    501: Meaning.REQUEST,
    505: Meaning.REQUEST,
}


def meaning_of_word(word: str | None) -> Meaning | None:
    """Return what a code or a type means by itself, None if it says nothing."""
    return None if word is None else _WORDS.get(same_word(word))


def meaning_of_type(word: str | None) -> Meaning | None:
    """Return what a word means that can stand beside anything, where nothing else says more."""
    return None if word is None else _COMMON.get(same_word(word))


def meaning_of_status(status: int | None) -> Meaning | None:
    """Return what an HTTP status means, None for none and for those that are no errors."""
    if status is None or status < 400:
        return None
    return _STATUSES.get(status, Meaning.PASSING if status >= 500 else Meaning.REQUEST)
