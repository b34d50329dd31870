"""Turn: entering sends, iterating reads, leaving never waits."""

from __future__ import annotations

import pytest
import trio
import trio.testing

import wspool
from tests.helpers import (
    FakeConnector,
    FakeWire,
    completed,
    created,
    delta,
    echo,
    error_frame,
    fake_pool,
    policy,
    types,
)


async def test_a_turn_shows_itself(autojump_clock) -> None:
    """The text of a turn says which response it is and what is known about it."""
    connector = FakeConnector()
    async with fake_pool(connector) as pool, pool.lease() as lease:
        turn = lease.create(model="m")
        shown = [repr(turn)]
        async with turn:
            shown.append(repr(turn))
            connector.wire.push(created("resp_1"))
            await turn.__anext__()
            shown.append(repr(turn))
            connector.wire.push(completed("resp_1"))
            await turn.result()
            shown.append(repr(turn))

    assert [
        "<Turn without response, not_sent>",
        "<Turn without response, ambiguous>",
        "<Turn resp_1, accepted>",
        "<Turn resp_1, terminal>",
    ] == shown
    assert ("resp_1", "terminal") == (turn.response_id, turn.delivery)


async def test_the_response_is_there_when_the_events_have_ended(autojump_clock) -> None:
    """Before that asking for it is an error that says what to do."""
    async with fake_pool(FakeConnector(echo)) as pool, pool.lease() as lease:
        async with lease.create(model="m") as turn:
            with pytest.raises(RuntimeError, match="iterate over it"):
                _ = turn.response
            async for _ in turn:
                pass
            assert turn.response.output_text == "ok"
            assert [] == [event async for event in turn]
            assert await turn.result() is turn.response
        assert turn.response.status == "completed"


async def test_a_turn_is_entered_once(autojump_clock) -> None:
    """A turn that was entered cannot be entered again."""
    async with fake_pool(FakeConnector(echo)) as pool, pool.lease() as lease:
        async with lease.create(model="m") as turn:
            await turn.result()
        with pytest.raises(RuntimeError, match="entered once"):
            async with turn:
                pass


async def test_a_turn_is_read_inside_its_block(autojump_clock) -> None:
    """Before and after the block there is nothing to iterate."""
    async with fake_pool(FakeConnector(echo)) as pool, pool.lease() as lease:
        turn = lease.create(model="m")
        with pytest.raises(wspool.PoolClosedError, match="inside its async with block"):
            await turn.__anext__()
        async with turn:
            await turn.result()
        with pytest.raises(wspool.PoolClosedError):
            await turn.result()


async def test_a_failure_stays(autojump_clock) -> None:
    """Asking again after a failure gives the same error."""
    async with (
        fake_pool(FakeConnector(lambda wire, request: wire.hang_up())) as pool,
        pool.lease() as lease,
        lease.create(model="m") as turn,
    ):
        errors = []
        for _ in range(3):
            with pytest.raises(wspool.TurnLostError) as caught:
                await turn.__anext__()
            errors.append(caught.value)

    assert 1 == len(set(errors))


async def test_events_before_a_loss_are_delivered(autojump_clock) -> None:
    """What arrived before the connection died is read first; then comes the error with all of it."""

    def answer(wire: FakeWire, request: dict[str, object]) -> None:
        wire.push(created("r"), delta("a"), delta("b"))
        wire.hang_up(1011)

    async with fake_pool(FakeConnector(answer)) as pool, pool.lease() as lease:
        seen: list[wspool.Event] = []
        with pytest.raises(wspool.TurnLostError) as caught:  # noqa: PT012 (the whole block raises)
            async with lease.create(model="m") as turn:
                async for event in turn:
                    seen.append(event)

    assert ["response.created"] + ["response.output_text.delta"] * 2 == types(seen)
    assert tuple(seen) == caught.value.events
    assert ("r", "accepted", False) == (
        caught.value.response_id,
        caught.value.delivery,
        caught.value.replayable,
    )


