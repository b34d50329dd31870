"""What turns and compactions wait for outside of any lane: whatever changes meanwhile, they are told.

Two tables: what changes (the conversation or the pool is closed, the turn is left by another task) and where
the task waits at that moment. And a sweep: the same change at every step of a turn.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import pytest
import trio
import trio.testing

import wspool
from tests.helpers import (
    FakeConnector,
    FakeWire,
    created,
    echo,
    error_frame,
    fake_pool,
    policy,
)

HOUR: Final = 3600.0


def asked_to_wait(seconds: float = HOUR) -> dict[str, Any]:
    """The refusal of a server that wants nothing for so long."""
    return error_frame("rate_limit_exceeded", 429, headers={"Retry-After": str(seconds)})


def refuse_first(*frames: dict[str, Any]) -> Callable[[FakeWire, dict[str, Any]], None]:
    """Answer the first requests with *frames*, each with one, and all others well."""
    left = list(frames)

    def answer(wire: FakeWire, request: dict[str, Any]) -> None:
        if left:
            wire.push(left.pop(0))
        else:
            echo(wire, request)

    return answer


class Stage:
    """A pool with one connection, on which somebody waits somewhere."""

    def __init__(self, pool: wspool.Pool, connector: FakeConnector, nursery: trio.Nursery) -> None:
        self.pool = pool
        self.connector = connector
        self.nursery = nursery
        self.conversation: wspool.Conversation | None = None
        self.turn: wspool.Turn | None = None
        self.blocker: wspool.Lease | None = None
        self.told: wspool.WsPoolError | None = None
        self.told_at = -1.0

    @property
    def sent(self) -> int:
        return sum(len(wire.sent) for wire in self.connector.wires)

    def start(self, act: Callable[[], Awaitable[object]]) -> None:
        """Run *act* in a task, and keep what it is told."""

        async def run() -> None:
            try:
                await act()
            except wspool.WsPoolError as error:
                self.told, self.told_at = error, trio.current_time()

        self.nursery.start_soon(run)

    async def take(self) -> None:
        """Take a turn that another task can leave."""
        assert self.conversation is not None
        self.turn = self.conversation.turn("x")
        async with self.turn:
            await self.turn.result()

    async def hold(self, seconds: float = HOUR) -> None:
        """Let the server ask for a wait, by a turn that nobody waits for."""
        before, self.connector.on_request = self.connector.on_request, refuse_first(asked_to_wait(seconds))
        async with self.pool.lease() as lease, lease.create(model="m") as turn:
            with pytest.raises(wspool.RateLimitedError):
                await turn.result()
        self.connector.on_request = before


async def in_a_hold(stage: Stage) -> None:
    """A newcomer, who has no lane."""
    await stage.hold()
    stage.start(stage.take)


async def in_a_hold_with_a_lane(stage: Stage) -> None:
    """One who has a lane from its last turn."""
    assert stage.conversation is not None
    await stage.conversation.respond("before")
    stage.pool._shell.hold(HOUR)
    stage.start(stage.take)


async def in_line(stage: Stage) -> None:
    """Behind somebody who has the only lane."""
    stage.blocker = await stage.pool.acquire()
    stage.start(stage.take)


async def for_a_dial(stage: Stage) -> None:
    """The first of all, while its connection is dialled."""
    stage.connector.hold()
    stage.start(stage.take)


async def for_a_resend(stage: Stage) -> None:
    """Refused, and to be sent again after the hold."""
    stage.connector.on_request = refuse_first(asked_to_wait())
    stage.start(stage.take)


async def for_a_lane_for_a_resend(stage: Stage) -> None:
    """Lost with its connection, and to be sent again on the next, which is being dialled."""

    def die(wire: FakeWire, request: dict[str, Any]) -> None:
        stage.connector.hold()
        wire.hang_up()

    stage.connector.on_request = die
    stage.start(stage.take)


async def in_a_hold_before_compaction(stage: Stage) -> None:
    """A compaction goes to the same endpoint."""
    assert stage.conversation is not None
    await stage.hold()
    stage.start(stage.conversation.compact)


WAITS: Final = {
    function.__name__: function
    for function in (
        in_a_hold,
        in_a_hold_with_a_lane,
        in_line,
        for_a_dial,
        for_a_resend,
        for_a_lane_for_a_resend,
        in_a_hold_before_compaction,
    )
}


async def close_conversation(stage: Stage) -> None:
    assert stage.conversation is not None
    stage.conversation.close()


async def close_pool(stage: Stage) -> None:
    # Nobody gives back what the stage has leased: all of the grace passes, and no wait with it.
    stage.nursery.start_soon(lambda: stage.pool.aclose(grace=100))
    await trio.testing.wait_all_tasks_blocked()


async def leave_turn(stage: Stage) -> None:
    assert stage.turn is not None
    await stage.turn.__aexit__(None, None, None)


CHANGES: Final = {function.__name__: function for function in (close_conversation, close_pool, leave_turn)}


@pytest.mark.parametrize(
    ("where", "change"),
    [
        (where, change)
        for where in WAITS
        for change in CHANGES
        if "compaction" not in where or change != "leave_turn"  # which is no turn
    ],
)
async def test_who_waits_is_told_at_once(where: str, change: str, autojump_clock) -> None:
    """Wherever it waits and whoever ends that: it is told in that moment, and nothing is sent after it."""
    connector = FakeConnector(echo)
    limits = policy(max_size=1, replay="always")
    async with trio.open_nursery() as nursery, fake_pool(connector, limits=limits) as pool:
        stage = Stage(pool, connector, nursery)
        async with pool.conversation(model="m") as stage.conversation:
            await WAITS[where](stage)
            await trio.sleep(1)
            assert stage.told_at < 0
            sent, before, began = stage.sent, len(stage.conversation.items), trio.current_time()

            await CHANGES[change](stage)
            await trio.testing.wait_all_tasks_blocked()
            assert isinstance(stage.told, wspool.PoolClosedError)
            assert began == stage.told_at

            connector.release()
            if stage.blocker is not None:
                stage.blocker.release()
            pool.retry_now()
            await trio.sleep(60)
            assert (sent, before) == (stage.sent, len(stage.conversation.items))
            lost = where == "for_a_lane_for_a_resend"
            assert ("ambiguous" if lost else "not_sent") == stage.told.delivery
            assert ("not sent again" if "resend" in where else "nothing was sent") in str(stage.told)
            if change == "leave_turn":
                # What waited is gone, and the conversation goes on.
                connector.on_request = echo
                assert "completed" == (await stage.conversation.respond("after")).status
        assert 0 == pool.statistics().leased
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("change", ["close_conversation", "leave_turn"])
async def test_a_lane_that_comes_too_late_goes_back(change: str, autojump_clock) -> None:
    """It was granted in the step in which nobody wanted it any more: it is nobody's, at once."""
    connector = FakeConnector(echo)
    async with trio.open_nursery() as nursery, fake_pool(connector, limits=policy(max_size=1)) as pool:
        stage = Stage(pool, connector, nursery)
        async with pool.conversation(model="m") as stage.conversation:
            await in_line(stage)
            await trio.sleep(1)
            assert stage.blocker is not None
            stage.blocker.release()
            await CHANGES[change](stage)
            await trio.testing.wait_all_tasks_blocked()

            assert isinstance(stage.told, wspool.PoolClosedError)
            assert (0, 1, 0) == (pool.statistics().leased, pool.statistics().idle, stage.sent)


