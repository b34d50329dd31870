"""Lease: one lane, no history, dies with its connection."""

from __future__ import annotations

import pytest
import trio
import trio.testing

import wspool
from tests.helpers import (
    FakeConnector,
    FakeWire,
    Recorder,
    assert_empty,
    completed,
    created,
    delta,
    echo,
    error_frame,
    fake_pool,
    policy,
    types,
)


async def settled() -> None:
    """Let everything happen that can happen now."""
    await trio.testing.wait_all_tasks_blocked()


async def test_a_turn_sends_what_it_is_given(autojump_clock) -> None:
    """The body goes out as it is, with the type in front."""
    connector = FakeConnector(echo)
    async with fake_pool(connector) as pool, pool.lease() as lease:
        async with lease.create(model="m", input="hi", previous_response_id=None) as turn:
            assert types([event async for event in turn]) == [
                "response.created",
                "response.output_text.delta",
                "response.completed",
            ]

        expected = {"type": "response.create", "model": "m", "input": "hi", "previous_response_id": None}
        assert [expected] == connector.wire.requests
        assert connector.wire.sent[0].startswith(b'{"type":"response.create"')


@pytest.mark.parametrize("field", ["background", "stream_id"])
async def test_fields_without_meaning_here_are_refused(field, autojump_clock) -> None:
    """What cannot work on a connection is refused with advice before anything is sent."""
    async with fake_pool(FakeConnector(echo)) as pool, pool.lease() as lease:
        with pytest.raises(ValueError, match=f"{field!r} cannot be sent"):
            lease.create(model="m", **{field: True})
        lease.create(model="m", **{field: None})


async def test_one_turn_at_a_time(autojump_clock) -> None:
    """A second turn is refused locally; nothing of it is sent, and the first goes on."""
    connector = FakeConnector(lambda wire, request: wire.push(created("r")))
    async with fake_pool(connector) as pool, pool.lease() as lease:
        async with lease.create(model="m") as turn:
            with pytest.raises(wspool.TurnInFlightError) as caught:
                async with lease.create(model="m"):
                    pass
            connector.wire.push(completed("r"))
            assert (await turn.result()).output_text == "ok"

        assert isinstance(caught.value, trio.BusyResourceError)
        assert ("not_sent", 1) == (caught.value.delivery, len(connector.wire.sent))


async def test_a_released_lease_is_dead(autojump_clock) -> None:
    """Every use of a released lease is the same clear error, without I/O."""
    connector = FakeConnector(echo)
    async with fake_pool(connector) as pool:
        async with pool.lease() as lease:
            pass
        assert not lease.alive
        with pytest.raises(wspool.PoolClosedError, match="take another one") as caught:
            async with lease.create(model="m"):
                pass

        assert isinstance(caught.value, trio.ClosedResourceError)
        assert [] == connector.wire.sent


async def test_a_lease_of_a_dead_connection_is_dead(autojump_clock) -> None:
    """A lease does not survive its connection; a turn on it was never sent."""
    connector = FakeConnector(echo)
    async with fake_pool(connector) as pool, pool.lease() as lease:
        connector.wire.hang_up(1001)
        await settled()
        assert not lease.alive
        assert "<Lease 1 on connection 1, dead>" == repr(lease)
        with pytest.raises(wspool.TurnLostError) as caught:
            async with lease.create(model="m"):
                pass

        assert ("not_sent", True) == (caught.value.delivery, caught.value.replayable)
        assert isinstance(caught.value, trio.BrokenResourceError)


async def test_releasing_twice_gives_one_lane(autojump_clock) -> None:
    """The second release does nothing, even when the lane is somebody else's by then."""
    async with fake_pool(FakeConnector(echo), limits=policy(max_size=1)) as pool:
        first = await pool.acquire()
        first.release()
        first.release()
        second = await pool.acquire()
        first.release()

        assert (True, 1, 0) == (second.alive, pool.statistics().leased, pool.statistics().idle)
        second.release()
    assert_empty(pool.statistics())


async def test_a_lease_shows_itself(autojump_clock) -> None:
    """The text of a lease says whose it is and whether it can be used."""
    async with fake_pool(FakeConnector(echo)) as pool, pool.lease() as lease:
        live = repr(lease)
        connection = repr(lease._connection)

    assert ("<Lease 1 on connection 1, live>", "<Connection 1>") == (live, connection)
    assert "<Lease 1 on connection 1, released>" == repr(lease)


