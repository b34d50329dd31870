"""Connection: what arrives, what must not be sent on it any more, and how it ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import trio
import trio.testing

import wspool
import wspool.testing
from tests.helpers import (
    LIMIT_FRAME,
    FakeConnector,
    FakeWire,
    assert_conserved,
    completed,
    created,
    delta,
    echo,
    error_frame,
    fake_pair,
    fake_pool,
    policy,
    serving,
    types,
)
from wspool.server import EchoModel
from wspool.wire.wire import ConnectError, Endpoint

HARMLESS = [
    *("keepalive", "ping", "codex.rate_limits", "response.metadata", "responsesapi.websocket_timing"),
    *("something.new", "session.created", "response.keep_alive"),
]

SPARE = policy(min_idle=1, max_size=1)


async def settled() -> None:
    """Let everything happen that can happen now."""
    await trio.testing.wait_all_tasks_blocked()


async def test_the_fake_keeps_the_contract_of_a_wire(autojump_clock) -> None:
    """The wire of these tests passes the suite that every wire must pass."""
    await wspool.testing.check_wire(fake_pair)


# -- idle -----------------------------------------------------------------------------------------


async def test_a_turn_that_ended_in_a_bad_batch_is_told_so(autojump_clock) -> None:
    """What ends the connection in the same read, behind the end of a turn, does not take that end away."""

    def answer(wire: FakeWire, request: dict[str, Any]) -> None:
        stray = {"type": "response.output_text.delta", "delta": "whose?"}
        wire.push(created("r"), completed("r"), stray, stray, stray)

    async with fake_pool(FakeConnector(answer)) as pool, pool.lease() as lease:
        with trio.fail_after(5):
            async with lease.create(model="m", input="x") as turn:
                assert "completed" == (await turn.result()).status
        assert {"dirty": 1} == pool.statistics().closed


@pytest.mark.parametrize(
    "stray",
    [
        completed("r"),
        delta("x"),
        {"type": "response.new", "response": {"id": "r"}},
        error_frame("server_error", 500),
        pytest.param("no JSON", marks=pytest.mark.hits("dirty: no JSON")),
        "[1]",
        '{"no": "type"}',
        '{"type": 1}',
        b"\xff\xfe",
    ],
)
async def test_a_stray_message_ends_an_idle_connection(stray, autojump_clock) -> None:
    """A connection on which something arrives that nobody asked for is never granted."""
    connector = FakeConnector(echo)
    async with fake_pool(connector, limits=SPARE) as pool:
        await pool.wait_ready()
        connector.wire.push(stray)
        await settled()
        await pool.wait_ready()

        assert {"dirty": 1} == pool.statistics().closed
        async with pool.lease() as lease:
            assert lease.connection == 2
    assert connector.wires[0].goodbye == 1006


@pytest.mark.parametrize("kind", HARMLESS)
async def test_news_about_the_connection_harm_nothing(kind, autojump_clock) -> None:
    """What is about the connection may come at any time: idle, leased, before, in and after a turn."""

    def answer(wire: FakeWire, request: dict[str, Any]) -> None:
        wire.push({"type": kind}, created("r"), {"type": kind}, completed("r"), {"type": kind})

    connector = FakeConnector(answer)
    async with fake_pool(connector, limits=SPARE) as pool:
        await pool.wait_ready()
        connector.wire.push({"type": kind})
        await settled()
        async with pool.lease() as lease:
            connector.wire.push({"type": kind})
            await settled()
            async with lease.create(model="m") as turn:
                # Unknown types reach the turn that is in flight; what is known to be no turn's, nobody.
                seen = types([event async for event in turn if event.type != kind])
                assert ["response.created", "response.completed"] == seen
        await settled()

        assert ({}, 1) == (pool.statistics().closed, pool.statistics().idle)


@pytest.mark.hits("connection: open, hang up", "cut: all turns")
async def test_the_limit_announced_to_an_idle_connection_ends_it(autojump_clock) -> None:
    """A connection that is told of its lifetime limit between turns is closed for that reason."""
    connector = FakeConnector(echo)
    async with fake_pool(connector, limits=SPARE) as pool:
        await pool.wait_ready()
        connector.wire.push(LIMIT_FRAME)
        await settled()

        assert {"limit": 1} == pool.statistics().closed


async def test_a_notice_of_expiry_retires_an_idle_connection(autojump_clock) -> None:
    """A connection that is about to expire is replaced before it goes."""
    connector = FakeConnector(echo)
    async with fake_pool(connector, limits=policy(min_idle=1, max_size=2)) as pool:
        await pool.wait_ready()
        connector.wire.push(error_frame("connection_expiring"))
        await settled()

        assert (1, {"lifetime": 1}) == (pool.statistics().retirements, pool.statistics().closed)
        assert pool.statistics().idle == 1


async def test_a_notice_of_expiry_does_not_disturb_a_turn(autojump_clock) -> None:
    """The turn goes on, and the holder of the lease is told to finish soon."""

    def answer(wire: FakeWire, request: dict[str, Any]) -> None:
        wire.push(created("r"), error_frame("connection_expiring"), completed("r"))

    connector = FakeConnector(answer)
    async with fake_pool(connector) as pool, pool.lease() as lease:
        before = lease.expiring
        async with lease.create(model="m") as turn:
            assert (await turn.result()).output_text == "ok"
        assert (False, True) == (before, lease.expiring)
        assert "<Lease 1 on connection 1, live, expiring>" == repr(lease)


@pytest.mark.hits("connection: retiring, lose")
async def test_a_notice_of_expiry_is_not_why_a_connection_ended(autojump_clock) -> None:
    """It came while nobody was on it, and is nothing to whoever loses a turn there later."""
    connector = FakeConnector()
    async with fake_pool(connector) as pool, pool.lease() as lease:
        wire = connector.wire
        wire.push(error_frame("connection_expiring"))
        await settled()
        async with lease.create(model="m") as turn:
            wire.crash = RuntimeError("oops")
            wire.push({"type": "keepalive"})
            with pytest.raises(wspool.TurnLostError) as caught:
                await turn.result()

    assert "" == caught.value.close_reason


async def test_the_death_of_an_idle_connection_is_seen_at_once(autojump_clock) -> None:
    """A connection that the peer closed is out of the pool before anybody can get it."""
    connector = FakeConnector(echo)
    async with fake_pool(connector, limits=SPARE) as pool:
        await pool.wait_ready()
        connector.wire.hang_up(1001)
        await settled()

        assert {"lost": 1} == pool.statistics().closed
        async with pool.conversation(model="m") as conversation:
            assert (await conversation.respond("x")).output_text == "ok"


# -- in a turn ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "messages",
    [
        [created("a"), created("b")],
        [delta("output before created")],
        [completed("a")],
        [created("a"), "no JSON"],
        [created("a"), '{"type":"response.completed", broken}'],
    ],
)
async def test_what_cannot_belong_to_the_turn_ends_the_connection(
    messages: Sequence[Any], autojump_clock
) -> None:
    """A foreign or unreadable message is not delivered; the turn is lost and the connection dropped."""
    connector = FakeConnector(lambda wire, request: wire.push(*messages, delta("late")))
    async with fake_pool(connector) as pool, pool.lease() as lease:
        with pytest.raises(wspool.TurnLostError) as caught:
            async with lease.create(model="m") as turn:
                await turn.result()

        assert caught.value.close_code is None
        assert {"dirty": 1} == pool.statistics().closed
        assert not lease.alive
        assert all(event.type == "response.created" for event in caught.value.events)


@pytest.mark.parametrize("late", [delta("secret"), completed("r"), error_frame("x")])
@pytest.mark.parametrize("together", [True, False])
@pytest.mark.hits("dirty: for no turn")
async def test_what_follows_the_terminal_event_reaches_nobody(late, together, autojump_clock) -> None:
    """The finished turn keeps its response; the connection is not used for another."""
    connector = FakeConnector(echo)
    limits = policy(max_size=1)
    async with fake_pool(connector, limits=limits) as pool:
        connector.on_request = lambda wire, request: wire.push(
            created("r"), completed("r", "mine"), *[late] * together
        )
        async with pool.conversation(model="m") as conversation:
            assert (await conversation.respond("x")).output_text == "mine"
        if not together:
            connector.wire.push(late)
        connector.on_request = echo
        await settled()

        async with pool.conversation(model="m") as other, other.turn("y") as turn:
            seen = [event async for event in turn]
        assert 3 == len(seen)
        assert "secret" not in str([event.raw for event in seen])
        assert {"dirty": 1} == pool.statistics().closed
        assert 2 == len(connector.wires)


async def test_unknown_events_are_delivered_as_they_are(autojump_clock) -> None:
    """An event type that nobody knows yet is the caller's."""
    new = {"type": "response.something_new", "x": 1}
    connector = FakeConnector(
        lambda wire, request: wire.push({"type": "notice"}, created("r"), new, completed("r"))
    )
    async with fake_pool(connector) as pool, pool.lease() as lease, lease.create(model="m") as turn:
        events = [event async for event in turn]

    assert ["notice", "response.created", "response.something_new", "response.completed"] == types(events)
    assert new == events[2].data


