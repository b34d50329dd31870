"""Pool: the line, the hand-off, outages, warm-up, and the end."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import pytest
import trio
import trio.testing

import wspool
from tests.helpers import (
    FakeConnector,
    FakeWire,
    Recorder,
    ask_back,
    assert_conserved,
    assert_empty,
    completed,
    created,
    echo,
    fake_manager,
    fake_pool,
    outputs,
    policy,
    refused,
    serving,
)
from wspool.server import EchoModel, ServerProfile
from wspool.wire.dial import enter
from wspool.wire.wire import ConnectError

ONE = policy(max_size=1)


async def settled() -> None:
    """Let everything happen that can happen now."""
    await trio.testing.wait_all_tasks_blocked()


def number(lease: wspool.Lease) -> int:
    """The number of a lease: they count up in the order of the grants."""
    return int(repr(lease).split()[1])


# -- the hand-off ---------------------------------------------------------------------------------


async def test_grants_follow_the_line(autojump_clock) -> None:
    """Lease numbers, which count grants, go up with the place in line."""
    grants: list[int] = [0] * 10

    async def wait(place: int) -> None:
        async with pool.lease() as lease:
            grants[place] = number(lease)

    async with (
        fake_pool(FakeConnector(echo), limits=ONE) as pool,
        trio.open_nursery() as nursery,
        pool.lease(),
    ):
        for place in range(10):
            nursery.start_soon(wait, place)
            await settled()

    assert list(range(2, 12)) == grants


async def test_a_waiter_takes_whatever_comes_first(autojump_clock) -> None:
    """A waiter whose arrival began a dial takes a released lane all the same."""
    connector = FakeConnector(echo)
    async with fake_pool(connector, limits=policy(max_size=2)) as pool, trio.open_nursery() as nursery:
        got = trio.Event()

        async def wait() -> None:
            async with pool.lease() as lease:
                assert lease.connection == 1
                got.set()

        async with pool.lease():
            connector.hold()
            nursery.start_soon(wait)
            await settled()
            assert connector.dialing == 1
        await settled()
        assert got.is_set()
        connector.release()


async def test_a_waiter_cancelled_before_the_grant_takes_nothing(autojump_clock) -> None:
    """Cancelled and then released in one tick: the lease goes to the next in line."""
    async with fake_pool(FakeConnector(echo), limits=ONE) as pool, trio.open_nursery() as nursery:
        lease = await pool.acquire()
        scope, got = trio.CancelScope(), trio.Event()

        async def first() -> None:
            with scope:
                async with pool.lease():
                    raise AssertionError("granted after it was cancelled")

        async def second() -> None:
            async with pool.lease():
                got.set()

        nursery.start_soon(first)
        await settled()
        nursery.start_soon(second)
        await settled()
        scope.cancel()
        lease.release()
        await settled()

        assert got.is_set()
        assert (1, 2) == (pool.statistics().abandoned, pool.statistics().granted)
    assert_empty(pool.statistics())


async def test_a_waiter_cancelled_after_the_grant_gets_its_lease(autojump_clock) -> None:
    """Released and then cancelled in one tick: the lease is delivered, and its block gives it back."""
    async with fake_pool(FakeConnector(echo), limits=ONE) as pool, trio.open_nursery() as nursery:
        lease = await pool.acquire()
        scope, entered, got = trio.CancelScope(), trio.Event(), trio.Event()

        async def first() -> None:
            with scope:
                async with pool.lease() as mine:
                    assert mine.alive
                    entered.set()
                    await trio.lowlevel.checkpoint()
                    raise AssertionError("the cancellation was swallowed")
            assert scope.cancelled_caught

        async def second() -> None:
            async with pool.lease():
                got.set()

        nursery.start_soon(first)
        await settled()
        nursery.start_soon(second)
        await settled()
        lease.release()
        scope.cancel()
        await settled()

        assert (True, True) == (entered.is_set(), got.is_set())
        assert (0, 3) == (pool.statistics().abandoned, pool.statistics().granted)


async def test_a_dial_outlives_the_waiter_that_asked_for_it(autojump_clock) -> None:
    """Cancelling a waiter does not cancel the dial; its connection is there for the next."""
    connector = FakeConnector(echo)
    connector.hold()
    async with fake_pool(connector) as pool:
        with trio.move_on_after(1):
            await pool.acquire()
        assert (1, 0) == (connector.dialing, pool.statistics().waiting)
        connector.release()
        await settled()

        async with pool.lease() as lease:
            assert (1, 1) == (lease.connection, connector.dials)


async def test_acquire_is_always_a_checkpoint(autojump_clock) -> None:
    """Granted at once, granted later, or refused: other tasks get their turn."""
    async with fake_pool(FakeConnector(echo), limits=policy(max_size=1, max_waiting=0)) as pool:
        with pytest.raises(wspool.TooManyWaitingError), trio.testing.assert_checkpoints():
            await pool.acquire()
    async with fake_pool(FakeConnector(echo), limits=ONE) as pool:
        with trio.testing.assert_checkpoints():
            lease = await pool.acquire()
        lease.release()
        with trio.testing.assert_checkpoints():
            lease = await pool.acquire()
        lease.release()
        with trio.CancelScope() as scope:
            scope.cancel()
            await pool.acquire()
        assert scope.cancelled_caught
        assert (2, 0) == (pool.statistics().granted, pool.statistics().leased)


async def test_a_full_line_refuses_at_once(autojump_clock) -> None:
    """One waiter more than `max_waiting` is told so, with a snapshot, and waits for nothing."""
    async with (
        fake_pool(FakeConnector(echo), limits=policy(max_size=1, max_waiting=1)) as pool,
        pool.lease(),
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(pool.acquire)
        await settled()
        with pytest.raises(wspool.TooManyWaitingError, match="1 tasks are in line") as caught:
            await pool.acquire()
        assert caught.value.statistics is not None
        assert caught.value.statistics.leased == 1
        nursery.cancel_scope.cancel()


async def test_an_exception_in_the_block_gives_the_lease_back(autojump_clock) -> None:
    """Whatever happens between turns, the lane is clean and the exception comes out bare."""
    async with fake_pool(FakeConnector(echo), limits=ONE) as pool:
        with pytest.raises(ZeroDivisionError):
            async with pool.lease():
                raise ZeroDivisionError

        assert ({}, 1, 0) == (pool.statistics().closed, pool.statistics().idle, pool.statistics().leased)


# -- the wrong place ------------------------------------------------------------------------------


def test_a_pool_belongs_to_its_trio_run() -> None:
    """Another thread, with or without a trio run of its own, gets a clear error."""

    async def main() -> None:
        async with fake_pool(FakeConnector(echo)) as pool, pool.lease() as lease:

            def elsewhere() -> None:
                with pytest.raises(wspool.ForeignUseError, match="open one there"):
                    pool.acquire().send(None)
                with pytest.raises(wspool.ForeignUseError):
                    trio.run(pool.wait_ready)
                with pytest.raises(wspool.ForeignUseError):
                    trio.run(pool.aclose)
                with pytest.raises(wspool.ForeignUseError):
                    trio.run(lease.create(model="m").__aenter__)

            await trio.to_thread.run_sync(elsewhere)
            assert lease.alive
            async with lease.create(model="m") as turn:
                assert (await turn.result()).output_text == "ok"

    trio.run(main)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_pool_is_not_used_in_a_forked_process() -> None:
    """A child process is refused before it can touch the parent's sockets."""

    async def main() -> int:
        async with fake_pool(FakeConnector(echo)) as pool:
            if (child := os.fork()) == 0:
                try:
                    pool._shell.check_use()
                except wspool.ForeignUseError:
                    os._exit(42)
                finally:
                    os._exit(1)
            return child

    assert 42 == os.waitstatus_to_exitcode(os.waitpid(trio.run(main), 0)[1])