async def test_a_lease_that_is_too_old_starts_no_turn(autojump_clock) -> None:
    """A turn that the lifetime limit would cut is not started; the caller takes another lease."""
    connector = FakeConnector(echo)
    async with fake_pool(connector, limits=policy(max_lifetime=100)) as pool, pool.lease() as lease:
        await trio.sleep(74)
        async with lease.create(model="m") as turn:
            await turn.result()
        await trio.sleep(2)
        assert lease.expiring
        with pytest.raises(wspool.TurnLostError, match="lifetime limit") as caught:
            async with lease.create(model="m"):
                pass

        assert ("not_sent", 1) == (caught.value.delivery, len(connector.wires[0].sent))


async def test_a_request_over_the_limit_is_not_sent(autojump_clock) -> None:
    """The provider's limit is kept to the byte, and the lease stays usable."""
    connector = FakeConnector(echo)
    provider = wspool.Provider(name="small", max_request=100)
    overhead = len(b'{"type":"response.create","model":""}')
    async with fake_pool(connector, provider=provider) as pool, pool.lease() as lease:
        with pytest.raises(wspool.RequestTooLargeError) as caught:
            async with lease.create(model="m" * (101 - overhead)):
                pass
        assert (101, 100, "not_sent") == (caught.value.size, caught.value.limit, caught.value.delivery)
        async with lease.create(model="m" * (100 - overhead)) as turn:
            await turn.result()

    assert [100] == [len(message) for message in connector.wire.sent]


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes"])
async def test_a_body_that_is_no_json_leaves_everything_usable(value, autojump_clock) -> None:
    """What cannot be encoded is the caller's TypeError; the lease is as good as before."""
    connector = FakeConnector(echo)
    async with fake_pool(connector) as pool, pool.lease() as lease:
        with pytest.raises(TypeError):
            async with lease.create(model=value):
                pass
        async with lease.create(model="m") as turn:
            assert (await turn.result()).output_text == "ok"

    assert len(connector.wire.sent) == 1


async def test_starting_a_turn_notices_a_cancellation(autojump_clock) -> None:
    """A cancelled task sends nothing, and its connection stays clean."""
    connector = FakeConnector(echo)
    async with fake_pool(connector) as pool, pool.lease() as lease:
        with trio.CancelScope() as scope:
            scope.cancel()
            async with lease.create(model="m"):
                raise AssertionError("started all the same")
        assert scope.cancelled_caught

        assert ([], True) == (connector.wire.sent, lease.alive)


@pytest.mark.parametrize("how", ["break", "exception", "cancel"])
async def test_a_turn_left_midway_ends_its_connection(how, autojump_clock) -> None:
    """By default what is given up is hung up, and no later event can reach the next lease."""
    connector = FakeConnector(lambda wire, request: wire.push(created("r"), delta("secret")))
    async with fake_pool(connector, limits=policy(max_size=1)) as pool:
        async with pool.lease() as lease:
            try:
                with trio.CancelScope() as scope:
                    async with lease.create(model="m") as turn:
                        async for _ in turn:
                            if how == "break":
                                break
                            if how == "exception":
                                raise KeyError(how)
                            scope.cancel()
            except KeyError:
                pass
            assert not lease.alive
            connector.wires[0].push(delta("secret"), completed("r"))
        connector.on_request = echo
        async with pool.lease() as second, second.create(model="m") as turn:
            events = [event async for event in turn]

        assert "secret" not in str([event.raw for event in events])
        assert ({"dirty": 1}, 1006) == (pool.statistics().closed, connector.wires[0].goodbye)


async def test_a_turn_left_midway_can_be_drained(autojump_clock) -> None:
    """With `on_cancel="drain"` the connection is kept, and still nobody gets the rest."""
    connector = FakeConnector(lambda wire, request: wire.push(created("r"), delta("secret")))
    async with fake_pool(connector, limits=policy(max_size=1, on_cancel="drain")) as pool:
        async with pool.lease() as lease:
            async with lease.create(model="m") as turn:
                await turn.__anext__()
            assert lease.alive
            with pytest.raises(wspool.TurnInFlightError):
                async with lease.create(model="m"):
                    pass
            connector.wire.push(delta("secret"))
        assert (1, 0) == (pool.statistics().draining, pool.statistics().idle)

        async with trio.open_nursery() as nursery:
            events: list[wspool.Event] = []

            async def follow() -> None:
                async with pool.lease() as second, second.create(model="m") as turn:
                    events.extend([event async for event in turn])

            nursery.start_soon(follow)
            await settled()
            connector.on_request = echo
            connector.wire.push(delta("secret"), completed("r", "secret"))
        assert 3 == len(events)
        assert "secret" not in str([event.raw for event in events])
        assert ({}, 1) == (pool.statistics().closed, len(connector.wires))