@pytest.mark.parametrize("kind", ["error", "response.error"])
@pytest.mark.hits("dirty: an error without its end")
async def test_a_stream_error_without_its_end_fails_the_turn_after_a_grace(kind, autojump_clock) -> None:
    """A server that forgets `response.failed` costs five seconds and the connection, however it calls it."""
    error = {"type": kind, "sequence_number": 3, "error": {"code": "server_error", "message": "oops"}}
    connector = FakeConnector(lambda wire, request: wire.push(created("r"), delta("x"), error))
    async with fake_pool(connector) as pool, pool.conversation(model="m") as conversation:
        begun = trio.current_time()
        with pytest.raises(wspool.ResponseFailedError, match="oops") as caught:
            await conversation.respond("x")

        assert pytest.approx(5.0) == trio.current_time() - begun
        assert ("server_error", "r", "terminal") == (
            caught.value.code,
            caught.value.response_id,
            caught.value.delivery,
        )
        assert {"dirty": 1} == pool.statistics().closed
        assert [] == conversation.items


@pytest.mark.hits("dirty: nothing after an end in doubt")
async def test_a_dropped_end_that_nothing_follows_loses_the_turn_after_a_grace(autojump_clock) -> None:
    """The end of a response that nobody has seen may have been ours: nobody waits for ever for another."""
    connector = FakeConnector(lambda wire, request: wire.push(created("r"), completed("whose")))
    async with fake_pool(connector) as pool, pool.conversation(model="m") as conversation:
        begun = trio.current_time()
        with pytest.raises(wspool.TurnLostError):
            await conversation.respond("x")

        assert pytest.approx(15.0) == trio.current_time() - begun
        assert {"dirty": 1} == pool.statistics().closed


