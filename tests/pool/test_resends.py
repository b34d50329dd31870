"""Resends: decided once, whatever is cancelled between the failure and the next request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import attrs
import pytest
import trio
import trio.testing

import wspool
from tests.helpers import (
    LIMIT_FRAME,
    FakeConnector,
    FakeWire,
    created,
    echo,
    error_frame,
    fake_pool,
    policy,
)

#: What the first request is answered with, frames and then maybe the end of the connection.
FAILURES: Final[dict[str, tuple[list[dict[str, Any]], bool]]] = {
    "later, when the server says": (
        [error_frame("rate_limit_exceeded", 429, headers={"Retry-After": "5"})],
        False,
    ),
    "later": ([error_frame("server_error", 500)], False),
    "elsewhere, refused at the limit": ([LIMIT_FRAME], False),
    "elsewhere, lost": ([created("first")], True),
    "here, without its parent": ([error_frame("previous_response_not_found")], False),
}


@attrs.frozen
class Account:
    """What a turn came to."""

    outcome: str
    requests: int
    spent: float
    sends: int
    moves: int


class CancelAt(trio.abc.Instrument):
    """Cancels a scope just before a step of the task that reads."""

    def __init__(self, step: int) -> None:
        self.scope = trio.CancelScope()
        self._left = step
        self._task = trio.lowlevel.current_task()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self._task:
            self._left -= 1
            if self._left == 0:
                self.scope.cancel()


async def take(kind: str, read: Callable[[wspool.Turn], Any]) -> Account:
    """Take a turn whose first request fails in that way, and read it so."""
    frames, dies = FAILURES[kind]

    def fail_once(wire: FakeWire, request: dict[str, Any]) -> None:
        connector.on_request = echo
        wire.push(*frames)
        if dies:
            wire.hang_up()

    connector = FakeConnector(echo)
    async with (
        fake_pool(connector, limits=policy(replay="always", max_size=2)) as pool,
        pool.conversation(model="m") as conversation,
    ):
        await conversation.respond("before")
        before = pool._shell.budget._tokens
        connector.on_request = fail_once
        outcome = "none"
        try:
            async with conversation.turn("x") as turn:
                await read(turn)
                outcome = turn.response.status
        except wspool.WsPoolError as error:
            outcome = type(error).__name__
        its = conversation.statistics()
        assert 0 == pool.statistics().in_flight
        requests = sum(len(wire.sent) for wire in connector.wires)
        spent = round(before - pool._shell.budget._tokens, 6)
        return Account(outcome, requests, spent, its.delta_turns + its.full_turns, its.moves)


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("kind", FAILURES)
def test_a_resend_that_was_cancelled_is_gone_on_with(kind: str, streamed: bool) -> None:
    """Cancelled at any step and read on: the same requests, and nothing is counted twice."""

    async def on(turn: wspool.Turn) -> None:
        if streamed:
            async for _ in turn:
                pass
        else:
            await turn.result()

    def run(read: Callable[[wspool.Turn], Any]) -> Account:
        return trio.run(take, kind, read, clock=trio.testing.MockClock(autojump_threshold=0))

    whole = run(on)
    assert ("completed", 3) == (whole.outcome, whole.requests)
    cancelled = 0
    for step in range(1, 100):
        fired = False

        async def read(turn: wspool.Turn, step: int = step) -> None:
            nonlocal fired
            trio.lowlevel.add_instrument(at := CancelAt(step))
            with at.scope:
                await on(turn)
            trio.lowlevel.remove_instrument(at)
            fired = at.scope.cancel_called
            await on(turn)

        found = run(read)
        if not fired:
            break
        cancelled += 1
        # A send that was cut short may have left, so it costs its connection, and here one more resend.
        if found.moves == whole.moves:
            assert whole == found, f"cancelled before step {step}"
        else:
            assert ("completed", whole.moves + 1) == (found.outcome, found.moves)
            # What was cancelled before its first byte was handed over counts nowhere.
            assert whole.sends <= found.sends <= whole.sends + 1
            assert found.requests <= found.sends
    assert cancelled >= 3


async def test_a_wait_that_is_cancelled_again_and_again_goes_on(autojump_clock) -> None:
    """Reading with a short timeout costs nothing: one resend, when it is due."""

    async def read(turn: wspool.Turn) -> None:
        for _ in range(20):
            with trio.move_on_after(0.5):
                await turn.result()
                return

    found = await take("later, when the server says", read)

    assert ("completed", 3) == (found.outcome, found.requests)
    assert found.spent == pytest.approx(0.9)  # one for the refusal, and a tenth back
    assert 5.0 <= trio.current_time() < 6.0


async def test_a_resend_that_failed_stays_failed(autojump_clock) -> None:
    """What a turn was told once it is told again; nothing is decided anew."""
    connector = FakeConnector(lambda wire, request: wire.push(error_frame("server_error", 500)))
    async with fake_pool(connector) as pool, pool.conversation(model="m") as conversation:
        async with conversation.turn("x") as turn:
            for _ in range(3):
                with pytest.raises(wspool.ResponseFailedError):
                    await turn.result()
        assert (4, 96.0) == (len(connector.wire.sent), pool._shell.budget._tokens)


async def test_a_resend_that_the_pool_refuses_stays_refused(autojump_clock) -> None:
    """No second decision, and no second place in line, for who asks again."""
    connector = FakeConnector(lambda wire, request: wire.push(error_frame("server_error", 500)))
    async with fake_pool(connector) as pool, pool.conversation(model="m") as conversation:
        async with conversation.turn("x") as turn, trio.open_nursery() as nursery:
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(pool.aclose)
            for _ in range(3):
                with pytest.raises(wspool.PoolClosedError, match="the turn was not sent again") as caught:
                    await turn.result()
                assert "not_sent" == caught.value.delivery
        assert (1, 99.0) == (len(connector.wire.sent), pool._shell.budget._tokens)


@pytest.mark.parametrize("code", ["previous_response_not_found", "slow_down"])
async def test_an_error_that_names_a_response_is_no_refusal(autojump_clock: object, code: str) -> None:
    """Something ran, though nobody heard it begin: the turn is not sent again, in full or after a wait."""

    def answer(wire: FakeWire, request: dict[str, Any]) -> None:
        if len(wire.sent) == 2:
            wire.push({**error_frame(code, 503), "response": {"id": "resp_of_it"}})
        else:
            echo(wire, request)

    connector = FakeConnector(answer)
    async with fake_pool(connector) as pool, pool.conversation(model="m") as conversation:
        await conversation.respond("one")
        with pytest.raises(wspool.ResponseFailedError, match=code):
            await conversation.respond("two")
        assert 2 == len(connector.wires[0].sent)
        await conversation.respond("two")

    assert 2 == len(connector.wires)