# -- outages --------------------------------------------------------------------------------------


async def test_wait_ready_waits_for_the_lanes(autojump_clock) -> None:
    """It returns when that many lanes can be granted, and at once when they can already."""
    connector = FakeConnector(echo)
    connector.hold()
    async with fake_pool(connector, limits=policy(min_idle=3)) as pool, trio.open_nursery() as nursery:
        nursery.start_soon(pool.wait_ready)
        await settled()
        assert len(nursery.child_tasks) == 1
        connector.release()
    assert pool.statistics().dialed == 3

    async with fake_pool(FakeConnector(echo), limits=policy(min_idle=3)) as pool:
        await pool.wait_ready(3)
        assert pool.statistics().idle == 3
        with trio.testing.assert_checkpoints():
            await pool.wait_ready(2)


async def test_wait_ready_for_more_than_there_will_be_is_an_error(autojump_clock) -> None:
    """More lanes than `min_idle` are never kept ready."""
    async with fake_pool(FakeConnector(echo), limits=policy(min_idle=1)) as pool:
        with pytest.raises(ValueError, match="lanes=2 exceeds min_idle=1"):
            await pool.wait_ready(2)


async def test_wait_ready_fails_fast(autojump_clock) -> None:
    """A failed dial is reported at once, though the pool goes on trying."""
    connector = FakeConnector(echo)
    connector.failures.append(refused(503))
    async with fake_pool(connector, limits=policy(min_idle=1)) as pool:
        begun = trio.current_time()
        with pytest.raises(wspool.DialFailedError, match="503") as caught:
            await pool.wait_ready()

        assert begun == trio.current_time()
        assert (503, "upgrade") == (caught.value.status, caught.value.phase)
        assert "degraded" in repr(pool)
        await trio.sleep(1)
        await pool.wait_ready()
        assert "open" in repr(pool)