async def test_a_failed_response_is_a_result_of_a_turn(autojump_clock) -> None:
    """Iterating ends normally with `failed`; only `result` raises for it."""
    error = {"code": "server_error", "message": "oops"}
    failed = {"type": "response.failed", "response": {"id": "r", "status": "failed", "error": error}}
    async with (
        fake_pool(FakeConnector(lambda wire, request: wire.push(created("r"), failed))) as pool,
        pool.lease() as lease,
    ):
        async with lease.create(model="m") as turn:
            assert ["response.created", "response.failed"] == types([event async for event in turn])
            assert turn.response.status == "failed"
            with pytest.raises(wspool.ResponseFailedError, match="server_error: oops") as caught:
                await turn.result()
        assert lease.alive

    assert ("r", "terminal") == (caught.value.response_id, caught.value.delivery)


async def test_a_refused_request_is_an_error_of_its_turn(autojump_clock) -> None:
    """There is no response, so iterating raises; the lane is clean."""
    connector = FakeConnector(
        lambda wire, request: wire.push(error_frame("rate_limit_exceeded", 429, headers={"retry-after": "9"}))
    )
    async with fake_pool(connector) as pool, pool.lease() as lease:
        async with lease.create(model="m") as turn:
            with pytest.raises(wspool.RateLimitedError) as caught:
                await turn.__anext__()
        assert lease.alive
        connector.on_request = echo
        async with lease.create(model="m") as turn:
            await turn.result()

    assert (429, 9.0, "terminal") == (caught.value.status, caught.value.retry_after, caught.value.delivery)


async def test_reading_notices_a_cancellation_and_loses_nothing(autojump_clock) -> None:
    """A cancelled read leaves the event for the next one, even when it did not have to wait."""
    async with (
        fake_pool(FakeConnector(echo)) as pool,
        pool.lease() as lease,
        lease.create(model="m") as turn,
    ):
        await trio.testing.wait_all_tasks_blocked()
        with trio.CancelScope() as scope:
            scope.cancel()
            await turn.__anext__()
        assert scope.cancelled_caught
        assert 3 == len([event async for event in turn])


async def test_leaving_a_turn_never_waits(autojump_clock) -> None:
    """The end of the block is synchronous, so a cancelled task loses no time in it."""
    connector = FakeConnector(lambda wire, request: wire.push(created("r")))
    async with fake_pool(connector, limits=policy(on_cancel="drain")) as pool, pool.lease() as lease:
        turn = await lease.create(model="m").__aenter__()
        with trio.testing.assert_no_checkpoints():
            await turn.__aexit__(None, None, None)


@pytest.mark.parametrize("bare", [True, False], ids=["lease", "conversation"])
async def test_leaving_a_turn_that_has_ended_lets_the_reader_go_on(bare, autojump_clock) -> None:
    """What nobody read of a whole turn does not keep the connection from hearing the next one."""

    def answer(wire: FakeWire, request: dict[str, object]) -> None:
        name = f"resp_{len(wire.sent)}"
        wire.push(created(name), completed(name, "long" * 100))

    connector = FakeConnector(answer)
    async with (
        fake_pool(connector, limits=policy(max_buffered=200)) as pool,
        pool.lease() as lease,
        pool.conversation(model="m") as conversation,
    ):
        for _ in range(2):
            async with lease.create(model="m") if bare else conversation.turn("x"):
                await trio.sleep(1)  # all of it has come, and nothing was read
        with trio.fail_after(10):
            async with lease.create(model="m") if bare else conversation.turn("x") as turn:
                await turn.result()

        assert 3 == len(connector.wires[0 if bare else 1].sent)


async def test_others_run_while_what_has_come_is_read(autojump_clock) -> None:
    """However much of it there is, and for `result` as well; every event comes once, in order."""
    deltas = [delta(str(number)) for number in range(5000)]
    ran = 0

    async def run() -> None:
        nonlocal ran
        while True:
            await trio.lowlevel.checkpoint()
            ran += 1

    connector = FakeConnector(lambda wire, request: wire.push(created("r"), *deltas, completed("r")))
    async with fake_pool(connector) as pool, pool.lease() as lease, trio.open_nursery() as nursery:
        async with lease.create(model="m") as turn:
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(run)
            seen = [event.data.get("delta") async for event in turn]
        assert [None, *(event["delta"] for event in deltas), None] == seen
        assert ran >= len(deltas) // 256 - 2  # it has to begin, too
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("size", [1, 255, 256, 257, 511, 512, 513])
async def test_a_cancelled_reader_loses_nothing_of_what_has_come(size, autojump_clock) -> None:
    """Cancelled before every event, at the edges of what is handed out at once too."""
    events = [created("r"), *[delta("x")] * (size - 2), completed("r")][:size]
    connector = FakeConnector(lambda wire, request: wire.push(*events))
    async with (
        fake_pool(connector) as pool,
        pool.lease() as lease,
        lease.create(model="m") as turn,
    ):
        await trio.testing.wait_all_tasks_blocked()
        seen = 0
        while seen < size:
            with trio.CancelScope() as scope:
                scope.cancel()
                await turn.__anext__()
            assert scope.cancelled_caught
            with trio.CancelScope() as scope:
                trio.lowlevel.spawn_system_task(cancel, scope)  # in the next step, if there is one
                await turn.__anext__()
            seen += not scope.cancelled_caught
        assert size == seen


