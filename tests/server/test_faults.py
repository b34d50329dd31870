"""Every fault does on the wire what its name says, seen byte by byte."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import trio
from openai.types.responses import ResponsesServerEvent
from pydantic import TypeAdapter
from trio.testing import MockClock, wait_all_tasks_blocked

from wspool.server import (
    EVERY_FAULT,
    FAULTS,
    RETRY_AFTER,
    SHAPES,
    VERCEL,
    EchoModel,
    Entry,
    Fault,
    FaultRule,
    FaultScript,
    open_server,
)

from .client import TERMINAL, connected, text
from .raw import BINARY, CLOSE, PING, PONG, TEXT, RawClient, Seen, raw_client

EVENT: TypeAdapter[Any] = TypeAdapter(ResponsesServerEvent)

PLAIN = [
    *("response.created", "response.in_progress", "response.output_item.added"),
    "response.content_part.added",
    *["response.output_text.delta"] * 4,
    *("response.output_text.done", "response.content_part.done", "response.output_item.done"),
    "response.completed",
]
#: Up to the first delta.
BEGINNING = PLAIN[:4]


async def play(
    fault: Fault, *, tcp: bool = False, ping: bool = False, ledger: list[Entry] | None = None, **fields: Any
) -> RawClient:
    """One turn with *fault*; with *ping* the client pings after the answer, and then closes.

    Whatever a fault does to its connection, the server is fine.
    """
    script = FaultScript(fault)
    async with open_server(EchoModel(), port=0 if tcp else None, faults=script, ledger=ledger) as server:
        async with raw_client(server, tcp=tcp) as client:
            await wait_all_tasks_blocked()
            await client.create(**fields)
            await client.listen(0.1 if tcp else 30)
            for _ in range(100 if tcp else 0):  # a busy machine is slower than that
                if client.end is not None or SEEN[fault.name](client):
                    break
                await client.listen(0.1)
            if ping and client.end is None:
                await client.send(PING, b"are you there")
                await client.listen(35)
                await client.send(CLOSE, (1000).to_bytes(2))
                await client.listen(30)
        await wait_all_tasks_blocked(0.01 if tcp else 0)
        statistics = server.statistics()
        assert statistics.failures == 0
        if not fault.kind.silent:
            assert statistics.connections_open == statistics.creates_active == 0
        return client


def json_frames(client: RawClient) -> list[Any]:
    return [json.loads(payload) for payload in client.texts()]


def closed_with(code: int) -> Callable[[RawClient], object]:
    return lambda c: c.opcodes(CLOSE) == [Seen(CLOSE, code.to_bytes(2))] and c.end == "eof"


def extra(client: RawClient, *types: str) -> bool:
    """A plain turn, with these events before its first delta."""
    return client.types() == [*BEGINNING, *types, *PLAIN[4:]]


def refused(code: str | None, status: int) -> Callable[[RawClient], object]:
    def check(client: RawClient) -> bool:
        (frame,) = client.events()
        return (frame["error"]["code"], frame["status"]) == (code, status) and client.end is None

    return check


def numbers(client: RawClient) -> list[Any]:
    return [event.get("sequence_number") for event in client.events()]


def whole(client: RawClient) -> bool:
    return client.types() == PLAIN and client.end is None


def odd(client: RawClient, found: bytes) -> bool:
    """A plain turn, with this text message before its first delta."""
    position = client.texts().index(found)
    rest = client.texts()[:position] + client.texts()[position + 1 :]
    return position == 4 and [json.loads(one)["type"] for one in rest] == PLAIN


def last_response(client: RawClient) -> Any:
    return client.events()[-1]["response"]


SILENT = [Seen(PONG, b"are you there")]

# What is seen of each fault as it usually happens.
SEEN: dict[str, Callable[[RawClient], object]] = {
    "reset": lambda c: c.types() == BEGINNING and c.end == "reset" and not c.opcodes(CLOSE),
    "fin": lambda c: c.types() == BEGINNING and c.end == "eof" and not c.opcodes(CLOSE),
    "close": lambda c: c.types() == PLAIN and closed_with(1000)(c),
    "close_without_code": lambda c: c.opcodes(CLOSE) == [Seen(CLOSE, b"")] and c.end == "eof",
    "close_malformed": lambda c: c.opcodes(CLOSE) == [Seen(CLOSE, b"\x03")] and c.end == "eof",
    "close_with_odd_reason": lambda c: c.opcodes(CLOSE)[0].payload == b"\x03\xf3\xff\xfe",
    "close_unanswered": lambda c: (
        c.types() == PLAIN and not c.opcodes(CLOSE) and c.end is None and c.opcodes(PONG) == SILENT
    ),
    "ping_after_close": lambda c: [s.opcode for s in c.frames[-2:]] == [PING, CLOSE] and c.end == "eof",
    "stall": lambda c: c.types() == BEGINNING and c.opcodes(PONG) == SILENT,
    "stall_without_pong": lambda c: c.types() == BEGINNING and not c.opcodes(PONG),
    "half_open": lambda c: c.types() == BEGINNING and not c.opcodes(PONG) and c.end is None,
    "deaf": lambda c: c.frames == [] and c.end is None,
    "mute": lambda c: c.frames == [] and c.end == "eof",
    "late_pong": lambda c: c.types() == PLAIN and round(c.opcodes(PONG)[0].at - c.frames[0].at) == 40,
    "no_pong": lambda c: c.types() == PLAIN and not c.opcodes(PONG),
    "dribble": lambda c: whole(c) and len(c.reads) > 1000,
    "ping_flood": lambda c: c.types() == PLAIN and len(c.opcodes(PING)) == 1000,
    "long_ping": lambda c: c.types() == PLAIN and c.opcodes(PING) == [Seen(PING, b"p" * 125)],
    "unsolicited_pong": lambda c: c.types() == PLAIN and c.opcodes(PONG) == [Seen(PONG, b"unasked")],
    "fragments": lambda c: whole(c) and len(c.opcodes(0)) > 5 and len(c.opcodes(PING)) == len(c.opcodes(0)),
    "empty_fragments": lambda c: len(c.opcodes(0)) == 10_000 and not any(s.final for s in c.opcodes(0)),
    "oversized_message": lambda c: (
        max(len(s.payload) for s in c.frames) == 2**20 and extra(c, "response.padding")
    ),
    "oversized_header": lambda c: c.leftover[:10] == b"\x81\x7f" + (2**62).to_bytes(8),
    "binary_frame": lambda c: json.loads(c.opcodes(BINARY)[0].payload)["type"] == PLAIN[4],
    "rsv1": lambda c: [s.rsv for s in c.opcodes(TEXT)].count(4) == 1 and c.types() == PLAIN,
    "deflate_unasked": lambda c: b"permessage-deflate" in c.head and whole(c),
    "masked_frame": lambda c: [s.masked for s in c.opcodes(TEXT)].count(True) == 1 and c.types() == PLAIN,
    "reserved_opcode": lambda c: c.opcodes(3) == [Seen(3, b"?")] and c.types() == PLAIN,
    "stray_continuation": lambda c: c.opcodes(0) == [Seen(0, b"{}")],
    "fragmented_close": lambda c: not c.opcodes(CLOSE)[0].final,
    "junk": lambda c: c.opcodes(ord("H") & 0xF)[0].payload.startswith(b"TP/1.1 502 Bad Gateway"),
    "invalid_utf8": lambda c: odd_bytes(c, b'{"type":"\xff"}'),
    "invalid_json": lambda c: odd_bytes(c, b'{"type":"response.output_text.delta",'),
    "empty_text": lambda c: odd(c, b""),
    "not_an_object": lambda c: odd(c, b"[]"),
    "no_type": lambda c: odd(c, b'{"sequence_number":3}'),
    "odd_type": lambda c: odd(c, b'{"type":7,"sequence_number":3}'),
    "not_a_number": lambda c: odd(c, b'{"type":"response.unknown","value":NaN}'),
    "deep_json": lambda c: c.texts()[4].count(b"[") == 100_000,
    "duplicate_keys": lambda c: odd(c, b'{"type":"response.completed","type":"response.unknown"}'),
    "done_marker": lambda c: odd(c, b"[DONE]"),
    "byte_order_mark": lambda c: c.texts()[4].startswith(b'\xef\xbb\xbf{"type"') and len(c.texts()) == 12,
    "odd_text": lambda c: whole(c) and c.events()[4]["delta"] == "\ufeff\0\ud800",
    "unknown_event": lambda c: extra(c, "response.unknown"),
    "unknown_fields": lambda c: whole(c) and all(e["unknown"] == {"deep": [None]} for e in c.events()),
    "unknown_item": lambda c: extra(c, "response.output_item.added", "response.output_item.done"),
    "many_events": lambda c: c.texts().count(b'{"type":"x"}') == 10_000,
    "no_sequence_number": lambda c: whole(c) and set(numbers(c)) == {None},
    "sequence_gap": lambda c: whole(c) and numbers(c) == [*range(4), *range(7, 15)],
    "sequence_repeat": lambda c: extra(c, PLAIN[4]) and numbers(c) == [*range(5), *range(4, 12)],
    "duplicate_terminal": lambda c: c.texts()[-1] == c.texts()[-2] and c.types()[:-1] == PLAIN,
    "events_after_terminal": lambda c: c.types() == [*PLAIN, "response.output_text.delta"],
    "stale_events": lambda c: (
        c.types() == ["response.output_text.delta", "response.completed", *PLAIN]
        and c.events()[1]["response"]["id"] == "resp_of_somebody_else"
    ),
    "foreign_response": lambda c: (
        extra(c, "response.created") and c.events()[4]["response"]["id"] == "resp_of_somebody_else"
    ),
    "foreign_stream": lambda c: extra(c, PLAIN[4]) and c.events()[4]["stream_id"] == "nobodys_lane",
    "foreign_end": lambda c: (
        c.types() == [*PLAIN, PLAIN[-1]] and c.events()[-2]["response"]["id"] == "resp_of_somebody_else"
    ),
    "rewritten_id": lambda c: whole(c) and last_response(c)["id"] != c.events()[0]["response"]["id"],
    "created_twice": lambda c: c.types() == ["response.created", *PLAIN] and c.texts()[0] == c.texts()[1],
    "never_created": lambda c: c.types() == PLAIN[1:],
    "terminal_without_created": lambda c: c.types() == PLAIN[-1:],
    "terminal_without_output": lambda c: whole(c) and "output" not in last_response(c),
    "terminal_with_empty_output": lambda c: whole(c) and last_response(c)["output"] == [],
    "big_terminal": lambda c: whole(c) and len(c.texts()[-1]) > 2 * 2**20,
    "odd_id": lambda c: whole(c) and last_response(c)["id"] == "r" * 300,
    "unanswered": lambda c: c.frames == [*SILENT, *c.opcodes(CLOSE)],
    "warm_up_generates": whole,
    "error": refused("server_error", 500),
    "parent_lost": refused("previous_response_not_found", 400),
    "rate_limited": refused("rate_limit_exceeded", 429),
    "overloaded": refused("server_is_overloaded", 503),
    "stream_limit_reached": refused("websocket_stream_limit_reached", 400),
    "busy": refused("concurrent_request", 409),
    "connection_limit": lambda c: (
        c.events()[0]["error"]["code"] == "websocket_connection_limit_reached"
        and len(c.events()) == 1
        and closed_with(1000)(c)
    ),
    "stream_error": lambda c: c.types() == [*BEGINNING, "error"] and numbers(c) == [0, 1, 2, 3, 4],
    "failed": lambda c: c.types() == [*BEGINNING, "response.failed"],
    "incomplete": lambda c: (
        c.types() == [*PLAIN[:-1], "response.incomplete"]
        and last_response(c)["incomplete_details"] == {"reason": "max_output_tokens"}
    ),
    "keepalive": lambda c: c.types() == ["keepalive", *PLAIN],
    "rate_limits": lambda c: c.types() == ["codex.rate_limits", *PLAIN],
    "metadata": lambda c: c.types() == ["codex.response.metadata", *PLAIN],
    "timing": lambda c: c.types() == [*PLAIN, "responsesapi.websocket_timing"],
    "connection_expiring": lambda c: extra(c, "error"),
}

# Less than usual where that is a lot.
SMALLER: dict[str, Any] = {
    "oversized_message": {"size": 2**20},
    "many_events": {"count": 10_000},
    "empty_fragments": {"count": 10_000},
}

# Faults of pings and close frames only show when there are some.
PINGED = {
    *("stall", "stall_without_pong", "half_open", "deaf", "mute", "late_pong", "no_pong", "unanswered"),
    *("close_unanswered", "ping_after_close"),
}


def odd_bytes(client: RawClient, found: bytes) -> bool:
    return client.texts()[4] == found and client.types() == PLAIN


def test_every_fault_is_looked_at() -> None:
    """The table of this module and the catalogue have the same names, and every fault has a description."""
    assert set(SEEN) == set(FAULTS)
    assert all(kind.doc.endswith(".") for kind in FAULTS.values())
    assert {kind.group for kind in FAULTS.values()} == {
        "transport",
        "framing",
        "grammar",
        "errors",
        "notices",
    }


@pytest.mark.parametrize("name", sorted(FAULTS))
async def test_a_fault_does_what_its_name_says(name: str, autojump_clock: MockClock) -> None:
    """On a memory stream, under a virtual clock."""
    fields = {"generate": False} if name == "warm_up_generates" else {}
    ledger: list[Entry] = []
    fault = Fault(name, **SMALLER.get(name, {}))
    client = await play(fault, ping=name in PINGED, ledger=ledger, **fields)

    assert SEEN[name](client), (client.end, client.types()[:20], client.frames[-3:])
    if not fault.concerns_connection():
        assert [str(fault)] == [entry["fault"] for entry in ledger]


@pytest.mark.network
@pytest.mark.parametrize(
    "name", ["reset", "fin", "close", "half_open", "fragments", "dribble", "big_terminal"]
)
async def test_a_fault_is_the_same_over_sockets(name: str) -> None:
    """Over TCP, in real time."""
    client = await play(Fault(name), tcp=True)

    assert SEEN[name](client), (client.end, client.types())


LEGAL = [
    *("fragments", "sequence_gap", "sequence_repeat", "duplicate_terminal", "events_after_terminal"),
    *("stale_events", "foreign_response", "foreign_stream", "created_twice", "never_created", "odd_id"),
    *("foreign_end", "rewritten_id"),
    *("terminal_without_created", "terminal_with_empty_output", "big_terminal", "error", "parent_lost"),
    *("rate_limited", "overloaded", "stream_limit_reached", "busy", "connection_limit", "stream_error"),
    *("failed", "incomplete", "connection_expiring", "unknown_fields"),
]


@pytest.mark.parametrize("name", LEGAL)
async def test_frames_that_are_legal_by_themselves_validate(name: str, autojump_clock: MockClock) -> None:
    """The SDK's types accept every single event, on a named lane too."""
    client = await play(Fault(name), stream_id="lane")

    for frame in json_frames(client):
        EVENT.validate_python(frame)


