"""`--record`: what goes through the proxy as cassettes, which replay with the pytest plugin's player."""

from __future__ import annotations

import json
import os
import re
import sys
import threading
import unicodedata
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, strategies as st

from tests import spent
from tests.proxy.asking import KEY, Client, laned, scene
from tests.proxy.test_websocket import connected
from wspool.cli.proxy import _recorder as recording
from wspool.core.frames import Event, parse_event
from wspool.pool.open import open_pool
from wspool.server import (
    EchoModel,
    Fault,
    FaultRule,
    FaultScript,
    ModelRequest,
    ModelTurn,
    TurnError,
)
from wspool.server.server import serve_engine
from wspool.testing.cassette import Cassette
from wspool.testing.meaning import items_of
from wspool.testing.player import Player
from wspool.testing.recorder import Recorder, file_name
from wspool.testing.redaction import Redaction
from wspool.wire.trio_websocket import TrioWebSocketConnector

JOB = "/s/job-7/v1/responses"


async def talk(client: Client, *, stream: bool, target: str = JOB) -> list[Any]:
    """Three turns that bring their whole history along; their outputs."""
    items: list[Any] = [{"role": "user", "content": "one"}]
    said = []
    for text in ("two", "three", None):
        answer = await client.turn(items, stream=stream, target=target)
        response = answer.events[-1]["response"] if stream else answer.json
        said.append(response["output"])
        items += [*response["output"], {"role": "user", "content": text}]
    return said


async def replay(path: Path, told: list[Any]) -> None:
    """Ask a cassette for *told*, by a conversation that sends what is new only."""
    player = Player(Cassette.load(path), Redaction(()))
    async with serve_engine(player, port=None) as server:
        wire = TrioWebSocketConnector(server.open_stream)
        async with (
            open_pool("ws://localhost/v1/responses", api_key="other", wire=wire) as pool,
            pool.conversation(model="m", store=False) as conversation,
        ):
            for text, output in zip(("one", "two", "three"), told, strict=True):
                response = await conversation.respond(text)
                assert output == response.data["output"]
    assert not player.problems


@pytest.mark.parametrize("stream", [True, False])
async def test_what_was_recorded_replays(autojump_clock, tmp_path: Path, stream: bool) -> None:
    """Also for a client that asks in another way; what is asked twice the same is recorded the same."""
    recorder = Recorder(tmp_path / "new", "wss://provider/v1/responses")
    async with scene(EchoModel(), recorder=recorder) as it:
        told = await talk(await it.client(), stream=stream)
    recorder.save()

    assert ["job-7.json"] == os.listdir(tmp_path / "new")
    await replay(tmp_path / "new" / "job-7.json", told)


async def test_a_websocket_client_is_recorded_as_well(autojump_clock, tmp_path: Path) -> None:
    """What it goes on from is known by its id; without a session it has its own name."""
    recorder = Recorder(tmp_path, "wss://provider/v1/responses")
    told: list[Any] = []
    parent: dict[str, Any] = {}
    headers = (KEY, ("user-agent", "codex/1"))
    async with laned(EchoModel(), 4, recorder=recorder) as it, connected(it, headers=headers) as client:
        await client.create("beside", store=False, stream_id="b")
        await client.answer("b")
        for text in ("one", "two", "three"):
            await client.create(text, store=False, stream_id="a", **parent)
            response = (await client.answer("a"))["response"]
            told.append(response["output"])
            parent = {"previous_response_id": response["id"]}
    recorder.save()

    await replay(tmp_path / "codex.json", told)
    assert "stream_id" not in (tmp_path / "codex.json").read_text()


