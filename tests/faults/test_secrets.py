"""What gets in through an endpoint, and what gets out: keys, headers, URLs, budgets, text."""

from __future__ import annotations

import json
import logging
import pickle
import time
import traceback
from collections.abc import Sequence
from typing import Any

import attrs
import pytest
import trio
import trio.testing

import wspool
from tests.helpers import CANARY, held_by
from tests.wire.peer import frame, read_request, switching_protocols
from tests.wire.scripts import BINARY, CLOSE, PING, TEXT
from wspool.server import EchoModel, Fault, Rejection, Server, open_server
from wspool.server.protocol.profiles import PROFILES
from wspool.wire.answer import MAX_REJECT_BODY
from wspool.wire.wire import ConnectError, Connector, Endpoint, Wire

from .scene import QUESTION, Make, Scene, faulty
from .test_answers import BAD_ACCEPT, answering_first

BEARER = f"Authorization: Bearer {CANARY}\r\n".encode()

#: Every way in which a handshake has been seen to fail; those that can, echo the request as debug pages do.
REFUSALS: dict[str, Rejection] = {
    **{
        f"{status} echo": Rejection(
            status=status, headers={"X-Request": f"Bearer {CANARY}", "Location": f"/{CANARY}"}, body=BEARER
        )
        for status in (307, 400, 401, 404, 426, 500)
    },
    "403": Rejection(status=403, body=b"<html>" + BEARER),
    "403 json": Rejection(status=403, body=json.dumps({"error": {"message": CANARY}}).encode()),
    "429": Rejection(status=429, headers={"Retry-After": "9999"}),
    "silence": Rejection(status=None),
    "101 and 1008": Rejection(status=101),
}
ANSWERS: dict[str, bytes] = {
    "accept": BAD_ACCEPT.replace(b"Upgrade:", BEARER + b"Upgrade:"),
    "junk": BEARER * 2,
    "half": b"HTTP/1.1 101 " + BEARER[:-2],
    "long": b"HTTP/1.1 101 Switching Protocols\r\n" + BEARER * 4000,
    "nothing": b"",
}


class Sinks(wspool.Instrument):
    """Everything that a program may print, keep or send away."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def dial_ended(self, record: wspool.DialRecord) -> None:
        self.show(record)

    def turn_ended(self, record: wspool.TurnRecord) -> None:
        self.show(record)

    def pool_degraded(self, message: str) -> None:
        self.show(message)

    def show(self, *things: object) -> None:
        for thing in things:
            self.lines += [repr(thing), str(thing), f"{thing}"]
            if attrs.has(type(thing)):
                self.lines.append(repr(attrs.asdict(thing)))  # type: ignore[arg-type] # `has` says it is one
            try:
                self.lines.append(repr(pickle.dumps(thing)))
            except Exception as error:
                self.lines.append(repr(error))

    def blame(self, error: BaseException) -> None:
        """Show *error* as a crash reporter does: with its causes, attributes, and the variables of frames."""
        self.show(error)
        self.lines += traceback.format_exception(error)
        self.lines += traceback.TracebackException.from_exception(error, capture_locals=True).format()
        todo: list[BaseException | None] = [error]
        seen: set[int] = set()  # some versions of trio put an exception into a group that is its own context
        while todo:
            if (one := todo.pop()) is not None and id(one) not in seen:
                seen.add(id(one))
                self.lines.append(repr(vars(one)))
                self.lines += [
                    repr(frame.f_locals)
                    for frame, _ in traceback.walk_tb(one.__traceback__)
                    if "tests" not in frame.f_code.co_filename  # these know the key
                ]
                todo += [one.__cause__, one.__context__, *getattr(one, "exceptions", ())]

    def look_at(self, pool: wspool.Pool) -> None:
        """Show *pool* and what it is made of."""
        self.show(
            pool,
            pool.statistics(),
            pool._shell._setup,
            pool._shell._setup.endpoint,
            pool._shell._setup.connector,
        )
        self.show(
            vars(pool._shell),
            *pool._shell._connections.values(),
            *map(held_by, pool._shell._connections.values()),
        )

    def assert_clean(self, caplog: pytest.LogCaptureFixture) -> None:
        """Assert that the key is nowhere, in clear or encoded, and that something was seen at all."""
        for record in caplog.records:
            if record.name != "wspool.server":
                self.lines += [record.getMessage(), repr(vars(record))]
        assert len(self.lines) > 10
        found = [line for line in self.lines if "canary" in line]
        assert [] == found


async def fail_and_tell(
    scene: Scene, sinks: Sinks, trace: Sequence[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Ask in a scene whose handshakes fail, and look at all that there is to see."""
    sinks.look_at(scene.pool)
    async with scene.pool.conversation(model="m") as conversation:
        with pytest.raises((wspool.DialFailedError, wspool.TurnLostError)) as caught:
            await conversation.respond("hi")
        sinks.blame(caught.value)
        sinks.show(conversation, conversation.snapshot(), conversation.statistics())
    sinks.look_at(scene.pool)
    sinks.lines += trace
    sinks.assert_clean(caplog)


