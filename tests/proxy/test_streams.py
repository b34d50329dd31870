"""Streams in silence, in failure, and without their reader."""

from __future__ import annotations

from functools import partial
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from tests.helpers import policy
from tests.proxy.asking import KEY, Client, Scene, laned, scene
from tests.proxy.test_websocket import connected
from wspool.core.usage import Usage
from wspool.proxy import Settings
from wspool.proxy.access.tokens import parse_tokens
from wspool.proxy.settings import KeepaliveStyle
from wspool.server import (
    EchoModel,
    Entry,
    Fault,
    FaultRule,
    FaultScript,
    ModelRequest,
    ModelTurn,
    TurnError,
    message,
    open_server,
)
from wspool.wire.trio_websocket import TrioWebSocketConnector


class Thinks:
    """A model that thinks for so long, after `response.created`, and says two words."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def respond(self, request: ModelRequest) -> ModelTurn:
        return ModelTurn(output=[message("yes it is")], delay=self._seconds)


def numbers(events: list[dict[str, Any]]) -> list[int]:
    return [event["sequence_number"] for event in events]


async def test_f151_silence_is_broken_by_numbered_events_once_it_has_begun(autojump_clock) -> None:
    """F151: the model thinks for long, before a client that streams -> a numbered `keepalive` event each 15
    s, which resets Codex's watch over silence; the numbers of later events go on after them.
    """
    async with scene(Thinks(100), settings=Settings(keepalive=15)) as it:
        answer = await (await it.client()).turn(stream=True)
        (record,) = await it.records()

    kept = [event for event in answer.events if event["type"] == "keepalive"]
    assert 6 == len(kept)
    assert list(range(len(answer.events))) == numbers(answer.events)
    assert ("response.created", "response.completed") == (answer.types[0], answer.types[-1])
    assert "completed" == record.outcome
    gaps = [later - earlier for earlier, later in zip(answer.times, answer.times[1:], strict=False)]
    assert max(gaps) <= 15


@pytest.mark.parametrize(("style", "typed", "comments"), [("auto", 6, 0), ("comment", 0, 6), ("off", 0, 0)])
async def test_the_style_is_the_client_s(
    autojump_clock, style: KeepaliveStyle, typed: int, comments: int
) -> None:
    """For SDKs that fail at an event that they do not know."""
    async with scene(Thinks(100), settings=Settings(keepalive=15, keepalive_style=style)) as it:
        answer = await (await it.client()).turn(stream=True)

    assert typed == answer.types.count("keepalive")
    assert comments == answer.body.count(b": keepalive\n\n")


@pytest.mark.parametrize("own", ["auto", "comment", "off"])
async def test_a_token_has_its_own(autojump_clock, own: KeepaliveStyle) -> None:
    """Beside those that have what the proxy does."""
    text = f"one wsp-1234567890123456 keepalive={own}\nother wsp-1234567890123457"
    tokens = parse_tokens(text)
    settings = Settings(keepalive=15, keepalive_style="off" if own != "off" else "auto")
    counts = []
    async with scene(Thinks(100), settings=settings, api_key="sk-own", tokens=tokens.values()) as it:
        for token in tokens.values():
            headers = (("authorization", f"Bearer {token.text}"),)
            answer = await (await it.client()).turn(stream=True, headers=headers)
            counts.append((answer.types.count("keepalive"), answer.body.count(b": keepalive\n\n")))

    assert [
        {"auto": (6, 0), "comment": (0, 6), "off": (0, 0)}[own],
        (0, 0) if own != "off" else (6, 0),
    ] == counts


async def test_f187_silence_before_a_json_body_is_broken_by_white_space(autojump_clock) -> None:
    """F187: the model thinks for long, before a client that waits for one JSON body, with `--keepalive-json`
    -> white space each 15 s, which every JSON reader passes over.
    """
    settings = Settings(keepalive=15, keepalive_json=True)
    async with scene(Thinks(100), settings=settings) as it:
        client = await it.client()
        answer = await client.turn()
        again = await client.turn()  # its connection goes on
        (record, _) = await it.records()

    assert answer.body.startswith(b" " * 6 + b"{")
    assert ("completed", "completed") == (answer.json["status"], again.json["status"])
    assert "content-length" not in answer.headers
    assert "no" == answer.headers["x-accel-buffering"]
    assert ("completed", 200) == (record.outcome, record.status)
    gaps = [later - earlier for earlier, later in zip(answer.times, answer.times[1:], strict=False)]
    assert max(gaps) <= 15


@pytest.mark.parametrize("told", [True, False])
async def test_a_late_refusal_of_a_json_body(autojump_clock, told: bool) -> None:
    """Where the silence was broken the status is out, and the response has failed; else it has its status."""

    class Two:
        def respond(self, request: ModelRequest) -> ModelTurn:
            if "first" in str(request.context):
                return ModelTurn(output=[message("yes")], delay=40.0)
            error = TurnError(message="Not you.", code="no", type="invalid_request_error", status=400)
            return ModelTurn(status="rejected", error=error)

    settings = Settings(keepalive=15, keepalive_json=told, max_turns=1)
    async with scene(Two(), settings=settings) as it:
        first, second = await it.client(), await it.client()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(first.turn, "first")
            await trio.testing.wait_all_tasks_blocked()
            answer = await second.turn("second")
        records = {record.number: record for record in await it.records()}

    assert (200 if told else 400) == answer.status
    error = answer.json["error"]
    assert ("no", "Not you.") == (error["code"], error["message"])
    if told:
        assert ("response", "failed") == (answer.json["object"], answer.json["status"])
    assert "refused" == records[2].outcome


async def test_f150_before_the_first_event_there_are_comments_only(autojump_clock) -> None:
    """F150: a turn waits in line, or for a connection, for longer than `--keepalive`, before a client that
    streams -> the head and a comment each 15 s, nothing typed: SDKs fail at any event before
    `response.created`.
    """
    settings = Settings(keepalive=15, max_turns=1)
    async with scene(Thinks(40), settings=settings) as it:
        first, second = await it.client(), await it.client()
        await first.send("POST", "/v1/responses", {"model": "m", "input": "one", "stream": True})
        await trio.testing.wait_all_tasks_blocked()
        answer = await second.turn("two", stream=True)

    assert answer.body.startswith(b": keepalive\n\n: keepalive\n\nevent: response.created\n")
    assert "response.created" == answer.types[0]


async def test_a_body_is_not_begun_before_it_is_there(autojump_clock) -> None:
    """However long it takes: a refusal keeps its status."""
    async with scene(Refuses(60), settings=Settings(keepalive=15, max_turns=1)) as it:
        first, second = await it.client(), await it.client()
        await first.send("POST", "/v1/responses", {"model": "m", "input": "one"})
        await trio.testing.wait_all_tasks_blocked()
        assert 400 == (await second.turn("two")).status


class Refuses:
    """A model that takes its time for the first, and refuses everybody else."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._turns = 0

    def respond(self, request: ModelRequest) -> ModelTurn:
        self._turns += 1
        if self._turns == 1:
            return ModelTurn(output=[message("yes")], delay=self._seconds)
        error = TurnError(
            message="Not like this.", code="invalid_prompt", type="invalid_request_error", status=400
        )
        return ModelTurn(status="rejected", error=error)