async def test_a_stream_error_with_its_end_costs_nothing(autojump_clock) -> None:
    """`response.failed` in time leaves the connection as it was."""
    error = {"type": "error", "sequence_number": 3, "error": {"code": "server_error", "message": "oops"}}
    failed = {
        "type": "response.failed",
        "response": {"id": "r", "status": "failed", "error": {"code": "server_error", "message": "oops"}},
    }
    connector = FakeConnector(lambda wire, request: wire.push(created("r"), error, failed))
    async with fake_pool(connector) as pool, pool.lease() as lease:
        async with lease.create(model="m") as turn:
            events = [event async for event in turn]
        await trio.sleep(60)

        assert ["response.created", "error", "response.failed"] == types(events)
        assert turn.response.status == "failed"
        assert lease.alive


async def test_a_death_after_a_stream_error_keeps_the_error(autojump_clock) -> None:
    """A server that says that the response failed and hangs up has said how the turn ended."""
    error = {"type": "error", "sequence_number": 3, "error": {"code": "server_error", "message": "oops"}}

    def answer(wire: FakeWire, request: dict[str, Any]) -> None:
        wire.push(created("r"), error)
        wire.hang_up(1011)

    async with fake_pool(FakeConnector(answer)) as pool, pool.lease() as lease:
        with pytest.raises(wspool.ResponseFailedError) as caught:
            async with lease.create(model="m") as turn:
                await turn.result()

    assert ("terminal", "server_error", "r") == (
        caught.value.delivery,
        caught.value.code,
        caught.value.response_id,
    )


