"""One connection: lanes, lines, limits, and frames that make no sense."""

import attrs
import pytest
import trio
from hypothesis import given, strategies as st
from trio.testing import MockClock

from tests.searching import examples
from wspool.server import (
    AZURE,
    OPENAI,
    VERCEL,
    EchoModel,
    Entry,
    LimitMode,
    ModelRequest,
    ModelTurn,
    ScriptedModel,
    message,
    open_server,
)

from .client import Frame, connected

SLOW = ScriptedModel([ModelTurn(output=[message("late")], delay=10)])


async def test_a_lane_runs_one_turn_at_a_time(autojump_clock: MockClock) -> None:
    """Requests on a busy lane wait in line, and are answered in order."""
    ledger: list[Entry] = []
    async with open_server(SLOW, port=None, ledger=ledger) as server, connected(server) as client:
        for _ in range(3):
            await client.create()
        turns = [await client.finish() for _ in range(3)]

    numbers = [[frame["sequence_number"] for frame in turn] for turn in turns]
    assert numbers == [list(range(len(turn))) for turn in turns]
    assert [round(entry["started"] or 0) for entry in ledger] == [0, 10, 20]
    assert [entry["unfinished_on_lane"] for entry in ledger] == [1, 2, 3]


async def test_lanes_run_side_by_side_up_to_the_cap(autojump_clock: MockClock) -> None:
    """Sixteen turns run at once; the seventeenth request starts when one has ended, the oldest first."""
    ledger: list[Entry] = []
    async with open_server(SLOW, port=None, ledger=ledger) as server, connected(server) as client:
        for number in range(20):
            await client.create(stream_id=f"lane{number}")
        await client.create(stream_id="lane0")
        for _ in range(32):
            assert (await client.receive())["type"] in ("response.created", "response.in_progress")
        assert server.statistics().creates_active == 16
        done = 0
        while done < 21:
            done += (await client.receive())["type"] == "response.completed"

    starts = sorted((round(entry["started"] or 0), entry["sequence"]) for entry in ledger)
    assert starts == [(0 if sequence <= 16 else 10, sequence) for sequence in range(1, 22)]


@pytest.mark.parametrize("code", [1000, 1001, 1006, 1008])
@pytest.mark.parametrize("mode", ["on_next_create", "while_idle", "mid_turn", "silent_close"])
async def test_the_end_of_an_idle_connection(mode: LimitMode, code: int, autojump_clock: MockClock) -> None:
    """Every form of the limit, with every close code, on a connection that does nothing."""
    profile = attrs.evolve(OPENAI, limit_mode=mode, limit_close_code=code)
    async with open_server(EchoModel(), port=None, profile=profile) as server, connected(server) as client:
        await client.respond()
        start = trio.current_time()
        if mode == "on_next_create":
            await trio.sleep(4000)
            await client.create()
        if mode != "silent_close":
            frame = await client.receive()
            assert frame["error"]["code"] == "websocket_connection_limit_reached"
            assert "(60 minutes)" in frame["error"]["message"]
        assert code == await client.closed()

        expected = 4000 if mode == "on_next_create" else 3600
        assert expected == pytest.approx(trio.current_time() - start, abs=1)
        assert server.statistics().connections_open == 0


@pytest.mark.parametrize(
    ("mode", "ending"),
    [
        ("on_next_create", ["response.completed"]),
        ("while_idle", ["response.completed", "error"]),
        ("mid_turn", ["response.in_progress", "error"]),
        ("silent_close", ["response.in_progress"]),
    ],
)
async def test_the_limit_during_a_turn(mode: LimitMode, ending: list[str], autojump_clock: MockClock) -> None:
    """A turn is cut or may finish, as the mode has it; one that was cut is lost in the ledger."""
    ledger: list[Entry] = []
    async with (
        open_server(SLOW, port=None, limit_mode=mode, lifetime=5, ledger=ledger) as server,
        connected(server) as client,
    ):
        await client.create()
        types: list[str] = []
        with trio.move_on_after(60):
            while True:
                types.append((await client.receive())["type"])
                if mode == "on_next_create" and types[-1] == "response.completed":
                    break
                if types[-1] == "error":
                    assert await client.closed() == 1000
                    break
                if mode == "silent_close" and types[-1] == "response.in_progress":
                    assert await client.closed() == 1000
                    break

    assert ending == types[-len(ending) :]
    assert ["completed" if "response.completed" in types else "lost"] == [e["outcome"] for e in ledger]