@pytest.mark.parametrize("on_cancel", ["hang_up", "drain"])
async def test_who_reads_a_turn_is_told_that_its_conversation_was_closed(on_cancel, autojump_clock) -> None:
    """At once, also if the rest is drained; it is lost, and not sent again whatever the policy."""
    connector = FakeConnector(lambda wire, request: wire.push(created("r")))
    limits = policy(max_size=1, replay="always", on_cancel=on_cancel)
    async with trio.open_nursery() as nursery, fake_pool(connector, limits=limits) as pool:
        stage = Stage(pool, connector, nursery)
        budget = pool._shell.budget._tokens
        async with pool.conversation(model="m") as stage.conversation:
            stage.start(stage.take)
            await trio.sleep(1)
            stage.conversation.close()
            await trio.testing.wait_all_tasks_blocked()

            assert isinstance(stage.told, wspool.TurnLostError)
            assert ("accepted", "the conversation was closed") == (
                stage.told.delivery,
                stage.told.close_reason,
            )
            assert (1, budget) == (stage.sent, pool._shell.budget._tokens)
        assert 0 == pool.statistics().leased


SCENES: Final = ("a fresh lane", "in line", "after a turn", "refused", "lost", "event by event")


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("on_cancel", ["hang_up", "drain"])
@pytest.mark.parametrize("change", ["conversation", "turn", "pool", "hold", "lift"])
def test_whatever_changes_at_whichever_step_nothing_is_left(scene: str, on_cancel: str, change: str) -> None:
    """Step by step through a turn: it ends in one way, is not sent in vain, and keeps no lane."""
    for steps in range(200):
        clock = trio.testing.MockClock(autojump_threshold=0)
        if trio.run(change_after, steps, scene, on_cancel, change, clock=clock):
            assert steps > 3
            return
    raise AssertionError("the turn has no end")


