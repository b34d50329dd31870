"""Reading: a large body holds nobody else up, and says what it would have said."""

from __future__ import annotations

import gzip
import json
import sys
import threading
from collections.abc import Callable, Generator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import trio

from tests.proxy.asking import KEY, scene
from tests.proxy.test_websocket import connected
from wspool.core.frames import MAX_VALUES
from wspool.core.sending.brought import WrittenBody
from wspool.http.identity import LARGE, loads
from wspool.listening.errors import RequestError
from wspool.proxy.reading import read_body
from wspool.server import EchoModel, ModelRequest, ModelTurn, message
from wspool.testing.cassette import Cassette
from wspool.testing.recorder import Recorder

BIG = "x" * LARGE


def of(**fields: Any) -> bytes:
    return json.dumps({"model": "m", "input": BIG, **fields}).encode()


@pytest.mark.parametrize(
    ("raw", "codings"),
    [(of(), ()), (bytearray(of()), ()), (gzip.compress(of()), ("gzip",))],
    ids=["large", "of a socket", "encoded"],
)
async def test_others_go_on_while_a_large_one_is_read(
    raw: bytes | bytearray, codings: tuple[str, ...]
) -> None:
    """One after the other, and ready for the pool."""
    ended = ticks = 0

    async def read() -> None:
        nonlocal ended
        body = await read_body(raw, codings, limit=10 * LARGE)
        ended += 1
        assert isinstance(body, WrittenBody)
        assert ("m", BIG) == (body["model"], body["input"])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        nursery.start_soon(read)
        while ended < 2:
            ticks += 1
            await trio.lowlevel.checkpoint()
    assert ticks > 3


@pytest.fixture
def eager() -> Generator[None]:
    """Threads give way as soon as somebody waits."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize("items", [True, False], ids=["items", "parts"])
def test_others_have_their_turn_between_two_objects_of_a_large_one(items: bool) -> None:
    """However many there are: for each there is a call of Python, and none of C lasts for several."""
    part = {"type": "input_text", "text": "x"}
    given = [part] * 3_000
    raw = json.dumps(given if items else [{"role": "user", "content": given}]).encode()
    calls = 0

    def note(frame: FrameType, event: str, _: object) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(note)
    try:
        read = loads(raw, aside=True)
    finally:
        sys.setprofile(None)
    assert json.loads(raw) == read
    assert calls >= 3_000


async def test_one_of_many_items_is_written_down_aside(eager: None) -> None:
    """That takes most of its time, also of one that is not large."""
    few, many = (of(input=[{"role": "user", "content": "hi"}] * count) for count in (499, 20_000))
    assert len(many) < LARGE
    ticks, bodies = 0, []

    async def read() -> None:
        bodies.extend([await read_body(few), await read_body(many)])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        while not bodies:
            ticks += 1
            await trio.lowlevel.checkpoint()
    assert [dict, WrittenBody] == [type(body) for body in bodies]
    assert ticks > 300


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (of()[:-1], 400),
        (b"[" + of() + b"]", 400),
        (b"[" * 2 * LARGE, 400),
        (b"\xff" * LARGE, 400),
        (b'{"a":[' + b"0," * MAX_VALUES + b"0]}", 413),
    ],
    ids=["cut", "array", "deep", "no text", "values"],
)
async def test_what_is_wrong_with_one_is_said(raw: bytes, status: int) -> None:
    """As of a small one."""
    with pytest.raises(RequestError) as refused:
        await read_body(raw)
    assert status == refused.value.error.status


@pytest.mark.parametrize(
    "body", [{"background": True}, {"input": 7}, {"a": float("nan"), "input": [{"b": float("inf")}]}]
)
async def test_one_that_is_not_for_the_pool_is_only_read(body: dict[str, Any]) -> None:
    """It goes by HTTP as it came, or the pool says what is wrong with it."""
    read = await read_body(of(**body))
    assert type(read) is dict


class Ok:
    def respond(self, request: ModelRequest) -> ModelTurn:
        return ModelTurn(output=[message("ok")])


async def test_a_large_history_becomes_a_delta_at_either_door() -> None:
    """What was read in a thread is compared with what was not; further fields come to it."""
    history: list[Any] = [{"role": "user", "content": BIG}]
    async with scene(Ok()) as it:
        client = await it.client()
        for headers in ((KEY, ("x-codex-turn-state", "s")), (KEY,)):
            answer = await client.turn(history, headers=headers)
            history += [*answer.json["output"], {"role": "user", "content": "and"}]
        async with connected(it) as socket:
            await socket.create(history, store=False)
            assert "response.completed" == (await socket.answer())["type"]
            records = await it.records()

    assert [("json", "first"), ("json", None), ("websocket", None)] == [(r.door, r.why_full) for r in records]
    assert [1, 1, 1] == [entry["input_items"] for entry in it.ledger]


async def test_a_message_with_too_many_values_is_refused_and_the_socket_goes_on() -> None:
    """They would take fifty times their bytes."""
    async with scene(EchoModel()) as it, connected(it) as client:
        values = "[]," * (MAX_VALUES + 1)
        await client.send('{"type":"response.create","input":[' + values + "[]]}")
        refused = await client.next()
        await client.create(store=False)
        assert "response.completed" == (await client.answer())["type"]

    assert (413, "The request has too many values.") == (refused["status"], refused["error"]["message"])


@pytest.mark.parametrize("door", ["sse", "json", "websocket"])
@pytest.mark.parametrize("many", [True, False])
@pytest.mark.parametrize("recorded", [True, False])
async def test_many_items_are_forgotten_in_a_thread(
    door: str, many: bool, recorded: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Once, when nobody needs them any more: what is taken down is whole. Few are forgotten as they are."""
    forgotten: list[tuple[int, bool]] = []
    done, token = trio.Event(), trio.lowlevel.current_trio_token()

    def note(body: WrittenBody, forget: Callable[[WrittenBody], None] = WrittenBody.forget) -> None:
        count = len(body.history)
        forget(body)
        assert not body.history
        forgotten.append((count, threading.current_thread() is threading.main_thread()))
        token.run_sync_soon(done.set)

    monkeypatch.setattr(WrittenBody, "forget", note)
    items = [{"role": "user", "content": str(n)} for n in range(2_500 if many else 3)]
    recorder = Recorder(tmp_path, "wss://provider/v1/responses") if recorded else None
    with trio.fail_after(60):
        async with scene(EchoModel(), recorder=recorder) as it:
            if door == "websocket":
                async with connected(it, target="/s/job/v1/responses") as client:
                    await client.create(items, store=False)
                    assert "response.completed" == (await client.answer())["type"]
            else:
                target = "/s/job/v1/responses"
                answer = await (await it.client()).turn(items, stream=door == "sse", target=target)
                assert 200 == answer.status
            await it.records()
            if recorder is not None:
                recorder.save()
                (exchange,) = Cassette.load(tmp_path / "job.json").exchanges
                assert len(items) == len(exchange.context)
            if many:
                await done.wait()
    assert forgotten == ([(2_500, False)] if many else [])