@pytest.mark.parametrize("code", [1000, 1001, 1006, 1008, 1011, 1012, 4000])
async def test_a_close_in_a_turn_is_a_loss_whatever_its_code(code, autojump_clock) -> None:
    """No close code makes an unfinished turn a success, a clean goodbye least of all."""

    def answer(wire: FakeWire, request: dict[str, Any]) -> None:
        wire.push(created("r"), delta("half"))
        wire.hang_up(code)

    async with fake_pool(FakeConnector(answer)) as pool, pool.lease() as lease:
        with pytest.raises(wspool.TurnLostError) as caught:
            async with lease.create(model="m") as turn:
                await turn.result()

        assert (code, "accepted") == (caught.value.close_code, caught.value.delivery)
        assert {"lost": 1} == pool.statistics().closed


# -- sending --------------------------------------------------------------------------------------


@pytest.mark.hits("dirty: the network does not take it")
async def test_a_network_that_takes_nothing_loses_the_turn_in_time(autojump_clock) -> None:
    """A send is given up after `send_timeout`; what it left behind is unknown."""
    connector = FakeConnector(echo)
    async with fake_pool(connector, limits=policy(send_timeout=7)) as pool, pool.lease() as lease:
        connector.wire.set(stuffed=True)
        begun = trio.current_time()
        with pytest.raises(wspool.TurnLostError) as caught:
            async with lease.create(model="m") as turn:
                await turn.result()

        assert pytest.approx(7) == trio.current_time() - begun
        assert "ambiguous" == caught.value.delivery
        assert {"dirty": 1} == pool.statistics().closed


@pytest.mark.parametrize("pause", [0, 3, 7, 20, 50])
async def test_each_message_has_its_own_time(pause: float, autojump_clock) -> None:
    """However long ago the message before it was, one has all of `send_timeout`, and no more."""
    connector = FakeConnector(echo)
    async with fake_pool(connector, limits=policy(send_timeout=7)) as pool, pool.lease() as lease:
        for _ in range(3):
            async with lease.create(model="m") as turn:
                assert "completed" == (await turn.result()).status
            await trio.sleep(pause)
        connector.wire.set(stuffed=True)
        begun = trio.current_time()
        with pytest.raises(wspool.TurnLostError):
            async with lease.create(model="m") as turn:
                await turn.result()

        assert pytest.approx(7) == trio.current_time() - begun


async def test_who_reads_slowly_is_waited_for_past_the_time_of_a_message(autojump_clock) -> None:
    """A reader that looks whether a message is late still waits for whoever does not read."""

    connector = FakeConnector(echo)
    connector.on_request = lambda wire, request: wire.push(
        created("r"), *[delta("x" * 99)] * 9, completed("r")
    )
    connector.prepare = lambda wire: setattr(wire, "batched", False)
    limits = policy(send_timeout=7, max_buffered=300)
    async with (
        fake_pool(connector, limits=limits) as pool,
        pool.lease() as lease,
        lease.create(model="m") as turn,
    ):
        await trio.sleep(30)
        assert 1 < len(await turn.batch()) < 9
        assert "completed" == (await turn.result()).status
        assert {} == pool.statistics().closed


@pytest.mark.hits("dirty: left while sending")
async def test_a_cancelled_send_poisons_the_connection(autojump_clock) -> None:
    """After a send that did not return normally the connection is dropped, not reused."""
    connector = FakeConnector(echo)
    async with fake_pool(connector) as pool:
        async with pool.lease() as lease:
            connector.wire.set(stuffed=True)
            with trio.move_on_after(1) as scope:
                async with lease.create(model="m"):
                    raise AssertionError("the request was never taken")
            assert scope.cancelled_caught
            assert not lease.alive
        await settled()

        assert {"dirty": 1} == pool.statistics().closed
        assert_conserved(pool.statistics())