@pytest.mark.parametrize("occurrence", [1, 2, 4])
@pytest.mark.parametrize("after", [False, True])
async def test_a_fault_happens_at_its_event(after: bool, occurrence: int, autojump_clock: MockClock) -> None:
    """Before or after the chosen occurrence of an event."""
    ledger: list[Entry] = []
    fault = Fault("reset", at="response.output_text.delta", occurrence=occurrence, after=after)
    client = await play(fault, ledger=ledger)

    assert client.types() == PLAIN[: 3 + occurrence + after]
    assert [(entry["outcome"], entry["fault"]) for entry in ledger] == [("lost", str(fault))]


@pytest.mark.parametrize(
    ("at", "seen", "outcome"),
    [
        ("receipt", 0, "lost"),
        ("response.created", 0, "lost"),
        ("terminal", 11, "lost"),
        ("response.refusal.delta", 11, "lost"),
        ("idle", 12, "completed"),
    ],
)
async def test_the_places_of_a_fault(at: str, seen: int, outcome: str, autojump_clock: MockClock) -> None:
    """At receipt nothing was done; an event that never comes is the last one; idle is after everything."""
    ledger: list[Entry] = []
    client = await play(Fault("reset", at=at), ledger=ledger)

    assert client.types() == PLAIN[:seen]
    assert client.end == "reset"
    assert [outcome] == [entry["outcome"] for entry in ledger]
    assert (ledger[0]["started"] is None) == (at == "receipt")