async def test_wait_ready_of_a_closed_pool_fails(autojump_clock) -> None:
    """Nobody waits for a pool that is closed, or closes meanwhile."""
    connector = FakeConnector(echo)
    connector.hold()
    async with fake_pool(connector, limits=policy(min_idle=1)) as pool, trio.open_nursery() as nursery:

        async def wait() -> None:
            with pytest.raises(wspool.PoolClosedError):
                await pool.wait_ready()

        nursery.start_soon(wait)
        await settled()
        await pool.aclose()
        await wait()
        with pytest.raises(wspool.PoolClosedError):
            await pool.wait_ready(0)


@pytest.mark.parametrize(
    ("lanes", "min_idle", "ready"),
    [(None, 0, 0), (None, 1, 1), (3, 0, 0), (3, 2, 2), (1, 3, 1), (2, 4, 2), (None, 4, 4)],
)
async def test_wait_ready_waits_for_what_is_promised_now(
    autojump_clock, lanes: int | None, min_idle: int, ready: int
) -> None:
    """A pool that is resized while somebody waits keeps fewer lanes ready, or more, and nobody hangs."""
    connector = FakeConnector(echo)
    connector.hold()
    async with fake_pool(connector, limits=policy(min_idle=3)) as pool, trio.open_nursery() as nursery:
        seen: list[int] = []

        async def wait() -> None:
            await pool.wait_ready(lanes)
            seen.append(pool.statistics().idle)

        nursery.start_soon(wait)
        await settled()
        pool.resize(min_idle=min_idle)
        await settled()
        assert ([0] if ready == 0 else []) == seen
        connector.release()
        await settled()

        assert 1 == len(seen)
        assert seen[0] >= ready


async def test_wait_ready_is_told_of_an_outage_that_begins_meanwhile(autojump_clock) -> None:
    """Also where the wish was made smaller before, and to everybody who waits."""
    connector = FakeConnector(echo)
    connector.hold()
    connector.failures.append(refused(503))
    async with fake_pool(connector, limits=policy(min_idle=3, dial_concurrency=1)) as pool:

        async def wait(lanes: int | None) -> None:
            with pytest.raises(wspool.DialFailedError, match="503"):
                await pool.wait_ready(lanes)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait, None)
            nursery.start_soon(wait, 2)
            await settled()
            pool.resize(min_idle=1)
            await settled()
            assert 2 == len(nursery.child_tasks)
            connector.release()


