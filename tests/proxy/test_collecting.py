"""What a turn leaves behind for Python's collector: nothing; and when that looks."""

from __future__ import annotations

import gc
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from tests.garbage import collect
from tests.proxy.asking import KEY, Scene, scene
from tests.proxy.test_websocket import connected
from wspool.proxy.collecting import collected_in_quiet, is_due
from wspool.proxy.records.record import Records
from wspool.server import EchoModel, Rejection

TURNS = 10

#: What a turn is made of, in contrast to connections: some kinds of those hold themselves.
OURS = ("wspool.proxy.", "wspool.http.", "wspool.pool.", "wspool.core.")


@asynccontextmanager
async def counted(left: list[str]) -> AsyncGenerator[None]:
    """Tell the objects that only the collector can free, of what the body leaves."""
    await trio.testing.wait_all_tasks_blocked()
    collect()
    gc.disable()
    try:
        yield
        await trio.testing.wait_all_tasks_blocked()
        gc.set_debug(gc.DEBUG_SAVEALL)
        collect()
        kinds = [f"{type(found).__module__}.{type(found).__qualname__}" for found in gc.garbage]
        left += [kind for kind in kinds if kind.startswith(OURS)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


async def vanish(it: Scene, after: float, **fields: Any) -> None:
    client = await it.client()
    body = {"model": "m", "input": "a b c", "stream": True, **fields}
    await client.send("POST", "/v1/responses", body, headers=(KEY,))
    await trio.sleep(after)
    await trio.aclose_forcefully(client.stream)
    await trio.sleep(5)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("way", ["websocket", "http", "post"])
async def test_a_turn_leaves_nothing(autojump_clock, way: str, stream: bool) -> None:
    """Whatever way it goes: its objects are freed with its end."""
    left: list[str] = []
    fields: dict[str, Any] = {"stream": stream}
    if way == "post":
        fields["headers"] = (("authorization", "Basic YTpi"),)
    async with scene(EchoModel()) as it:
        if way == "http":
            it.server.reject_handshakes(*[Rejection(status=404)] * 20)
        client = await it.client()
        assert 200 == (await client.turn(**fields)).status
        async with counted(left):
            for _ in range(TURNS):
                await client.turn("a b c d e", **fields)

    assert len(left) < TURNS, left


async def test_a_turn_of_a_websocket_client_leaves_nothing(autojump_clock) -> None:
    """Nor does one that goes on from another."""
    left: list[str] = []
    async with scene(EchoModel()) as it, connected(it) as client:
        await client.create("one")
        await client.answer()
        async with counted(left):
            for _ in range(TURNS):
                await client.create("two")
                await client.answer()

    assert len(left) < TURNS, left


@pytest.mark.parametrize("after", [0, 1.0])
async def test_nor_does_one_whose_client_has_left(autojump_clock, after: float) -> None:
    """In line, while it runs, at its end."""
    left: list[str] = []
    async with scene(EchoModel(), server={"delay_per_token": 0.5}) as it:
        await vanish(it, after)
        async with counted(left):
            for _ in range(TURNS):
                await vanish(it, after)

    assert len(left) < TURNS, left


def test_when_everything_is_looked_at() -> None:
    """In a quiet moment, if there is one before many more have ended."""
    assert not is_due(10, 0)
    assert is_due(1_000, 0)
    assert not is_due(1_000, 1)
    assert is_due(20_000, 500)


def test_what_lasts_is_not_looked_at_by_the_way() -> None:
    """By itself the collector looks at what has come since a request has ended last."""
    records, lasting = Records(), list[list[int]]()
    with collected_in_quiet(records):
        record = records.begin("json")
        lasting += ([] for _ in range(500))
        young = len(gc.get_objects(generation=0))
        records.end(record, "completed")
        left = len(gc.get_objects(generation=0)) + len(gc.get_objects(generation=1))

    assert 500 < young
    assert left < 100
    assert 0 == gc.get_freeze_count()


def test_it_is_looked_at_as_said() -> None:
    """By a collection of all generations; and afterwards the collector is as before."""
    records, before, looks = Records(), gc.get_threshold(), list[int]()

    def heard(phase: str, about: dict[str, int]) -> None:
        if phase == "start" and about["generation"] == 2:
            looks.append(records.count)

    with collected_in_quiet(records):
        gc.callbacks.append(heard)
        try:
            for _ in range(2_100):
                records.end(records.begin("json"), "completed")
        finally:
            gc.callbacks.remove(heard)

    assert [1_000, 2_000] == looks
    assert (before, 0) == (gc.get_threshold(), gc.get_freeze_count())
