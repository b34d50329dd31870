"""What the doors cost: CPU per turn by asyncio, an httpx client and the OpenAI SDK; bytes of a tool loop.

Turns are streamed and read to their end, one after the other on one connection, against a server in another
process; the CPU is that of all threads of this one. `crossing` is a bare way from asyncio to the runtime's
thread and back: it costs twice as much where the two are on two processors. The peer is the SDK over its own
HTTP. `alone` is the library, or the SDK, over a transport that has the answer ready: nothing is carried, and
what is left is its own. A tool loop is 21 requests of the SDK with 20 calls, whose client is told nothing but
another `http_client`. The ratios of a part vary by what they say: on one processor, with nobody else there
(`taskset -c 0 python -m benchmarks doors 10`), by a few percent.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import statistics
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Final

import trio

import wspool
import wspool.http
from benchmarks.harness import Row, Sample, Stopwatch, in_turn, installed, median
from benchmarks.processes import Server, open_blaster
from benchmarks.script import Say
from wspool import aio
from wspool.runtime import Runtime
from wspool.server import ModelRequest, ModelTurn, function_call, message
from wspool.testing import local_server

__all__ = ["PARTS", "run"]

#: The most that a door may cost, times what the native form costs; by events of a turn.
FACADE: Final = {10: 2.4, 200: 2.0}
CLIENT: Final = {10: 3.5, 200: 2.5}
#: The most that goes out, as a part of what HTTP sends; by bytes of a tool's output.
BYTES: Final = {10_000: 9.0, 2_000: 6.0}
CALLS: Final = 20

_POLICY: Final = wspool.PoolPolicy(max_size=1, min_idle=0, close_timeout=0.1)
_MODEL: Final = "bench"
_BODY: Final = {"model": _MODEL, "input": "hi", "stream": True}


def run(*, quick: bool, parts: Sequence[str] = ()) -> list[Row]:
    """Measure all of it, or those parts."""
    return [row for name in parts or PARTS for row in PARTS[name](quick)]


def _cpu(events: int, *, quick: bool) -> list[Row]:
    turns = 50 if quick else max(50, 2000 // events)
    with open_blaster() as server:
        samples = in_turn(_contestants(server, Say(events=events), turns), 3 if quick else 9)
    cost = {name: median(found) for name, found in samples.items()}
    note = ", ".join(f"{name} {micros:.0f} us" for name, micros in cost.items())
    wanted = [
        (f"asyncio facade, {events} events, over native", "aio", "native", FACADE[events]),
        (f"httpx client, {events} events, over native", "client", "native", CLIENT[events]),
        (f"AsyncOpenAI through the door, {events} events, over its own HTTP", "SDK, door", "SDK, HTTP", 1.0),
    ]
    rows: list[Row] = []
    for metric, one, other, most in wanted:
        if one in samples:
            pairs = [a.micros / b.micros for a, b in zip(samples[one], samples[other], strict=True)]
            spread = f"{min(pairs):.3g} to {max(pairs):.3g} in {len(pairs)} pairs; {note}"
            rows.append(Row(metric=metric, value=statistics.median(pairs), unit="x", most=most, note=spread))
    return rows


def _contestants(server: Server, say: Say, turns: int) -> dict[str, Callable[[], Sample]]:
    url, base = server.url(say), server.url(say, http=True)
    contestants = {
        "native": lambda: _native(url, turns),
        "aio": lambda: _facade(url, turns),
        "client": lambda: _client(base, turns),
        "httpx alone": lambda: _client(base, turns, alone=True),
        "crossing": lambda: _crossing(turns),
    }
    if installed("openai"):
        contestants["SDK, door"] = lambda: _sdk(base, turns, "door")
        contestants["SDK, HTTP"] = lambda: _sdk(base, turns, "HTTP")
        contestants["SDK alone"] = lambda: _sdk(base, turns, "alone")
    return contestants


def _crossing(turns: int) -> Sample:
    """Go to the runtime's thread and back, and do nothing there. A turn of a door cannot do without."""

    async def go(watch: Stopwatch) -> None:
        runtime, loop = Runtime.shared(), asyncio.get_running_loop()

        async def cross() -> None:
            back = loop.create_future()
            runtime.soon(loop.call_soon_threadsafe, back.set_result, None)
            await back

        runtime.run_sync(int)
        await cross()
        with watch.over(turns):
            for _ in range(turns):
                await cross()

    return _watched(go)


async def _measure(watch: Stopwatch, lease: Any, turns: int) -> None:
    """Take turns on a lease, of trio's or of asyncio's; the first is for the caches."""

    async def turn() -> None:
        async with lease.create(model=_MODEL, input="hi") as one:
            async for _ in one:
                pass

    await turn()
    with watch.over(turns):
        for _ in range(turns):
            await turn()


def _native(url: str, turns: int) -> Sample:
    watch = Stopwatch()

    async def main() -> None:
        async with wspool.open_pool(url, policy=_POLICY) as pool, pool.lease() as lease:
            await _measure(watch, lease, turns)

    trio.run(main)
    return watch.sample