async def test_what_is_parked_is_not_free(autojump_clock) -> None:
    """`lease_nowait` leaves a conversation between turns alone, however long its tools run."""
    async with (
        fake_pool(FakeConnector(ask_back), limits=policy(max_size=1, patience=0.0)) as pool,
        pool.conversation(model="m") as conversation,
    ):
        await conversation.respond("one")
        await trio.sleep(100)
        with pytest.raises(trio.WouldBlock), pool.lease_nowait():
            pass
        await conversation.respond(outputs(conversation))

        assert (1, 1) == (conversation.statistics().full_turns, conversation.statistics().delta_turns)


async def test_a_transient_failure_costs_time_only(autojump_clock) -> None:
    """Waiters keep their place through an outage and are served when it is over."""
    connector = FakeConnector(echo)
    connector.failures.extend([refused(503), ConnectError("reset", phase="tcp"), refused(500)])
    async with fake_pool(connector) as pool, pool.lease() as lease:
        assert lease.connection == 4
        assert (False, 3) == (pool.statistics().degraded, pool.statistics().dial_failures)
        assert_conserved(pool.statistics())


async def test_an_outage_is_probed_by_one_dial_at_a_time(autojump_clock) -> None:
    """Handshakes during an outage depend on its length, not on how many wait."""
    connector = FakeConnector(echo)
    connector.failure = lambda: refused(503)
    limits = policy(give_up_after=1000)
    async with fake_pool(connector, limits=limits) as pool, trio.open_nursery() as nursery:

        async def wait() -> None:
            async with pool.lease():
                pass

        for _ in range(50):
            nursery.start_soon(wait)
        await settled()
        first = connector.dials
        assert first <= limits.dial_concurrency
        await trio.sleep(300)
        assert connector.dials - first < 100
        assert pool.statistics().waiting == 50
        connector.failure = None

    assert pool.statistics().granted == 50


async def test_a_server_that_asks_to_wait_is_obeyed(autojump_clock) -> None:
    """Retry-After is a floor for the whole endpoint."""
    connector = FakeConnector(echo)
    connector.failures.append(refused(429, [("retry-after", "40")]))
    async with fake_pool(connector) as pool, pool.lease():
        first, second = connector.dialed_at
        assert second - first >= 40


async def test_an_outage_that_lasts_is_told(autojump_clock) -> None:
    """After `give_up_after` seconds waiters are refused with the last dial's error."""
    connector = FakeConnector(echo)
    connector.failure = lambda: refused(503)
    async with fake_pool(connector, limits=policy(give_up_after=30)) as pool:
        begun = trio.current_time()
        with pytest.raises(wspool.DialFailedError) as caught:
            await pool.acquire()

        assert 30 <= trio.current_time() - begun < 65
        assert isinstance(caught.value.__cause__, ConnectError)
        assert caught.value.status == 503


@pytest.mark.parametrize(
    ("failure", "kind", "status"),
    [
        (refused(401), wspool.AuthenticationError, 401),
        (refused(403, body=b'{"error": {}}'), wspool.AuthenticationError, 403),
        (refused(404), wspool.WebSocketNotOfferedError, 404),
        (refused(302, [("location", "https://elsewhere")]), wspool.DialFailedError, 302),
        (ConnectError("self-signed", phase="tls", certificate=True), wspool.DialFailedError, None),
    ],
)
async def test_a_permanent_failure_fails_all_waiters_at_once(failure, kind, status, autojump_clock) -> None:
    """Waiting cannot help, so nobody does; the cause is the dial's own error."""
    connector = FakeConnector(echo)
    connector.hold()
    connector.failure = lambda: failure
    errors: list[wspool.DialFailedError] = []

    async def wait() -> None:
        with pytest.raises(kind) as caught:
            await pool.acquire()
        errors.append(caught.value)

    async with fake_pool(connector) as pool:
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(wait)
            await settled()
            begun = trio.current_time()
            connector.release()
        assert begun == trio.current_time()
        assert [(kind, status)] * 5 == [(type(error), error.status) for error in errors]
        assert all(isinstance(error.__cause__, ConnectError) for error in errors)
        assert all(error.delivery == "not_sent" for error in errors)

        dials = connector.dials
        await trio.sleep(100)
        assert dials == connector.dials, "nobody waits, so nobody needs to be told again"


