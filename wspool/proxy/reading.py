"""Reading: what the body of a request says, while all others go on.

A body of 15 MiB takes 80 ms to be read and written down, of 75,000 items 400 ms. Rules of this module:

* A large one is read in a thread, and so is one that is encoded, since nobody knows what it unpacks to. The
  others wait for one call of C at a time, not for all of them: parsing gives way between two objects, and so
  does what follows between two items, or a thousand. The longest is a text.
* One at a time. Of two threads that read each would hold up the others for its part.
* What has been read in a thread is written down there, too, for the pool (`WrittenBody`), with all that it
  says by itself. So is one of many items that is not large: that takes most of its time.
* A large one is forgotten in a thread as well: that is one call, too, and takes a twentieth of the time.
* A body has a bounded number of values, whatever door it came through.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, cast

import outcome
import trio

from wspool.core.frames import has_too_many_values
from wspool.core.sending.brought import WrittenBody, http_only
from wspool.http.identity import LARGE, loads, written
from wspool.listening.decoding import decoded
from wspool.listening.errors import RequestError, invalid_request

__all__ = ["forget", "read_body"]

#: Bytes from which one is large that is encoded: zstd makes 30,000 bytes of one, if they are alike.
_LARGE_ENCODED: Final = 128

#: Items of a body that take 2 ms to be written down and compared.
_MANY: Final = 500

_reading: Final = trio.lowlevel.RunVar[trio.CapacityLimiter]("wspool proxy reading")


async def read_body(raw: bytes | bytearray, codings: Sequence[str] = (), *, limit: int = 0) -> dict[str, Any]:
    """Return what a body says. A checkpoint if it is large; cancelling waits for its thread.

    Args:
        raw: it as it came.
        codings: the values of `Content-Encoding`.
        limit: bytes that it unpacks to at most, where it is encoded.

    Raises:
        RequestError: it is no JSON object, has too many values, or unpacks to too much.
    """
    if len(raw) >= (_LARGE_ENCODED if codings else LARGE):
        return await _aside(lambda: _written(_read(raw, codings, limit, aside=True)))
    body = _read(raw, codings, limit)
    items: object = body.get("input")
    if isinstance(items, list) and len(cast("list[object]", items)) >= _MANY:
        return await _aside(lambda: _written(body))
    return body


def forget(body: Mapping[str, Any]) -> None:
    """Forget a body that nobody needs any more. Never waits.

    Args:
        body: what `read_body` has read.
    """
    if isinstance(body, WrittenBody) and len(body.history) >= _MANY:
        trio.lowlevel.start_thread_soon(body.forget, _over)


def _over(forgotten: outcome.Outcome[None]) -> None:
    """A thread has done it."""
    forgotten.unwrap()


async def _aside(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Do *work* in a thread, one at a time. A checkpoint; cancelling waits for it."""
    try:
        limiter = _reading.get()
    except LookupError:
        _reading.set(limiter := trio.CapacityLimiter(1))
    return await trio.to_thread.run_sync(work, limiter=limiter)


def _written(body: dict[str, Any]) -> dict[str, Any]:
    return body if http_only(body) is not None else written(body)


def _read(
    raw: bytes | bytearray, codings: Sequence[str], limit: int, *, aside: bool = False
) -> dict[str, Any]:
    data = decoded(bytes(raw), codings, limit) if codings else raw
    if has_too_many_values(data):
        raise RequestError(invalid_request("The request has too many values.", status=413))
    try:
        body = loads(data, aside=aside)
    except (ValueError, RecursionError):
        raise RequestError(invalid_request("We could not parse the JSON body of your request.")) from None
    if not isinstance(body, dict):
        raise RequestError(invalid_request("The request must be a JSON object."))
    return cast("dict[str, Any]", body)
