"""Joining: the answer to a request that was asked before, and is being answered. See `Repeats`."""

from __future__ import annotations

from functools import partial
from typing import Final

import trio

from wspool.proxy.turns.repeats import Run
from wspool.proxy.visit import Visit

__all__ = ["join"]

_COMMENT: Final = b": keepalive\n\n"


async def join(visit: Visit, run: Run, keepalive: float) -> bool:
    """Answer *visit* with *run*; return False if that has no answer. A checkpoint.

    Args:
        keepalive: longest silence, in seconds.

    Raises:
        trio.BrokenResourceError: the client has left.
    """
    run.joined += 1
    try:
        here = await visit.while_here(partial(_follow, visit, run, keepalive))
    finally:
        run.joined -= 1
    if not here:
        raise trio.BrokenResourceError("the client has left")
    return visit.answers.begun


async def _follow(visit: Visit, run: Run, keepalive: float) -> None:
    answers, sent = visit.answers, 0
    while True:
        if not answers.begun and run.headers is not None and run.pieces:
            await answers.send_head(200, run.headers)
        while sent < len(run.pieces):
            sent += 1
            await answers.send_data(run.pieces[sent - 1])
        if run.ended and sent == len(run.pieces):
            break
        with trio.move_on_after(keepalive) as silence:
            await run.more()
        streamed = run.headers is not None and ("x-accel-buffering", "no") in run.headers
        if silence.cancelled_caught and answers.begun and streamed:
            await answers.send_data(_COMMENT)
    if answers.begun:
        await answers.send_end()
