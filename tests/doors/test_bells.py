"""Who is woken for nothing waits on, and takes it for no end.

It happens between two threads: one has written a piece and is about to ring, the other has taken that already
and waits for the next.
"""

from __future__ import annotations

import asyncio
import itertools
from typing import Any, Final

import pytest

import wspool.http
from tests.doors.conftest import Far
from wspool import aio, bells, blocking
from wspool.http import bodies, transport

POLICY: Final = wspool.PoolPolicy(max_size=1, min_idle=0)
TEXT: Final = "a b c d e f"
SENDING: Final[dict[str, Any]] = {
    "json": {"model": "m", "input": TEXT, "stream": True},
    "headers": {"authorization": "Bearer sk-test"},
}


@pytest.fixture(autouse=True)
def nervous(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every other bell wakes who waits on it at once."""
    numbers = itertools.count()

    class Thread(bells.ThreadBell):
        def wait(self) -> None:
            if next(numbers) % 2:
                super().wait()

    class Loop(bells.LoopBell):
        async def wait(self) -> None:
            if next(numbers) % 2:
                await super().wait()

    monkeypatch.setattr(blocking, "ThreadBell", Thread)
    monkeypatch.setattr(aio, "LoopBell", Loop)
    for module in (transport, bodies):
        monkeypatch.setattr(module, "ThreadBell", Thread)
        monkeypatch.setattr(module, "bell_here", Loop)


def test_a_turn_in_a_thread(far: Far) -> None:
    with blocking.open_pool(far.url, policy=POLICY) as pool, pool.conversation(model="m") as talk:
        for _ in range(5):
            with talk.turn(TEXT) as turn:
                assert "response.completed" == list(turn)[-1].type
                assert TEXT == turn.response.output_text


def test_a_turn_in_a_loop(far: Far) -> None:
    async def main() -> None:
        async with aio.open_pool(far.url, policy=POLICY) as pool, pool.conversation(model="m") as talk:
            for _ in range(5):
                async with talk.turn(TEXT) as turn:
                    assert "response.completed" == [event async for event in turn][-1].type
                    assert TEXT == turn.response.output_text
            assert TEXT == (await talk.respond(TEXT)).output_text

    asyncio.run(main())


def test_a_client_in_a_thread(far: Far) -> None:
    pytest.importorskip("httpx2", reason="httpx2 is not installed")
    url = far.url.replace("ws://", "http://")
    with wspool.http.client(policy=POLICY) as client:
        for _ in range(5):
            assert "response.completed" in client.post(url, **SENDING).text


def test_a_client_in_a_loop(far: Far) -> None:
    pytest.importorskip("httpx2", reason="httpx2 is not installed")
    url = far.url.replace("ws://", "http://")

    async def main() -> None:
        async with wspool.http.async_client(policy=POLICY) as client:
            for _ in range(5):
                assert "response.completed" in (await client.post(url, **SENDING)).text

    asyncio.run(main())