async def test_requests_in_line_are_refused_when_the_limit_has_come(autojump_clock: MockClock) -> None:
    """While a last turn finishes, nothing new starts."""
    ledger: list[Entry] = []
    async with (
        open_server(SLOW, port=None, limit_mode="while_idle", lifetime=5, ledger=ledger) as server,
        connected(server) as client,
    ):
        await client.create()
        await trio.sleep(6)
        await client.create()
        frames = await client.finish()
        assert frames[-1]["error"]["code"] == "websocket_connection_limit_reached"
        assert await client.closed() == 1000

    assert [entry["outcome"] for entry in ledger] == ["rejected", "lost"]


async def test_a_closing_provider_closes_after_an_error(autojump_clock: MockClock) -> None:
    """Vercel's profile hangs up after any error frame."""
    async with (
        open_server(EchoModel(), port=None, profile=VERCEL) as server,
        connected(server) as client,
    ):
        await client.turn(previous_response_id="resp_none")

        assert await client.closed() == 1008


@pytest.mark.parametrize("filler", ["x", "é"])
async def test_a_large_request_closes_the_connection(filler: str, autojump_clock: MockClock) -> None:
    """The limit is in bytes of UTF-8 and exact; beyond it there is 1009 and no error frame."""
    profile = attrs.evolve(AZURE, max_message=1000)
    async with open_server(EchoModel(), port=None, profile=profile) as server:
        body = '{"type":"response.create","model":"m","input":"%s"}'
        room = (1000 - len(body % "")) // len(filler.encode())
        async with connected(server) as client:
            await client.send(body % (filler * room))
            assert (await client.finish())[-1]["type"] == "response.completed"
            await client.send(body % (filler * (room + 1)) + " ")

            assert await client.closed() == 1009
        assert server.statistics().failures == 0


@pytest.mark.parametrize(
    "frame",
    [
        "",
        "{",
        "[]",
        "null",
        '{"type":"response.create","model":"m","temperature":NaN}',
        '{"type":"response.create","model":"m","temperature":1e999}',
        '{"type":"response.create","model":"m","metadata":' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"type":"response.create","model":"m","metadata":' + "[" * 900 + "]" * 900 + "}",
        '{"type":"response.create","model":"m","input":[{"a":' + "[" * 900 + "]" * 900 + "}]}",
        '{"type":["response.create"]}',
        '{"type":"response.cancel"}',
        "{}",
        b'{"type":"response.create","model":"m"}',
        '{"type":"response.create"}',
        '{"type":"response.create","model":"m","input":7}',
        '{"type":"response.create","model":"m","input":["x"]}',
        '{"type":"response.create","model":"m","input":[{"content":[3]}]}',
        '{"type":"response.create","model":"m","tools":{}}',
        '{"type":"response.create","model":"m","stream_options":[]}',
        '{"type":"response.create","model":"m","background":true}',
        '{"type":"response.create","model":"m","previous_response_id":3}',
    ],
)
async def test_nonsense_is_refused_and_the_connection_lives(
    frame: str | bytes, autojump_clock: MockClock
) -> None:
    """An error frame, and the next request is answered."""
    async with open_server(EchoModel(), port=None) as server, connected(server) as client:
        await client.send(frame)
        last = (await client.finish())[-1]
        # Deep JSON may be readable, or not; either is fine as long as it is answered.
        assert last.get("status") == 400 or "[[[" in str(frame)

        await client.respond()
        assert server.statistics().failures == 0


async def test_steering_is_refused(autojump_clock: MockClock) -> None:
    """A steer is answered, and is not an error of the turn."""
    async with open_server(EchoModel(), port=None, profile=AZURE) as server, connected(server) as client:
        await client.send({"type": "response.steer", "previous_response_id": "r", "input": "x"})

        assert (await client.receive())["error"]["code"] == "steering_not_supported"


async def test_lone_surrogates_survive(autojump_clock: MockClock) -> None:
    """JSON escapes that are no character are sent as the model made them, though no request may hold them."""
    script = [ModelTurn(output=[message("\ud800 \0")])]
    async with open_server(ScriptedModel(script), port=None) as server, connected(server) as client:
        await client.send('{"type":"response.create","model":"m","input":"\\ud800 \\u0000"}')
        assert (await client.receive())["error"]["message"].startswith("We could not parse")
        await client.send('{"type":"response.create","model":"m","input":"\\u0000"}')
        deltas = [frame.get("delta", "") for frame in await client.finish()]

    assert "".join(deltas) == "\ud800 \0"