# -- pings ----------------------------------------------------------------------------------------


async def test_a_peer_that_is_gone_is_found_out(autojump_clock) -> None:
    """An unanswered ping closes an idle connection after `ping_interval + ping_timeout`."""
    connector = FakeConnector(echo)
    limits = policy(min_idle=1, max_size=1, ping_interval=20, ping_timeout=60)
    async with fake_pool(connector, limits=limits) as pool:
        await pool.wait_ready()
        connector.wire.set(answers=False)
        await trio.sleep(79)
        assert ({}, 1) == (pool.statistics().closed, connector.wires[0].pings)
        await trio.sleep(2)

        assert {"lost": 1} == pool.statistics().closed
        assert 2 == len(connector.wires)


async def test_a_peer_that_answers_is_pinged_again_and_again(autojump_clock) -> None:
    """Every silence of `ping_interval` is followed by one ping."""
    connector = FakeConnector(echo)
    limits = policy(min_idle=1, max_size=1, ping_interval=20)
    async with fake_pool(connector, limits=limits) as pool:
        await pool.wait_ready()
        await trio.sleep(105)

        assert (5, {}) == (connector.wire.pings, pool.statistics().closed)


async def test_a_message_counts_as_life(autojump_clock) -> None:
    """What arrives postpones the ping, and excuses an unanswered one."""
    connector = FakeConnector(echo)
    limits = policy(min_idle=1, max_size=1, ping_interval=20, ping_timeout=60)
    async with fake_pool(connector, limits=limits) as pool:
        await pool.wait_ready()
        for _ in range(10):
            await trio.sleep(15)
            connector.wire.push({"type": "keepalive"})
        assert connector.wire.pings == 0

        connector.wire.set(answers=False)
        await trio.sleep(25)
        connector.wire.push({"type": "keepalive"})
        await trio.sleep(60)
        assert ({}, 2) == (pool.statistics().closed, connector.wire.pings)


async def test_bytes_count_as_life(autojump_clock) -> None:
    """Pieces of a message excuse an unanswered ping too, until `ping_timeout` after the last of them."""
    connector = FakeConnector(echo)
    limits = policy(min_idle=1, max_size=1, ping_interval=20, ping_timeout=60)
    async with fake_pool(connector, limits=limits) as pool:
        await pool.wait_ready()
        connector.wire.set(answers=False)
        for _ in range(20):
            await trio.sleep(15)
            connector.wire.heard_at = trio.current_time()
        last = trio.current_time()
        await trio.sleep(59)
        assert {} == pool.statistics().closed
        await trio.sleep(2)

        assert {"lost": 1} == pool.statistics().closed
        assert 61 == pytest.approx(trio.current_time() - last)


async def test_a_ping_outlived_by_its_connection_is_no_news(autojump_clock) -> None:
    """A connection that dies while its ping is out is reported once."""
    connector = FakeConnector(echo)
    limits = policy(min_idle=1, max_size=1, ping_interval=20)
    async with fake_pool(connector, limits=limits) as pool:
        await pool.wait_ready()
        connector.wire.set(answers=False)
        await trio.sleep(30)
        connector.wire.hang_up()
        await trio.sleep(200)

        assert {"lost": 1} == pool.statistics().closed


# -- slow consumers -------------------------------------------------------------------------------


async def test_the_reader_pauses_for_a_slow_consumer(autojump_clock) -> None:
    """Not more than `max_buffered` and one read is taken off the wire ahead of the consumer."""
    connector = FakeConnector(echo)
    connector.on_request = lambda wire, request: wire.push(
        created("r"), *[delta("x" * 1000)] * 50, completed("r")
    )
    connector.prepare = lambda wire: setattr(wire, "batched", False)
    async with fake_pool(connector, limits=policy(max_buffered=5000)) as pool, pool.lease() as lease:
        async with lease.create(model="m") as turn:
            await settled()
            assert 40 < len(connector.wire._inbox) < 50
            await trio.sleep(100)
            assert 53 == len([await turn.__anext__()] + [event async for event in turn]) + 1
            assert turn.response.status == "completed"
        assert lease.alive