async def test_no_key_is_recorded(autojump_clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client's own, where it says it in its words; nor one of the environment."""
    monkeypatch.setenv("SOME_API_KEY", "canary-of-the-environment")
    key = "looks-like-nothing-canary"
    recorder = Recorder(tmp_path, "wss://provider/v1/responses")
    async with scene(EchoModel(), recorder=recorder) as it:
        await (await it.client()).turn(
            [
                {"role": "user", "content": f"my key is {key}, and canary-of-the-environment"},
                {
                    "type": "function_call",
                    "call_id": "c",
                    "name": "f",
                    "arguments": "{}",
                    "caller": {key: key},
                },
            ],
            target=JOB,
            headers=(("authorization", f"Bearer {key}"),),
        )
    recorder.save()

    text = (tmp_path / "job-7.json").read_text()
    assert os.name != "posix" or (tmp_path / "job-7.json").stat().st_mode & 0o777 == 0o600
    assert 2 <= text.count("<hidden>")
    assert key not in text
    assert "canary" not in text


def ended(id: Any, *output: Any) -> list[Event]:
    """All that is recorded of an answer."""
    response = {"id": id, "status": "completed", "output": list(output)}
    text = json.dumps({"type": "response.completed", "response": response if id else 7})
    return [parse_event(text)]


def deep(levels: int) -> Any:
    return json.loads("[" * levels + "]" * levels)


@pytest.mark.parametrize(
    ("name", "more", "events"),
    [
        ("a", {"metadata": deep(900)}, ended("r")),
        ("a", {"temperature": float("nan")}, ended("r")),
        ("a", {"input": [{"type": "function_call", "arguments": '{"a": NaN, "b": 1e999}'}]}, ended("r")),
        ("a", {"input": [{"type": "function_call", "role": "system"}]}, ended("r")),
        ("a", {}, ended(None)),
        ("\U00020000" * 80, {}, ended("r")),
    ],
    ids=["deep", "nan", "arguments", "role", "response", "name"],
)
def test_an_odd_turn_is_in_no_others_way(
    tmp_path: Path, name: str, more: dict[str, Any], events: list[Event]
) -> None:
    """Whatever clients and servers write: it is recorded or left out, and those after it are there."""
    recorder = Recorder(tmp_path, "wss://provider/v1/responses")
    recorder.take(name, {"model": "m", "input": "odd", **more}, events, None, ())
    recorder.take(name, {"model": "m", "input": "even"}, ended("s"), None, ())
    recorder.save()

    (path,) = tmp_path.iterdir()
    assert [{"role": "user", "content": "even"}] == Cassette.load(path).exchanges[-1].context
    again = Cassette.load(path)
    assert all(exchange.meaning == exchange.meaning for exchange in again.exchanges)
    assert again.text() == path.read_text(encoding="utf-8")


def test_what_is_deeper_than_can_be_read_is_no_cassette(tmp_path: Path) -> None:
    """Not even one that was written by somebody else ends a recorder."""
    (tmp_path / "a.json").write_text("[" * 100_000)
    recorder = Recorder(tmp_path, "wss://provider/v1/responses")
    recorder.take("a", {"model": "m", "input": "x"}, ended("r"), None, ())
    recorder.save()
    assert "[" * 100_000 == (tmp_path / "a.json").read_text()


def test_a_file_is_its_owners_from_the_first_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not from when it is whole: the folder may be everybody's."""
    modes: list[int] = []
    replace = Path.replace

    def seen(new: Path, target: Path) -> Path:
        modes.append(new.stat().st_mode & 0o777)
        return replace(new, target)

    monkeypatch.setattr(Path, "replace", seen)
    recorder = Recorder(tmp_path, "wss://provider/v1/responses")
    recorder.take("a", {"model": "m", "input": "x"}, ended("r"), None, ())
    recorder.save()
    assert os.name != "posix" or {0o600} == set(modes)


def test_a_long_session_is_held_once_and_written_soon(tmp_path: Path) -> None:
    """Its client sends all of it each time: neither memory nor time grow with the square of its turns."""
    recorder = Recorder(tmp_path, "wss://provider/v1/responses")
    items: list[Any] = [{"role": "user", "content": "one"}]
    took: dict[int, float] = {}
    for turn in range(1, 241):
        call = {"type": "function_call", "call_id": f"c{turn}", "name": "f", "arguments": f'{{"a":{turn}}}'}
        body = json.loads(json.dumps({"model": "m", "input": items}))
        recorder.take("a", body, ended(f"r{turn}", call), None, ())
        items += [call, {"type": "function_call_output", "call_id": f"c{turn}", "output": "x" * 500}]
        if turn in (60, 240):
            took[turn] = spent.seconds(lambda: cassette_of(recorder).text())
    held = cassette_of(recorder).exchanges
    assert [items_of(items[:-2])] == [held[-1].context]
    assert len({id(item) for exchange in held for item in exchange.context}) == len(held[-1].context)
    assert took[240] < 10 * took[60], "4 is linear, and 16 is not"


def cassette_of(recorder: Recorder) -> Cassette:
    recorder.save()
    file = recorder._files["a"]
    assert file is not None
    return file.cassette


class Refuses:
    def respond(self, request: ModelRequest) -> ModelTurn:
        error = TurnError(message="Not you.", code="no", type="invalid_request_error", status=400)
        return ModelTurn(status="rejected", error=error)


async def test_a_refusal_is_recorded_and_what_was_lost_is_not(autojump_clock, tmp_path: Path) -> None:
    """A replay could say nothing of the end of what had none."""
    recorder = Recorder(tmp_path, "wss://provider/v1/responses")
    async with scene(Refuses(), recorder=recorder) as it:
        assert 400 == (await (await it.client()).turn(target=JOB)).status
    faults = FaultScript(FaultRule(Fault("reset", at="response.output_text.delta")), seed=1)
    async with scene(EchoModel(), recorder=recorder, server={"faults": faults}) as it:
        await (await it.client()).turn("lost", stream=True, target=JOB)
    recorder.save()

    exchanges = json.loads((tmp_path / "job-7.json").read_text())["exchanges"]
    assert [{"status": 400, "code": "no"}] == [
        {"status": exchange["refusal"]["status"], "code": exchange["refusal"]["error"]["code"]}
        for exchange in exchanges
    ]


async def test_a_file_is_gone_on_with_or_left_alone(
    autojump_clock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Two runs make one cassette; what is no cassette stays as it was, and names lead nowhere else."""
    (tmp_path / "other.json").write_text("[]")
    for words in ("one", "two"):
        recorder = Recorder(tmp_path, "wss://provider/v1/responses")
        async with scene(EchoModel(), recorder=recorder) as it:
            for name in ("job-7", "other", "%2e%2e%5c..%00"):
                answer = await (await it.client()).turn(words, target=f"/s/{name}/v1/responses")
                assert answer.status in (200, 404)
        recorder.save()

    assert {"job-7.json", "other.json"} == set(os.listdir(tmp_path))
    assert 2 == len(Cassette.load(tmp_path / "job-7.json").exchanges)
    assert "[]" == (tmp_path / "other.json").read_text()
    assert any("nothing is recorded there" in record.getMessage() for record in caplog.records)


_NAMES = st.text(alphabet='aAbéE\u0301ß ./\\-~@_:*?"<>|\0\n0', min_size=1, max_size=6)


@given(
    st.lists(_NAMES | st.sampled_from([".", "..", "x" * 500, "x" * 501, "X" * 80]), unique=True, min_size=2)
)
def test_two_names_are_two_files(names: list[str]) -> None:
    """On every file system: where letters have no case, where accents are put together, and on Windows."""
    files = [f"{file_name(name)}.json" for name in names]

    assert len(files) == len({unicodedata.normalize("NFKC", file).casefold() for file in files})
    for file in files:
        assert re.fullmatch(r"[A-Za-z0-9_@][A-Za-z0-9_.@~-]{0,120}\.json", file)


@pytest.mark.parametrize("name", ["con", "nul", "aux.json", "com1", "lpt9.tar.gz", "nul.", "Nul.x"])
def test_no_file_is_a_device(name: str) -> None:
    """Windows has some in each folder, whatever stands behind the dot."""
    assert file_name(name).partition(".")[0].lower() != name.partition(".")[0].lower()


@pytest.mark.parametrize("name", ["job-7", "0b1c-44ef", "codex_exec", "a.b@c", "x" * 80, "console", "com10"])
def test_a_plain_name_stays(name: str) -> None:
    """It is what is written in a test that replays it."""
    assert name == file_name(name)


async def test_sessions_are_kept_apart(autojump_clock, tmp_path: Path) -> None:
    """Each has a file, and both go on with their own."""
    told = {"a/b": "one", "a b": "two", "A b": "three"}
    for _ in range(2):
        recorder = Recorder(tmp_path, "wss://provider/v1/responses")
        async with scene(EchoModel(), recorder=recorder) as it:
            for name, words in told.items():
                target = f"/s/{quote(name, safe='')}/v1/responses"
                assert 200 == (await (await it.client()).turn(words, target=target)).status
        recorder.save()

    for name, words in told.items():
        exchanges = Cassette.load(tmp_path / f"{file_name(name)}.json").exchanges
        assert [words] * 2 == [exchange.context[-1]["content"] for exchange in exchanges]


async def test_a_full_disk_ends_the_recording_and_no_request(
    autojump_clock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said once."""
    recorder = Recorder(tmp_path / "a", "wss://provider/v1/responses")
    (tmp_path / "a").rmdir()
    (tmp_path / "a").write_text("")
    async with scene(EchoModel(), recorder=recorder) as it:
        it_client = await it.client()
        for _ in range(3):
            assert 200 == (await it_client.turn(target=JOB)).status
            recorder.save()

    assert 1 == sum("recording has ended" in record.getMessage() for record in caplog.records)


def test_what_could_not_be_written_is_not_left_in_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The disk would stay full; what was written before is whole, and nothing is held any more."""
    recorder = Recorder(tmp_path, "wss://provider/v1/responses")
    take(recorder, "a", "one")
    recorder.save()

    def full(new: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        take(recorder, "a", "two")
        recorder.save()
    take(recorder, "a", "three")
    recorder.save()

    assert ["a.json"] == os.listdir(tmp_path)
    assert ["one"] == words_in(tmp_path / "a.json")
    assert not recorder._files
    assert ["recording has ended, for no cassette can be written: No space left on device"] == [
        record.getMessage() for record in caplog.records
    ]


def take(recorder: Recorder, name: str, words: str, **more: Any) -> None:
    recorder.take(name, {"model": "m", "input": words, **more}, ended(f"r{words}"), None, ())


def words_in(path: Path) -> list[Any]:
    """The last words of each turn."""
    return [exchange.context[-1]["content"] for exchange in Cassette.load(path).exchanges]


def test_others_go_on_while_a_picture_is_recorded(tmp_path: Path) -> None:
    """Nobody waits for it, and it is gone through in pieces: all wait for a call of C, and none lasts."""
    recorder = Recorder(tmp_path, "wss://provider/v1/responses", ["a-canary-of-somebody"])
    calls: Counter[str] = Counter()

    def note(frame: FrameType, event: str, called: Any) -> None:
        if event == "c_call":
            calls[called.__name__] += 1

    recorder._thread.submit(sys.setprofile, note)
    body, events = {"model": "m", "input": "AB+/" * 500_000}, ended("r")
    assert spent.seconds(lambda: recorder.take("a", body, events, None, ()), times=1) < 0.01
    recorder._thread.submit(sys.setprofile, None)
    recorder.save()
    pieces = len(body["input"]) // 2**18
    assert calls["find"] > 4 * 10 * pieces, "of ten things that a key begins with"
    assert calls["encode_basestring"] >= pieces
    assert [body["input"]] == words_in(tmp_path / "a.json")


def test_the_last_turns_are_written_when_the_command_ends(tmp_path: Path) -> None:
    """However it does: a file is written now and then only."""

    def command() -> None:
        with recording(tmp_path, "wss://user:canary@provider/v1") as recorder:
            for words in ("one", "two", "three"):
                recorder.take("a", {"model": "m", "input": words}, ended(words), None, (), 9)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        command()
    assert ["one", "two", "three"] == words_in(tmp_path / "a.json")
    assert "canary" not in (tmp_path / "a.json").read_text()


def test_turns_that_are_too_many_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the disk is slower than the clients: it is said once, until it has caught up."""
    monkeypatch.setattr("wspool.testing.recorder._MOST_TURNS", 2)
    recorder = Recorder(tmp_path, "wss://provider/v1/responses")
    for number in range(2):
        slow = threading.Event()
        recorder._thread.submit(slow.wait)
        for words in "abcd":
            take(recorder, "x", f"{number}{words}")
        slow.set()
        recorder.save()

    assert ["0a", "0b", "1a", "1b"] == words_in(tmp_path / "x.json")
    assert ["turns are not recorded now: 2 wait to be"] * 2 == [each.getMessage() for each in caplog.records]


def test_what_waits_is_bounded_in_bytes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """But for one that is larger than all of that alone."""
    recorder = Recorder(tmp_path, "wss://provider/v1/responses")
    slow = threading.Event()
    recorder._thread.submit(slow.wait)
    for words, mib in (("a", 100), ("b", 1)):
        recorder.take("x", {"model": "m", "input": words}, ended(words), None, (), mib * 2**20)
    slow.set()
    recorder.save()
    recorder.take("x", {"model": "m", "input": "c"}, ended("c"), None, (), 2**20)
    recorder.save()
    assert ["a", "c"] == words_in(tmp_path / "x.json")


def test_files_that_are_too_much_are_let_go_and_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is held is bounded in bytes, and nothing of it is lost."""
    monkeypatch.setattr("wspool.testing.recorder._MOST_HELD", 5_000)
    recorder = Recorder(tmp_path, "wss://provider/v1/responses")
    for turn in range(3):
        for name in "abcdef":
            take(recorder, name, f"{turn}" * 1_000)
    recorder.save()
    assert len(recorder._files) < 4
    for name in "abcdef":
        assert [f"{turn}" * 1_000 for turn in range(3)] == words_in(tmp_path / f"{name}.json")


def test_secrets_of_clients_are_bounded(tmp_path: Path) -> None:
    """Whoever comes with another key each time is in nobody's way; that of the turn itself is hidden."""
    recorder = Recorder(tmp_path, "wss://provider/v1/responses")
    for turn in range(300):
        key = f"canary-number-{turn:04}"
        recorder.take("a", {"model": "m", "input": f"it is {key}"}, ended(f"r{turn}"), None, [key])
    recorder.save()
    assert "canary" not in (tmp_path / "a.json").read_text()
    assert len(recorder._shown) < 300