@pytest.mark.parametrize("at", ["receipt", "delta", "terminal"])
@pytest.mark.parametrize("fault", ["reset", "fin", "close", "close_without_code"])
async def test_who_finds_a_turn_cut_finds_it_in_the_ledger(
    fault: str, at: str, autojump_clock: MockClock
) -> None:
    """At once: a test that sees its client fail may ask next what the server did."""
    for _ in range(8):  # either end may be the first to run
        ledger: list[Entry] = []
        async with (
            open_server(EchoModel(), faults=FaultScript(Fault(fault, at=at)), ledger=ledger) as server,
            raw_client(server) as client,
        ):
            await client.create()
            while client.end is None and not client.opcodes(CLOSE):
                await client.read()
            assert ["lost"] == [entry["outcome"] for entry in ledger]


async def test_bytes_come_one_at_a_time(autojump_clock: MockClock) -> None:
    """With a pause between them nothing can merge them again, and the turn takes as long as they do."""
    client = await play(Fault("dribble", gap=0.001), input="hi")

    assert client.types()[-1] == PLAIN[-1]
    assert max(client.reads) == 1


async def test_a_fault_may_need_no_request(autojump_clock: MockClock) -> None:
    """`open` is right after the handshake, and so much later."""
    script = FaultScript(FaultRule(Fault("close", at="open", code=1001, delay=20), connection=2))
    async with (
        open_server(EchoModel(), port=None, faults=script) as server,
        raw_client(server) as first,
        raw_client(server) as second,
    ):
        start = trio.current_time()
        await second.listen()
        assert second.opcodes(CLOSE) == [Seen(CLOSE, (1001).to_bytes(2))]
        assert trio.current_time() - start == pytest.approx(20, abs=0.1)
        await first.listen()
        assert first.frames == []