async def test_a_healed_endpoint_is_tried_again_for_a_newcomer(autojump_clock) -> None:
    """A permanent failure is not for ever: the next waiter after a pause starts a dial."""
    connector = FakeConnector(echo)
    connector.failures.append(refused(401))
    async with fake_pool(connector) as pool:
        with pytest.raises(wspool.AuthenticationError):
            await pool.acquire()
        await trio.sleep(60)
        async with pool.lease() as lease:
            assert lease.connection == 2


async def test_a_server_that_refuses_the_key_says_so(autojump_clock) -> None:
    """A real handshake that ends in 401 is an authentication error."""
    async with serving(EchoModel(), api_key="sk-another-key") as world, world.pool() as pool:
        with pytest.raises(wspool.AuthenticationError) as caught:
            await pool.acquire()

        assert (401, "upgrade") == (caught.value.status, caught.value.phase)


async def test_a_server_that_accepts_and_hangs_up_is_not_stormed(autojump_clock) -> None:
    """A connection that dies as soon as it is there counts as an outage, not as a reason to dial at once."""
    connector = FakeConnector(echo)

    def hang_up(wire: FakeWire) -> None:
        wire.hang_up(1008)
        if connector.dials == 200:
            connector.hold()  # or this test would not end

    connector.prepare = hang_up
    async with fake_pool(connector, limits=policy(min_idle=1)):
        await trio.sleep(10)

    assert connector.dials < 50


# -- warm-up --------------------------------------------------------------------------------------

WARM: dict[str, Any] = {"model": "m", "instructions": "be brief"}


async def test_a_first_turn_continues_from_the_warm_up(autojump_clock) -> None:
    """The ledger shows the warm-up as the parent; equal model, instructions and tools are enough."""
    async with serving(EchoModel()) as world:
        async with world.pool(limits=policy(min_idle=1, max_size=2), warm_up=WARM) as pool:
            await pool.wait_ready()
            async with pool.conversation(**WARM, temperature=0.5) as conversation:
                await conversation.respond("hello")
                await conversation.respond("again")
                assert 2 == conversation.statistics().turns
                assert 4 == len(conversation.items)

        turns = [entry for entry in world.ledger if entry["connection"] == 1]
        assert [False, True, True] == [entry["generate"] for entry in turns]
        assert turns[0]["response_id"] == turns[1]["previous_response_id"]
        assert turns[1]["response_id"] == turns[2]["previous_response_id"]


async def test_another_context_does_not_continue_from_the_warm_up(autojump_clock) -> None:
    """A conversation with other instructions starts from nothing."""
    async with serving(EchoModel()) as world:
        async with world.pool(limits=policy(min_idle=1), warm_up=WARM) as pool:
            await pool.wait_ready()
            async with pool.conversation(model="m", instructions="be long") as conversation:
                await conversation.respond("hello")

        assert [None] == [entry["previous_response_id"] for entry in world.model_turns]


async def test_a_provider_without_warm_up_gets_none(autojump_clock) -> None:
    """Where `generate: false` is ignored it would cost a whole response, so it is not sent."""
    async with serving(EchoModel(), profile=ServerProfile(name="x", warm_up=False)) as world:
        async with world.pool(
            limits=policy(min_idle=1),
            warm_up=WARM,
            provider=wspool.Provider(name="x", warm_up=False),
        ) as pool:
            await pool.wait_ready()

        assert [] == world.ledger


def deaf_to_warm_ups(wire: FakeWire, request: dict[str, Any]) -> None:
    """Answer what asks for output, and nothing else."""
    if "generate" not in request:
        echo(wire, request)


async def test_nobody_waits_behind_a_warm_up(autojump_clock) -> None:
    """A waiter gets a connection of its own while a warm-up is unanswered."""
    connector = FakeConnector(deaf_to_warm_ups)
    async with fake_pool(connector, limits=policy(min_idle=1, max_size=2), warm_up=WARM) as pool:
        await settled()
        assert pool.statistics().warming == 1
        begun = trio.current_time()
        async with pool.lease() as lease:
            assert (2, begun) == (lease.connection, trio.current_time())