class BrokenModel:
    """Raises, or says what is no item."""

    def respond(self, request: ModelRequest) -> ModelTurn:
        if request.instructions == "raise":
            raise RuntimeError("a bug in the model")
        return ModelTurn(output=[{"type": "function_call", "name": "no arguments"}])


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("raise", "the model raised RuntimeError: a bug in the model (test_session.py:"),
        ("malformed", "the model said what is no turn: KeyError: "),
    ],
)
async def test_a_broken_model_fails_its_turn_only(
    how: str, words: str, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The client gets a 500 error frame that says what and where, the log gets the traceback, the connection
    lives.
    """
    ledger: list[Entry] = []
    async with (
        open_server(BrokenModel(), port=None, ledger=ledger) as server,
        connected(server) as client,
    ):
        for _ in range(2):
            last: Frame = (await client.turn(instructions=how))[-1]
            assert (last["status"], last["error"]["code"]) == (500, "model_exception")
            assert last["error"]["message"].startswith(words)

    assert [entry["outcome"] for entry in ledger] == ["failed", "failed"]
    assert len(caplog.records) == 2


class BrokenLedger(list[Entry]):
    """Takes no first entry."""

    def append(self, entry: Entry) -> None:
        super().append(entry)
        if len(self) == 1:
            raise RuntimeError("a bug of the server")


async def test_what_the_server_does_wrong_is_not_said_of_the_model(autojump_clock: MockClock) -> None:
    """It is an error of the server, as of any provider; the next turn goes well."""
    async with (
        open_server(EchoModel(), port=None, ledger=BrokenLedger()) as server,
        connected(server) as client,
    ):
        last: Frame = (await client.turn())[-1]
        assert (last["status"], last["error"]["code"]) == (500, "server_error")
        assert "bug" not in str(last)
        assert "response.completed" == (await client.turn())[-1]["type"]


async def test_a_disconnect_loses_what_was_in_progress(autojump_clock: MockClock) -> None:
    """The running turn and those in line are lost in the ledger, at once."""
    ledger: list[Entry] = []
    async with open_server(SLOW, port=None, ledger=ledger) as server:
        async with connected(server) as client:
            for lane in ("a", "a", "b"):
                await client.create(stream_id=lane)
            for _ in range(4):
                await client.receive()
        await trio.testing.wait_all_tasks_blocked()

        assert [entry["outcome"] for entry in ledger] == ["lost"] * 3
        assert 0 == server.statistics().connections_open == server.statistics().creates_active
    assert server.statistics().failures == 0


async def test_deltas_take_their_time(autojump_clock: MockClock) -> None:
    """`delay_per_token` is slept after each delta."""
    async with (
        open_server(EchoModel(), port=None, delay_per_token=0.5) as server,
        connected(server) as client,
    ):
        start = trio.current_time()
        await client.respond("a b c d")

    assert pytest.approx(trio.current_time() - start, abs=0.01) == 2.0


SCALARS = st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats() | st.text(max_size=5)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
FIELDS = st.sampled_from(
    [
        *(
            "model",
            "input",
            "instructions",
            "tools",
            "previous_response_id",
            "stream_id",
            "store",
            "generate",
        ),
        *("background", "metadata", "stream_options", "prompt_cache_options", "reasoning", "text"),
        *("tool_choice", "max_output_tokens"),
    ]
)
CREATES = st.dictionaries(FIELDS, JSON | st.just("resp_000001"), max_size=4).map(
    lambda fields: {"type": "response.create", "model": "m", **fields}
)
MESSAGES = CREATES | st.text(max_size=40) | st.binary(max_size=40) | JSON.map(lambda value: {"type": value})


@given(messages=st.lists(MESSAGES, max_size=8))
@examples(60)
def test_no_message_kills_the_server(messages: list[Frame | str | bytes]) -> None:
    """Whatever is in the messages, each is answered or refused, and the server serves the next client."""

    async def main() -> None:
        async with open_server(EchoModel(), port=None) as server:
            async with connected(server) as client:
                for one in messages:
                    await client.send(one)
                    await client.finish()
            async with connected(server) as client:
                await client.respond()
            assert server.statistics().failures == 0

    trio.run(main, clock=MockClock(autojump_threshold=0))


HEAD = (
    b"GET /v1/responses HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


@given(
    head=st.sampled_from(
        [b"", HEAD, HEAD[:-9], HEAD.replace(b"13", b"12"), b"POST /v1/responses HTTP/1.1\r\n"]
    ),
    chunks=st.lists(st.binary(max_size=60), max_size=6),
)
@examples(100)
def test_no_bytes_kill_the_server(head: bytes, chunks: list[bytes]) -> None:
    """Whatever the bytes are, before or after the handshake, the next client is served."""

    async def main() -> None:
        async with open_server(EchoModel(), port=None) as server:
            stream = await server.open_stream()
            for chunk in (head, *chunks):
                try:
                    await stream.send_all(chunk)
                except trio.BrokenResourceError:
                    break
                await trio.testing.wait_all_tasks_blocked()
            await trio.aclose_forcefully(stream)
            async with connected(server) as client:
                await client.respond()
            await trio.testing.wait_all_tasks_blocked()
            assert server.statistics().failures == 0

    trio.run(main, clock=MockClock(autojump_threshold=0))