async def test_a_lease_goes_on_after_its_drained_turn(autojump_clock) -> None:
    """The holder of a lease may wait for the rest to pass, and start another turn."""
    connector = FakeConnector(lambda wire, request: wire.push(created("r")))
    async with fake_pool(connector, limits=policy(on_cancel="drain")) as pool, pool.lease() as lease:
        async with lease.create(model="m"):
            pass
        connector.wire.push(completed("r"))
        connector.on_request = echo
        await settled()
        async with lease.create(model="m") as turn:
            assert (await turn.result()).output_text == "ok"


async def test_a_connection_told_twice_to_go_goes_once(autojump_clock) -> None:
    """A lease released inside its own turn gives the turn up, with no harm from leaving it later."""
    connector = FakeConnector(lambda wire, request: wire.push(created("r")))
    async with fake_pool(connector) as pool:
        lease = await pool.acquire()
        async with lease.create(model="m") as turn:
            lease.release()
            with pytest.raises(wspool.TurnLostError):
                await turn.result()
        assert {"dirty": 1} == pool.statistics().closed
    assert_empty(pool.statistics())


async def test_every_kind_of_end_is_recorded(autojump_clock) -> None:
    """An instrument sees how each turn of a bare lease ended, and what is known about it."""
    recorder = Recorder()
    connector = FakeConnector(echo)
    async with fake_pool(connector, instrument=recorder) as pool:

        async def one() -> None:
            async with pool.lease() as lease, lease.create(model="m") as turn:
                await turn.result()

        await one()
        connector.on_request = lambda wire, request: wire.push(error_frame("nope"))
        with pytest.raises(wspool.ResponseFailedError):
            await one()
        connector.on_request = lambda wire, request: wire.hang_up()
        with pytest.raises(wspool.TurnLostError):
            await one()

    seen = [(r.status, r.delivery, r.connection, r.events, r.duration) for r in recorder.records]
    assert [
        ("completed", "terminal", 1, 3, 0),
        ("rejected", "terminal", 1, 0, 0),
        ("lost", "ambiguous", 1, 0, 0),
    ] == seen
    assert {(None, 1, True)} == {(r.conversation, r.requests, r.full) for r in recorder.records}
    assert all(r.bytes_sent == len(b'{"type":"response.create","model":"m"}') for r in recorder.records)


@pytest.mark.parametrize(
    "how",
    [
        "hang_up",
        "drain",
    ],
)
async def test_a_cancelled_turn_is_recorded_as_cancelled(how, autojump_clock) -> None:
    """A turn that its caller gave up was not lost, whatever became of its connection."""
    recorder = Recorder()
    connector = FakeConnector(lambda wire, request: wire.push(created("r")))
    async with fake_pool(connector, limits=policy(on_cancel=how), instrument=recorder) as pool:
        with trio.move_on_after(3):
            async with pool.lease() as lease, lease.create(model="m") as turn:
                await turn.result()

    assert [("cancelled", "accepted")] == [(r.status, r.delivery) for r in recorder.records]
    assert pytest.approx(3) == recorder.records[0].duration


async def test_a_refusal_of_a_provider_that_hangs_up_costs_the_connection(autojump_clock) -> None:
    """Where every error frame is followed by a close the connection is left at once."""

    def refuse(wire: FakeWire, request: dict[str, object]) -> None:
        wire.push(error_frame("nope"))

    async with fake_pool(FakeConnector(refuse), provider=wspool.VERCEL) as pool, pool.lease() as lease:
        with pytest.raises(wspool.ResponseFailedError):
            async with lease.create(model="m") as turn:
                await turn.result()

        assert ({"dirty": 1}, False) == (pool.statistics().closed, lease.alive)
