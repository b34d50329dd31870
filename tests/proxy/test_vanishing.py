"""WebSocket clients that mean no good, or vanish, and a provider that fails: nobody else loses by it."""

from __future__ import annotations

import random
from typing import Any

import attrs
import pytest
import trio
from hypothesis import HealthCheck, given, strategies as st
from wsproto.connection import Connection, ConnectionType
from wsproto.events import TextMessage

from tests.helpers import FakeConnector, assert_conserved, echo, fake_pool, policy, serving
from tests.proxy.talking import Client, PoolWay, talking
from tests.searching import examples
from wspool.proxy.sockets.lanes import SocketLimits
from wspool.proxy.sockets.socket import Socket
from wspool.server import OPENAI as OPENAI_SERVER, EchoModel
from wspool.server.line import MemoryEnd

#: What is no message of this protocol, or nearly one.
TEXTS = st.one_of(
    st.text(max_size=40),
    st.sampled_from(
        [
            '{"type":"response.create"}',
            '{"type":"response.create","model":"m","input":[],"stream_id":"a","previous_response_id":7}',
            '{"type":"response.create","model":"m","input":"x","tools":{"a":1}}',
            '{"type":"response.steer","previous_response_id":{"a":[]},"input":null}',
            '{"type":"response.steer"}',
            '{"type":["response.create"]}',
            '{"type":"response.create","model":"m","input":[[[[{}]]]]}',
            '{"type":"response.create","model":"m","input":"x","stream_id":["a"]}',
            "[" * 5000,
        ]
    ),
)


@pytest.mark.odd_requests
@examples(60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pieces=st.lists(st.one_of(st.binary(max_size=60), TEXTS), max_size=12), cut=st.booleans())
def test_no_bytes_bring_a_socket_down(pieces: list[bytes | str], cut: bool) -> None:
    """It answers or hangs up; no lease is left, and another client notices nothing."""

    async def main() -> None:
        with trio.fail_after(10_000):
            async with fake_pool(FakeConnector(echo)) as pool, talking(pool) as (other, _):
                near, far = MemoryEnd.pair()
                socket = Socket(far, PoolWay(pool), SocketLimits(keepalive=5, silence=20, unread=5))
                frames = Connection(ConnectionType.CLIENT)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(socket.serve)
                    reader = Client(near)
                    reader.answers = False
                    nursery.start_soon(reader.run)
                    for piece in pieces:
                        data = piece if isinstance(piece, bytes) else frames.send(TextMessage(piece))
                        try:
                            await near.send_all(data)
                        except (trio.BrokenResourceError, trio.ClosedResourceError):
                            break
                    if cut:
                        await near.aclose()
                    await trio.sleep(100)
                    assert "gone" in repr(socket)  # also one that only falls silent
                    assert 0 == pool.statistics().leased
                await other.create("still here")
                assert "response.completed" == (await other.answer())["type"]
                assert_conserved(pool.statistics())

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


async def test_clients_vanish_and_connections_end_at_any_moment(autojump_clock) -> None:
    """Whoever stays gets the answer to each of its requests, in order; none runs twice; nothing is left."""
    chance = random.Random(7)
    profile = attrs.evolve(OPENAI_SERVER, lifetime=300)
    answered: dict[str, int] = {}
    asked = 0
    async with serving(EchoModel(), profile=profile, delay_per_token=1.0) as world:
        limits = policy(max_size=6, turn_reserve=30)
        async with world.pool(limits=limits) as pool:

            async def stay(name: int) -> None:
                nonlocal asked
                async with talking(pool) as (client, _):
                    parent: dict[str, Any] = {}
                    for number in range(12):
                        lane = chance.choice([{}, {"stream_id": f"l{chance.randrange(3)}"}])
                        text = f"client {name} turn {number}"
                        asked += 1
                        await client.create(text, store=True, **parent, **lane)
                        end = await client.answer(lane.get("stream_id"))
                        kind = end["type"]
                        answered[kind] = answered.get(kind, 0) + 1
                        parent = {}
                        if kind == "response.completed":
                            said = end["response"]["output"][-1]["content"][0]["text"]
                            assert text == said
                            parent = {"previous_response_id": end["response"]["id"]}
                        await trio.sleep(chance.random() * 30)

            async def vanish() -> None:
                for _ in range(15):
                    async with talking(pool) as (client, _):
                        for lane in range(chance.randrange(1, 4)):
                            await client.create("gone soon", stream_id=f"l{lane}")
                        await trio.sleep(chance.random() * 12)

            async def cut() -> None:
                while True:
                    await trio.sleep(chance.random() * 60)
                    if world.far_ends:
                        await world.cut(chance.randrange(len(world.far_ends)))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(cut)
                async with trio.open_nursery() as clients:
                    for name in range(4):
                        clients.start_soon(stay, name)
                    clients.start_soon(vanish)
                nursery.cancel_scope.cancel()
            await trio.sleep(400)
            assert (0, 0, 0) == attrs.astuple(
                pool.statistics(), filter=lambda field, _: field.name in ("leased", "waiting", "in_flight")
            )
            assert_conserved(pool.statistics())

    assert asked == sum(answered.values()) == 48
    assert answered["response.completed"] > 24, answered
    ours = [entry for entry in world.ledger if entry["outcome"] == "completed"]
    assert len({entry["response_id"] for entry in ours}) == len(ours)
