"""Many clients at once, many turns, and clients that do not read: what the proxy holds, what holds it up."""

from __future__ import annotations

import json
import socket
import statistics
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import Final

import trio

from benchmarks.harness import Row
from benchmarks.processes import Process, open_blaster
from benchmarks.proxied.asking import MODEL, Caller, body, request
from benchmarks.script import Say

__all__ = ["crowd", "endless", "stalled"]

CLIENTS: Final = 500
PER_MINUTE: Final = 2000

#: Seconds that a turn of the crowd takes, so that most clients have one at any time.
_THINK: Final = 10.0

#: Seconds from one turn of a client to its next.
_EVERY: Final = CLIENTS / PER_MINUTE * 60

#: Longest round of the loop, in milliseconds.
STALL: Final = 20.0

_MIB: Final = 2**20


@contextmanager
def open_watched(url: str, size: int = 1000) -> Generator[Process]:
    """Run a proxy with a clock in its loop in front of *url*, with so many connections at most."""
    process = Process("benchmarks.proxied.watched", url, str(size))
    try:
        yield process
    finally:
        process.stop()


def _base(proxy: Process) -> str:
    return f"http://127.0.0.1:{proxy.port}/v1"


def crowd(*, quick: bool) -> list[Row]:
    """500 clients that ask for 2,000 turns a minute, whether those before are answered or not."""
    seconds = 30.0 if quick else 180.0
    with open_blaster() as server, open_watched(server.url(Say(events=30, think=_THINK))) as proxy:
        proxy.account()
        before = proxy.account()
        took = trio.run(_crowd, _base(proxy), seconds)
        time.sleep(0.5)
        after = proxy.account()
    turns = CLIENTS * _rounds(seconds)
    assert after["running"] == 0, "a turn goes on"
    late = statistics.quantiles([one - _THINK for one in took], n=100)
    return [
        Row(
            metric=f"crowd: turns that were not answered, {CLIENTS} clients, {PER_MINUTE:,} a minute",
            value=turns - len(took),
            unit="",
            most=0,
            note=f"{len(took)} answered; CPU {(after['cpu'] - before['cpu']) / turns * 1e3:.2f} ms each; "
            f"over the {_THINK:g} s of thinking p50 {late[49] * 1e3:.0f}, p99 {late[98] * 1e3:.0f} ms (wall)",
        ),
        Row(
            metric="crowd: longest round of the loop, CPU",
            value=after["stall"] * 1e3,
            unit="ms",
            most=STALL,
        ),
        Row(
            metric="crowd: memory, per client",
            value=(after["memory"] - before["memory"]) / CLIENTS / 1024,
            unit="KiB",
            note=f"{before['memory'] / _MIB:.0f} MiB before, {after['memory'] / _MIB:.0f} after",
        ),
    ]


def _rounds(seconds: float) -> int:
    """How often each client asks."""
    return max(1, round(seconds / _EVERY))


async def _crowd(base_url: str, seconds: float) -> list[float]:
    """Have all clients ask again and again, evenly; return how long each turn took."""
    took: list[float] = []
    what = request(base_url, body(stream=True))
    host, port = base_url.split("/")[2].split(":")

    async def ask(number: int) -> None:
        began = trio.current_time()
        await trio.sleep_until(began + number / CLIENTS * _EVERY)
        stream = await trio.open_tcp_stream(host, int(port))
        async with stream:
            for count in range(_rounds(seconds)):
                await trio.sleep_until(began + (number / CLIENTS + count) * _EVERY)
                since = trio.current_time()
                await stream.send_all(what)
                data = b""
                while not data.endswith(b"0\r\n\r\n"):
                    piece = await stream.receive_some(65536)
                    if not piece:
                        return
                    data += piece
                if b"response.completed" in data:
                    took.append(trio.current_time() - since)

    async with trio.open_nursery() as nursery:
        for number in range(CLIENTS):
            nursery.start_soon(ask, number)
    return took


def endless(*, quick: bool) -> list[Row]:
    """Memory over 10^5 turns."""
    turns = 4_000 if quick else 100_000
    marks: list[tuple[int, float]] = []
    # Few connections: each remembers what it has carried, and so has as much of that as it ever will.
    with open_blaster() as server, open_watched(server.url(Say(events=10)), size=4) as proxy:
        caller = Caller(_base(proxy))
        streamed, whole = (request(_base(proxy), body(stream=stream)) for stream in (True, False))
        for number in range(turns):
            answer = caller.ask(streamed if number % 2 else whole)
            assert answer.status == 200, answer
            if number % (turns // 20) == 0:
                marks.append((number, proxy.account()["memory"]))
        caller.close()
        ended = proxy.account()
    # The first part is that of caches and rings, which fill up.
    later = marks[len(marks) // 2 :]
    slope = statistics.linear_regression(*zip(*later, strict=True)).slope
    return [
        Row(
            metric=f"endless: growth of memory over the second half of {turns:,} turns",
            value=slope * turns / 2 / 1024,
            unit="KiB",
            most=256 if not quick else None,
            note=f"{slope:.2f} bytes a turn; {marks[0][1] / _MIB:.1f} MiB at first, "
            f"{marks[len(marks) // 2][1] / _MIB:.1f} at half, {ended['memory'] / _MIB:.1f} at the end",
        ),
        Row(
            metric="endless: longest round of the loop, CPU",
            value=ended["stall"] * 1e3,
            unit="ms",
            most=STALL,
        ),
    ]


def stalled(*, quick: bool) -> list[Row]:
    """Clients that ask and do not read, and bodies of 1 and 15 MiB."""
    many = 20 if quick else 100
    rows = []
    with ExitStack() as stack:
        server = stack.enter_context(open_blaster())
        long = Say(events=40_000)  # 9 MB
        proxy = stack.enter_context(open_watched(server.url(long)))
        where = ("127.0.0.1", proxy.port)
        what = request(_base(proxy), body(stream=True))
        before = proxy.account()["memory"]
        for _ in range(many):
            client = stack.enter_context(socket.create_connection(where))
            client.sendall(what)
        held = 0.0
        for _ in range(20 if quick else 60):
            time.sleep(0.25)
            held = max(held, proxy.account()["memory"])
        rows.append(
            Row(
                metric="stalled: memory for each client that does not read",
                value=(held - before) / many / _MIB,
                unit="MiB",
                most=1.0,
                note=f"{many} of them, each with an answer of {40_000 * 0.22 / 1000:.0f} MB",
            )
        )
    with open_blaster() as server, open_watched(server.url(Say(events=10))) as proxy:
        rows += _large(proxy)
    return rows


def _large(proxy: Process) -> list[Row]:
    rows = []
    caller = Caller(_base(proxy))
    caller.ask(request(_base(proxy), body(stream=True)))
    for size, text in ((1, 16_000), (15, 16_000), (15, 110)):
        items = [
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "x" * text}]}
            for _ in range(size * _MIB // (text + 100))
        ]
        content = json.dumps({"model": MODEL, "input": items, "stream": True, "store": False}).encode()
        proxy.account()
        answer = caller.ask(request(_base(proxy), content))
        assert answer.status == 200, answer
        rows.append(
            Row(
                metric=f"large: longest round of the loop with {size} MiB of {len(items):,} items, CPU",
                value=proxy.account()["stall"] * 1e3,
                unit="ms",
                most=STALL,
                note=f"answered in {answer.total * 1e3:.0f} ms",
            )
        )
    caller.close()
    return rows
