"""The connection dies, goes silent, or crawls."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import wspool
from wspool.server import Fault, FaultRule, Server
from wspool.wire.wire import ConnectError, Endpoint

from .scene import EVENTS, QUESTION, TAP_PING, TAP_PONG, Make, Story, faulty

#: Silence after which the peer is pinged, and the time it has to answer: the defaults of `PoolPolicy`.
FOUND_OUT = 20.0 + 60.0


async def test_f01_reset_mid_delta(make: Make, autojump_clock) -> None:
    """F01: TCP reset in the middle of the output -> `TurnLostError` at once: `accepted`, with the response's
    id and the events so far; nothing is sent again.
    """
    async with faulty(make, Fault("reset", at="delta", occurrence=3)) as scene:
        lost = (await scene.ask()).assert_lost("accepted", close_code=1006, events=6)

        assert [(1, "lost")] == scene.outcomes
        assert lost.response_id == scene.ledger[0]["response_id"]
        await scene.assert_well(creates=1, connection=2)
        assert {"lost": 1} == scene.closed


async def test_f02_reset_after_send(make: Make, autojump_clock) -> None:
    """F02: TCP reset after the request left, before any answer -> `TurnLostError` at once: `ambiguous`;
    nothing is sent again.
    """
    async with faulty(make, Fault("reset", at="receipt")) as scene:
        (await scene.ask()).assert_lost("ambiguous", close_code=1006, events=0)

        await scene.assert_well(creates=1, connection=2)
        assert {"lost": 1} == scene.closed


async def test_f03_fin_idle(make: Make, autojump_clock) -> None:
    """F03: the idle connection ends without a close frame -> nothing: it is dropped at once, the next turn
    is sent in full on another.
    """
    async with (
        faulty(make, Fault("fin", at="idle", delay=5)) as scene,
        scene.pool.conversation(model="m") as conversation,
    ):
        (await scene.ask("one", conversation=conversation)).assert_answer("one")
        await trio.sleep(6)
        assert (0, {"lost": 1}) == (scene.pool.statistics().size, scene.closed)
        (await scene.ask("two", conversation=conversation)).assert_answer("two", took=0)

        assert [(1, 1, "completed"), (2, 3, "completed")] == [
            (entry["connection"], entry["input_items"], entry["outcome"]) for entry in scene.ledger
        ]
        conversation.close()
        await scene.assert_well(creates=2, connection=2)


@pytest.mark.parametrize("at", ["delta", "terminal"])
async def test_f04_fin_mid_turn(make: Make, at: str, autojump_clock) -> None:
    """F04: the connection ends without a close frame in mid-turn -> `TurnLostError` at once: `accepted`,
    code 1006; never taken for the end of the answer.
    """
    async with faulty(make, Fault("fin", at=at)) as scene:
        (await scene.ask()).assert_lost("accepted", close_code=1006, events=4 if at == "delta" else 11)

        await scene.assert_well(creates=1, connection=2)


async def test_f05_half_open_towards_the_server(make: Make, autojump_clock) -> None:
    """F05: nothing reaches the server any more -> `TurnLostError` when a ping was not answered in time
    (80 s): `ambiguous`; the connection is dropped without a closing handshake.
    """
    async with faulty(make, Fault("half_open", at="receipt")) as scene:
        lost = (await scene.ask()).assert_lost("ambiguous", events=0, took=FOUND_OUT)
        assert "nothing came for ping_timeout=60 s" in str(lost)

        await wait_all_tasks_blocked()
        assert scene.taps[0].closed
        assert {"lost": 1} == scene.closed
        await scene.assert_well(creates=1, connection=2)


@pytest.mark.parametrize(("at", "delivery"), [("response.created", "ambiguous"), ("delta", "accepted")])
async def test_f06_half_open_towards_the_client(make: Make, at: str, delivery: str, autojump_clock) -> None:
    """F06: nothing comes from the server any more, though it works -> `TurnLostError` when a ping was not
    answered in time (80 s): what is known so far; nothing is sent again.
    """
    async with faulty(make, Fault("mute", at=at)) as scene:
        (await scene.ask()).assert_lost(delivery, took=FOUND_OUT)

        assert [(1, "completed")] == scene.outcomes, "the reason why nothing may be sent again"
        await scene.assert_well(creates=1, connection=2)


async def test_f07_half_open_while_idle(make: Make, autojump_clock) -> None:
    """F07: the idle connection is half-open (a NAT forgot it) -> nothing: a ping finds it within 80 s, the
    next turn goes out elsewhere.
    """
    async with faulty(make, Fault("half_open", at="idle")) as scene:
        (await scene.ask()).assert_answer()
        await trio.sleep(FOUND_OUT + 1)
        assert (0, {"lost": 1}) == (scene.pool.statistics().size, scene.closed)
        await scene.assert_well(creates=1, connection=2)


async def test_f08_stall_with_pongs(make: Make, autojump_clock) -> None:
    """F08: the output stalls while pings are answered -> nothing: a silent model is normal. Your own cancel
    scope ends it; the connection is dropped, the conversation goes on in full.
    """
    async with faulty(make, Fault("stall")) as scene:
        async with scene.pool.conversation(model="m") as conversation:
            with trio.move_on_after(600) as scope:
                await scene.ask(conversation=conversation)
            assert scope.cancelled_caught
            assert scene.taps[0].count(TAP_PING) >= 20, "it was seen to live"
            (await scene.ask("again", conversation=conversation)).assert_answer("again", took=0)

        assert [(1, "lost"), (2, "completed")] == scene.outcomes
        assert {"dirty": 1} == scene.closed
        await scene.assert_well(creates=2, connection=2)


async def test_f09_restart_storm(make: Make, autojump_clock) -> None:
    """F09: the server is killed and comes back after 10 s -> a `TurnLostError` for each running turn; new
    turns wait in line, behind one prober with jittered pauses, and their deadlines hold.
    """
    down = False
    refused = 0

    async def open_stream(server: Server, endpoint: Endpoint) -> trio.abc.Stream:
        nonlocal refused
        if down:
            refused += 1
            await trio.lowlevel.checkpoint()
            raise ConnectError("refused", phase="tcp")
        return await server.open_stream()

    async with faulty(make, open_stream=open_stream, delay_per_token=1) as scene:
        first: list[Story] = []
        order: list[int] = []
        impatient = trio.CancelScope()

        async def ask(number: int) -> None:
            first.append(await scene.ask())
            with impatient if number == 0 else trio.CancelScope():
                await trio.sleep(0.01 * (number + 1))
                (await scene.ask(f"again {number}")).assert_answer(f"again {number}")
                order.append(number)

        async with trio.open_nursery() as nursery:
            for number in range(6):
                nursery.start_soon(ask, number)
            await trio.sleep(2.5)
            down = True
            scene.server.inject(Fault("reset"))
            await trio.sleep(3)
            assert scene.pool.statistics().degraded
            impatient.cancel()
            await trio.sleep(7)
            down = False

        assert 6 == len(first)
        for story in first:
            story.assert_lost("accepted", close_code=1006, took=2.5)
        assert impatient.cancelled_caught
        assert {1, 2, 3, 4, 5} == set(order)
        assert refused <= 6 + 20, "one prober, not six"
        assert 6 + 5 == scene.server.statistics().creates


async def test_f10_slow_link(make: Make, autojump_clock) -> None:
    """F10: a link of some hundred bytes per second, pongs ten seconds late -> a slow answer; nothing is lost
    and nobody is declared dead.
    """
    async with faulty(make, Fault("dribble", size=64, gap=0.25), Fault("late_pong", delay=10)) as scene:
        story = await scene.ask()
        story.assert_answer()
        assert story.took > 10
        assert list(EVENTS) == story.types
        await trio.sleep(200)

        assert {} == scene.closed
        await scene.assert_well(creates=1, connection=1)


async def test_f10_slow_link_and_a_big_message(make: Make, autojump_clock) -> None:
    """F10: one message takes longer than the patience for a pong -> a slow answer: every byte is a sign of
    life.
    """
    faults = Fault("dribble", size=8192, gap=1), Fault("big_terminal", size=1024 * 1024)
    async with faulty(make, *faults) as scene:
        story = await scene.ask()
        story.assert_answer()
        assert story.took > FOUND_OUT
        await scene.assert_well(creates=1, connection=1)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 61])
async def test_f11_dribble(make: Make, size: int, autojump_clock) -> None:
    """F11: bytes come one by one, frames cut anywhere -> the same events."""
    async with faulty(make, Fault("dribble", size=size)) as scene:
        story = await scene.ask()
        story.assert_answer()
        assert (list(EVENTS), QUESTION) == (story.types, story.text)
        await scene.assert_well(creates=1, connection=1)


async def test_f12_slow_consumer_within_bounds(make: Make, autojump_clock) -> None:
    """F12: your code is slow to take events -> pings are answered and the end of the connection is noticed
    meanwhile; what had arrived is still delivered.
    """
    faults = (
        FaultRule(Fault("ping_flood", count=20, at="delta"), create=1),
        Fault("close", at="delta", code=1011),
    )
    async with faulty(make, *faults) as scene, scene.pool.lease() as lease:
        async with lease.create(model="m", input=QUESTION) as turn:
            seen = [(await anext(turn)).type for _ in range(5)]
            await trio.sleep(300)
            assert 20 == scene.taps[0].count(TAP_PONG)
            seen += [event.type async for event in turn]
        assert list(EVENTS) == seen

        async with lease.create(model="m", input=QUESTION) as turn:
            seen = [(await anext(turn)).type]
            await trio.sleep(1)
            assert not lease.alive
            seen += [(await anext(turn)).type for _ in range(3)]
            with pytest.raises(wspool.TurnLostError) as caught:
                await anext(turn)
        assert (list(EVENTS[:4]), 1011) == (seen, caught.value.close_code)
        await scene.assert_well(creates=2, connection=2)


async def test_f12_slow_consumer_beyond_bounds(make: Make, autojump_clock) -> None:
    """F12: your code is slow, and more than `max_buffered` bytes wait for it -> reading pauses; later
    everything comes, in order, on a connection that was not taken for dead.
    """
    text = " ".join(map(str, range(500)))
    async with faulty(make, limits={"max_buffered": 5000}) as scene:
        async with scene.pool.conversation(model="m") as conversation, conversation.turn(text) as turn:
            said = ""
            async for event in turn:
                if event.type == "response.output_text.delta":
                    if not said:
                        await trio.sleep(600)
                    said += event.data["delta"]
            assert (text, text) == (said, turn.response.output_text)

        assert {} == scene.closed
        await scene.assert_well(creates=1, connection=1)


async def test_f12_slow_consumer_beside_others(make: Make, autojump_clock) -> None:
    """F12: the same while other turns share the connection -> `TurnLostError`: `accepted`, it names
    `max_buffered`; the others go on.
    """
    text = " ".join(map(str, range(500)))
    options: Any = {"pool_options": {"provider": wspool.OPENAI}, "delay_per_token": 0.01}
    limits = {"max_size": 1, "lanes": 2, "max_buffered": 5000}
    async with faulty(make, limits=limits, **options) as scene:
        (await scene.ask()).assert_answer()
        async with scene.pool.conversation(model="m") as conversation, conversation.turn(text) as turn:
            (await scene.ask(text)).assert_answer(text)
            with pytest.raises(wspool.TurnLostError, match="max_buffered"):
                await turn.result()

        await trio.sleep(10)  # the rest of it passes
        assert {} == scene.closed
        await scene.assert_well(creates=3, connection=1)


async def test_f13_server_never_reads(make: Make, autojump_clock) -> None:
    """F13: the server reads nothing, so the request does not get out -> `TurnLostError` after `send_timeout`
    (60 s): `ambiguous`, for a part of it may have arrived; the connection is dropped.
    """
    async with faulty(make, Fault("deaf", at="open")) as scene:
        lost = (await scene.ask("x" * 200_000)).assert_lost("ambiguous", events=0, took=60)
        assert "did not take the message within send_timeout=60 s" in str(lost)

        assert {"dirty": 1} == scene.closed
        await scene.assert_well(creates=0, connection=2)


# -- over real sockets ------------------------------------------------------------------------------


@pytest.mark.network
@pytest.mark.parametrize(
    ("fault", "delivery", "code"),
    [
        (Fault("reset", at="delta", occurrence=2), "accepted", 1006),
        (Fault("reset", at="receipt"), "ambiguous", 1006),
        (Fault("fin", at="delta"), "accepted", 1006),
        (Fault("close", at="delta", code=1001), "accepted", 1001),
        (Fault("half_open", at="delta"), "accepted", None),
        (Fault("rsv1"), "accepted", 1002),
        (Fault("invalid_json"), "accepted", None),
    ],
    ids=str,
)
async def test_a_loss_is_the_same_over_sockets(
    make: Make, fault: Fault, delivery: str, code: int | None
) -> None:
    """Real time, real resets: the same error, and the pool goes on."""
    limits = {"ping_interval": 0.1, "ping_timeout": 0.1}
    async with faulty(make, fault, limits=limits, network=True) as scene:
        (await scene.ask()).assert_lost(delivery, close_code=code, took=2)
        await scene.assert_well(creates=1, connection=2)


@pytest.mark.network
@pytest.mark.parametrize("name", ["fragments", "big_terminal", "ping_flood", "unknown_event", "odd_id"])
async def test_what_harms_nobody_is_the_same_over_sockets(make: Make, name: str) -> None:
    """Real time, real reads: the answer is whole and its connection is kept."""
    async with faulty(make, Fault(name), network=True) as scene:
        (await scene.ask()).assert_answer(took=5)
        await scene.assert_well(creates=1, connection=1)