@pytest.mark.parametrize(
    ("limits", "count", "words"),
    [
        ({"max_turn_events": 10}, 11, "more than max_turn_events=10 events in one turn"),
        ({"max_turn_bytes": 5000}, 6, "more than max_turn_bytes=5000 bytes of events in one turn"),
    ],
)
@pytest.mark.hits("dirty: more than a turn may hold")
async def test_a_turn_without_end_is_ended(limits, count, words, autojump_clock) -> None:
    """A server that talks on is hung up on; the error names the limit, and nothing asks for more of it."""
    connector = FakeConnector(echo)
    connector.on_request = lambda wire, request: wire.push(created("r"), *[delta("x" * 1000)] * 1000)
    limits = policy(**limits, replay="always")
    async with fake_pool(connector, limits=limits) as pool, pool.conversation(model="m") as conversation:
        with pytest.raises(wspool.TurnLostError, match=words) as caught:
            await conversation.respond("go")

        assert ("accepted", 1009, count) == (
            caught.value.delivery,
            caught.value.close_code,
            len(caught.value.events),
        )
        assert ({"dirty": 1}, 1) == (pool.statistics().closed, connector.dials)


async def test_a_turn_without_end_is_ended_also_if_nobody_wants_it(autojump_clock) -> None:
    """What is drained is counted, too: its items are kept until its end, however many the server sends."""
    item = {"type": "response.output_item.done", "item": {"type": "message", "content": "x" * 1000}}
    connector = FakeConnector()
    limits = policy(max_turn_bytes=5000, on_cancel="drain")
    async with fake_pool(connector, limits=limits) as pool:
        async with pool.lease() as lease, lease.create(model="m"):
            connector.wire.push(created("r"))
            await settled()
        connector.wire.push(*[item] * 4)
        await settled()
        before = pool.statistics()
        connector.wire.push(*[item] * 4)
        await settled()

        assert (1, {}, {"dirty": 1}) == (before.draining, before.closed, pool.statistics().closed)


async def test_a_failed_turn_that_is_drained_has_the_same_grace(autojump_clock) -> None:
    """As long as something of it comes, its end may."""
    connector = FakeConnector()
    async with fake_pool(connector, limits=policy(on_cancel="drain")) as pool:
        async with pool.lease() as lease, lease.create(model="m"):
            connector.wire.push(created("r"), error_frame("server_error", None))
            await settled()
        for _ in range(4):
            await trio.sleep(3)
            connector.wire.push(delta("x"))
        connector.wire.push({"type": "response.failed", "response": {"id": "r", "status": "failed"}})
        await settled()

        assert (0, {}) == (pool.statistics().draining, pool.statistics().closed)


async def test_an_answer_that_ends_just_over_its_limit_is_an_answer(autojump_clock) -> None:
    """The last event repeats all the others; it is never thrown away for its size."""
    connector = FakeConnector(echo)
    connector.on_request = lambda wire, request: wire.push(
        created("r"), delta("x"), completed("r", "x" * 999)
    )
    limits = policy(max_turn_events=2, max_turn_bytes=300)
    async with fake_pool(connector, limits=limits) as pool, pool.conversation(model="m") as conversation:
        assert "x" * 999 == (await conversation.respond("go")).output_text
        assert {} == pool.statistics().closed


async def test_a_pong_that_a_slow_consumer_holds_up_is_no_death(autojump_clock) -> None:
    """The ping went out before reading paused, and its time is up while nothing is read."""
    connector = FakeConnector()
    limits = policy(ping_interval=10, ping_timeout=5, max_buffered=100)
    async with (
        fake_pool(connector, limits=limits) as pool,
        pool.lease() as lease,
        lease.create(model="m") as turn,
    ):
        connector.wire.set(answers=False)
        await trio.sleep(12)
        connector.wire.push(created("r"), *[delta("x" * 100)] * 9)
        await trio.sleep(20)
        assert {} == pool.statistics().closed
        connector.wire.set(answers=True)
        connector.wire.push(completed("r"))
        assert "completed" == (await turn.result()).status
        assert {} == pool.statistics().closed