# -- what went wrong -------------------------------------------------------------------------------


async def test_f152_a_late_refusal_is_a_failed_response(autojump_clock) -> None:
    """F152: the provider refuses a turn whose client was kept alive already -> `response.created` and
    `response.failed` with the provider's code and text, and an orderly end; before that it is a real
    status.
    """
    async with scene(Refuses(60), settings=Settings(keepalive=15, max_turns=1)) as it:
        first, second = await it.client(), await it.client()
        await first.send("POST", "/v1/responses", {"model": "m", "input": "one"})
        await trio.testing.wait_all_tasks_blocked()
        answer = await second.turn("two", stream=True)
        record = (await it.records())[-1]

    assert answer.whole
    assert ["response.created", "response.failed"] == answer.types
    assert [0, 1] == numbers(answer.events)
    created, failed = (event["response"] for event in answer.events)
    assert {"code": "invalid_prompt", "message": "Not like this."} == failed["error"]
    assert ("in_progress", "failed", created["id"]) == (created["status"], failed["status"], failed["id"])
    assert ("refused", 200, "invalid_prompt") == (record.outcome, record.status, record.error)


@pytest.mark.parametrize(
    "at",
    ["response.created", "response.output_item.added", "response.output_text.delta", "response.completed"],
)
async def test_f153_a_stream_that_is_cut_ends_with_a_failed_response(autojump_clock, at: str) -> None:
    """F153: the connection to the provider is cut after output was shown -> `response.failed` with what
    happened, in the numbers of the stream; never a bare end, and nothing is sent again.
    """
    faults = FaultScript(FaultRule(Fault("reset", at=f"response.{at}")), seed=1)
    async with scene(EchoModel(), server={"faults": faults}) as it:
        answer = await (await it.client()).turn("one two three four five", stream=True)
        (record,) = await it.records()

    assert answer.whole
    assert answer.types[-1] in ("response.failed", "response.completed")
    assert list(range(len(answer.events))) == numbers(answer.events)
    if answer.types[-1] == "response.failed":
        response = answer.events[-1]["response"]
        assert response["id"] == answer.events[0]["response"]["id"]
        assert response["error"]["code"]
        assert "lost" == record.outcome


