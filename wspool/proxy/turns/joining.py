"""Joining: the answer to a request that was asked before, and is being answered. See `Repeats`.

Silence is broken in the run itself once it has begun, for all who read it; before that here, for each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import trio

from wspool.proxy.turns.repeats import Run
from wspool.proxy.visit import Visit

__all__ = ["join"]


async def join(visit: Visit, run: Run, idle: tuple[bytes, Sequence[tuple[str, str]]] | None) -> bool:
    """Answer *visit* with *run*; return False if that has no answer. A checkpoint.

    Args:
        idle: what breaks the silence before that, and behind which head, if anything does.

    Raises:
        trio.BrokenResourceError: the client has left, or the answer was cut.
    """
    run.joined += 1
    try:
        here = await visit.while_here(partial(_follow, visit, run, idle))
    finally:
        run.joined -= 1
    if not here:
        raise trio.BrokenResourceError("the client has left")
    return run.headers is not None and bool(run.pieces)


async def _follow(visit: Visit, run: Run, idle: tuple[bytes, Sequence[tuple[str, str]]] | None) -> None:
    answers, sent = visit.answers, 0
    while True:
        if not answers.begun and run.headers is not None and run.pieces:
            await answers.send_head(200, run.headers)
        while sent < len(run.pieces):
            sent += 1
            await answers.send_data(run.pieces[sent - 1])
        if run.ended and sent == len(run.pieces):
            break
        waits = idle is not None and not sent
        with trio.move_on_at(visit.silent_until if waits else math.inf) as silence:
            await run.more()
        if silence.cancelled_caught and idle is not None:
            nothing, headers = idle
            await answers.send_part(nothing, None if answers.begun else (200, headers))
    if run.cut:
        raise trio.BrokenResourceError("the answer was cut")
    if sent:
        await answers.send_end()