@pytest.mark.parametrize("fixed", [True, False], ids=["key", "function"])
@pytest.mark.parametrize("name", [*REFUSALS, *ANSWERS])
async def test_f87_secrets(make: Make, name: str, fixed: bool, caplog, autojump_clock) -> None:
    """F87: any fault of the handshake, also an answer that echoes the request -> the key is in no text, log,
    traceback (with variables or without), statistic, trace, snapshot or pickle.
    """
    caplog.set_level(logging.DEBUG)
    sinks, trace = Sinks(), list[str]()

    async def key() -> str:
        return CANARY

    options = {"api_key": CANARY if fixed else key, "instrument": sinks, "trace": trace.append}
    opener = answering_first(*[ANSWERS[name]] * 500) if name in ANSWERS else None
    async with faulty(
        make, open_stream=opener, pool_options=options, limits={"give_up_after": 3, "connect_timeout": 1}
    ) as scene:
        if name in REFUSALS:
            scene.server.reject_handshakes(*[REFUSALS[name]] * 500)
        await fail_and_tell(scene, sinks, trace, caplog)


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda profile: profile.name)
async def test_f87_secrets_by_provider(make: Make, profile: Any, caplog, autojump_clock) -> None:
    """F87: a wrong key, at every kind of provider -> it is shown nowhere."""
    caplog.set_level(logging.DEBUG)
    sinks, trace = Sinks(), list[str]()
    options = {"instrument": sinks, "trace": trace.append}
    async with faulty(make, profile=profile, api_key="sk-another", pool_options=options) as scene:
        await fail_and_tell(scene, sinks, trace, caplog)


async def test_f87_secrets_in_a_crash(make: Make, caplog, autojump_clock) -> None:
    """F87: a library crashes in the middle of a dial -> its lines are shown, its variables are not, nor its
    texts if they hold the key.
    """
    caplog.set_level(logging.DEBUG)
    sinks, trace = Sinks(), list[str]()

    class Crashing(Connector):
        async def connect(self, nursery: Any, endpoint: Endpoint, headers: Any) -> Wire:
            def library(request: str) -> None:
                raise ExceptionGroup("both", [LookupError(request), KeyError("no")])

            await trio.lowlevel.checkpoint()
            return library(f"Authorization: {headers[-1][1]}")  # type: ignore[func-returns-value, return-value]

    manager = wspool.open_pool(
        "ws://localhost",
        api_key=CANARY,
        policy=wspool.PoolPolicy(min_idle=0, give_up_after=1),
        wire=Crashing(),
        instrument=sinks,
        trace=trace.append,
    )
    async with open_server(EchoModel(), port=None) as server, manager as pool:
        await fail_and_tell(Scene(server, pool, [], []), sinks, trace, caplog)
    assert "in library" in "".join(sinks.lines)


async def test_f87_secrets_on_the_way(make: Make, caplog, autojump_clock) -> None:
    """F87: a turn that goes well, one that is lost, and a proxy with a password -> the same."""
    caplog.set_level(logging.DEBUG)
    sinks, trace = Sinks(), list[str]()
    options = {
        "instrument": sinks,
        "trace": trace.append,
        "headers": [("api-key", CANARY)],
        "proxy": f"http://user:{CANARY}@localhost:1",
    }
    async with faulty(make, Fault("reset", at="delta"), pool_options=options) as scene:
        story = await scene.ask()
        sinks.blame(story.assert_lost("accepted", close_code=1006))
        async with scene.pool.conversation(model="m") as conversation, conversation.turn("hi") as turn:
            sinks.look_at(scene.pool)
            sinks.show(turn, await turn.result())
        assert f"Bearer {CANARY}" == scene.server.handshakes[-1][1]["authorization"]
    sinks.lines += trace
    sinks.assert_clean(caplog)