@pytest.mark.parametrize("status", ["failed", "incomplete"])
async def test_a_response_that_ends_badly_is_passed_as_it_came(autojump_clock, status: Any) -> None:
    """As a stream its own terminal, as a body a whole response; its tokens are those that it was counted for,
    and unknown if it was counted for none."""
    usage = {
        "input_tokens": 6,
        "input_tokens_details": {"cached_tokens": 4},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 3},
        "total_tokens": 11,
    }

    class Ends:
        def respond(self, request: ModelRequest) -> ModelTurn:
            return ModelTurn(output=[message("well")], status=status, usage=usage)

    async with scene(Ends()) as it:
        client = await it.client()
        streamed, plain = await client.turn(stream=True), await client.turn()
        records = await it.records()

    assert (f"response.{status}", status) == (streamed.types[-1], plain.json["status"])
    assert 200 == plain.status
    counted = None if plain.json["usage"] is None else Usage(6, 4, 5, 3)
    assert [(status, counted)] * 2 == [(record.outcome, record.usage) for record in records]


async def test_f154_what_is_cut_before_its_first_event_has_a_status(autojump_clock) -> None:
    """F154: the connection to the provider is cut before the first event -> 502 with `x-should-retry:
    false`: it may have run.
    """
    faults = FaultScript(FaultRule(Fault("reset", at="response.created")), seed=1)
    async with scene(EchoModel(), server={"faults": faults}) as it:
        answer = await (await it.client()).turn(stream=True)
        (record,) = await it.records()

    assert (502, "false") == (answer.status, answer.headers["x-should-retry"])
    assert ("lost", 502) == (record.outcome, record.status)


# -- clients that have left ------------------------------------------------------------------------


async def leave(it: Scene, after: float, **fields: Any) -> None:
    """Ask, and hang up after so many seconds."""
    client = await it.client()
    await client.send("POST", "/v1/responses", {"model": "m", "input": "a b c d e", **fields}, headers=(KEY,))
    await trio.sleep(after)
    await trio.aclose_forcefully(client.stream)


def leased(it: Scene) -> int:
    return sum(pool.statistics().leased for pool in it.proxy.pools.open.values())


@pytest.mark.parametrize("stream", [True, False])
async def test_f155_in_line_it_costs_nothing(autojump_clock, stream: bool) -> None:
    """F155: a client hangs up while its turn is in line -> nothing was sent, nobody waits for it; its record
    says `left`.
    """
    async with scene(Thinks(50), settings=Settings(max_turns=1)) as it:
        first = await it.client()
        await first.send("POST", "/v1/responses", {"model": "m", "input": "one"})
        await trio.testing.wait_all_tasks_blocked()
        await leave(it, 5, stream=stream)
        await trio.sleep(1)
        (record,) = await it.records()
        assert 200 == (await first.receive()).status
        assert 1 == len(it.ledger)
        assert 0 == leased(it)

    assert ("left", None, 0) == (record.outcome, record.usage, record.requests)


@pytest.mark.parametrize("stream", [True, False])
async def test_f156_a_turn_that_runs_is_read_to_its_end(autojump_clock, stream: bool) -> None:
    """F156: a client hangs up while its turn runs -> the turn is read to its end for its tokens, for 30 s at
    most (`--on-hangup abandon`: it is given up); no lease is left.
    """
    async with scene(Thinks(20)) as it:
        await leave(it, 2, stream=stream)
        await trio.sleep(30)
        (record,) = await it.records()
        assert ["completed"] == [entry["outcome"] for entry in it.ledger]
        assert 0 == leased(it)

    assert ("left", True) == (record.outcome, record.drained)
    assert record.usage is not None
    assert 18 < (record.total or 0) < 25


async def test_not_for_ever(autojump_clock) -> None:
    """A bound; after that it is given up, and its tokens are not known."""
    async with scene(Thinks(2000), settings=Settings(drain_for=30)) as it:
        await leave(it, 2, stream=True)
        await trio.sleep(40)
        (record,) = await it.records()

    assert ("left", False, None) == (record.outcome, record.drained, record.usage)
    assert 30 < (record.total or 0) < 35


async def test_or_given_up_at_once(autojump_clock) -> None:
    """Where that is asked for."""
    async with scene(Thinks(2000), settings=Settings(on_hangup="abandon")) as it:
        await leave(it, 2, stream=True)
        await trio.sleep(5)
        (record,) = await it.records()
        assert 0 == leased(it)

    assert ("left", False) == (record.outcome, record.drained)


