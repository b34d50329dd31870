"""Storms against the real pool: what a server says and does behind the 101, for an hour of virtual time.

The same promise as in `tests.core.test_storms`, with all that stands between a frame and the core. What an
outage costs is measured beside it: the key is asked for once per dial, whatever it is for.

One thing is not the server's doing: who gives a turn up that the server is at work on has its connection
hung up (`on_cancel`), and asks for another one. That costs a dial each time, and is counted apart.
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from hypothesis import given, settings, strategies as st

import wspool
from tests.helpers import (
    LIMIT_FRAME,
    URL,
    FakeConnector,
    FakeWire,
    Recorder,
    completed,
    created,
    delta,
    error_frame,
)
from wspool.wire.wire import ConnectError

HOUR = 3600.0
#: Dials after which nobody waits for the hour to be over.
_STORM = 3000
#: Seconds after which a user asks again: after a loss, or nothing; and after an error that the server said.
#: That has cost no connection; an hour of them still has three times the turns that it takes to see a dial
#: for each.
_SOON, _REFLECTION = 0.2, 3.0

Say = Callable[[FakeWire], None]

#: What a server may do to a connection, in a turn or out of one.
DEEDS: dict[str, Say] = {
    "close 1000": lambda wire: wire.hang_up(1000),
    "close 1008": lambda wire: wire.hang_up(1008, "policy"),
    "close 1009": lambda wire: wire.hang_up(1009),
    "close 1011": lambda wire: wire.hang_up(1011),
    "close 1013": lambda wire: wire.hang_up(1013, "try again later"),
    "close 4999": lambda wire: wire.hang_up(4999),
    "reset": lambda wire: wire.hang_up(),
    "crash": lambda wire: wire.break_down(RuntimeError("a bug in a library")),
    "silence": lambda wire: wire.set(answers=False),
    "stuffed": lambda wire: wire.set(stuffed=True),
    "error 500": lambda wire: wire.push(error_frame("server_error", 500)),
    "error 503 at once": lambda wire: wire.push(error_frame("slow", 503, headers={"retry-after": "0"})),
    "error without status": lambda wire: wire.push(error_frame("server_error", None)),
    "error of a stream": lambda wire: wire.push({**error_frame("x", None), "sequence_number": 3}),
    "refusal": lambda wire: wire.push(error_frame("invalid_value", 400)),
    "limit": lambda wire: wire.push(LIMIT_FRAME),
    "expiring": lambda wire: wire.push(error_frame("connection_expiring", None)),
    "no JSON": lambda wire: wire.push("x"),
    "half a frame": lambda wire: wire.push('{"type":"response.output_text.del'),
    "binary": lambda wire: wire.push(b"\x00\xff"),
    "blank": lambda wire: wire.push("", " "),
    "notice": lambda wire: wire.push({"type": "session.created"}),
    "keepalive": lambda wire: wire.push({"type": "keepalive", "sequence_number": 0}),
    "foreign created": lambda wire: wire.push(created("resp_foreign")),
    "foreign delta": lambda wire: wire.push({**delta("x"), "response_id": "resp_foreign"}),
    "begun": lambda wire: wire.push(created(f"resp_{wire.number}")),
    "failed": lambda wire: wire.push(
        {"type": "response.failed", "response": {"id": f"resp_{wire.number}", "status": "failed"}}
    ),
    "busy lane": lambda wire: wire.push(error_frame("response_already_in_flight", 409)),
}

#: What a server of some use does: no deed, for then it may be dialled as often as there are turns.
ANSWER = "whole answer"


def answer(wire: FakeWire) -> None:
    """Answer what was asked."""
    name = f"resp_{wire.number}"
    wire.push(created(name), completed(name))


@attrs.frozen
class Deed:
    """A deed, and how long after the last one, or after the handshake or a request, it comes."""

    what: str
    after: float


deeds = st.builds(
    Deed, what=st.sampled_from(sorted(DEEDS)), after=st.sampled_from([0.0, 0.01, 0.5, 4.0, 5.5, 30.0, 90.0])
)
scripts = st.lists(deeds, max_size=3)


async def cost(
    idle: Sequence[Deed],
    in_turn: Sequence[Deed],
    *,
    users: int,
    patience: float = 20.0,
    refused: bool = False,
    warm_up: bool = False,
    bare: bool = False,
) -> int:
    """Return how often the default pool dials in an hour, less the turns given up that had begun."""
    connector, recorder = FakeConnector(), Recorder()
    asked = 0

    storm = trio.Event()

    def key() -> str:
        nonlocal asked
        asked += 1
        if asked > _STORM:
            storm.set()
        return "sk-number-1"

    async def play(wire: FakeWire, script: Sequence[Deed]) -> None:
        for deed in script:
            await trio.sleep(deed.after)
            (answer if deed.what == ANSWER else DEEDS[deed.what])(wire)

    async def use(pool: wspool.Pool) -> None:
        while True:
            pause = _SOON
            with trio.move_on_after(patience):
                try:
                    if bare:
                        async with pool.lease() as lease, lease.create(model="m", input="x") as turn:
                            await turn.result()
                    else:
                        async with pool.conversation(model="m") as conversation:
                            await conversation.respond("x")
                except wspool.ResponseFailedError:
                    pause = _REFLECTION
                except wspool.WsPoolError:
                    pass
            await trio.sleep(pause)

    if refused:
        connector.failure = lambda: ConnectError("connection refused", phase="tcp")
    async with (
        trio.open_nursery() as nursery,
        wspool.open_pool(
            URL,
            api_key=key,
            wire=connector,
            instrument=recorder,
            warm_up={"model": "m"} if warm_up else None,
        ) as pool,
    ):
        connector.prepare = lambda wire: nursery.start_soon(play, wire, idle)
        connector.on_request = lambda wire, request: nursery.start_soon(play, wire, in_turn)
        pool._shell.jitter = random.Random(1).random
        for _ in range(users):
            nursery.start_soon(use, pool)
        with trio.move_on_after(HOUR):
            await storm.wait()
        nursery.cancel_scope.cancel()
    assert asked == connector.dials
    given_up = [
        turn for turn in recorder.records if (turn.status, turn.delivery) == ("cancelled", "accepted")
    ]
    return connector.dials - len(given_up)


def run(idle: Sequence[Deed], in_turn: Sequence[Deed], **how: Any) -> int:
    """As `cost`, in a trio of its own with a clock of its own."""
    clock = trio.testing.MockClock(autojump_threshold=0)
    return trio.run(lambda: cost(idle, in_turn, **how), clock=clock)


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Any:
    """An hour of storm has much to say."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def test_the_measure() -> None:
    """What an endpoint that refuses every connection costs, without users and with some."""
    assert 180 <= run([], [], users=0, refused=True) <= 300
    assert 550 <= run([], [], users=2, refused=True) <= 850