@pytest.mark.parametrize("code", [0, 999, 1000, 1001, 1002, 1003, 1005, 1006, 1007, 1008, 1009, 1011, 1012])
@pytest.mark.parametrize("at", ["delta", "idle"])
async def test_any_close_code(code: int, at: str, autojump_clock: MockClock) -> None:
    """Code and reason as given, legal or not; the connection ends when the client has answered."""
    client = await play(Fault("close", at=at, code=code, reason="r" * 121))

    assert client.opcodes(CLOSE) == [Seen(CLOSE, code.to_bytes(2) + b"r" * 121)]
    assert (client.end, client.types()) == ("eof", PLAIN if at == "idle" else BEGINNING)


async def test_a_client_that_does_not_answer_a_close_frame_is_dropped(autojump_clock: MockClock) -> None:
    """After two seconds."""
    script = FaultScript(Fault("close", at="open", code=4000))
    async with open_server(EchoModel(), port=None, faults=script) as server, raw_client(server) as client:
        start = trio.current_time()
        data = b""
        while chunk := await client.stream.receive_some():
            data += bytes(chunk)

        assert data == bytes([0x88, 2]) + (4000).to_bytes(2)
        assert trio.current_time() - start == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize("tcp", [False, pytest.param(True, marks=pytest.mark.network)])