async def test_to_leave_at_the_end_is_to_have_had_it(autojump_clock) -> None:
    """The terminal was there."""
    async with scene(EchoModel(), server={"delay_per_token": 1}) as it:
        client = await it.client()
        await client.send("POST", "/v1/responses", {"model": "m", "input": "a b c", "stream": True})
        seen = b""
        while b"response.completed" not in seen:
            seen += await client.stream.receive_some()
        await trio.aclose_forcefully(client.stream)
        (record,) = await it.records()

    assert "completed" == record.outcome
    assert record.usage is not None


class Lingers(trio.abc.Stream):
    """What is sent on it leaves at once, and whoever sends it learns that a second later."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)
        await trio.sleep(1)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self._stream.aclose()


@pytest.mark.parametrize("door", ["sse", "json", "websocket"])
async def test_while_it_is_being_sent_it_is_not_in_line_any_more(autojump_clock, door: str) -> None:
    """The provider may have it already, and its tokens are to be known."""
    ledger: list[Entry] = []
    async with open_server(Thinks(5), port=None, ledger=ledger) as provider:

        async def open_stream(endpoint: Any) -> trio.abc.Stream:
            return Lingers(await provider.open_stream(endpoint))

        async with scene(
            EchoModel(), wire=TrioWebSocketConnector(open_stream), policy=policy(max_size=1)
        ) as it:
            if door == "websocket":
                async with connected(it) as client:
                    await client.create("first")
                    await client.answer()
                    await client.create("second")
                    await trio.sleep(0.5)
            else:
                await (await it.client()).turn("first")
                await leave(it, 0.5, stream=door == "sse")
            await trio.sleep(30)
            *_, record = await it.records()
        assert ["completed", "completed"] == [entry["outcome"] for entry in ledger if entry["generate"]]

    assert ("left", True) == (record.outcome, record.drained)
    assert record.usage is not None


async def test_slots_are_freed_whatever_clients_do(autojump_clock) -> None:
    """A hundred that leave at any time; then as many places as before."""
    settings = Settings(max_turns=3, drain_for=5)
    async with scene(EchoModel(), server={"delay_per_token": 1}, settings=settings) as it:
        async with trio.open_nursery() as nursery:
            for number in range(60):
                nursery.start_soon(partial(leave, it, number * 0.37, stream=number % 2 == 0))
        await trio.sleep(200)
        assert (0, 0) == (leased(it), it.proxy.front.open)
        assert 0 == it.proxy.waiting
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon((await it.client()).turn)
        assert 63 == len(await it.records())


# -- readers that do not read ----------------------------------------------------------------------


@attrs.frozen
class Pours:
    """A model that says so many words at once."""

    words: int

    def respond(self, request: ModelRequest) -> ModelTurn:
        return ModelTurn(output=[message("word " * self.words)])


@pytest.mark.parametrize("lanes", [1, 4])
@pytest.mark.parametrize("taken", [0, 100_000])
async def test_f168_a_slow_reader_holds_one_turn_and_little_memory(
    autojump_clock, lanes: int, taken: int
) -> None:
    """F168: a client does not read its answer -> its turn is read no further where it has its connection
    alone, and less than 1 MiB of it waits here; the client is let go after 10 s, if it is so far behind, else
    after 60 s, and its turn read to its end. Others go on.
    """
    near, far = trio.testing.lockstep_stream_pair()
    async with laned(Pours(9_000), lanes, max_size=2) as it, trio.open_nursery() as nursery:
        nursery.start_soon(it.proxy.front.serve, far)
        client = Client(near)
        await client.send("POST", "/v1/responses", {"model": "m", "input": "a", "stream": True})
        await trio.sleep(5)
        got = 0
        while got < taken:
            got += len(await near.receive_some(65536))
            await trio.testing.wait_all_tasks_blocked()
        await trio.sleep(5)
        (running,) = it.proxy.records.running.values()
        assert running.turn is not None
        if lanes == 1:
            assert running.turn.received - got < 2**20
        assert 200 == (await (await it.client()).turn("b")).status
        await trio.sleep(20)
        records = await it.records()
        nursery.cancel_scope.cancel()

    assert {"left", "completed"} == {record.outcome for record in records}
    assert all(record.usage for record in records)


async def test_a_client_that_reads_slowly_is_no_slow_reader(autojump_clock) -> None:
    """It takes a piece now and then, and so has all in the end, however far behind it is."""
    near, far = trio.testing.lockstep_stream_pair()
    async with scene(Pours(8_000)) as it, trio.open_nursery() as nursery:
        nursery.start_soon(it.proxy.front.serve, far)
        await Client(near).send("POST", "/v1/responses", {"model": "m", "input": "a", "stream": True})
        taken = bytearray()
        while b"response.completed" not in taken[-200_000:] or not taken.endswith(b"0\r\n\r\n"):
            await trio.sleep(5)
            more = await near.receive_some(2**20)
            assert more
            taken += more
        (record,) = await it.records()
        nursery.cancel_scope.cancel()

    assert "completed" == record.outcome
