"""Compaction on request: the history of a conversation becomes a shorter one that the server made of it.

It is offered over HTTP only (`POST .../responses/compact`), so it goes on a connection of its own. The
answer is no response that could be continued from: its output begins a new chain, and is sent in full.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final, cast

from wspool.core.encoding import Encoded, assemble
from wspool.core.frames import read_object
from wspool.core.sending.chain import Fields
from wspool.core.server_error import parse_http_error
from wspool.errors import PoolClosedError, TurnLostError
from wspool.pool.continuity import ContinuityOwner
from wspool.pool.errand import Errand
from wspool.pool.outcome import server_failure
from wspool.wire.answer import Answer
from wspool.wire.wire import WireClosedError

__all__ = ["compacted"]

#: The body fields that the request takes. Source: the SDK's `response_compact_params`.
_FIELDS: Final = (
    "model",
    "instructions",
    "previous_response_id",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "service_tier",
)


async def compacted(
    owner: ContinuityOwner, errand: Errand, items: Sequence[Encoded], fields: Fields
) -> dict[str, Any]:
    """Return the server's answer, whose `output` is a list of items that stands for *items*.

    A checkpoint. Cancelling gives it up; nothing has changed then.

    Args:
        owner: goes to the endpoint.
        errand: what this is.
        items: the history.
        fields: the other fields of a turn.

    Raises:
        ResponseFailedError: the server refused.
        TurnLostError: its answer did not come, or was none; nothing has changed.
        DialFailedError: nothing was sent.
        PoolClosedError: the pool or the conversation was closed; `delivery` says how far it was.
    """
    request = {name: fields[name] for name in _FIELDS if name in fields}
    answer = await _answered(owner, errand, assemble(request, items))
    if answer.status != 200:
        said = parse_http_error(answer.status, answer.headers, answer.body, wall_clock=time.time())
        if said.hold:
            owner.hold(said.hold)
        raise server_failure(said, "terminal")
    value = read_object(answer.body)
    output = value.get("output")
    if not isinstance(output, list) or not all(
        isinstance(item, dict) for item in cast("list[object]", output)
    ):
        raise _lost("the answer holds no list of items")
    return value


async def _answered(owner: ContinuityOwner, errand: Errand, request: bytes) -> Answer:
    while not owner.errands.allows(errand):
        await owner.errands.until_allowed(errand)
    begun = False
    try:
        with owner.errands.working(errand):
            begun = True
            return await owner.errands.post("/compact", request)
    except WireClosedError as error:
        raise _lost(f"the answer did not come ({error.reason or 'the connection ended'})") from error
    except PoolClosedError:
        if not begun:
            raise
        closed = PoolClosedError(f"{errand.stopped}, and the compaction with it; the history is as it was")
        closed.delivery = "ambiguous"
        raise closed from None


def _lost(how: str) -> TurnLostError:
    return TurnLostError(
        f"compaction lost: {how}; the conversation is as it was, try again", delivery="ambiguous"
    )