async def cancel(scope: trio.CancelScope) -> None:
    scope.cancel()


async def test_two_tasks_do_not_read_one_turn(autojump_clock) -> None:
    """The second is told so, as trio does; the first loses nothing by it, nor by a resend."""
    connector = FakeConnector(lambda wire, request: wire.push(created("r")))
    async with (
        fake_pool(connector) as pool,
        pool.conversation(model="m") as conversation,
        trio.open_nursery() as nursery,
    ):
        async with conversation.turn("x") as turn:
            results: list[wspool.Response] = []

            async def read() -> None:
                results.append(await turn.result())

            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            for second in (turn.result, turn.__anext__):
                with pytest.raises(trio.BusyResourceError, match="another task reads this turn"):
                    await second()
            connector.wire.push(completed("r"))
            await trio.testing.wait_all_tasks_blocked()
            assert ["completed"] == [response.status for response in results]
        connector.on_request = lambda wire, request: wire.push(error_frame("server_error", 500))
        async with conversation.turn("y") as turn:
            pool._shell.hold(60.0)
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError):
                await turn.__anext__()
            connector.on_request = echo
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("how", ["result", "__anext__"])
@pytest.mark.parametrize("on_cancel", ["hang_up", "drain"])
@pytest.mark.parametrize("bare", [True, False], ids=["lease", "conversation"])
async def test_who_reads_a_turn_that_is_left_is_told(bare, on_cancel, how, autojump_clock) -> None:
    """The block is left by another task: whoever reads it does not wait for what is drained or dropped."""
    connector = FakeConnector(lambda wire, request: wire.push(created("r")))
    told: list[float] = []
    async with (
        fake_pool(connector, limits=policy(on_cancel=on_cancel)) as pool,
        pool.lease() as lease,
        pool.conversation(model="m") as conversation,
        trio.open_nursery() as nursery,
        lease.create(model="m") if bare else conversation.turn("x") as turn,
    ):
        await turn.__anext__()

        async def read() -> None:
            with pytest.raises(wspool.PoolClosedError, match="the turn is over"):
                await getattr(turn, how)()
            told.append(trio.current_time())

        nursery.start_soon(read)
        await trio.sleep(1)

    assert [1.0] == told


class LeaveWhenWoken(trio.abc.Instrument):
    """Leaves a turn when its reader has been woken with all of it, and has not run yet."""

    def __init__(self, turn: wspool.Turn) -> None:
        self._turn = turn

    def task_scheduled(self, task: trio.lowlevel.Task) -> None:
        if task.name.endswith("read"):
            self._turn.leave()


@pytest.mark.parametrize("how", ["result", "__anext__"])
async def test_a_turn_that_is_left_gives_nothing_more(how, autojump_clock) -> None:
    """Left in the step in which its events come: they are nobody's, and it has no end."""
    connector = FakeConnector(lambda wire, request: None)
    async with fake_pool(connector) as pool, pool.conversation(model="m") as conversation:
        async with trio.open_nursery() as nursery, conversation.turn("x") as turn:

            async def read() -> None:
                with pytest.raises(wspool.PoolClosedError, match="the turn is over"):
                    await getattr(turn, how)()

            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            trio.lowlevel.add_instrument(leaving := LeaveWhenWoken(turn))
            connector.wire.push(created("r"), completed("r"))
            await trio.testing.wait_all_tasks_blocked()
            trio.lowlevel.remove_instrument(leaving)
        with pytest.raises(RuntimeError):
            _ = turn.response
        with pytest.raises(RuntimeError, match="entered once"):
            await turn.__aenter__()
        assert [] == conversation.items