async def test_an_unanswered_warm_up_gives_its_connection_up(autojump_clock) -> None:
    """After `connect_timeout` the connection is dropped: what comes late must not reach a lease."""
    connector = FakeConnector(deaf_to_warm_ups)
    limits = policy(min_idle=1, max_size=1, connect_timeout=15)
    async with fake_pool(connector, limits=limits, warm_up=WARM) as pool:
        await settled()
        assert {"input": [], "generate": False, "type": "response.create", **WARM} == connector.wire.requests[
            0
        ]
        begun = trio.current_time()
        async with pool.lease() as lease:
            assert pytest.approx(15) == trio.current_time() - begun
            assert lease.connection == 2
        assert {"dirty": 1} == pool.statistics().closed


@pytest.mark.parametrize("how", ["refused", "closed", "stuffed"])
async def test_a_warm_up_that_fails_leaves_a_working_pool(how, autojump_clock) -> None:
    """Refused, cut off or never taken by the network: turns work all the same."""

    def answer(wire: FakeWire, request: dict[str, Any]) -> None:
        if "generate" not in request:
            echo(wire, request)
        elif how == "refused":
            wire.push({"type": "error", "status": 400, "error": {"code": "nope"}})
        elif len(connector.wires) == 1:
            wire.hang_up()
        else:
            echo(wire, request)

    connector = FakeConnector(answer)
    if how == "stuffed":
        connector.prepare = lambda wire: wire.set(stuffed=len(connector.wires) == 1)
    limits = policy(min_idle=1, max_size=2, send_timeout=5)
    async with fake_pool(connector, limits=limits, warm_up=WARM) as pool:
        await settled()
        async with pool.conversation(**WARM) as conversation:
            assert (await conversation.respond("x")).output_text == "ok"
            await trio.sleep(10)
            assert (await conversation.respond("y")).output_text == "ok"
        assert_conserved(pool.statistics())


# -- the end --------------------------------------------------------------------------------------


async def test_waiters_of_a_closing_pool_learn_it_at_once(autojump_clock) -> None:
    """`aclose` refuses waiters and newcomers immediately, even while leases have grace."""
    async with fake_pool(FakeConnector(echo), limits=ONE) as pool, trio.open_nursery() as nursery:
        begun = trio.current_time()

        async def wait() -> None:
            with pytest.raises(wspool.PoolClosedError):
                await pool.acquire()
            assert begun == trio.current_time()

        lease = await pool.acquire()
        nursery.start_soon(wait)
        await settled()
        nursery.start_soon(lambda: pool.aclose(grace=50))
        await settled()
        with pytest.raises(wspool.PoolClosedError), trio.testing.assert_checkpoints():
            await pool.acquire()
        lease.release()


async def test_grace_lets_leases_finish(autojump_clock) -> None:
    """A turn that ends within the grace ends well, and `aclose` returns with it."""
    connector = FakeConnector()
    async with fake_pool(connector) as pool, trio.open_nursery() as nursery:
        begun = trio.current_time()

        async def work() -> None:
            async with pool.lease() as lease, lease.create(model="m") as turn:
                assert (await turn.result()).output_text == "ok"

        nursery.start_soon(work)
        await settled()
        async with trio.open_nursery() as closing:
            closing.start_soon(lambda: pool.aclose(grace=50))
            await trio.sleep(20)
            connector.wire.push(created("r"), completed("r"))
        assert pytest.approx(20) == trio.current_time() - begun
        assert 1000 == connector.wire.goodbye


async def test_grace_is_a_limit(autojump_clock) -> None:
    """A lease that outlasts the grace loses its connection, and its turn says so."""
    async with fake_pool(FakeConnector()) as pool, trio.open_nursery() as nursery:
        begun = trio.current_time()

        async def work() -> None:
            async with pool.lease() as lease:
                with pytest.raises(wspool.TurnLostError):
                    async with lease.create(model="m") as turn:
                        await turn.result()

        nursery.start_soon(work)
        await settled()
        await pool.aclose(grace=50)
        assert pytest.approx(50) == trio.current_time() - begun
    assert_empty(pool.statistics())