def error_frame(**error: Any) -> bytes:
    """A refusal."""
    return message({"type": "error", "status": 400, "error": error})


def message(data: Any) -> bytes:
    """One text message, of JSON."""
    return frame(TEXT, json.dumps(data).encode())


def response(kind: str, **more: Any) -> bytes:
    """An event of the one response."""
    return message({"type": f"response.{kind}", "response": {"id": "resp_1", "output": [], **more}})


CREATED = response("created", status="in_progress")
COMPLETED = response("completed", status="completed")

#: What an endpoint may write over the connection, with the key in it, and a word of the error's text.
ECHOES: dict[str, tuple[bytes, str]] = {
    "refusal": (error_frame(code="bad", message=f"no key {CANARY}!"), "no key <hidden>!"),
    "refusal, everywhere": (error_frame(code=CANARY, type=CANARY, message=CANARY, param=CANARY), "<hidden>"),
    "refusal, a text": (message({"type": "error", "error": f"Bearer {CANARY}"}), "Bearer <hidden>"),
    "refusal, cut short": (error_frame(code="bad", message=f"no key {CANARY[:-4]}"), "no key <hidden>"),
    "in mid-turn": (CREATED + error_frame(code="server_error", message=CANARY), "<hidden>"),
    "failed": (CREATED + response("failed", status="failed", error={"message": CANARY}), "<hidden>"),
    "rate limit": (
        message({"type": "error", "status": 429, "error": {"message": CANARY}, "headers": {"X": CANARY}}),
        "<hidden>",
    ),
    "no JSON": (frame(TEXT, f"401 for {CANARY}".encode()), "not JSON"),
    "no object": (message(CANARY), "not a JSON object"),
    "no type": (message({CANARY: CANARY}), "no type"),
    "deep": (frame(TEXT, b"[" * 300 + CANARY.encode()), "not JSON"),
    "sound type": (
        frame(TEXT, b'{"type":"response.completed","response":' + CANARY.encode() + b"}"),
        "no JSON",
    ),
    "type": (
        CREATED + message({"type": f"response.{CANARY}", "sequence_number": 1, "stream_id": "x"}),
        "response.<hidden>",
    ),
    "not UTF-8": (frame(TEXT, CANARY.encode() + b"\xff"), "1007"),
    "half of a message": (frame(TEXT, CANARY.encode(), fin=False) + frame(TEXT, CANARY.encode()), "1002"),
    "binary": (frame(BINARY, CANARY.encode()), "1003"),
    "reserved bit": (frame(TEXT, CANARY.encode(), rsv1=True), "1002"),
    "ping": (frame(PING, CANARY.encode()) + error_frame(message="no"), "no"),
    "long ping": (frame(PING, CANARY.encode() * 6), "1002"),
    "close": (frame(CLOSE, (1008).to_bytes(2, "big") + f"no {CANARY}".encode()), "no <hidden>"),
    "close, cut short": (
        frame(CLOSE, (1008).to_bytes(2, "big") + f"{'x' * 99} {CANARY}".encode()[:123]),
        "x <hidden>",
    ),
    "close, no UTF-8": (frame(CLOSE, (1008).to_bytes(2, "big") + CANARY.encode() + b"\xff"), "100"),
    "close, illegal": (frame(CLOSE, (999).to_bytes(2, "big") + CANARY.encode()), "1002"),
    "behind the end": (CREATED + COMPLETED + message({"type": CANARY}) + error_frame(message=CANARY), ""),
}


async def ask_and_tell(scene: Scene, sinks: Sinks) -> str:
    """Ask, and look at all that there is to see, but at what is the server's own; return the error's text.

    In a frame of its own, whose variables are shown with the others.
    """
    async with scene.pool.conversation(model="m") as conversation:
        try:
            await conversation.respond("hi")
        except wspool.WsPoolError as error:
            for name in {"raw", "events"} & vars(error).keys():
                delattr(error, name)
            sinks.blame(error)
            return str(error)
        finally:
            sinks.look_at(scene.pool)
            sinks.show(conversation, conversation.snapshot(), conversation.statistics())
    return ""