async def test_a_deaf_server_makes_the_client_block(tcp: bool) -> None:
    """What it does not read fills the buffers, on memory streams too."""
    script = FaultScript(Fault("deaf", at="open"))
    async with (
        open_server(EchoModel(), port=0 if tcp else None, faults=script) as server,
        raw_client(server, tcp=tcp) as client,
    ):
        await wait_all_tasks_blocked()
        with trio.move_on_after(0.2) as scope:
            await client.send(TEXT, b"x" * 2**25)
            await client.send(TEXT, b"x" * 2**25)
        assert scope.cancelled_caught


@pytest.mark.parametrize("created", [False, True])
@pytest.mark.parametrize("shape", sorted(SHAPES))
async def test_the_shapes_of_an_error(shape: str, created: bool, autojump_clock: MockClock) -> None:
    """Each shape ends the request or the turn, the connection lives, and the ledger knows."""
    script = FaultScript(Fault("error", shape=shape, at="delta" if created else None, code="oops"))
    ledger: list[Entry] = []
    async with (
        open_server(EchoModel(), port=None, faults=script, ledger=ledger) as server,
        raw_client(server) as client,
    ):
        await client.create()
        await client.listen()
        assert len(client.texts()) == (5 if created else 1)
        frame = json.loads(client.texts()[-1])
        await client.create()
        await client.listen()
        assert client.types()[-12:] == PLAIN

    assert [entry["outcome"] for entry in ledger] == ["failed" if created else "rejected", "completed"]
    assert ledger[0]["error_code"] == "oops"
    assert (ledger[0]["response_id"] is None) == (not created)
    fields = {
        "nested": {"type", "status", "error"},
        "in_stream": {"type", "error", "sequence_number"},
        "flat": {"type", "code", "message", "param", "sequence_number"},
        "status_code": {"type", "status_code", "error"},
        "with_headers": {"type", "status", "error", "headers"},
        "in_body": {"type", "status", "body"},
        "without_status": {"type", "error"},
        "response_failed": {"type", "response", "sequence_number"},
        "response_error": {"type", "error", "sequence_number"},
        "status_only": {"type", "status"},
        "nothing": {"type"},
    }
    assert fields.get(shape, {"type", "status", "error"}) == set(frame)