async def test_leaving_a_turn_frees_a_paused_reader(autojump_clock) -> None:
    """A reader that waits for room goes on when the turn is drained."""
    connector = FakeConnector(echo)
    connector.on_request = lambda wire, request: wire.push(
        created("r"), *[delta("x" * 1000)] * 50, completed("r")
    )
    connector.prepare = lambda wire: setattr(wire, "batched", False)
    limits = policy(max_buffered=5000, on_cancel="drain")
    async with fake_pool(connector, limits=limits) as pool:
        async with pool.lease() as lease:
            async with lease.create(model="m"):
                await settled()
            await settled()
            assert lease.alive
        assert ({}, 1) == (pool.statistics().closed, pool.statistics().idle)


async def test_a_slow_consumer_within_bounds_keeps_its_connection(autojump_clock) -> None:
    """Pings are answered while events wait for their consumer."""
    async with serving(EchoModel()) as world:
        limits = policy(ping_interval=20, ping_timeout=60)
        async with (
            world.pool(limits=limits) as pool,
            pool.conversation(model="m") as conversation,
            conversation.turn("word " * 500) as turn,
        ):
            await turn.__anext__()
            await trio.sleep(1000)
            assert 500 == (await turn.result()).output_text.count("word")


async def test_a_slow_consumer_beyond_bounds_keeps_its_connection(autojump_clock) -> None:
    """A peer is not taken for dead because this side has stopped reading."""
    async with serving(EchoModel()) as world:
        limits = policy(ping_interval=20, ping_timeout=60, max_buffered=1000)
        async with (
            world.pool(limits=limits) as pool,
            pool.conversation(model="m") as conversation,
            conversation.turn("word " * 500) as turn,
        ):
            await turn.__anext__()
            await trio.sleep(1000)
            assert 500 == (await turn.result()).output_text.count("word")


# -- the supervisor -------------------------------------------------------------------------------


async def stray_cancelled() -> BaseException:
    """A Cancelled that no scope is waiting for."""
    kept: list[BaseException] = []
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as error:
            kept.append(error)
            raise
    return kept[0]


@pytest.mark.parametrize("what", ["crash", "group", "cancelled"])
async def test_whatever_comes_out_of_a_wire_ends_one_connection(what, autojump_clock) -> None:
    """A crash inside a library, or a stray Cancelled, is the death of one connection and nothing else."""
    error: BaseException = RuntimeError("a bug in a library")
    if what == "group":
        error = ExceptionGroup("nested", [ExceptionGroup("deep", [RuntimeError("a bug")])])
    elif what == "cancelled":
        error = await stray_cancelled()
    connector = FakeConnector()
    async with fake_pool(connector) as pool, pool.lease() as healthy, pool.lease() as lease:
        with pytest.raises(wspool.TurnLostError) as caught:  # noqa: PT012 (the whole block raises)
            async with lease.create(model="m") as turn:
                connector.wires[1].break_down(error)
                await turn.result()
        assert caught.value.delivery == "ambiguous"
        assert healthy.alive
        assert {"lost": 1} == pool.statistics().closed


@pytest.mark.parametrize("what", ["crash", "cancelled"])
async def test_a_dial_that_crashes_is_a_failed_dial(what, autojump_clock) -> None:
    """A bug in a connector is reported like any other failed dial, by its class."""
    error = RuntimeError("with a secret in it") if what == "crash" else await stray_cancelled()
    connector = FakeConnector(echo)
    connector.failures.append(error)
    async with fake_pool(connector, limits=SPARE) as pool:
        with pytest.raises(
            wspool.DialFailedError, match="RuntimeError" if what == "crash" else "stop"
        ) as caught:
            await pool.wait_ready()

        assert "secret" not in str(caught.value)
        assert isinstance(caught.value.__cause__, ConnectError)
        async with pool.lease():
            assert 2 == connector.dials


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
async def test_what_is_for_the_whole_program_passes(kind, autojump_clock) -> None:
    """An interrupt that lands in a connection's task is not taken for a dead connection."""
    connector = FakeConnector(echo)
    with pytest.raises(BaseExceptionGroup) as caught:  # noqa: PT012 (the whole block raises)
        async with fake_pool(connector, limits=SPARE) as pool:
            await pool.wait_ready()
            connector.wire.break_down(kind())
            await trio.sleep_forever()

    assert caught.group_contains(kind)


