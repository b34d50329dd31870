"""What an error means: by its code, its type, its status, and by its wording only for want of them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, strategies as st

from wspool.core.error_fields import find_status
from wspool.core.meanings import Meaning, meaning_of_status
from wspool.core.server_error import ServerError, parse_error, parse_http_error
from wspool.core.waits import MAX_RETRY_AFTER


@pytest.mark.parametrize(
    ("error", "meaning"),
    [
        (ServerError(), None),
        (ServerError(status=399), None),
        (ServerError(code="nobody_knows_this"), None),
        (ServerError(code="nobody_knows_this", status=400), Meaning.REQUEST),
        (ServerError(code="nobody_knows_this", type="rate-limit-error", status=400), Meaning.RATE),
        (ServerError(code="RateLimitExceeded"), Meaning.RATE),
        (ServerError(code="rate_limit_exceeded", type="insufficient_quota", status=429), Meaning.SPENT),
        (ServerError(code="server_is_overloaded", type="invalid_request_error", status=400), Meaning.PASSING),
        (ServerError(code="invalid_api_key", status=429), Meaning.CREDENTIAL),
        (ServerError(type="invalid_request_error"), Meaning.REQUEST),
        (ServerError(type="invalid_request_error", status=503), Meaning.PASSING),
        (ServerError(code="invalid_value"), Meaning.REQUEST),
        (ServerError(type="api_error"), Meaning.PASSING),
        (ServerError(type="api_error", status=400), Meaning.REQUEST),
        (ServerError(message="rate limit, quota, overloaded, try again", status=400), Meaning.REQUEST),
        (ServerError(message="The model is at capacity.", status=400), Meaning.PASSING),
        (ServerError(message="The model is at capacity.", code="model_not_found"), Meaning.CONTENT),
        (ServerError(code="concurrent_request", status=409), Meaning.BUSY),
        (ServerError(param="previous_response_id", status=400, code="invalid_value"), Meaning.PARENT),
        (ServerError(param="previous_response_id", status=401), Meaning.CREDENTIAL),
        (ServerError(param="input", status=400, message="previous response"), Meaning.REQUEST),
        (ServerError(message="Invalid `previous_response_id`.", status=400), Meaning.PARENT),
        (ServerError(message="Invalid `previous_response_id`.", status=500), Meaning.PASSING),
        (ServerError(message="Previous response with id 'x' not found.", code="404"), Meaning.PARENT),
        (ServerError(message="previous_response_id", code="bad"), None),
        (ServerError(code="x" * 1_000_000), None),
    ],
)
def test_a_field_goes_before_a_wording(error: ServerError, meaning: Meaning | None) -> None:
    """The most telling field decides, however the rest reads."""
    assert meaning is error.meaning
    assert not (error.may_pass and error.permanent)


@pytest.mark.parametrize(
    ("statuses", "meaning"),
    [
        ((401, 403, 407), Meaning.CREDENTIAL),
        ((402,), Meaning.SPENT),
        ((429,), Meaning.RATE),
        ((408, 425, 499, 500, 503), Meaning.PASSING),
        ((413, 451), Meaning.CONTENT),
        ((400, 409, 423, 501, 505), Meaning.REQUEST),
    ],
)
def test_a_status_means_what_its_definition_says(statuses: tuple[int, ...], meaning: Meaning) -> None:
    """What may be sent again later, what has to be changed first, and whose it is to change it."""
    assert {meaning} == {meaning_of_status(status) for status in statuses}


@pytest.mark.parametrize("status", range(100, 600))
def test_every_status_has_a_meaning(status: int) -> None:
    """Above 399, all by themselves; what is not listed goes by its hundred."""
    meaning = meaning_of_status(status)
    passes = status in (408, 425, 429, 499) or (status >= 500 and status not in (501, 505))

    assert (meaning is None) == (status < 400)
    assert passes == ServerError(status=status).may_pass
    assert (status >= 400 and not passes) == ServerError(status=status).permanent


@pytest.mark.parametrize(
    ("error", "refuses"),
    [
        (ServerError(code="unsupported_parameter", param="previous_response_id"), True),
        (ServerError(code="unknown_parameter", param="previous_response_id", status=400), True),
        (ServerError(type="extra_forbidden", param="previous_response_id", status=422), True),
        (ServerError(message="Unsupported parameter: previous_response_id", status=400), True),
        (ServerError(message="previous_response_id is only supported on v2", status=400), True),
        (ServerError(code="unsupported_parameter", param="foo"), False),
        (ServerError(code="unsupported_parameter", message="previous_response_id"), False),
        (ServerError(message="Unsupported parameter: foo"), False),
        (ServerError(message="Invalid previous_response_id."), False),
        (ServerError(code="previous_response_not_found", param="previous_response_id"), False),
    ],
)
def test_an_endpoint_may_refuse_the_field(error: ServerError, refuses: bool) -> None:
    """That is another thing than to have forgotten one."""
    assert refuses is error.refuses_parents
    assert not refuses or error.is_parent_missing


@pytest.mark.parametrize(
    ("error", "blames"),
    [
        (ServerError(param="include", message="Encrypted content is not supported with this model."), True),
        (ServerError(param="include[0]", code="invalid_value", status=400), True),
        (ServerError(param="include.0", code="invalid_value", status=400), True),
        (ServerError(code="unsupported_parameter", param="include", status=400), True),
        (ServerError(message="Encrypted content is not supported with this model.", status=400), True),
        (ServerError(type="invalid_request_error", message="unknown field 'include'", status=400), True),
        (ServerError(code="unknown_parameter", message="unknown field 'include'"), True),
        (ServerError(code="invalid_encrypted_content", param="input[3]"), False),
        (ServerError(message="The encrypted content could not be verified.", status=400), False),
        (ServerError(code="rate_limit_exceeded", message="'include'", status=429), False),
        (ServerError(param="includes"), False),
        (ServerError(message="your input does not include a model", status=400), False),
        (ServerError(), False),
    ],
)
def test_a_model_may_give_no_encrypted_reasoning(error: ServerError, blames: bool) -> None:
    """That is about the field that asks for it, not about such reasoning in the input."""
    assert blames is error.blames_reasoning


@pytest.mark.parametrize(
    ("error", "blames"),
    [
        (ServerError(code="string_above_max_length", param="input[3].call_id"), True),
        (ServerError(message="Invalid 'input[3].call_id': string too long."), True),
        (ServerError(param="input", message="No tool call found for output with call_id c1."), False),
        (ServerError(code="string_above_max_length", param="input[3].name"), False),
        (ServerError(), False),
    ],
)
def test_the_id_of_a_call_may_be_too_long(error: ServerError, blames: bool) -> None:
    """That is another thing than one that is not known."""
    assert blames is error.blames_call_id


@pytest.mark.parametrize(
    ("error", "may"),
    [
        (ServerError(), True),
        (ServerError(status=400), True),
        (ServerError(status=404), True),
        (ServerError(code="nobody_knows_this", status=422), True),
        (ServerError(code="previous_response_not_found"), True),
        (ServerError(status=401), False),
        (ServerError(status=402), False),
        (ServerError(status=413), False),
        (ServerError(status=429), False),
        (ServerError(status=500), False),
        (ServerError(code="insufficient_quota", status=400), False),
        (ServerError(code="context_length_exceeded", status=400), False),
        (ServerError(code="websocket_connection_limit_reached", status=400), False),
        (ServerError(code="concurrent_request"), False),
        (ServerError(message="a response is already in progress"), False),
        (ServerError(param="stream_id", status=400), False),
    ],
)
def test_the_whole_history_may_cure_what_is_about_the_request(error: ServerError, may: bool) -> None:
    """Not what would be refused again: the key, the money, the model, the lane, the server."""
    assert may is error.full_may_cure


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        (b'"just a text"', None, "just a text"),
        (b"[1, 2]", None, ""),
        (b"7", None, "7"),
        (b"\xff\xfe", None, "\ufffd\ufffd"),
        (b"<html>no title", None, ""),
        (b"{" * 100_000, None, "{" * 4096),
        (b'{"error": "insufficient_quota"}', "insufficient_quota", ""),
        (b'{"error": {"message": {"error": {"code": "deep", "message": "in"}}}}', "deep", "in"),
        (b'{"error": {"message": "{\\"x\\": 1}"}}', None, ""),
        (b'{"error": {"message": "{not JSON"}}', None, "{not JSON"),
        (b'{"error": {"metadata": {"raw": "alone"}}}', None, ""),
        (b'{"detail": {"loc": ["body", "input", 0], "msg": "Bad"}}', None, "input.0: Bad"),
        (b'{"detail": {"loc": ["body"], "msg": "Bad"}}', None, "Bad"),
        (b'{"title": "Gone", "detail": {"code": "gone"}}', "gone", "Gone"),
        (b'{"incomplete_details": {"reason": "content_filter"}}', "content_filter", ""),
        (b'{"error": {"error": {"error": {"error": {"error": {"error": {"error": 1}}}}}}}', None, ""),
        (b'{"message": "' + b"x" * 2_000_000 + b'"}', None, '{"message": "' + "x" * 4083),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_every_body_says_what_it_can(body: bytes, code: str | None, message: str) -> None:
    """Whatever its shape, and however much it is."""
    error = parse_http_error(400, [], body)

    assert (400, code, message) == (error.status, error.code, error.message)
    assert error.words.isprintable()


FIELDS = ["error", "body", "errors", "detail", "details", "message", "code", "type", "status", "param"]
FIELDS += ["metadata", "raw", "loc", "headers", "retry_after", "resets_at", "response", "msg", "title"]

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(FIELDS),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@given(st.dictionaries(st.sampled_from(["error", "response", "status", "body", "detail", "message"]), JSON))
def test_no_shape_raises(frame: dict[str, Any]) -> None:
    """Any field may be anything."""
    error = parse_error({"type": "error", **frame}, wall_clock=1e9)

    assert error.words.isprintable()
    assert error.status is None or 100 <= error.status <= 599
    assert error.hold <= 3600
    assert error.full_may_cure in (True, False)
    assert not (error.may_pass and error.permanent)


@pytest.mark.parametrize(
    ("error", "says_so"),
    [
        (ServerError(status=503), True),
        (ServerError(status=529), True),
        (ServerError(status=429), True),
        (ServerError(status=500, code="server_is_overloaded"), True),
        (ServerError(type="overloaded_error"), True),
        (ServerError(status=500), False),
        (ServerError(status=502, code="server_error"), False),
        (ServerError(type="api_error", message="We are overloaded."), False),
    ],
)
def test_who_is_overloaded_says_that_it_is_nobodys_fault(error: ServerError, says_so: bool) -> None:
    """A 500 may be what one request causes; a 503 meets everybody."""
    assert says_so == error.blames_endpoint


def test_an_error_shows_what_it_was_found_to_say_alone() -> None:
    """Not its frame, in which a server may write anything."""
    assert "secret" not in repr(ServerError(code="x", raw={"error": "a secret"}))


@pytest.mark.parametrize(
    ("error", "hold"),
    [
        (ServerError(status=429, retry_after=3.0), 3.0),
        (ServerError(status=429, retry_after=MAX_RETRY_AFTER), MAX_RETRY_AFTER),
        (ServerError(status=429, retry_after=MAX_RETRY_AFTER + 1), 0.0),
        (ServerError(status=429), 0.0),
        (ServerError(status=429, code="insufficient_quota", retry_after=3.0), 0.0),
    ],
)
def test_what_one_is_asked_to_wait_holds_all(error: ServerError, hold: float) -> None:
    """Not what is asked for in vain, and not for hours."""
    assert hold == error.hold


@pytest.mark.parametrize(
    ("error", "blames"),
    [
        (ServerError(param="type", message="Invalid value."), True),
        (ServerError(message="Unknown event 'response.steer'."), True),
        (ServerError(param="input", message="Invalid value."), False),
    ],
)
def test_which_errors_are_about_steering(error: ServerError, blames: bool) -> None:
    """The type of the message is what is refused, by its field or by its name."""
    assert blames is error.blames_steering


def test_an_end_that_is_announced_is_known_by_its_code() -> None:
    """A limit that is met has another one."""
    codes = ("connection_expiring", "websocket_connection_limit_reached", None)
    assert [True, False, False] == [ServerError(code=code).is_expiry_notice for code in codes]


@pytest.mark.parametrize(
    ("value", "status"),
    [
        (100, 100),
        (599, 599),
        ("429", 429),
        (99, None),
        (600, None),
        ("099", None),
        ("0429", None),
        (True, None),
    ],
)
def test_a_number_that_is_no_status_is_none(value: object, status: int | None) -> None:
    """A code of a protocol of their own, for one: what is behind it may have a status."""
    assert find_status([{"status": value}]) == status
    assert find_status([{"status": 503}, {"status": value}]) == (status or 503)
