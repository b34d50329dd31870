"""Upkeep: what goes over a connection for no turn: pings, and the warm-up request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import trio

from wspool.core.commands import CloseReason
from wspool.core.frames import encode
from wspool.pool.attempt import Attempt
from wspool.pool.connection import Connection
from wspool.pool.link import Lane
from wspool.wire.wire import WireClosedError

__all__ = ["ping", "warm_up", "warm_up_request"]


async def ping(connection: Connection) -> bool:
    """Return whether the peer is there: False once nothing at all came from it for `ping_timeout`."""
    link = connection.link
    wire = link.wire
    if wire is None:
        return False
    patience = link.host.policy.ping_timeout
    since = trio.current_time()
    # Any byte counts, not only the pong: that one may wait behind a large message on a slow link.
    while (deadline := max(since, wire.heard_at) + patience) > trio.current_time():
        with trio.move_on_at(deadline):
            try:
                await wire.ping()
            except WireClosedError:
                return False
            link.heard_at = link.host.now()
            return True
        if connection.paused:
            return True  # while reading pauses no pong can be seen
        # Time may be up only because somebody kept the whole program busy. What came meanwhile
        # is read in the same step in which the deadline was found to have passed, before the next.
        await trio.lowlevel.checkpoint()
    link.close_reason = f"nothing came for ping_timeout={patience:g} s, not even a pong"
    return False


async def warm_up(connection: Connection, lane: Lane, body: Mapping[str, Any]) -> None:
    """Send the warm-up request on *lane* and wait for its answer, at most `connect_timeout`.

    Without an answer the connection is given up: a warm-up never blocks nor pollutes a lease.
    """
    link = connection.link
    name = connection.stream_id(lane)
    attempt = lane.attempt = Attempt(None, name)
    lane.warming = body
    request = warm_up_request(body)
    if name is not None:
        request["stream_id"] = name
    sent = False
    try:
        while not attempt.ended:
            with trio.move_on_after(link.host.policy.connect_timeout):
                if not sent:
                    sent = True
                    await connection.send(encode(request), attempt)
                await attempt.end()
            if not link.is_shared(attempt):
                break  # nobody else is on it; else it goes on until then
    except WireClosedError:
        pass  # `send` has poisoned the connection, which reports it
    finally:
        if not attempt.ended:
            link.poison(CloseReason.DIRTY)


def warm_up_request(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the request that warms a connection up with *body*."""
    return {"input": [], **body, "type": "response.create", "generate": False}
