"""What stays in memory: per idle connection, per waiter, per conversation, and after many turns.

The client of each number is a fresh process, the server another. Per connection: resident memory of that
many open ones, in a pool and on the bare wire of the same kind. Per waiter, per conversation with 200
items: what Python has allocated (tracemalloc), with the bare trio task and the bare items beside it.
Growth: resident memory after the first tenth of the turns and after all of them.
"""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from typing import Any, Literal

import trio
import trio.lowlevel
import trio.testing

import wspool
from benchmarks.fakes import SilentConnector
from benchmarks.harness import Row, installed
from benchmarks.processes import apart, open_blaster, resident
from benchmarks.script import Say
from wspool.wire import dial

__all__ = ["run"]

WIRES: dict[str, Literal["websockets", "trio-websocket"]] = {
    "fast wire": "websockets",
    "default wire": "trio-websocket",
}
KIB = 1024


def run(*, quick: bool) -> list[Row]:
    """Measure all of it."""
    rows = []
    with open_blaster() as server:
        url = server.url(Say(events=3))
        for count in (200, 1000) if quick else (1000, 5000):
            for wire, name in WIRES.items():
                if name == "websockets" and not installed("websockets"):
                    continue
                bare = apart(bare_connections, url, name, count) / count
                pooled = apart(pooled_connections, url, name, count) / count
                rows.append(
                    Row(
                        metric=f"memory per idle connection over the bare wire's, {count:,} of them, {wire}",
                        value=(pooled - bare) / KIB,
                        unit="KiB",
                        most=8,
                        note=f"in a pool {pooled / KIB:.1f} KiB, bare {bare / KIB:.1f} KiB",
                    )
                )
        turns = 20_000 if quick else 1_000_000
        for wire, name in WIRES.items():
            if name == "websockets" and not installed("websockets"):
                continue
            if quick and wire == "default wire":
                continue
            rows.append(
                Row(
                    metric=f"memory: growth over {turns:,} turns, {wire}",
                    value=apart(growth, url, name, turns) / KIB,
                    unit="KiB",
                    # What one page more of each arena amounts to; a leak of 10 bytes per turn is more.
                    most=max(512.0, turns * 10 / KIB) if not quick else None,
                    note="after the first tenth; resident memory comes in pages",
                )
            )
    waiters = 10_000
    rows.append(
        Row(
            metric="memory per waiter",
            value=apart(waiting, waiters) / waiters / KIB,
            unit="KiB",
            peers={"bare trio task": apart(parked, waiters) / waiters / KIB},
        )
    )
    conversations, items = 200, 200
    rows.append(
        Row(
            metric=f"memory per conversation with {items} items",
            value=apart(conversing, conversations, items) / conversations / KIB,
            unit="KiB",
            peers={"the items alone": apart(listed, conversations, items) / conversations / KIB},
        )
    )
    return rows


# -- in processes of their own ---------------------------------------------------------------------


def bare_connections(url: str, wire: str, count: int) -> int:
    """Bytes that so many open wires take."""

    async def main() -> int:
        connector: Any
        if wire == "websockets":
            from wspool.wire.websockets import WebSocketsConnector

            connector = WebSocketsConnector()
        else:
            from wspool.wire.trio_websocket import TrioWebSocketConnector

            connector = TrioWebSocketConnector()
        endpoint = dial.parse_url(
            url, connect_timeout=60, close_timeout=0.1, max_message_size=wspool.PoolPolicy().max_message_size
        )
        async with trio.open_nursery() as nursery:

            async def hold() -> None:
                async with trio.open_nursery() as own:
                    held.append(await connector.connect(own, endpoint, ()))

            held: list[Any] = []
            nursery.start_soon(hold)
            await _until(lambda: bool(held))
            before = _settled()
            for _ in range(count):
                nursery.start_soon(hold)
                if len(held) % 50 == 0:
                    await trio.lowlevel.checkpoint()
            await _until(lambda: len(held) > count)
            taken = _settled() - before
            nursery.cancel_scope.cancel()
        return taken

    return trio.run(main)