@pytest.mark.parametrize("leases", [0, 3])
async def test_closing_does_not_depend_on_the_peers(leases, autojump_clock) -> None:
    """Peers that never answer the goodbye cost `close_timeout` together, not each."""
    connector = FakeConnector(echo)
    connector.prepare = lambda wire: wire.set(answers=False)
    limits = policy(min_idle=3, close_timeout=2)
    tasks = trio.lowlevel.current_statistics().tasks_living
    async with fake_pool(connector, limits=limits) as pool:
        await pool.wait_ready()
        for _ in range(leases):
            await pool.acquire()
        await settled()
        begun = trio.current_time()

    assert trio.current_time() - begun <= 2.001
    assert tasks == trio.lowlevel.current_statistics().tasks_living
    assert all(wire.goodbye in (1000, 1006) for wire in connector.wires)
    assert_empty(pool.statistics())


async def test_closing_does_not_depend_on_the_wire_either(autojump_clock) -> None:
    """A wire whose goodbye never ends is cut off after `close_timeout`."""
    connector = FakeConnector(echo)

    def stubborn(wire: FakeWire) -> None:
        wire.aclose = trio.sleep_forever  # type: ignore[method-assign]

    connector.prepare = stubborn
    async with fake_pool(connector, limits=policy(min_idle=2, close_timeout=2)) as pool:
        await pool.wait_ready()
        begun = trio.current_time()

    assert pytest.approx(2) == trio.current_time() - begun
    assert [1006, 1006] == [wire.goodbye for wire in connector.wires]


async def test_closing_twice_is_closing_once(autojump_clock) -> None:
    """`aclose` is idempotent, also when two tasks call it at the same time."""
    async with fake_pool(FakeConnector(echo), limits=policy(min_idle=2)) as pool:
        await pool.wait_ready()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pool.aclose)
            nursery.start_soon(pool.aclose)
        with trio.testing.assert_checkpoints():
            await pool.aclose()
        assert (
            "<Pool localhost, closed: 0 leased (0 in flight), 0 idle, 0 dialing, 0 waiting, "
            "0 of 128 connections>" == repr(pool)
        )
    assert_empty(pool.statistics())


async def test_cancelling_cuts_the_grace_and_not_the_closing(autojump_clock) -> None:
    """A cancelled `aclose` forces at once, says goodbye all the same, and stays cancelled."""
    connector = FakeConnector(echo)
    async with fake_pool(connector, limits=policy(max_size=2)) as pool:
        lease = await pool.acquire()
        (await pool.acquire()).release()
        begun = trio.current_time()
        with trio.move_on_after(5) as scope:
            await pool.aclose(grace=50)

        assert scope.cancelled_caught
        assert pytest.approx(5) == trio.current_time() - begun
        assert not lease.alive
        assert_empty(pool.statistics())


async def test_leases_may_outlive_their_pool(autojump_clock) -> None:
    """What is held when the block ends is dead, and harmless to use or to release."""
    async with fake_pool(FakeConnector(echo)) as pool:
        lease = await pool.acquire()
    with pytest.raises(wspool.TurnLostError) as caught:
        async with lease.create(model="m"):
            pass
    lease.release()

    assert caught.value.delivery == "not_sent"
    assert_empty(pool.statistics())


async def test_a_crash_of_the_pool_surfaces(autojump_clock) -> None:
    """A bug in a task of the pool comes out of its block, and nobody waits for ever."""
    outcomes: list[BaseException] = []

    async def wait() -> None:
        try:
            await pool.acquire()
        except BaseException as error:
            outcomes.append(error)
            raise

    connector = FakeConnector(echo)
    with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012 (the whole block raises)
        async with fake_manager(connector, limits=policy(max_idle=10)) as pool:
            (await pool.acquire()).release()

            def tick(now: float) -> Sequence[Any]:
                raise ZeroDivisionError

            pool._shell.core.tick = tick  # type: ignore[assignment,method-assign]
            connector.hold()
            async with trio.open_nursery() as nursery:
                await pool.acquire()
                nursery.start_soon(wait)
                await trio.sleep_forever()

    assert caught.group_contains(ZeroDivisionError)
    assert [wspool.PoolClosedError] == [type(error) for error in outcomes]
    assert_empty(pool.statistics())