def _facade(url: str, turns: int) -> Sample:
    watch = Stopwatch()

    async def main() -> None:
        async with aio.open_pool(url, policy=_POLICY) as pool, pool.lease() as lease:
            await _measure(watch, lease, turns)

    asyncio.run(main())
    return watch.sample


async def _ready(url: str) -> Any:
    """Return a client whose transport has ready what the door has answered once."""
    async with wspool.http.async_client(policy=_POLICY) as client:
        answer = await client.post(url, json=_BODY)
    module: Any = importlib.import_module(type(answer).__module__.partition(".")[0])
    content, headers = answer.content, answer.headers

    def respond(_: object) -> Any:
        return module.Response(200, headers=headers, stream=module.ByteStream(content))

    return module.AsyncClient(transport=module.MockTransport(respond))


def _client(url: str, turns: int, *, alone: bool = False) -> Sample:
    async def open_it(watch: Stopwatch) -> None:
        async with await _ready(url) if alone else wspool.http.async_client(policy=_POLICY) as client:

            async def turn() -> None:
                async with client.stream("POST", url, json=_BODY) as answer:
                    async for _ in answer.aiter_raw():
                        pass

            await turn()
            with watch.over(turns):
                for _ in range(turns):
                    await turn()

    return _watched(open_it)


def _sdk(url: str, turns: int, over: str) -> Sample:
    openai: Any = importlib.import_module("openai")
    base, _, query = url.partition("?")
    where = base.removesuffix("/responses")
    options: dict[str, Any] = {"default_query": dict(part.split("=") for part in query.split("&"))}

    async def open_it(watch: Stopwatch) -> None:
        if over != "HTTP":
            alone = over == "alone"
            options["http_client"] = await _ready(url) if alone else wspool.http.async_client(policy=_POLICY)
        async with openai.AsyncOpenAI(api_key="none", base_url=where, **options) as client:

            async def turn() -> None:
                async for _ in await client.responses.create(model=_MODEL, input="hi", stream=True):
                    pass

            await turn()
            with watch.over(turns):
                for _ in range(turns):
                    await turn()

    return _watched(open_it)


def _watched(main: Callable[[Stopwatch], Coroutine[Any, Any, None]]) -> Sample:
    watch = Stopwatch()
    asyncio.run(main(watch))
    return watch.sample


class _Caller:
    """Calls a tool so many times, then answers."""

    def respond(self, request: ModelRequest) -> ModelTurn:
        done = sum(item.get("type") == "function_call_output" for item in request.context)
        said = function_call("read", {"part": done}) if done < CALLS else message("read")
        return ModelTurn(output=[said])


def _bytes(size: int) -> Row:
    sent = {door: _sent(size, door=door) for door in (True, False)}
    return Row(
        metric=f"bytes of {CALLS + 1} requests, outputs of {size // 1000} kB, less than HTTP",
        value=sent[False] / sent[True],
        unit="x",
        least=BYTES[size],
        note=f"{sent[True] / 1e3:,.0f} kB, by HTTP {sent[False] / 1e3:,.0f} kB; as the SDK made them",
    )


def _sent(size: int, *, door: bool) -> int:
    openai: Any = importlib.import_module("openai")
    module: Any = importlib.import_module("httpx2" if installed("httpx2") else "httpx")
    tool = {"type": "function", "name": "read", "strict": False, "parameters": {"type": "object"}}
    sent = 0

    async def main(base_url: str) -> None:
        nonlocal sent

        async def count(request: Any) -> None:
            nonlocal sent
            sent += len(request.content)

        records = _Records()
        if door:
            http = wspool.http.async_client(policy=_POLICY, instrument=records)
        else:
            http = module.AsyncClient(event_hooks={"request": [count]})
        async with openai.AsyncOpenAI(api_key="none", base_url=base_url, http_client=http) as client:
            items: list[Any] = [{"role": "user", "content": "read it"}]
            for _ in range(CALLS + 1):
                response = await client.responses.create(model=_MODEL, input=items, tools=[tool])
                items += [json.loads(item.to_json()) for item in response.output]
                items += [
                    {"type": "function_call_output", "call_id": item.call_id, "output": "x" * size}
                    for item in response.output
                    if item.type == "function_call"
                ]
        sent += records.sent

    with local_server(model=_Caller()) as server:
        asyncio.run(main(server.base_url))
    return sent


class _Records(wspool.Instrument):
    """Adds up what turns have sent."""

    def __init__(self) -> None:
        self.sent = 0

    def turn_ended(self, record: wspool.TurnRecord) -> None:
        self.sent += record.bytes_sent


PARTS: Final[Mapping[str, Callable[[bool], list[Row]]]] = {
    "10": lambda quick: _cpu(10, quick=quick),
    "200": lambda quick: _cpu(200, quick=quick),
    "bytes": lambda _: [_bytes(size) for size in BYTES] if installed("openai") else [],
}