def pooled_connections(url: str, wire: Literal["websockets", "trio-websocket"], count: int) -> int:
    """Bytes that so many idle connections of a pool take."""

    async def main() -> None:
        policy = wspool.PoolPolicy(
            max_size=count + 1, min_idle=1, dial_concurrency=count, connect_timeout=60, close_timeout=0.1
        )
        async with wspool.open_pool(url, wire=wire, policy=policy) as pool:
            await pool.wait_ready()
            before = _settled()
            pool.resize(min_idle=count + 1)
            await pool.wait_ready()
            taken.append(_settled() - before)

    taken: list[int] = []
    trio.run(main)
    return taken[0]


def growth(url: str, wire: Literal["websockets", "trio-websocket"], turns: int) -> int:
    """Bytes by which memory grows while so many turns are taken, after the first tenth."""

    async def main() -> None:
        policy = wspool.PoolPolicy(max_size=4, min_idle=0, close_timeout=0.1)
        async with wspool.open_pool(url, wire=wire, policy=policy) as pool:

            async def take(times: int) -> None:
                for number in range(times):
                    async with pool.lease() as lease, lease.create(model="bench", input=str(number)) as turn:
                        await turn.result()

            async def take_all(times: int) -> None:
                async with trio.open_nursery() as nursery:
                    for _ in range(4):
                        nursery.start_soon(take, times // 4)

            await take_all(turns // 10)
            before = _settled()
            await take_all(turns - turns // 10)
            grown.append(_settled() - before)

    grown: list[int] = []
    trio.run(main)
    return grown[0]


def waiting(count: int) -> int:
    """Bytes that so many waiters take, their tasks and all."""

    async def main() -> int:
        policy = wspool.PoolPolicy(max_size=1, min_idle=0)
        async with (
            wspool.open_pool(
                "ws://localhost/v1/responses", api_key="sk-none", wire=SilentConnector(), policy=policy
            ) as pool,
            trio.open_nursery() as nursery,
        ):

            async def wait() -> None:
                async with pool.lease():
                    pass

            async with pool.lease():
                taken = await _traced(nursery, wait, count)
                nursery.cancel_scope.cancel()
        return taken

    return trio.run(main)


def parked(count: int) -> int:
    """Bytes that so many trio tasks take that wait for an event."""

    async def main() -> int:
        event = trio.Event()
        async with trio.open_nursery() as nursery:
            taken = await _traced(nursery, event.wait, count)
            nursery.cancel_scope.cancel()
        return taken

    return trio.run(main)


async def _traced(nursery: trio.Nursery, task: Any, count: int) -> int:
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(count):
        nursery.start_soon(task)
    await trio.testing.wait_all_tasks_blocked()
    gc.collect()
    return tracemalloc.get_traced_memory()[0] - before


def _items(number: int, items: int) -> list[dict[str, Any]]:
    return [
        {
            "type": "function_call_output",
            "call_id": f"call_{number}_{index}",
            "output": "x" * 500 + str(index),
        }
        for index in range(items)
    ]


def conversing(count: int, items: int) -> int:
    """Bytes that so many conversations take between turns."""

    async def main() -> int:
        async with wspool.open_pool(
            "ws://localhost/v1/responses", api_key="sk-none", wire=SilentConnector()
        ) as pool:
            tracemalloc.start()
            before = tracemalloc.get_traced_memory()[0]
            held = []
            for number in range(count):
                snapshot = {"version": 1, "defaults": {"model": "bench"}, "items": _items(number, items)}
                block = pool.conversation(resume=snapshot)
                held.append((block, await block.__aenter__()))
                del snapshot
            gc.collect()
            taken = tracemalloc.get_traced_memory()[0] - before
            for block, _ in held:
                await block.__aexit__(None, None, None)
        return taken

    return trio.run(main)


def listed(count: int, items: int) -> int:
    """Bytes that the items of so many conversations take."""
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    held = [_items(number, items) for number in range(count)]
    taken = tracemalloc.get_traced_memory()[0] - before
    del held
    return taken


async def _until(ready: Callable[[], bool]) -> None:
    # Nobody who could set an event is on this side of the seam.
    while not ready():  # noqa: ASYNC110
        await trio.sleep(0.01)


def _settled() -> int:
    gc.collect()
    return resident()