async def test_a_waiter_outside_the_block_learns_of_a_crash(autojump_clock) -> None:
    """A task that does not belong to the block learns of a crashed pool as of a closed one."""
    connector = FakeConnector(echo)
    connector.hold()

    async def wait(pool: wspool.Pool) -> None:
        with pytest.raises(wspool.PoolClosedError):
            await pool.acquire()

    async with trio.open_nursery() as nursery:
        with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012 (the whole block raises)
            async with fake_manager(connector) as pool:
                nursery.start_soon(wait, pool)
                await settled()
                pool._shell.spawn(crash)
                await trio.sleep_forever()
    assert caught.group_contains(ZeroDivisionError)


async def crash() -> None:
    """Fail as a bug would."""
    await trio.lowlevel.checkpoint()
    raise ZeroDivisionError


async def test_a_pool_shows_itself(autojump_clock) -> None:
    """The text of a pool counts what it has."""
    async with fake_pool(FakeConnector(echo), limits=policy(min_idle=1, max_size=3)) as pool:
        await pool.wait_ready()
        async with pool.lease():
            await settled()
            shown = repr(pool)

    assert (
        "<Pool localhost, open: 1 leased (0 in flight), 1 idle, 0 dialing, 0 waiting, 2 of 3 connections>"
        == shown
    )


# -- time -----------------------------------------------------------------------------------------


async def test_idle_connections_above_the_spare_go(autojump_clock) -> None:
    """After `max_idle` seconds only `min_idle` lanes are left."""
    async with fake_pool(FakeConnector(echo), limits=policy(min_idle=1, max_idle=30)) as pool:
        leases = [await pool.acquire() for _ in range(4)]
        for lease in leases:
            lease.release()
        await trio.sleep(100)

        assert pool.statistics().idle == 1
        assert set(pool.statistics().closed) == {"idle"}


async def test_a_replacement_is_there_before_the_old_one_goes(autojump_clock) -> None:
    """Retirement never takes the last ready lane away."""
    limits = policy(min_idle=1, max_size=2, max_lifetime=100)
    async with fake_pool(FakeConnector(echo), limits=limits) as pool:
        await pool.wait_ready()
        for _ in range(1000):
            await trio.sleep(1)
            assert pool.statistics().idle >= 1

        assert set(pool.statistics().closed) == {"lifetime"}
        assert pool.statistics().retirements >= 10


async def test_an_abandoned_turn_is_drained_within_bounds(autojump_clock) -> None:
    """With `on_cancel="drain"` the rest of a turn may take `drain_timeout`, and not longer."""
    connector = FakeConnector(lambda wire, request: wire.push(created("r")))
    limits = policy(on_cancel="drain", drain_timeout=30, max_size=1)
    async with fake_pool(connector, limits=limits) as pool:
        async with pool.lease() as lease, lease.create(model="m"):
            pass
        await trio.sleep(29)
        assert (1, {}) == (pool.statistics().draining, pool.statistics().closed)
        await trio.sleep(2)

        assert (0, {"dirty": 1}) == (pool.statistics().draining, pool.statistics().closed)


async def test_the_instrument_sees_every_dial(autojump_clock) -> None:
    """How long each took, phase by phase, and why it failed, if it did; one that was stopped too."""

    class Slow(FakeConnector):
        async def connect(self, nursery, endpoint, headers):
            for phase in ("resolve", "tcp", "upgrade"):
                enter(phase)
                await trio.sleep(2)
            return await super().connect(nursery, endpoint, headers)

    connector, seen = Slow(echo), Recorder()
    connector.failures.append(refused(503))
    async with fake_pool(connector, instrument=seen) as pool:
        (await pool.acquire()).release()

    assert ["the upgrade was refused with status 503", None] == [dial.failure for dial in seen.dials]
    for dial in seen.dials:
        assert 6.0 == pytest.approx(dial.duration)
        assert {"resolve": 2.0, "tcp": 2.0, "upgrade": 2.0} == pytest.approx(dial.phases)

    seen = Recorder()
    with trio.move_on_after(3):
        async with fake_pool(Slow(echo), instrument=seen) as pool:
            await pool.acquire()

    assert ["the dial was stopped"] == [dial.failure for dial in seen.dials]
    assert {"resolve": 2.0, "tcp": 1.0} == pytest.approx(seen.dials[0].phases)