async def change_after(steps: int, scene: str, on_cancel: str, change: str) -> bool:
    """Let *change* come after that many steps of a turn; return True if the turn was over before."""
    asked: list[float] = []
    not_before, begun = 0.0, 0
    first = {"refused": [asked_to_wait(10)], "lost": [created("first")]}.get(scene, [])

    def answer(wire: FakeWire, request: dict[str, Any]) -> None:
        asked.append(trio.current_time())
        assert len(asked) <= begun or asked[-1] >= not_before, "sent in spite of a hold"
        if first:
            wire.push(first.pop())
            if scene == "lost":
                wire.hang_up()
        else:
            echo(wire, request)

    connector = FakeConnector(echo)
    if scene == "event by event":
        connector.prepare = lambda wire: setattr(wire, "batched", False)
    limits = policy(max_size=1, replay="always", on_cancel=on_cancel)
    outcomes: list[str] = []

    async def talk(turn: wspool.Turn) -> None:
        try:
            async with turn:
                async for _ in turn:
                    pass
            outcomes.append(turn.response.status)
        except wspool.WsPoolError as error:
            outcomes.append(type(error).__name__)

    async with fake_pool(connector, limits=limits) as pool, trio.open_nursery() as nursery:
        async with pool.conversation(model="m") as conversation:
            blocker = await pool.acquire() if scene == "in line" else None
            if scene == "after a turn":
                await conversation.respond("before")
            connector.on_request = answer
            history, turns = len(conversation.items), pool.statistics().turns
            turn = conversation.turn("x")
            nursery.start_soon(talk, turn)
            if blocker is not None:
                await trio.testing.wait_all_tasks_blocked()
                blocker.release()
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
                if scene == "refused" and asked and steps > 20:
                    await trio.sleep(10)  # on to the resend
            over, begun = bool(outcomes), pool.statistics().turns - turns  # what is on its way may arrive
            entered = turn._entered
            match change:
                case "conversation":
                    conversation.close()
                case "turn" if entered:
                    await turn.__aexit__(None, None, None)
                case "pool":
                    await pool.aclose()
                case "hold" | "lift":
                    pool._shell.hold(60.0)
                    not_before = trio.current_time() + 60.0 if change == "hold" else 0.0
            if change == "lift":
                pool.retry_now()
            await trio.sleep(200)

            assert 1 == len(outcomes)
            assert len(conversation.items) - history == (2 if outcomes == ["completed"] else 0)
            if change in ("hold", "lift"):
                assert ["completed"] == outcomes
            elif entered and (change, scene) != ("pool", "after a turn"):  # who has a lane may use its grace
                assert len(asked) <= begun, "sent for nobody"
        assert (0, 0) == (pool.statistics().leased, pool.statistics().draining)
        assert not pool._shell.errands._waiting
    return over


@pytest.mark.parametrize("what", ["lost", "cleared"])
async def test_who_loses_its_lane_before_anything_was_sent_keeps_its_place(what: str, autojump_clock) -> None:
    """The connection ends as the lane is granted; those who came later wait for the next one longer."""
    connector = FakeConnector(echo)
    order: list[str] = []
    async with fake_pool(connector, limits=policy(max_size=1)) as pool, trio.open_nursery() as nursery:

        async def ask(text: str) -> None:
            async with pool.conversation(model="m") as conversation:
                await conversation.respond(text)
                order.append(text)

        blocker = await pool.acquire()
        for text in ("first", "second", "third"):
            nursery.start_soon(ask, text)
            await trio.testing.wait_all_tasks_blocked()
        connector.hold()
        first = connector.wire
        (connection,) = pool._shell._connections.values()
        blocker.release()  # and in the same step, before whoever is granted its lane has run:
        if what == "lost":
            connection.link.lose()
            first.hang_up()
        else:
            pool.clear()
        await trio.sleep(10)
        nursery.start_soon(ask, "fourth")
        await trio.testing.wait_all_tasks_blocked()
        assert [] == first.sent
        connector.release()
    assert ["first", "second", "third", "fourth"] == order
