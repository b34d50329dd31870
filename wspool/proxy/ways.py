"""Ways: which way a turn goes, and whether a request was asked before. Decisions, and nothing else.

Pure. Rules of this module:

* A turn goes by HTTP if it cannot go by WebSocket: its frame is over the provider's limit, also with what is
  new alone, or there is no WebSocket now. Only while nothing of it was sent, or where the provider has
  refused it for its size, as a close with 1009 does: it is never sent on the same way again.
* A request repeats another one if it says so, by its count of retries or by a name, and that other one can
  still be given. Parallel samples of one prompt say nothing of the kind, or that they are the first try.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

from wspool.errors import (
    RequestTooLargeError,
    ResponseFailedError,
    TurnLostError,
    WebSocketNotOfferedError,
)

__all__ = ["Before", "Repetition", "goes_by_http", "repetition"]

#: HTTP's word for it, which error frames have as well.
_TOO_LARGE: Final = 413

#: What there is of an earlier request with the same words, by the same client.
Before: TypeAlias = Literal["nothing", "running", "ended"]

#: `join` the earlier one; `begin` one that may be joined in turn; go `alone`, as one that nobody joins.
Repetition: TypeAlias = Literal["join", "begin", "alone"]


def goes_by_http(error: Exception | None, *, sent: bool, went_so: bool = False) -> bool:
    """Return whether a turn that ended with *error* on its way by WebSocket goes on by HTTP.

    Args:
        error: what it ended with, if anything.
        sent: whether anything of it may have left.
        went_so: whether that way was one by HTTP already.
    """
    if went_so:
        return False
    match error:
        case RequestTooLargeError() | WebSocketNotOfferedError():
            return not sent
        case TurnLostError():
            return error.too_large
        case ResponseFailedError():
            return error.status == _TOO_LARGE and error.response_id is None
        case _:
            return False


def repetition(retries: str, name: str, before: Before) -> Repetition:
    """Return what becomes of a request.

    Args:
        retries: how often it says that it was asked before; empty if it says nothing.
        name: that it carries, empty if it has none.
        before: what there is of an earlier one.
    """
    if not (retries or name):
        return "alone"
    if before != "nothing" and (name or retries.strip() not in ("", "0")):
        return "join"
    # A first try beside one that still runs is a sample of its own: whoever repeats could mean both.
    return "alone" if before == "running" else "begin"