@given(
    idle=scripts,
    in_turn=scripts,
    users=st.sampled_from([0, 0, 1, 3]),
    patience=st.sampled_from([1.0, 20.0]),
    warm_up=st.booleans(),
    bare=st.booleans(),
)
@settings(deadline=None, max_examples=30)
def test_no_server_is_dialled_more_than_one_that_is_away(
    idle: list[Deed], in_turn: list[Deed], users: int, patience: float, warm_up: bool, bare: bool
) -> None:
    """Frames of every kind, errors, closes, silence, resets, with users and without."""
    dials = run(idle, in_turn, users=users, patience=patience, warm_up=warm_up, bare=bare)

    assert dials <= (320 if not users else 340), json.dumps(
        [attrs.asdict(each) for each in (*idle, *in_turn)]
    )


@pytest.mark.parametrize("what", sorted(DEEDS))
def test_each_deed_behind_each_handshake(what: str) -> None:
    """With nobody there, and with a user whose turns all meet it."""
    assert run([Deed(what, 0.0)], [], users=0) <= 300
    assert run([], [Deed(what, 0.0)], users=1, patience=5.0) <= 320


@pytest.mark.parametrize("what", ["close 1000", "reset", "no JSON"])
def test_a_warm_up_that_is_answered_proves_nothing(what: str) -> None:
    """Each connection answers its warm-up and ends: that is of no use to anybody."""
    assert run([], [Deed(ANSWER, 0.0), Deed(what, 0.0)], users=0, warm_up=True) <= 300
