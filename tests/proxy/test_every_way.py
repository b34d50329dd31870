"""Whatever way a turn goes: its client is never left in silence, and its stream has an end that SDKs read."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import attrs
import h11
import pytest
import trio
import trio.testing

from tests.helpers import policy
from tests.proxy.asking import KEY, Answer, Scene, scene
from wspool.core.policy import UNKNOWN, PoolPolicy
from wspool.proxy import Settings
from wspool.server import EchoModel
from wspool.testing.cassette import Cassette
from wspool.testing.recorder import Recorder
from wspool.wire.wire import ConnectError

#: What an endpoint does with one request: it says bytes, and where it says `None` it cuts the connection.
Script = Sequence[tuple[float, bytes | None]]

BASIC = (("authorization", "Basic YTpi"),)
AGAIN = (KEY, ("x-stainless-retry-count", "1"))


class Endpoint:
    """One that offers no WebSocket, and answers each request by HTTP in the same way."""

    transport = "websocket"

    def __init__(self, nursery: trio.Nursery, says: Script) -> None:
        self.requests = 0
        self._nursery = nursery
        self._says = says

    async def connect(self, *_: Any) -> Any:
        await trio.lowlevel.checkpoint()
        raise ConnectError("no WebSocket here", phase="upgrade", status=404)

    async def open_stream(self, _: Any) -> trio.abc.Stream:
        near, far = trio.testing.memory_stream_pair()
        self._nursery.start_soon(self._serve, far)
        await trio.lowlevel.checkpoint()
        return near

    async def _serve(self, stream: trio.abc.Stream) -> None:
        http = h11.Connection(h11.SERVER)
        while not isinstance(event := http.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                http.receive_data(bytes(await stream.receive_some()))
            elif isinstance(event, h11.ConnectionClosed):
                return
        self.requests += 1
        for after, data in self._says:
            await trio.sleep(after)
            if data is not None:
                await stream.send_all(data)
        await stream.aclose()


def head(kind: str = "text/event-stream", status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n".encode()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def said(kind: str, number: int, **fields: Any) -> bytes:
    event = {"type": kind, "sequence_number": number, **fields}
    return chunk(f"event: {kind}\ndata: {json.dumps(event)}\n\n".encode())


def response(status: str, **fields: Any) -> dict[str, Any]:
    return {"id": "resp_1", "object": "response", "status": status, "output": [], "model": "m", **fields}


END: Final = chunk(b"")
CREATED: Final = said("response.created", 0, response=response("in_progress"))
DELTA: Final = said("response.output_text.delta", 1, delta="a")
USAGE: Final = {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5}
COMPLETED: Final = said("response.completed", 2, response=response("completed", usage=USAGE))

#: By its name: how a turn is asked so that it goes that way, and how the proxy is opened.
WAYS: Final[Mapping[str, tuple[dict[str, Any], dict[str, Any]]]] = {
    "size": (
        {"input": [{"role": "user", "content": "x" * 3000}]},
        {"provider": attrs.evolve(UNKNOWN, max_request=2000)},
    ),
    "fallback": ({}, {}),
    "conversation": ({"conversation": "conv_1"}, {}),
    "basic": ({"headers": BASIC}, {}),
    "repeat": (
        {"input": [{"role": "user", "content": "x" * 3000}], "headers": AGAIN},
        {"provider": attrs.evolve(UNKNOWN, max_request=2000)},
    ),
}

every_way = pytest.mark.parametrize("way", list(WAYS))


@asynccontextmanager
async def before(
    says: Script,
    way: str,
    *,
    limits: PoolPolicy | None = None,
    recorder: Recorder | None = None,
    **settings: Any,
) -> AsyncGenerator[tuple[Scene, Endpoint]]:
    """A proxy before an endpoint that says so."""
    async with trio.open_nursery() as nursery:
        endpoint = Endpoint(nursery, says)
        options = {**WAYS[way][1], "policy": limits, "recorder": recorder}
        async with scene(EchoModel(), wire=endpoint, settings=Settings(**settings), **options) as it:
            yield it, endpoint
        nursery.cancel_scope.cancel()


async def ask(it: Scene, way: str, **fields: Any) -> Answer:
    """One turn that goes *way*; a repeat is the second of two, whose first client has left meanwhile."""
    fields = {**WAYS[way][0], "stream": True, **fields}
    if way == "repeat":
        first = await it.client()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(first.turn, **fields))
            await trio.sleep(0.5)
            nursery.cancel_scope.cancel()
        await trio.aclose_forcefully(first.stream)
    return await (await it.client()).turn(**fields)


def gaps(answer: Answer, since: float) -> list[float]:
    times = [since, *answer.times]
    return [later - earlier for earlier, later in pairwise(times)]


@every_way
async def test_silence_never_lasts_longer(autojump_clock, way: str) -> None:
    """Comments before `response.created`, numbered events after it, and later numbers shifted."""
    says = [(50, head()), (50, CREATED), (50, DELTA), (50, COMPLETED + END)]
    async with before(says, way, keepalive=15, drain_for=1000) as (it, endpoint):
        since = trio.current_time()
        answer = await ask(it, way)
        records = await it.records()

    assert max(gaps(answer, since)) <= 15.5
    assert answer.whole
    assert 1 == endpoint.requests
    assert answer.body.startswith(b": keepalive\n\n" * 6 + b"event: response.created")
    kept = ["keepalive"] * 3
    assert ["response.created", *kept, "response.output_text.delta", *kept, "response.completed"] == (
        answer.types
    )
    assert list(range(9)) == [event["sequence_number"] for event in answer.events]
    assert [(3, 2)] == [(r.usage.input, r.usage.output) for r in records if r.usage]


@every_way
async def test_no_silence_before_a_body_either(autojump_clock, way: str) -> None:
    """Where that is wanted, by white space."""
    says = [(50, head()), (50, CREATED + DELTA + COMPLETED + END)]
    async with before(says, way, keepalive=15, keepalive_json=True, drain_for=1000) as (it, _):
        since = trio.current_time()
        answer = await ask(it, way, stream=False)

    assert max(gaps(answer, since)) <= 15.5
    assert answer.body.startswith(b" " * 6 + b"{")
    assert (True, "completed") == (answer.whole, answer.json["status"])


@every_way
async def test_who_wants_no_heartbeats_gets_none(autojump_clock, way: str) -> None:
    """As it was before there were any."""
    says = [(50, head()), (50, CREATED), (50, DELTA), (50, COMPLETED + END)]
    async with before(says, way, keepalive=15, keepalive_style="off", drain_for=1000) as (it, _):
        answer = await ask(it, way)

    assert ["response.created", "response.output_text.delta", "response.completed"] == answer.types
    assert b"keepalive" not in answer.body


BROKEN: Final[Mapping[str, Script]] = {
    "cut before the head": [(1, None)],
    "cut behind the head": [(1, head())],
    "cut behind the beginning": [(1, head() + CREATED)],
    "cut in an event": [(1, head() + CREATED + DELTA[:-20])],
    "cut before the end": [(1, head() + CREATED + DELTA)],
    "a bare end": [(1, head() + CREATED + DELTA + END)],
    "an empty stream": [(1, head() + END)],
    "a bare error": [
        (1, head() + CREATED + DELTA + said("error", 2, code="server_error", message="Oh no.") + END)
    ],
    "no JSON": [(1, head() + CREATED + chunk(b"data: {no\n\n") + END)],
    "a page": [(1, head("text/html") + chunk(b"<html>") + END)],
    "a bad gateway": [(1, head("text/html", "502 Bad Gateway") + chunk(b"<html>") + END)],
    "no HTTP": [(1, b"what?\r\n\r\n")],
    "unauthorized": [(1, head("application/json", "401 No") + chunk(b'{"error": {"message": "No."}}') + END)],
    "rate": [
        (
            1,
            head("application/json", "429 No").replace(
                b"\r\n\r\n", b"\r\nx-ratelimit-limit-tokens: 7\r\n\r\n"
            )
            + chunk(b'{"error": {"code": "rate_limit_exceeded", "message": "Slow."}}')
            + END,
        )
    ],
}


@every_way
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("how", list(BROKEN))
async def test_every_stream_has_an_end(autojump_clock, way: str, how: str, late: bool) -> None:
    """A status of its own, or `response.created` and `response.failed`: never a bare `error`, or nothing."""
    (after, data), *_ = BROKEN[how]
    says: Script = [(after + 40 * late, data)]
    async with before(says, way, keepalive=15, drain_for=1000) as (it, _):
        answer = await ask(it, way)
        records = await it.records()

    assert answer.whole
    outcomes = {record.outcome for record in records}
    assert not outcomes & {"completed", None}
    if answer.status != 200:
        assert (answer.status, late) in ((502, False), (401, False), (429, False))
        assert answer.json["error"]["message"]
        if how == "rate":
            assert (429, "7") == (answer.status, answer.headers["x-ratelimit-limit-tokens"])
        return
    assert "response.created" == answer.types[0]
    assert "response.failed" == answer.types[-1]
    assert 1 == sum(kind == "response.created" for kind in answer.types)
    assert list(range(len(answer.events))) == [event["sequence_number"] for event in answer.events]
    failed = answer.events[-1]["response"]
    assert ("failed", answer.events[0]["response"]["id"]) == (failed["status"], failed["id"])
    assert failed["error"]["code"]
    assert failed["error"]["message"]
    assert how != "a bare error" or "Oh no." == failed["error"]["message"]


@pytest.mark.parametrize("how", ["cut before the end", "a bare end"])
async def test_a_response_in_the_background_is_cut_where_it_was(autojump_clock, how: str) -> None:
    """It goes on, and its client comes back with the number that it has seen: none is made up."""
    says = [(1, head() + CREATED), (50, DELTA), *BROKEN[how]]
    says[-1] = (1, (says[-1][1] or b"").removeprefix(head() + CREATED))
    async with before(says, "conversation", keepalive=15) as (it, _):
        answer = await (await it.client()).turn(stream=True, background=True)

    assert not answer.whole
    assert ["response.created", "response.output_text.delta", "response.output_text.delta"] == answer.types
    assert 3 == answer.body.count(b": keepalive\n\n")


POSTED: Final = ("conversation", "basic")
#: What such clients show.
SHOWN: Final = {
    "conversation": (("authorization", "Bearer YTpiY2FuYXJ5"),),
    "basic": (("authorization", "Basic YTpiY2FuYXJ5"),),
}


@pytest.mark.parametrize("way", [*POSTED, "fallback"])
async def test_a_response_that_does_not_begin_or_falls_silent_is_given_up(autojump_clock, way: str) -> None:
    """By the limits of the policy, whatever way it goes; what a server sends by a timer is no life of it."""
    limits = policy(first_event_timeout=20.0, silence_timeout=30.0)
    ticks = [(9.0, said("keepalive", n)) for n in range(9)]
    for says, name, took in (
        ([(1, head()), *ticks, (1000, CREATED)], "first_event_timeout=20 s", 20.0),
        ([(15, head() + CREATED), (25, DELTA), *ticks], "silence_timeout=30 s", 70.0),
    ):
        async with before(says, way, limits=limits) as (it, endpoint):
            since = trio.current_time()
            answer = await ask(it, way)
            (record,) = await it.records()
            assert took == pytest.approx(trio.current_time() - since, abs=0.2)

        assert 1 == endpoint.requests
        assert "lost" == record.outcome
        assert name in str(record.said)
        assert "response.failed" == answer.types[-1]


@pytest.mark.parametrize("way", POSTED)
async def test_one_body_is_waited_for(autojump_clock, way: str) -> None:
    """It has no first event."""
    says = [(90, head("application/json") + chunk(json.dumps(response("completed")).encode()) + END)]
    async with before(says, way, limits=policy(first_event_timeout=20.0, silence_timeout=30.0)) as (it, _):
        assert "completed" == (await ask(it, way, stream=False)).json["status"]


@pytest.mark.parametrize("way", POSTED)
async def test_a_reader_that_is_slow_is_no_silence(autojump_clock, way: str) -> None:
    """Only that of the server counts: its events wait here until they are read."""
    deltas = [said("response.output_text.delta", n, delta="a" * 50_000) for n in range(1, 20)]
    last = said("response.completed", 20, response=response("completed"))
    says = [(1, head() + CREATED), *[(0.5, delta) for delta in deltas], (0.5, last + END)]
    async with before(says, way, limits=policy(silence_timeout=3.0)) as (it, _):
        client = await it.client()
        fields = {"input": "hi", **WAYS[way][0], "model": "m", "stream": True}
        await client.send("POST", "/v1/responses", fields, headers=fields.pop("headers", (KEY,)))
        await trio.sleep(9)
        answer = await client.receive()

    assert ["response.completed"] == answer.types[-1:]


@pytest.mark.parametrize("way", POSTED)
async def test_a_server_that_goes_on_and_on_is_hung_up_on(autojump_clock, way: str) -> None:
    """As by a pool."""
    async with before([(1, head() + CREATED), *[(1, DELTA)] * 99], way, limits=policy(max_turn_events=9)) as (
        it,
        _,
    ):
        answer = await ask(it, way)
        (record,) = await it.records()

    assert ("response.failed", "lost") == (answer.types[-1], record.outcome)
    assert "max_turn_events" in str(record.said)
    assert 11 >= len(answer.types)


@pytest.mark.parametrize("way", POSTED)
async def test_it_stands_in_line_as_any_other(autojump_clock, way: str) -> None:
    """Whoever may have one turn at once has one; to leave while in line costs nothing."""
    says = [(10, head() + CREATED + COMPLETED + END)]
    async with before(says, way, max_turns_per_client=1) as (it, endpoint):
        since = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, it, way)
            nursery.start_soon(ask, it, way)
            await trio.sleep(5)
            client = await it.client()
            with trio.move_on_after(3):
                await client.turn(**{**WAYS[way][0], "stream": True})
            await trio.aclose_forcefully(client.stream)
        assert 20.0 == pytest.approx(trio.current_time() - since)
        records = await it.records()

    assert 2 == endpoint.requests
    assert ["completed", "completed", "left"] == sorted(str(record.outcome) for record in records)


class Deaf(Endpoint):
    """One that takes nothing."""

    async def open_stream(self, _: Any) -> trio.abc.Stream:
        near, self.far = trio.testing.lockstep_stream_pair()
        await trio.lowlevel.checkpoint()
        return near


@pytest.mark.parametrize(
    ("path", "fields"),
    [("/v1/responses", {"conversation": "c"}), ("/v1/responses/compact", {}), ("/v1/responses", {})],
)
async def test_what_nobody_takes_is_given_up(autojump_clock, path: str, fields: dict[str, Any]) -> None:
    """In time, whatever it is."""
    async with trio.open_nursery() as nursery:
        wire = Deaf(nursery, ())
        async with scene(EchoModel(), wire=wire, policy=policy(send_timeout=30.0)) as it:
            since = trio.current_time()
            answer = await (await it.client()).turn(target=path, **fields)
            (record,) = await it.records()
            assert 30.0 == pytest.approx(trio.current_time() - since, abs=1.0)

    assert (502, "lost") == (answer.status, record.outcome)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("way", POSTED)
async def test_a_posted_turn_is_recorded_as_any_other(
    autojump_clock, tmp_path: Path, way: str, stream: bool
) -> None:
    """With all that came of it, and nothing of what its client has shown."""
    recorder = Recorder(tmp_path, "wss://provider/v1/responses")
    says = [(1, head()), (2, CREATED + DELTA), (4, COMPLETED + END)]
    async with before(says, way, recorder=recorder) as (it, _):
        await ask(it, way, stream=stream, input="my key is YTpiY2FuYXJ5", headers=SHOWN[way])
        (record,) = await it.records()
    recorder.save()

    text = (tmp_path / "unknown.json").read_text()
    exchange = Cassette.load(tmp_path / "unknown.json").exchanges[-1]
    assert "completed" == (exchange.response or {})["status"]
    assert ["response.created", "response.output_text.delta", "response.completed"] == [
        event["type"] for event in exchange.events
    ]
    assert "YTpiY2FuYXJ5" not in text
    assert (0.0, 0.0, 4.0 if stream else 0.0) == (record.line, record.dial, record.stream)


async def test_a_refusal_of_a_posted_turn_is_recorded_and_what_was_lost_is_not(
    autojump_clock, tmp_path: Path
) -> None:
    """A replay could say nothing of the end of what had none."""
    recorder = Recorder(tmp_path, "wss://provider/v1/responses")
    for how in ("rate", "cut before the end", "cut before the head"):
        async with before(BROKEN[how], "conversation", recorder=recorder) as (it, _):
            await ask(it, "conversation")
    recorder.save()

    (exchange,) = Cassette.load(tmp_path / "unknown.json").exchanges
    assert (429, []) == ((exchange.refusal or {})["status"], exchange.events)


async def test_all_of_a_posted_turn_is_sent_unless_it_says_what_it_goes_on_from(autojump_clock) -> None:
    """So it counts in the sums."""
    says = [(1, head() + CREATED + COMPLETED + END)]
    for way, more, why in (
        ("basic", {}, "unchained"),
        ("basic", {"previous_response_id": "resp_0"}, None),
        ("conversation", {}, None),
    ):
        async with before(says, way) as (it, _):
            await ask(it, way, **more)
            (record,) = await it.records()
        assert why == record.why_full


async def test_one_that_is_asked_for_later_is_kept_alive(autojump_clock) -> None:
    """Between two events, by comments."""
    event = b"event: response.output_text.delta\r\ndata: {}\r\n\r\n"
    says = [(1, head()), (40, chunk(event[:-2])), (40, chunk(event[-2:])), (40, chunk(event) + END)]
    async with before(says, "conversation", keepalive=15) as (it, _):
        answer = await (await it.client()).ask("GET", "/v1/responses/resp_1?stream=true")

    beats = b": keepalive\n\n" * 2
    assert beats + event + beats + event == answer.body


async def test_what_is_in_the_background_is_answered_at_once(autojump_clock) -> None:
    """Long before it has ended."""
    body = json.dumps(response("queued", background=True)).encode()
    says = [(1, head("application/json") + chunk(body) + END)]
    async with before(says, "conversation") as (it, _):
        answer = await (await it.client()).turn(background=True)
        (record,) = await it.records()

    assert (200, "queued", "completed") == (answer.status, answer.json["status"], record.outcome)


async def test_a_turn_of_any_way_is_read_to_its_end(autojump_clock) -> None:
    """Its client has left, and its tokens are to be known."""
    for way in ("size", "conversation", "basic"):
        async with before([(1, head() + CREATED), (20, COMPLETED + END)], way) as (it, _):
            client = await it.client()
            with trio.move_on_after(5):
                await client.turn(**{**WAYS[way][0], "stream": True})
            await trio.aclose_forcefully(client.stream)
            await trio.sleep(30)
            (record,) = await it.records()

        assert ("left", True) == (record.outcome, record.drained)
        assert record.usage is not None