@pytest.mark.parametrize("name", ECHOES)
async def test_f87_secrets_that_come_back(make: Make, name: str, caplog, autojump_clock) -> None:
    """F87: the endpoint writes the key into an answer, an error, a malformed message or a close reason ->
    the same; only the events, and the frame in an error's `raw`, stay as they came.
    """
    caplog.set_level(logging.DEBUG)
    sinks, trace = Sinks(), list[str]()
    answer, word = ECHOES[name]

    async def serve(stream: trio.abc.Stream) -> None:
        greeting = f"X-Request: {CANARY}\r\nServer: {CANARY}".encode()
        try:
            await stream.send_all(switching_protocols(await read_request(stream), greeting))
            while data := await stream.receive_some():
                if data[0] == 0x80 | TEXT:  # not a pong
                    await stream.send_all(answer)
        except trio.BrokenResourceError:
            pass  # it has had enough

    async def open_stream(server: Server, endpoint: Endpoint) -> trio.abc.Stream:
        near, far = trio.testing.memory_stream_pair()
        nursery.start_soon(serve, far)
        return near

    async with trio.open_nursery() as nursery:
        options = {"instrument": sinks, "trace": trace.append}
        async with faulty(make, open_stream=open_stream, pool_options=options) as scene:
            said = await ask_and_tell(scene, sinks)
            assert word in said
            assert bool(word) is bool(said)
            sinks.look_at(scene.pool)
        sinks.lines += trace
        sinks.assert_clean(caplog)
        nursery.cancel_scope.cancel()


ECHO_BY_HTTP = (
    f"HTTP/1.1 401 No\r\nX-Request: {CANARY}\r\nContent-Length: 99\r\n\r\n"
    + json.dumps({"error": {"message": f"no key {CANARY}", "code": CANARY}}).ljust(99)
).encode()


async def test_f87_secrets_beside_the_connection(make: Make, caplog, autojump_clock) -> None:
    """F87: the answer to what goes by HTTP (compaction) echoes the request -> the same."""
    caplog.set_level(logging.DEBUG)
    sinks = Sinks()
    streams: list[trio.abc.Stream] = []

    async def open_stream(server: Server, endpoint: Endpoint) -> trio.abc.Stream:
        if not streams:
            streams.append(await server.open_stream(endpoint))
            return streams[0]
        near, far = trio.testing.memory_stream_pair()
        await far.send_all(ECHO_BY_HTTP)
        return near

    async with (
        faulty(make, open_stream=open_stream, pool_options={"instrument": sinks}) as scene,
        scene.pool.conversation(model="m") as conversation,
    ):
        await conversation.respond("hi")
        with pytest.raises(wspool.ResponseFailedError, match="no key <hidden>") as caught:
            await conversation.compact()
        sinks.blame(caught.value)
    sinks.assert_clean(caplog)


async def test_f87_secrets_in_a_lookup(make: Make, autojump_clock) -> None:
    """F87: an event that nobody had to understand holds the key, and is no JSON -> a look at its `data` fails
    without showing it.
    """
    with pytest.raises(wspool.MalformedMessageError) as caught:
        _ = wspool.Event("response.output_text.delta", f'{{"type":{CANARY}').data
    sinks = Sinks()
    sinks.show(caught.value)
    sinks.lines += traceback.format_exception(caught.value)
    assert "canary" not in "".join(sinks.lines)
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    "key",
    ["", " ", f"{CANARY}\n", f" {CANARY}", f"{CANARY}\r\nX: y", f"{CANARY}é", f"{CANARY}\0", CANARY.encode()],
)
async def test_f88_bad_key(make: Make, key: Any) -> None:
    """F88: a key with a newline, a space, a non-ASCII character, of bytes, or empty -> `ValueError` where it
    was written, without the key; from a function, async or not, `AuthenticationError` at once, and nothing
    was dialled.
    """
    with pytest.raises(ValueError, match="visible ASCII") as caught:
        wspool.open_pool("ws://localhost", api_key=key, wire=make())
    assert "canary" not in "".join(traceback.format_exception_only(caught.value))

    def ask() -> Any:
        return key

    async def ask_later() -> Any:
        return key

    for source in (ask, ask_later):
        async with faulty(make, pool_options={"api_key": source}) as scene:
            story = await scene.ask()
            assert isinstance(story.error, wspool.AuthenticationError)
            assert "canary" not in "".join(traceback.format_exception(story.error))
            assert [] == scene.taps


