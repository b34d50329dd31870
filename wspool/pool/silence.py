"""Silence: how long nothing may come of a response, where the policy bounds that.

Rules of this module:

* Only the server's silence counts: not that of a program that was busy, nor of a reader that waits for a
  slow consumer.
* Only events of the response break it. What a server sends by a timer of its own (`keepalive`, notices) goes
  on when the model behind it has died, which is just what this is about.
* A turn within its limits pays for it with one task, and a look at each batch of its events.
"""

from __future__ import annotations

import math

import trio

from wspool.pool.attempt import Attempt
from wspool.pool.connection import Connection

__all__ = ["bound_silence"]


async def bound_silence(connection: Connection, attempt: Attempt) -> None:
    """Give *attempt*, which was sent on *connection*, up once nothing came of it for too long."""
    policy = connection.link.host.policy
    first = policy.first_event_timeout or math.inf
    later = policy.silence_timeout or math.inf
    seen = 0

    def heard() -> bool:
        """Whether something of the response has come since."""
        nonlocal seen
        since, seen = seen, len(attempt.events)
        return any(event.type.startswith("response.") for event in attempt.events[since:])

    while not (attempt.ended or attempt.given_up):
        begun, paused = attempt.begun, connection.paused
        with trio.move_on_after(later if begun else first) as scope:
            await attempt.until(heard)
        if not scope.cancelled_caught:
            continue
        # What came while the program was busy is read in this step, before the next.
        await trio.lowlevel.checkpoint()
        if heard() or paused or connection.paused or attempt.begun is not begun:
            continue
        name, seconds = ("silence_timeout", later) if begun else ("first_event_timeout", first)
        attempt.expire(f"{name}={seconds:g} s")
