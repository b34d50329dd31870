"""An hour of trouble in simulated time: the proxy between clients and a provider of this process.

Streams are in memory and the clock jumps, so that an hour takes a minute. Clients vanish in the middle of
answers, or read slowly; all connections to the provider are reset now and then; turns fail by script.
"""

from __future__ import annotations

import gc
import json
import random
from collections import Counter
from functools import partial
from typing import Any, Final

import attrs
import trio
import trio.testing

from benchmarks.harness import Row
from benchmarks.proxied.asking import request
from benchmarks.proxied.provider import FAULTS, Options, Reader
from benchmarks.proxied.talking import TOOL, events_of
from wspool.proxy import Proxy, Settings, Where, open_proxy
from wspool.server import Fault, FaultScript, Server, context_digest, open_server
from wspool.server.models import ModelRequest, ModelTurn, text_of
from wspool.wire.trio_websocket import TrioWebSocketConnector

__all__ = ["run"]

CLIENTS: Final = 6
_URL: Final = "http://localhost/v1"

#: Longest time of one turn with all of its tries, in simulated seconds.
_STUCK: Final = 600.0


class _Counting(Reader):
    """Writes down whose turns it takes."""

    def __init__(self) -> None:
        super().__init__(Options(calls=9, think=2.0))
        self.taken: Counter[tuple[str, int]] = Counter()
        self.digests: dict[str, tuple[str, int]] = {}

    def respond(self, request: ModelRequest) -> ModelTurn:
        """Answer."""
        done = sum(str(item.get("type")).endswith("call_output") for item in request.context)
        who = next(text_of(item) for item in request.context if item.get("role") == "user")
        self.taken[who, done] += 1
        self.digests[context_digest(request.context)] = who, done
        return super().respond(request)


@attrs.define
class _Book:
    """What clients know."""

    asked: Counter[tuple[str, int]] = attrs.field(factory=Counter[tuple[str, int]])
    ended: int = 0
    hang_ups: int = 0
    problems: list[str] = attrs.field(factory=list[str])


class _Client:
    """One client, with one conversation after the other."""

    def __init__(self, proxy: Proxy, book: _Book, number: int) -> None:
        self._proxy, self._book, self._number = proxy, book, number
        self._chance = random.Random(number)

    async def run(self, until: float) -> None:
        """Talk until then."""
        count = 0
        while trio.current_time() < until:
            items: list[Any] = [{"role": "user", "content": f"client {self._number}.{count}"}]
            turn = 0
            while await self._turn(items, turn):
                turn += 1
            count += 1

    async def _turn(self, items: list[Any], turn: int) -> bool:
        body = {"model": "bench", "input": items, "tools": [TOOL], "stream": True, "store": False}
        content, who = json.dumps(body).encode(), (items[0]["content"], turn)
        since, tries = trio.current_time(), 0
        while True:
            if trio.current_time() - since > _STUCK:
                self._book.problems.append(f"{who} is stuck")
                return False
            self._book.asked[who] += 1
            status, data = await self._ask(request(_URL, content, tries=tries))
            if status == 200 and data.endswith(b"0\r\n\r\n"):
                last = events_of(data)[-1]
                if last["type"] == "response.completed":
                    break
                if last["type"] != "response.failed":
                    self._book.problems.append(f"{who} ended with {last['type']}")
                tries = -1
            elif status not in (0, 200, 429) and status < 500:
                self._book.problems.append(f"{who}: {status} {data[:200]!r}")
                return False
            tries += 1
            await trio.sleep(0.5)
        self._book.ended += 1
        items += last["response"]["output"]
        calls = [item for item in last["response"]["output"] if item["type"] == "function_call"]
        items += [
            {"type": "function_call_output", "call_id": one["call_id"], "output": "x" * 200} for one in calls
        ]
        return bool(calls)

    async def _ask(self, what: bytes) -> tuple[int, bytes]:
        """Return the status, 0 if there is none, and the body as far as it came."""
        stream = await self._proxy.open_stream()
        data = b""
        async with stream:
            await stream.send_all(what)
            while not (b"\r\n\r\n" in data and data.endswith(b"0\r\n\r\n")):
                luck = self._chance.random()
                if luck < 0.06:
                    await trio.sleep(self._chance.uniform(0, 20))
                elif luck < 0.12:
                    with trio.move_on_after(self._chance.uniform(0, 4)):
                        await trio.sleep_forever()
                    self._book.hang_ups += 1
                    await trio.aclose_forcefully(stream)
                    break
                try:
                    piece = bytes(await stream.receive_some(4096))
                except trio.BrokenResourceError:
                    break
                if not piece:
                    break
                data += piece
                head, _, rest = data.partition(b"\r\n\r\n")
                _, found, length = head.lower().partition(b"content-length:")
                if found and len(rest) >= int(length.partition(b"\r")[0]):
                    break
        head, _, rest = data.partition(b"\r\n\r\n")
        return (int(head[9:12]) if head else 0), rest


async def _kill(server: Server, until: float, kills: list[float]) -> None:
    chance = random.Random(1)
    while trio.current_time() < until:
        await trio.sleep(chance.uniform(20, 90))
        server.inject(Fault("reset", at="idle"))
        kills.append(trio.current_time())


async def _hour(seconds: float) -> list[Row]:
    model, book, ledger, kills = _Counting(), _Book(), list[Any](), list[float]()
    faults = FaultScript(rate=0.1, seed=7, faults=FAULTS)
    async with open_server(model, port=None, ledger=ledger, faults=faults, lifetime=300.0) as server:
        wire = TrioWebSocketConnector(server.open_stream)
        settings = Settings(keepalive=5.0)
        url = "ws://localhost/v1/responses"
        async with open_proxy(url, where=Where(port=None), settings=settings, wire=wire) as proxy:
            until = trio.current_time() + seconds
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_kill, server, until, kills)
                for number in range(CLIENTS):
                    nursery.start_soon(_Client(proxy, book, number).run, until)
            await trio.sleep(120)  # what was left runs to its end
            running, left, failures = len(proxy.records.running), proxy.front.open, proxy.front.failures
    for entry in ledger:
        if entry["outcome"] == "rejected" and entry["context_sha256"] in model.digests:
            model.taken[model.digests[entry["context_sha256"]]] -= 1
    unasked = sum(max(0, times - book.asked[turn]) for turn, times in model.taken.items())
    note = (
        f"{seconds / 60:.0f} min, {CLIENTS} clients, {book.ended} turns answered of {book.asked.total()} "
        f"requests, {book.hang_ups} hang-ups, connections reset {len(kills)} times"
        + (f"; {book.problems[:3]}" if book.problems else "")
    )
    return [
        Row(
            metric="simulated: clients that were stuck, and answers without an end",
            value=len(book.problems),
            unit="",
            most=0,
            note=note,
        ),
        Row(metric="simulated: turns run that nobody asked for", value=unasked, unit="", most=0),
        Row(
            metric="simulated: requests, connections and errors that are left",
            value=running + left + failures,
            unit="",
            most=0,
        ),
    ]


def run(*, quick: bool) -> list[Row]:
    """One hour, or ten minutes."""
    gc.collect()
    return trio.run(
        partial(_hour, 600.0 if quick else 3600.0), clock=trio.testing.MockClock(autojump_threshold=0)
    )