@pytest.mark.parametrize(
    "options",
    [
        {"headers": [("X-A", f"{CANARY}\r\nX-B: c")]},
        {"headers": [("X-A", f"{CANARY}\nX-B: c")]},
        {"headers": [("OpenAI-Organization", f"{CANARY}\r")]},
        {"headers": [("OpenAI-Project", f"{CANARY}\0")]},
        {"headers": [("X-A\r\nX-B", CANARY)]},
        {"headers": [("Authorization", CANARY)]},
        {"headers": [("Host", CANARY)]},
        {"headers": [("Sec-WebSocket-Key", CANARY)]},
        {"url": f"ws://localhost/{CANARY}\r\nX-B: c"},
        {"url": f"ws://localhost/?q={CANARY}\n"},
        {"url": f"ws://localhost\r\n.{CANARY}.example/"},
    ],
    ids=str,
)
async def test_f89_header_injection(make: Make, options: dict[str, Any]) -> None:
    """F89: a line end in a header, a path or a query, or a header that belongs to the handshake ->
    `ValueError` that shows no value; nothing was dialled.
    """
    with pytest.raises(ValueError, match=r"header|URL") as caught:
        wspool.open_pool(**{"url": "ws://localhost", **options}, api_key=CANARY, wire=make())
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (b"HTTP/1.1 401 No\r\nContent-Length: 99999999999\r\n\r\n" + b"x" * 200_000, b"x" * MAX_REJECT_BODY),
        (b"HTTP/1.1 401 No\r\n\r\n" + b"x" * 200_000, b"x" * MAX_REJECT_BODY),
        (b"HTTP/1.1 401 No\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 40_000, None),
        (b"HTTP/1.1 401 No\r\nContent-Length: 2\r\n\r\n{}HTTP/1.1 101 Yes\r\n\r\n", b"{}"),
    ],
    ids=["long", "endless", "chunks", "two answers"],
)
async def test_f90_reject_body(make: Make, answer: bytes, body: bytes | None, autojump_clock) -> None:
    """F90: the body of a refusal is huge, endless, or holds another answer -> the status counts, at once; at
    most 64 KiB of the body are kept.
    """
    async with faulty(make, open_stream=answering_first(answer)) as scene:
        story = await scene.ask()
        assert isinstance(story.error, wspool.AuthenticationError)
        assert (401, 0) == (story.error.status, story.took)
        cause = story.error.__cause__
        assert isinstance(cause, ConnectError)
        assert len(cause.body) <= MAX_REJECT_BODY
        if body is not None:
            assert body[: len(cause.body)] == cause.body


async def test_f90_slow_reject_body(make: Make, autojump_clock) -> None:
    """F90: the body of a refusal never ends coming -> the status counts, after `connect_timeout` (15 s)."""

    async def open_stream(server: Server, endpoint: Endpoint) -> trio.abc.Stream:
        near, far = trio.testing.memory_stream_pair()
        await far.send_all(b"HTTP/1.1 401 No\r\nContent-Length: 1000\r\n\r\n{")
        held.append(far)
        return near

    held: list[trio.abc.Stream] = []
    async with faulty(make, open_stream=open_stream) as scene:
        story = await scene.ask()
        assert isinstance(story.error, wspool.AuthenticationError)
        assert (401, 15) == (story.error.status, story.took)


@pytest.mark.parametrize(
    "url", ["ws://api.example/v1", "ws://10.0.0.1/", "ws://localhost.example/", "ws://[::2]/"]
)
async def test_f91_clear_text(make: Make, url: str) -> None:
    """F91: a key over `ws://` to another machine -> `ValueError`, unless `allow_insecure=True`."""
    with pytest.raises(ValueError, match="ws:// to another machine sends credentials in clear"):
        wspool.open_pool(url, api_key=CANARY, wire=make())
    wspool.open_pool(url, api_key=CANARY, wire=make(), allow_insecure=True)