@pytest.mark.parametrize("spelling", sorted(RETRY_AFTER))
async def test_the_spellings_of_retry_after(spelling: str, autojump_clock: MockClock) -> None:
    """Each is somewhere in the frame."""
    client = await play(Fault("rate_limited", retry_after=2.5, spelling=spelling))
    frame = client.events()[0]
    plain = (await play(Fault("rate_limited", spelling="absent"))).events()[0]

    assert (frame == plain) == (spelling == "absent")
    assert frame["error"]["code"] == "rate_limit_exceeded"
    written = {"milliseconds": "2500", "message_milliseconds": "2500ms", "message": "2.5s"}
    assert written.get(spelling, "") in json.dumps(frame)


async def test_a_failed_continuation_loses_its_parent(autojump_clock: MockClock) -> None:
    """An error by a fault evicts like any other; at receipt it does not, as nothing was done."""
    script = FaultScript(
        FaultRule(Fault("overloaded", at="receipt"), create=2), FaultRule(Fault("overloaded"), create=3)
    )
    async with open_server(EchoModel(), port=None, faults=script) as server, connected(server) as client:
        first = await client.respond()
        codes = [(await client.turn(previous_response_id=first["id"]))[-1]["error"]["code"] for _ in range(3)]

    assert codes == ["server_is_overloaded", "server_is_overloaded", "previous_response_not_found"]


async def test_an_error_ends_the_connection_if_the_profile_says_so(autojump_clock: MockClock) -> None:
    """A fault's error is an error like any other."""
    script = FaultScript(Fault("overloaded"))
    async with (
        open_server(EchoModel(), port=None, faults=script, profile=VERCEL) as server,
        connected(server) as client,
    ):
        assert (await client.turn())[-1]["error"]["code"] == "server_is_overloaded"
        assert await client.closed() == 1008


@pytest.mark.parametrize("response_id", ["r" * 300, "", "réponse ☃"])
async def test_an_odd_id_can_be_continued(response_id: str, autojump_clock: MockClock) -> None:
    """It is an id like any other."""
    script = FaultScript(Fault("odd_id", response_id=response_id))
    async with open_server(EchoModel(), port=None, faults=script) as server, connected(server) as client:
        first = await client.respond("a")
        assert first["id"] == response_id
        assert text(await client.respond([], previous_response_id=response_id)) == "a"


async def test_other_lanes_go_on(autojump_clock: MockClock) -> None:
    """A turn that stands still keeps its lane, and no other."""
    script = FaultScript(Fault("stall", seconds=50))
    async with open_server(EchoModel(), port=None, faults=script) as server, connected(server) as client:
        await client.create(stream_id="slow")
        start = trio.current_time()
        await client.create(stream_id="quick")
        ended: list[Any] = []
        while len(ended) < 2:
            frame = await client.receive()
            if frame["type"] in TERMINAL:
                ended.append((frame["stream_id"], round(trio.current_time() - start)))

    assert ended == [("quick", 0), ("slow", 50)]


