"""What a server says when it says no: one reader for all the ways and shapes that errors come in.

Rules of this module:

* Error frames, failed responses, HTTP bodies and refused upgrades come in many shapes; all become one
  `ServerError`. The innermost object that says something counts, whatever it is wrapped in.
* What an error means is read from its fields, never from its wording where a field says it: first the code,
  then the type, then the status. `wspool.core.meanings` has the words.
* A wait is told as the server said it (`wspool.core.waits`). What a pool waits by itself is bounded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

import attrs

from wspool.core.error_fields import (
    find_code,
    find_holders,
    find_message,
    find_param,
    find_status,
    find_type,
    find_wait,
    parse_json,
)
from wspool.core.meanings import (
    FIELD_REFUSED,
    OVERLOADED,
    Meaning,
    meaning_of_status,
    meaning_of_type,
    meaning_of_word,
    same_word,
)
from wspool.core.plain import plain
from wspool.core.waits import MAX_RETRY_AFTER

__all__ = ["ServerError", "parse_error", "parse_http_error"]

#: Status for a request that is too large. Source: RFC 9110, 15.5.14.
_TOO_LARGE: Final = 413

#: Statuses for an endpoint that is overloaded or away for all. Anthropic has 529.
_OF_ENDPOINT: Final = frozenset({503, 529})

#: Fields that name the parent. vLLM has its own.
_PARENT_FIELDS: Final = frozenset({"previous_response_id", "response_id"})


@attrs.frozen(kw_only=True)
class ServerError:
    """What an error frame, the error of a failed response, or an HTTP answer says.

    Attributes:
        code: the machine-readable code, or None.
        type: the error's family, or None.
        message: the server's text, possibly empty.
        param: the field it blames, or None.
        status: HTTP-like status, or None.
        retry_after: seconds the server asked to wait, or None.
        in_stream: True for an error inside a running response, after which `response.failed`
            may still come; False for the answer to a request.
        raw: the frame.
    """

    code: str | None = None
    type: str | None = None
    message: str = ""
    param: str | None = None
    status: int | None = None
    retry_after: float | None = None
    in_stream: bool = False
    raw: dict[str, Any] = attrs.field(factory=dict[str, Any], repr=False)

    @property
    def is_connection_limit(self) -> bool:
        """The connection reached its lifetime limit."""
        return self.code == "websocket_connection_limit_reached"

    @property
    def is_expiry_notice(self) -> bool:
        """Not a failure: the connection will reach its limit soon (vLLM sends it mid-turn)."""
        return self.code == "connection_expiring"

    @property
    def named_meaning(self) -> Meaning | None:
        """What its code or its type says about its request, None if they are of no special kind."""
        by_code, by_type = meaning_of_word(self.code), meaning_of_word(self.type)
        if Meaning.SPENT in (by_code, by_type):
            return Meaning.SPENT  # which says more than "too many requests"
        return by_code or by_type

    @property
    def meaning(self) -> Meaning | None:
        """What it says about its request, None if nothing that is known."""
        if (named := self.named_meaning) is not None:
            return named
        if self._is_nameless and "at capacity" in self.message:
            return Meaning.PASSING  # as a 400 of the Codex backend, without any field that says so
        by_status = meaning_of_status(self.status)
        if by_status in (None, Meaning.REQUEST) and self._names_parent:
            return Meaning.PARENT
        return by_status or meaning_of_type(self.code) or meaning_of_type(self.type)

    @property
    def is_parent_missing(self) -> bool:
        """The server does not hold the previous response, or takes none."""
        return self.meaning is Meaning.PARENT

    @property
    def refuses_parents(self) -> bool:
        """The endpoint takes no previous response, whichever it is: it refuses the field."""
        words = same_word(self.code or ""), same_word(self.type or "")
        refused = not FIELD_REFUSED.isdisjoint(words)
        # One wording, for endpoints that say it in no field. Those with another are found out all the same,
        # by what they do (`wspool.core.sending.takes`).
        return self._names_parent and (refused or (self._is_nameless and "support" in self.message.lower()))

    @property
    def blames_reasoning(self) -> bool:
        """The model gives no encrypted reasoning, or the field that asks for it is not known."""
        if self.param is not None:
            return self.param.partition("[")[0].partition(".")[0] == "include"
        # "Encrypted content is not supported with this model." and "Unknown field 'include'."
        text = self.message.lower() if self._is_nameless or self.meaning is Meaning.REQUEST else ""
        return "'include'" in text or ("encrypted" in text and "support" in text)

    @property
    def blames_call_id(self) -> bool:
        """The id of a call is longer than the endpoint takes, though it may have made it itself."""
        where = self.param if self.param is not None else self.message
        return "call_id" in where and (self.code == "string_above_max_length" or "too long" in self.message)

    @property
    def blames_size(self) -> bool:
        """Whether a request was refused for its size, by HTTP's word for that.

        Some (Groq) say 413 of a limit of rate as well, for as long as that lasts.
        """
        return self.status == _TOO_LARGE and not self.is_rate_limit

    @property
    def blames_lane(self) -> bool:
        """The endpoint knows no lanes: it refuses the field that names one."""
        if self.code == "websocket_stream_limit_reached":
            return False  # it knows them well, and has no more
        return self.param == "stream_id" or (self.param is None and "stream_id" in self.message)

    @property
    def blames_steering(self) -> bool:
        """The endpoint knows no steering: it refuses the type of the message."""
        return self.param == "type" or "response.steer" in self.message

    @property
    def says_busy(self) -> bool:
        """The server is at work on another response on this lane, of which nobody here knows."""
        return self.meaning is Meaning.BUSY or "already in progress" in self.message

    @property
    def may_pass(self) -> bool:
        """The same request may succeed a little later."""
        return self.meaning in (Meaning.RATE, Meaning.PASSING)

    @property
    def permanent(self) -> bool:
        """The same request cannot succeed later, however long one waits."""
        # A parent, a lane and a connection are this pool's business: the turn itself may succeed at once.
        return not self.is_connection_limit and self.meaning in (
            Meaning.SPENT,
            Meaning.CREDENTIAL,
            Meaning.CONTENT,
            Meaning.REQUEST,
        )

    @property
    def refuses_key(self) -> bool:
        """The credential is refused. A 403 that names no reason does not say so: the edge sends it, too."""
        return Meaning.CREDENTIAL in (self.named_meaning, self.meaning if self.status == 401 else None)

    @property
    def full_may_cure(self) -> bool:
        """Of a request that named a parent: the same request with the whole history instead may be taken.

        Whatever wording an endpoint has for "I do not know that parent" or "I do not know that call", it is
        a refusal of the request, and of none of the things that would be refused again.
        """
        if self.is_connection_limit or self.blames_lane or self.says_busy:
            return False
        return self.meaning in (None, Meaning.PARENT, Meaning.REQUEST)

    @property
    def hold(self) -> float:
        """How many seconds every client of this endpoint shall wait; 0 where none is asked to.

        What one turn is asked to wait, the whole endpoint waits. A request that cannot succeed later
        (a spent quota) holds nobody up: what the server says about waiting is then not about the others.
        Nor does a wait of more than `MAX_RETRY_AFTER`, which is for the caller to plan with.
        """
        asked = self.retry_after or 0.0
        return asked if self.may_pass and asked <= MAX_RETRY_AFTER else 0.0

    @property
    def is_rate_limit(self) -> bool:
        """Too many requests."""
        return self.status == 429 or self.meaning is Meaning.RATE

    @property
    def blames_endpoint(self) -> bool:
        """It says that the endpoint refuses everybody: a 500 does not, for one request can cause it."""
        if self.is_rate_limit or self.status in _OF_ENDPOINT:
            return True
        return not OVERLOADED.isdisjoint((same_word(self.code or ""), same_word(self.type or "")))

    @property
    def label(self) -> str:
        """Its code, or its type, as it can be shown; empty if it has none."""
        return plain(self.code or self.type or "", _LONGEST_LABEL)

    @property
    def words(self) -> str:
        """Its label and its text in one line that can be shown; empty if it says nothing."""
        return ": ".join(filter(None, (self.label, plain(self.message))))

    @property
    def _is_nameless(self) -> bool:
        """Whether no field says what it is, so that its wording has to."""
        return self.code is None or self.code.isdecimal()

    @property
    def _names_parent(self) -> bool:
        if self.param is not None:
            return self.param in _PARENT_FIELDS
        # Where no field names anything, the text does: "Previous response with id 'resp_1' not found."
        text = self.message.replace("_", " ").lower() if self._is_nameless else ""
        return "previous response" in text


#: Characters of a code that are shown. The longest that are known have some fifty.
_LONGEST_LABEL: Final = 100


def parse_error(data: Mapping[str, Any], *, wall_clock: float = 0.0) -> ServerError:
    """Return what an `error` frame or a `response.failed` event says, whatever its shape.

    Args:
        data: the decoded event.
        wall_clock: seconds since the epoch, to which dates in retry hints are compared.
    """
    holders = find_holders(data)
    message = find_message(holders)
    return ServerError(
        code=find_code(holders),
        type=find_type(holders),
        message=message,
        param=find_param(holders),
        status=find_status(holders),
        retry_after=find_wait(holders, message, wall_clock),
        in_stream="sequence_number" in data and find_status([data]) is None,
        raw=dict(data),
    )


#: Bytes that are looked at of a body that is no JSON.
_LONGEST_PAGE: Final = 4096

_TITLE: Final = re.compile(r"<title[^<>]{0,100}>\s{0,100}([^<]{1,300})", re.IGNORECASE)


def parse_http_error(
    status: int, headers: Sequence[tuple[str, str]], body: bytes, *, wall_clock: float = 0.0
) -> ServerError:
    """Return what an HTTP answer says that is not the one that was asked for, whatever its body is.

    Args:
        status: its status.
        headers: its headers.
        body: the beginning of its body.
        wall_clock: as for `parse_error`.
    """
    value = parse_json(body)
    if isinstance(value, Mapping):
        said = cast("Mapping[str, Any]", value)
    elif isinstance(value, list):
        said = {"error": cast("object", value)}
    else:
        text = body[:_LONGEST_PAGE].decode(errors="replace").strip()
        if text.startswith("<"):
            title = _TITLE.search(text)
            text = title[1].strip() if title is not None else ""
        said = {"error": {"message": value if isinstance(value, str) else text}}
    return parse_error({**said, "status": status, "headers": dict(headers)}, wall_clock=wall_clock)