@pytest.mark.parametrize(
    "url",
    [
        *(f"wss://user:{CANARY}@h.example/", f"wss://{CANARY}@h.example/", f"wss://h.example/#{CANARY}"),
        *(f"file:///{CANARY}", f"https://h.example/{CANARY}", f"//h.example/{CANARY}", CANARY, ""),
        *(f"wss://h.example:{CANARY}/", f"wss:///{CANARY}", f"wss://h.example:0/{CANARY}"),
        *(f"wss://h%00.example/{CANARY}", f"wss://h.example\\@evil.example/{CANARY}", f"wss://é.é/é{CANARY}"),
    ],
)
async def test_f92_bad_url(make: Make, url: str) -> None:
    """F92: a URL with credentials or a fragment, of another scheme, or that parsers read in two ways ->
    `ValueError` with what to do; the URL is not quoted.
    """
    with pytest.raises(ValueError, match="URL") as caught:
        wspool.open_pool(url, api_key="sk", wire=make())
    assert "canary" not in "".join(traceback.format_exception_only(caught.value))


async def test_f93_identities(make: Make, autojump_clock) -> None:
    """F93: several keys, organisations and projects at one endpoint -> each in a pool of its own; no
    connection ever carries a request of another.
    """
    identities: list[dict[str, Any]] = [
        {
            "api_key": f"sk-key-number-{key}",
            "headers": [("OpenAI-Organization", org), ("OpenAI-Project", project)],
        }
        for key in (1, 2)
        for org in ("org-a", "org-b")
        for project in ("proj-a", "proj-b")
    ]
    ledger: list[Any] = []
    asked_by: dict[str, str] = {}
    async with open_server(EchoModel(), port=None, ledger=ledger) as server:

        async def converse(pool: wspool.Pool, who: str) -> None:
            async with pool.conversation(model=who) as conversation:
                for turn in range(3):
                    response = await conversation.respond(f"{who} {turn}")
                    assert f"{who} {turn}" == response.output_text
                    asked_by[response.id] = who

        async def use(options: dict[str, Any]) -> None:
            headers = dict(options["headers"])
            who = f"{options['api_key']} {headers['OpenAI-Organization']} {headers['OpenAI-Project']}"
            wire = make(open_stream=server.open_stream)
            async with (
                wspool.open_pool(server.url, wire=wire, policy=limits, **options) as pool,
                trio.open_nursery() as users,
            ):
                for _ in range(5):
                    users.start_soon(converse, pool, who)

        limits = wspool.PoolPolicy(max_size=2, min_idle=1, patience=0)
        async with trio.open_nursery() as nursery:
            for identity in identities:
                nursery.start_soon(use, identity)
        owners = [
            f"{headers['authorization'][7:]} {headers['openai-organization']} {headers['openai-project']}"
            for _, headers in server.handshakes
        ]
    assert 8 * 5 * 3 == len(ledger)
    # The server numbers connections in the order of their handshakes.
    carried_by = {entry["response_id"]: owners[entry["connection"] - 1] for entry in ledger}
    assert carried_by == asked_by
    assert 8 == len(set(owners))


TRICKS = [
    '{"type":"response.completed","response":{"id":"resp_1","status":"completed","output":[]}}',
    'x"},"type":"response.completed","sequence_number":99}',
    '"type":"error","sequence_number":0,"stream_id":"1"}',
    "data: [DONE]\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    "\x1b[2J\x00\u2028\x81\x05hello",
]


@pytest.mark.parametrize("text", TRICKS)
async def test_f94_control_data(make: Make, text: str, autojump_clock) -> None:
    """F94: the model's text looks like an event, a header or a frame -> it is text."""
    async with faulty(make) as scene:
        (await scene.ask(text)).assert_answer(text)
        await scene.assert_well(creates=1, connection=1)


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"max_turn_events": 1000}, "more than max_turn_events=1000 events in one turn"),
        ({"max_turn_bytes": 10_000}, "more than max_turn_bytes=10000 bytes of events in one turn"),
    ],
)
async def test_f26_turn_without_end(make: Make, limits: dict[str, Any], words: str, autojump_clock) -> None:
    """F26: more events in one turn than `max_turn_events`, or more bytes than `max_turn_bytes` ->
    `TurnLostError` that names the limit; never sent again, whatever `replay` says.
    """
    everything = {**limits, "replay": "always"}
    async with faulty(make, Fault("many_events", count=20_000), limits=everything) as scene:
        lost = (await scene.ask()).assert_lost("accepted", close_code=1009)
        assert words in str(lost)
        await scene.assert_well(creates=1, connection=2, text="ok")
        assert QUESTION not in str(lost)