async def test_a_script_chooses_by_rule(autojump_clock: MockClock) -> None:
    """By connection, by number, by position, by body, so many times; bare faults in order."""
    script = FaultScript(
        FaultRule(Fault("keepalive"), body=lambda body: body["input"] == "x", times=None),
        FaultRule(Fault("metadata"), connection=2, sequence=2),
        FaultRule(Fault("timing"), create=6),
        Fault("rate_limits"),
        Fault("unknown_event"),
    )
    ledger: list[Entry] = []
    async with (
        open_server(EchoModel(), port=None, faults=script, ledger=ledger) as server,
        connected(server) as one,
        connected(server) as two,
    ):
        for client, given in [(one, "x"), (one, "a"), (two, "b"), (two, "c"), (one, "x"), (one, "d")]:
            await client.create(given)
            while (await client.receive())["type"] != "response.completed":
                pass

    chosen = [(entry["fault"] or "").partition("(")[0] for entry in ledger]
    assert chosen == ["keepalive", "rate_limits", "unknown_event", "metadata", "keepalive", "timing"]


def test_chance_is_seeded() -> None:
    """The same seed makes the same choices; the rate is about what was asked for."""

    def choices(seed: int) -> list[str]:
        script = FaultScript(rate=0.1, seed=seed)
        return [str(script.for_create(1, number, {})) for number in range(2000)]

    assert choices(1) == choices(1) != choices(2)
    assert 140 < sum(choice != "None" for choice in choices(3)) < 260
    assert not any(fault.kind.silent for fault in EVERY_FAULT)


@pytest.mark.parametrize("tcp", [False, pytest.param(True, marks=pytest.mark.network)])
async def test_a_fault_can_be_injected(tcp: bool) -> None:
    """Now, on one connection or on all of them."""
    async with open_server(EchoModel(), port=0 if tcp else None) as server:
        async with raw_client(server, tcp=tcp) as one, raw_client(server, tcp=tcp) as two:
            for client in (one, two):
                await client.create()
                await client.listen(0.1)
            server.inject(Fault("keepalive"), connection=2)
            await two.listen(0.1)
            assert two.types() == [*PLAIN, "keepalive"]
            server.inject(Fault("reset"))
            for client in (one, two):
                await client.listen(1)
                assert client.end == "reset"
            with pytest.raises(ValueError, match="about an event"):
                server.inject(Fault("sequence_gap"))
        await wait_all_tasks_blocked()
        assert server.statistics().connections_open == server.statistics().failures == 0


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Fault("resett"), "there is no fault 'resett'"),
        (lambda: Fault("reset", at="nowhere"), "at='nowhere'"),
        (lambda: Fault("reset", occurrence=0), "occurrence=0"),
        (lambda: Fault("sequence_gap", at="idle"), "about an event"),
        (lambda: Fault("reset", at="handshake"), "does not happen at"),
        (lambda: FaultScript(rate=2), "rate=2"),
    ],
)
def test_nonsense_fails_where_it_is_written(make: Callable[[], object], words: str) -> None:
    """And says what was wrong."""
    with pytest.raises(ValueError, match=words):
        make()


def test_a_fault_says_what_it_is() -> None:
    """Equal faults are equal, and unknown options are refused."""
    fault = Fault("close", at="response.output_text.delta", occurrence=2, code=1001)

    assert [Fault("timing").after, Fault("timing", at="delta").after] == [True, False]
    assert str(fault) == "close(code=1001) at response.output_text.delta#2"
    assert fault == Fault("close", at="response.output_text.delta", occurrence=2, code=1001)
    with pytest.raises(TypeError):
        Fault("close", colour="red")


@pytest.mark.parametrize("wrong", [[Fault("reset")], "reset", None])
def test_a_script_says_what_it_is_made_of(wrong: object) -> None:
    """What is no fault is refused where it is written, and not by a server that then never answers."""
    with pytest.raises(TypeError, match="FaultScript"):
        FaultScript(wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="FaultScript"):
        FaultScript().add(wrong)  # type: ignore[arg-type]
