"""All turns of a pool together: what they may hold, and which of them goes when it is too much."""

from __future__ import annotations

from typing import Any

import pytest
from trio.testing import wait_all_tasks_blocked as settled

import wspool
from tests.helpers import FakeConnector, FakeWire, completed, created, delta, fake_pool, policy

MIB = 1024 * 1024


def limits(**fields: Any) -> wspool.PoolPolicy:
    """At most 20 MiB for all turns; nothing is slow to be read."""
    return policy(max_pool_bytes=20 * MIB, max_buffered=1000 * MIB, max_size=4, **fields)


def push(wire: FakeWire, size: int, count: int = 1) -> None:
    """Let the server say so many deltas of *size* bytes."""
    wire.push(*[delta("x" * size)] * count)


@pytest.mark.hits("dirty: more than all turns may hold")
async def test_the_heaviest_turn_goes_when_all_are_too_heavy(autojump_clock) -> None:
    """Three turns, none over its own limit: the one that holds most is lost, the others are answered."""
    connector = FakeConnector(lambda wire, request: wire.push(created(f"r{len(connector.wires)}")))
    async with fake_pool(connector, limits=limits()) as pool:
        leases = [await pool.acquire() for _ in range(3)]
        turns = [lease.create(model="m") for lease in leases]
        for turn in turns:
            await turn.__aenter__()
        await settled()
        first, second, third = connector.wires
        push(first, MIB, 3)
        push(second, MIB, 11)
        push(third, MIB, 4)
        await settled()
        assert {} == pool.statistics().closed
        push(third, MIB, 5)
        await settled()

        assert {"dirty": 1} == pool.statistics().closed
        with pytest.raises(wspool.TurnLostError, match="more than max_pool_bytes=20971520 bytes") as caught:
            await turns[1].result()
        assert ("accepted", 1009) == (caught.value.delivery, caught.value.close_code)
        for wire, turn in ((first, turns[0]), (third, turns[2])):
            response = {"id": created_id(turn), "status": "completed", "output": []}
            wire.push({"type": "response.completed", "response": response})
            assert "completed" == (await turn.result()).status
        for turn in turns:
            await turn.__aexit__(None, None, None)


async def test_messages_that_never_become_whole_weigh_too(autojump_clock) -> None:
    """Nothing of them is an event yet: the connection that holds most goes, one that nobody uses too."""
    connector = FakeConnector(lambda wire, request: wire.push(created(f"r{len(connector.wires)}")))
    async with fake_pool(connector, limits=limits()) as pool:
        async with pool.lease(), pool.lease():
            pass  # two connections
        async with pool.lease() as lease, lease.create(model="m") as turn:
            await settled()
            first, second = connector.wires
            busy, idle = (first, second) if first.sent else (second, first)
            push(busy, MIB, 4)
            await settled()
            hold(idle, 8 * MIB)
            hold(busy, 7 * MIB)
            await settled()
            assert {} == pool.statistics().closed
            hold(idle, 10 * MIB)
            await settled()
            assert {"dirty": 1} == pool.statistics().closed
            busy.push(completed(created_id(turn)))
            assert "completed" == (await turn.result()).status
            hold(busy, 50 * MIB)
            await settled()
            assert {"dirty": 2} == pool.statistics().closed


def hold(wire: FakeWire, size: int) -> None:
    """So much has come of a message that is not whole."""
    wire.gauge.partial = size
    wire.gauge.check()


def created_id(turn: wspool.Turn) -> str:
    """The id of the response that *turn* has got."""
    attempt = turn._driver.attempt
    assert attempt is not None
    return str(attempt.machine.response_id)


async def test_what_nobody_wants_weighs_nothing(autojump_clock) -> None:
    """A turn that was given up is drained and not kept."""
    connector = FakeConnector(lambda wire, request: wire.push(created(f"r{len(connector.wires)}")))
    async with fake_pool(connector, limits=limits(on_cancel="drain", max_turn_bytes=100 * MIB)) as pool:
        async with pool.lease() as lease, lease.create(model="m"):
            await settled()
        async with pool.lease() as lease, lease.create(model="m") as turn:
            await settled()
            assert 2 == len(connector.wires)
            push(connector.wires[0], MIB, 30)
            await settled()
            push(connector.wires[1], MIB, 10)
            await settled()
            assert {} == pool.statistics().closed
            assert turn is not None