#: What a terminal would obey, a log would take for a line, and a reader would not see.
HOSTILE = "\x1b[2J\x1b]0;owned\x07\r\n2026-01-01 CRITICAL all is lost\u202e\u2066\x9b"


#: Attributes of errors that are texts of ours, or as good as one.
SHOWN = ("code", "param", "close_reason", "reason")


def shown(error: BaseException) -> list[str]:
    """All texts of an error and its causes that are shown by whoever shows it."""
    told: list[str] = []
    one: BaseException | None = error
    while one is not None:
        told += [str(one), *(str(arg) for arg in one.args)]
        told += [value for name, value in vars(one).items() if name in SHOWN]
        one = one.__cause__
    return [text for text in told if text]


def repr_of(raw: object) -> str:
    """All texts in *raw*, as they came."""
    return "".join(map(repr_of, raw.values())) if isinstance(raw, dict) else str(raw)


@pytest.mark.parametrize(
    ("shape", "at"),
    [
        ("nested", "response.created"),
        ("flat", "response.created"),
        ("string", "response.created"),
        ("in_stream", "response.in_progress"),
        ("response_failed", "response.in_progress"),
    ],
)
async def test_f98_hostile_error(make: Make, shape: str, at: str, autojump_clock, caplog) -> None:
    """F98: a server writes escapes, line ends and marks that turn text into an error, or megabytes -> they
    are shown as `\\x1b` and the like, and cut; `raw` stays as it came.
    """
    caplog.set_level(logging.DEBUG)
    text = HOSTILE + "x" * 3_000_000
    said: dict[str, Any] = {"status": 400, "code": text, "type": text, "message": text, "param": text}
    fault = Fault("error", at=at, after=at != "response.created", shape=shape, **said)
    async with faulty(make, fault) as scene:
        async with scene.pool.conversation(model="m") as conversation:
            with pytest.raises(wspool.ResponseFailedError) as caught:
                await conversation.respond(QUESTION)
        error = caught.value
        assert text in repr_of(error.raw)
        for told in [*shown(error), *(record.getMessage() for record in caplog.records)]:
            assert told.isprintable(), told[:200]
            assert len(told) <= 4000


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 503])
async def test_f98_hostile_refusal(make: Make, status: int, autojump_clock, caplog) -> None:
    """F98: the same in the answer to the upgrade -> the same."""
    caplog.set_level(logging.DEBUG)
    bodies = [
        json.dumps({"error": {"code": HOSTILE, "message": HOSTILE * 1000}}).encode(),
        f"<title>{HOSTILE}</title>".encode(),
        HOSTILE.encode(),
    ]
    for body in bodies:
        async with faulty(make) as scene:
            scene.server.reject_handshakes(*[Rejection(status=status, body=body)] * 200)
            error = (await scene.ask()).error
            assert isinstance(error, wspool.DialFailedError)
            for told in [*shown(error), *(record.getMessage() for record in caplog.records)]:
                assert told.isprintable(), told[:200]
                assert len(told) <= 4000


async def test_f98_hostile_close(make: Make, autojump_clock, caplog) -> None:
    """F98: the same as a close reason, or as the type of an event that belongs to nobody -> the same."""
    caplog.set_level(logging.DEBUG)
    async with faulty(
        make, Fault("close", at="response.in_progress", code=4000, reason=HOSTILE[:40])
    ) as scene:
        error = (await scene.ask()).error
        assert isinstance(error, wspool.TurnLostError)
        for told in [*shown(error), *(record.getMessage() for record in caplog.records)]:
            assert told.isprintable(), told


async def test_f99_the_beginning_of_the_key_again_and_again(make: Make, autojump_clock) -> None:
    """F99: an error repeats the first characters of the key a hundred thousand times -> they are hidden, in
    a time that grows with the length of the text and no faster.
    """
    text = CANARY[:16] * 131_072
    async with faulty(make, Fault("error", status=400, type="x", message=text, code=text)) as scene:
        began = time.process_time()
        error = (await scene.ask()).error
        assert time.process_time() - began < 3
        assert isinstance(error, wspool.ResponseFailedError)
        assert CANARY[:16] not in str(error)
        assert CANARY[:16] not in str(error.code)
