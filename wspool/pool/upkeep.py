"""Upkeep: what goes over a connection for no turn: pings, and the warm-up request."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import trio

from wspool.core.commands import CloseReason
from wspool.core.frames import encode
from wspool.pool.attempt import Attempt
from wspool.pool.connection import Connection
from wspool.pool.link import Lane
from wspool.wire.wire import WireClosedError

__all__ = ["keep_alive", "warm_up", "warm_up_request"]


def keep_alive(connection: Connection) -> None:
    """The time for a ping has come: send one, unless something was heard lately. Never waits."""
    link = connection.link
    now, interval = link.host.now(), link.host.policy.ping_interval or math.inf
    if connection.paused or link.heard_at + interval > now:
        # Anything inbound is a sign of life.
        link.report(link.host.core.ponged, heard_at=max(link.heard_at, now - interval / 2))
    else:
        link.spawn(_ping, connection)


async def _ping(connection: Connection) -> None:
    """Wait for a sign of life; give the connection up once nothing at all came for `ping_timeout`."""
    link = connection.link
    wire = link.wire
    if wire is None:
        return  # lost since
    patience = link.host.policy.ping_timeout
    since = trio.current_time()
    # Any byte counts, not only the pong: that one may wait behind a large message on a slow link.
    while (deadline := max(since, wire.heard_at) + patience) > trio.current_time():
        with trio.move_on_at(deadline) as scope:
            try:
                await wire.ping()
            except WireClosedError:
                return  # the reader comes to the end by itself, after all that was received before it
            link.heard_at = link.host.now()
        if connection.paused or not scope.cancelled_caught:  # while reading pauses no pong can be seen
            link.report(link.host.core.ponged, heard_at=link.heard_at)
            return
        # Time may be up only because somebody kept the whole program busy. What came meanwhile
        # is read in the same step in which the deadline was found to have passed, before the next.
        await trio.lowlevel.checkpoint()
    if not link.ending:
        link.close_reason = f"nothing came for ping_timeout={patience:g} s, not even a pong"
        link.poison(CloseReason.LOST)


async def warm_up(connection: Connection, lane: Lane, body: Mapping[str, Any]) -> None:
    """Send the warm-up request on *lane* and wait for its answer, at most `connect_timeout`.

    Without an answer the connection is given up: a warm-up never blocks nor pollutes a lease.
    """
    link = connection.link
    if link.stateless:  # what it would warm up is not kept
        link.report(link.host.core.finished, lane.id, completed=False)
        return
    name = connection.stream_id(lane)
    attempt = lane.attempt = Attempt(None, name, link.past, link.host.announcer.trust)
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
            link.poison(CloseReason.DIRTY)  # mark: dirty: a warm-up without end


def warm_up_request(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the request that warms a connection up with *body*."""
    return {"input": [], **body, "type": "response.create", "generate": False}