async def test_a_ping_that_crashes_ends_one_connection(autojump_clock) -> None:
    """A bug in a library's ping is the death of one connection and nothing else."""
    connector = FakeConnector(echo)
    async with fake_pool(connector, limits=policy(min_idle=1, max_size=1, ping_interval=20)) as pool:
        await pool.wait_ready()
        await settled()
        connector.wire.crash = RuntimeError("a bug in a library")
        await trio.sleep(30)

        assert {"lost": 1} == pool.statistics().closed


async def test_a_warm_up_that_crashes_ends_one_connection(autojump_clock) -> None:
    """A bug in a library's send is the death of one connection and nothing else."""
    connector = FakeConnector(echo)

    def spoil_the_first(wire: FakeWire) -> None:
        if len(connector.wires) == 1:

            async def send(message: bytes) -> None:
                await trio.lowlevel.checkpoint()
                raise RuntimeError("a bug in a library")

            wire.send = send  # type: ignore[method-assign]

    connector.prepare = spoil_the_first
    async with fake_pool(connector, limits=SPARE, warm_up={"model": "m"}) as pool:
        await pool.wait_ready()

        assert 2 == len(connector.wires)


# -- being told to go -----------------------------------------------------------------------------


@pytest.mark.hits("refuse: closed while in line")
async def test_a_connection_told_to_go_before_it_began_never_dials(autojump_clock) -> None:
    """A connection that is given up in the moment it was asked for dials nobody."""
    connector = FakeConnector(echo)
    refusals = 0

    async def ask() -> None:
        nonlocal refusals
        with pytest.raises(wspool.PoolClosedError):
            await pool.acquire()
        refusals += 1

    async with fake_pool(connector) as pool, trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await trio.lowlevel.checkpoint()
        await pool.aclose()

    assert (0, 1) == (connector.dials, refusals)
    assert pool.statistics().dialed == sum(pool.statistics().closed.values())


@pytest.mark.hits("connection: dialing, hang up")
async def test_a_dial_is_given_up_when_its_pool_closes(autojump_clock) -> None:
    """A handshake that is still running is cancelled, without waiting for it."""
    connector = FakeConnector(echo)
    connector.hold()
    begun = trio.current_time()
    async with fake_pool(connector, limits=policy(min_idle=3)):
        await settled()
        assert connector.dialing == 3

    assert connector.dialing == 0
    assert begun == trio.current_time()


@pytest.mark.hits("connection: closing, go")
async def test_a_dial_that_ends_after_its_pool_closed_leaves_no_socket(autojump_clock) -> None:
    """A wire that comes too late is dropped, not kept."""

    class Stubborn(FakeConnector):
        async def connect(
            self, nursery: trio.Nursery, endpoint: Endpoint, headers: Sequence[tuple[str, str]]
        ) -> FakeWire:
            with trio.CancelScope(shield=True):
                await trio.sleep(0.5)
                wire = await super().connect(nursery, endpoint, headers)
            return wire  # noqa: RET504 (a scope may swallow, so mypy wants the return outside)

    connector = Stubborn(echo)
    async with fake_pool(connector, limits=policy(min_idle=1)) as pool:
        await trio.sleep(0.1)

    assert [1006] == [wire.goodbye for wire in connector.wires]
    assert 0 == pool.statistics().closing


@pytest.mark.hits("lane: idle, end")
async def test_goodbye_is_said_to_idle_connections(autojump_clock) -> None:
    """A connection that is not in a turn gets a proper close frame."""
    connector = FakeConnector(echo)
    async with fake_pool(connector, limits=policy(min_idle=2)) as pool:
        await pool.wait_ready()

    assert [1000, 1000] == [wire.goodbye for wire in connector.wires]
