"""A client that asks again is answered with what was asked already; nobody else is."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from tests.proxy.asking import KEY, Client, scene
from wspool.proxy import Settings
from wspool.proxy.turns.repeats import Repeats
from wspool.server import EchoModel, Fault, FaultRule, FaultScript, ModelRequest, ModelTurn, message

FIRST = (KEY, ("x-stainless-retry-count", "0"))
AGAIN = (KEY, ("x-stainless-retry-count", "1"))
BODY = {"model": "m", "input": "a b c d e", "store": False}
SLOW = {"delay_per_token": 2}


async def ask(it: Any, headers: Any, *, leave: float | None = None, **fields: Any) -> Client:
    """Ask, and hang up after so many seconds."""
    client: Client = await it.client()
    await client.send("POST", "/v1/responses", {**BODY, **fields}, headers=headers)
    if leave is not None:
        await trio.sleep(leave)
        await trio.aclose_forcefully(client.stream)
    return client


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("after", [0, 5, 15])
async def test_f157_a_retry_joins_the_first_run(autojump_clock, stream: bool, after: float) -> None:
    """F157: an SDK lost its connection and asks the same again -> the answer of the first run, from its
    first byte, while that goes on or up to 30 s later; it runs once and is paid for once.
    """
    async with scene(EchoModel(), server=SLOW) as it:
        await ask(it, FIRST, leave=3, stream=stream)
        await trio.sleep(after)
        answer = await (await ask(it, AGAIN, stream=stream)).receive()
        records = await it.records()
        assert 1 == len(it.ledger)

    whole = answer.events[-1]["response"] if stream else answer.json
    assert ("completed", True) == (whole["status"], answer.whole)
    if stream:
        assert list(range(len(answer.events))) == [event["sequence_number"] for event in answer.events]
    joined = next(record for record in records if record.joined)
    assert (1, None, "completed") == (joined.joined, joined.usage, joined.outcome)
    assert 1 == sum(record.usage is not None for record in records)


@pytest.mark.parametrize(
    ("headers", "fields"),
    [
        (FIRST, {}),
        ((KEY,), {}),
        (AGAIN, {"input": "another"}),
        ((("authorization", "Bearer other"), AGAIN[1]), {}),
        ((*AGAIN, ("idempotency-key", "x")), {}),
        ((*AGAIN, ("user-agent", "other/1")), {}),
    ],
)
async def test_whatever_is_no_retry_of_it_runs(autojump_clock, headers: Any, fields: Any) -> None:
    """A sample beside it, another body, another client, another name."""
    async with scene(EchoModel(), server=SLOW) as it:
        await ask(it, FIRST, leave=3)
        assert 200 == (await (await ask(it, headers, **fields)).receive()).status
        await trio.sleep(60)
        assert 2 == len(it.ledger)


async def test_a_name_is_enough(autojump_clock) -> None:
    """Without a count of retries; and both may read at once."""
    named = (KEY, ("idempotency-key", "n"))
    async with scene(EchoModel(), server=SLOW) as it:
        first = await ask(it, named, stream=True)
        await trio.sleep(3)
        second = await ask(it, named, stream=True)
        one, other = await first.receive(), await second.receive()
        assert 1 == len(it.ledger)

    assert one.events == other.events


async def test_what_failed_runs_anew(autojump_clock) -> None:
    """It was asked for again."""
    faults = FaultScript(FaultRule(Fault("reset", at="response.output_text.delta")), seed=1)
    async with scene(EchoModel(), server={"faults": faults, **SLOW}) as it:
        await (await ask(it, FIRST, stream=True)).receive()
        answer = await (await ask(it, AGAIN, stream=True)).receive()

    assert "response.completed" == answer.types[-1]


@pytest.mark.parametrize("leave", [None, 2.5])
async def test_who_joined_what_fails_reads_an_end(autojump_clock, leave: float | None) -> None:
    """Also when the first client has left: a bare end would be taken for a loss of connection."""
    faults = FaultScript(FaultRule(Fault("reset", at="response.output_text.delta", occurrence=4)), seed=1)
    async with scene(EchoModel(), server={"faults": faults, **SLOW}) as it:
        first = await ask(it, FIRST, stream=True, leave=leave)
        await trio.sleep(3)
        joined = await (await ask(it, AGAIN, stream=True)).receive()
        assert leave is not None or joined.events == (await first.receive()).events

    assert joined.whole
    assert "response.failed" == joined.types[-1]
    assert list(range(len(joined.events))) == [event["sequence_number"] for event in joined.events]


async def test_it_is_kept_for_a_moment_only(autojump_clock) -> None:
    """Then it runs anew; and not at all if that is not wanted."""
    for settings in (Settings(replay_for=10), Settings(replay_for=0)):
        async with scene(EchoModel(), server=SLOW, settings=settings) as it:
            await ask(it, FIRST, leave=3)
            await trio.sleep(60)
            assert 200 == (await (await ask(it, AGAIN)).receive()).status
            assert 2 == len(it.ledger)


async def test_a_joined_run_goes_on_beyond_the_bound(autojump_clock) -> None:
    """Somebody reads it."""

    class Thinks:
        def respond(self, request: ModelRequest) -> ModelTurn:
            return ModelTurn(output=[message("yes")], delay=100)

    async with scene(Thinks(), settings=Settings(drain_for=10)) as it:
        await ask(it, FIRST, leave=1, stream=True)
        answer = await (await ask(it, AGAIN, stream=True)).receive()
        assert 1 == len(it.ledger)

    assert "response.completed" == answer.types[-1]
    assert 6 == answer.types.count("keepalive")


async def test_what_is_kept_is_bounded(autojump_clock) -> None:
    """Of one and of all; what grew too large is not joined."""
    import h11

    repeats = Repeats(30)

    def request(name: str) -> h11.Request:
        return h11.Request(method="POST", target="/", headers=[("host", "x"), ("idempotency-key", name)])

    large = repeats.begin(request("large"), "a", b"", 1)
    assert large is not None
    large.write(b"x" * (2**21 + 1))
    assert repeats.find(request("large"), "a", b"") is None
    for number in range(50):
        run = repeats.begin(request(str(number)), "a", b"", number)
        assert run is not None
        run.write(b"x" * 2**21)
    assert len(repeats) <= 32
    assert repeats._size <= 64 * 2**20
