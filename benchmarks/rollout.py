"""A rollout of 25 tool calls over a long link: WebSocket mode beside HTTP streaming, in each way.

The context grows to 400 KB, 16 KB per tool output. The model thinks 50 ms, then writes 40 tokens at
1,000 per second, ten to an event. TLS; 40 ms round trip; 20 Mbit/s up for each connection, no limit down;
TCP and TLS handshakes cost their round trips; nothing is lost, and there is no slow start, which favours
who opens many connections. Tools take no time. Everybody starts without a connection.

* wspool: a conversation; each turn sends what is new.
* floor: the least client (`benchmarks.clients`) with turns of the same size; what machine and server take.
* new connection: HTTP, the full context with each call, on a connection of its own.
* keep-alive: the same, on one connection.
* the door: the SDK given `http_client=wspool.http.async_client()`, and nothing else; it still hands over all.
* previous id: keep-alive and `previous_response_id`, so that only what is new is sent. It needs a
  server that stores the conversation.

`ideal`: think + stream + one round trip per turn + the bytes at link speed, and no handshake. `client`: what
is left of the time when thinking, streaming and the link are taken off: client, server, machine.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import attrs
import trio

import wspool
import wspool.http
from benchmarks.clients import open_floor
from benchmarks.harness import Row, installed
from benchmarks.processes import Process, Server, client_context, open_blaster, open_link
from benchmarks.script import Say

__all__ = ["run"]

CALLS: Final = 25
#: Turns: one per call, and the one that needs none.
TURNS: Final = CALLS + 1
CONTEXT: Final = 400_000
THINK: Final = 0.050
TOKENS: Final = 40
TOKENS_PER_SECOND: Final = 1000
TOKENS_PER_EVENT: Final = 10
ROUND_TRIP: Final = 0.040
UP: Final = 20e6 / 8

STREAM: Final = TOKENS / TOKENS_PER_SECOND
SAY: Final = Say(
    events=TOKENS // TOKENS_PER_EVENT + 6, call=True, think=THINK, gap=TOKENS_PER_EVENT / TOKENS_PER_SECOND
)
PROMPT: Final = "Find the failing test."
FLOOR: Final = "floor"
DOOR: Final = "openai, the door"
#: What the door must save of the time of the same client by HTTP, in percent.
SAVES: Final = {"openai, new connection": 40, "openai, keep-alive": 25}

Mode = Literal["new connection", "keep-alive", "previous id", "the door"]
MODES: Final[tuple[Mode, ...]] = ("new connection", "keep-alive", "previous id")


@attrs.frozen(kw_only=True)
class Run:
    """What one contestant took for all conversations. Seconds and bytes."""

    wall: float
    cpu: float
    up: float
    connections: float
    busy: float
    handshake: int
    conversations: int

    @property
    def link(self) -> float:
        """Seconds of one conversation that the link takes, whoever uses it so."""
        trips = TURNS + self.handshake * self.connections / self.conversations
        return trips * ROUND_TRIP + self.up / self.conversations / UP

    @property
    def client(self) -> float:
        """Seconds that are left."""
        return self.wall - TURNS * (THINK + STREAM) - self.link

    @property
    def ideal(self) -> float:
        """Seconds with nothing but thinking, streaming, one trip per turn, and the bytes."""
        return TURNS * (THINK + STREAM + ROUND_TRIP) + self.up / self.conversations / UP


def _output(number: int) -> dict[str, Any]:
    text = f"{number:06d} a line of a file that was read\n" * (CONTEXT // CALLS // 41)
    # The script says the same call in every turn (`benchmarks.script`), and an output names its call.
    return {"type": "function_call_output", "call_id": f"call_{0:048x}", "output": text}


# -- contestants ----------------------------------------------------------------------------------


def _wspool(wire: Literal["websockets", "trio-websocket"], url: str, conversations: int) -> None:
    async def converse(pool: wspool.Pool) -> None:
        async with pool.conversation(model="bench") as conversation:
            await conversation.respond(PROMPT)
            for number in range(CALLS):
                await conversation.respond([_output(number)])

    async def main() -> None:
        policy = wspool.PoolPolicy(
            max_size=conversations, min_idle=0, dial_concurrency=conversations, close_timeout=0.01
        )
        async with (
            wspool.open_pool(url, wire=wire, ssl_context=client_context(), policy=policy) as pool,
            trio.open_nursery() as nursery,
        ):
            for _ in range(conversations):
                nursery.start_soon(converse, pool)

    trio.run(main)


def _floor(url: str, conversations: int) -> None:
    async def converse() -> None:
        async with open_floor(url, client_context(), 1, decode=True) as (turn,):
            await turn(PROMPT)
            for number in range(CALLS):
                await turn(_output(number)["output"])

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(conversations):
                nursery.start_soon(converse)

    trio.run(main)


Ask = Callable[[Any, str | None], Awaitable[dict[str, Any]]]


async def _converse(ask: Ask, mode: Mode) -> None:
    """The loop that everybody writes: keep the items, or the id of the last response."""
    context: list[dict[str, Any]] = [{"role": "user", "content": PROMPT}]
    new, parent = context, None
    for number in range(TURNS):
        response = await ask(new if mode == "previous id" else context, parent)
        if number == CALLS:
            return
        new = [_output(number)]
        context = [*context, *response["output"], *new]
        parent = response["id"] if mode == "previous id" else None


def _httpx(mode: Mode, url: str, conversations: int) -> None:
    httpx: Any = importlib.import_module("httpx")
    options: dict[str, Any] = {
        "verify": client_context(),
        "timeout": 600,
        "limits": httpx.Limits(max_connections=None, max_keepalive_connections=None),
    }

    async def call(client: Any, items: Any, parent: str | None) -> dict[str, Any]:
        body = {"model": "bench", "input": items, "stream": True, "store": parent is not None}
        if parent is not None:
            body["previous_response_id"] = parent
        found: dict[str, Any] = {}
        async with client.stream("POST", url, json=body) as answer:
            async for line in answer.aiter_lines():
                if line.startswith("data: "):
                    event = json.loads(line[6:])
                    if event["type"] == "response.completed":
                        found = event["response"]
        return found

    async def main() -> None:
        async with httpx.AsyncClient(**options) as shared:

            async def ask(items: Any, parent: str | None) -> dict[str, Any]:
                if mode != "new connection":
                    return await call(shared, items, parent)
                async with httpx.AsyncClient(**options) as client:
                    return await call(client, items, parent)

            await asyncio.gather(*(_converse(ask, mode) for _ in range(conversations)))

    asyncio.run(main())


def _openai(mode: Mode, url: str, conversations: int) -> None:
    openai: Any = importlib.import_module("openai")
    httpx: Any = importlib.import_module("httpx")
    parts = urlsplit(url)
    base = parts._replace(path="/v1", query="").geturl()
    query = dict(pair.split("=") for pair in parts.query.split("&"))
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    context = client_context()

    def client_of() -> Any:
        if mode == "the door":
            policy = wspool.PoolPolicy(max_size=conversations, min_idle=0, close_timeout=0.01)
            http = wspool.http.async_client(ssl_context=context, policy=policy)
        else:
            http = httpx.AsyncClient(verify=context, timeout=600, limits=limits)
        return openai.AsyncOpenAI(api_key="none", base_url=base, http_client=http)

    async def call(client: Any, items: Any, parent: str | None) -> dict[str, Any]:
        options: dict[str, Any] = {"previous_response_id": parent, "store": True} if parent else {}
        stream = await client.responses.create(
            model="bench", input=items, stream=True, extra_query=query, **options
        )
        found: dict[str, Any] = {}
        async for event in stream:
            if event.type == "response.completed":
                response = event.response
                found = {
                    "id": response.id,
                    "output": [item.model_dump(exclude_unset=True) for item in response.output],
                }
        return found

    async def main() -> None:
        async with client_of() as shared:

            async def ask(items: Any, parent: str | None) -> dict[str, Any]:
                if mode != "new connection":
                    return await call(shared, items, parent)
                async with client_of() as client:
                    return await call(client, items, parent)

            await asyncio.gather(*(_converse(ask, mode) for _ in range(conversations)))

    asyncio.run(main())


# -- measuring ------------------------------------------------------------------------------------


def _contestants() -> dict[str, tuple[int, Callable[[str, int], None]]]:
    """Round trips per handshake, and how to run it with a URL and a number of conversations."""
    found: dict[str, tuple[int, Callable[[str, int], None]]] = {}
    # TCP and TLS 1.3 take a round trip each, the upgrade one more.
    if installed("websockets"):
        found["wspool, fast wire"] = (3, lambda url, many: _wspool("websockets", url, many))
    found["wspool, default wire"] = (3, lambda url, many: _wspool("trio-websocket", url, many))

    if installed("orjson"):
        found[FLOOR] = (3, _floor)

    def with_mode(
        run: Callable[[Mode, str, int], None], mode: Mode
    ) -> tuple[int, Callable[[str, int], None]]:
        return 2, lambda url, many: run(mode, url, many)

    for mode in MODES:
        if installed("httpx"):
            found[f"httpx, {mode}"] = with_mode(_httpx, mode)
            if installed("openai"):
                found[f"openai, {mode}"] = with_mode(_openai, mode)
    if installed("httpx") and installed("openai"):
        found[DOOR] = (3, lambda url, many: _openai("the door", url, many))
    return found


def _once(name: str, server: Server, link: Process, conversations: int) -> Run:
    handshake, run = _contestants()[name]
    url = server.url(SAY, port=link.port, http=not name.startswith(("wspool", FLOOR)))
    link.lap()
    server.process.lap()
    wall, cpu = time.perf_counter(), time.process_time()
    run(url, conversations)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    passed = link.lap()
    return Run(
        wall=wall,
        cpu=cpu,
        up=passed["up"],
        connections=passed["connections"],
        busy=max(passed["busy"], server.process.lap()["busy"]),
        handshake=handshake,
        conversations=conversations,
    )


def run(*, quick: bool) -> list[Row]:
    """Measure all of it."""
    names = list(_contestants())
    rows: list[Row] = []
    with (
        open_blaster(tls=True) as server,
        open_link(server.process.port, round_trip=ROUND_TRIP, up=UP) as link,
    ):
        rows += _measure(server, link, names, 1, 1 if quick else 3)
        some = [name for name in names if not name.startswith("openai") or "new" not in name]
        if quick:
            some = [name for name in names if name in ("wspool, fast wire", FLOOR, "httpx, keep-alive")]
        rows += _measure(server, link, some, 10 if quick else 200, 1)
    return rows


def _measure(server: Server, link: Process, names: list[str], conversations: int, rounds: int) -> list[Row]:
    runs: dict[str, list[Run]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            runs[name].append(_once(name, server, link, conversations))

    def middle(name: str, what: Callable[[Run], float]) -> float:
        return statistics.median(what(one) for one in runs[name])

    own = [name for name in names if name.startswith("wspool")]
    others = [name for name in names if name not in (*own, FLOOR, DOOR)]
    many = f"{conversations} conversation{'s' if conversations > 1 else ''}"
    assumed = (
        f"{CALLS} calls, {CONTEXT // 1000} KB, think {THINK * 1e3:.0f} ms, {TOKENS} tokens a turn at "
        f"{TOKENS_PER_SECOND}/s, round trip {ROUND_TRIP * 1e3:.0f} ms, {UP * 8 / 1e6:.0f} Mbit/s up for each"
    )
    rows: list[Row] = [
        Row(
            metric=f"rollout, {many}: time saved by one changed line over {peer}",
            value=100
            * statistics.median(
                1 - mine.wall / theirs.wall for mine, theirs in zip(runs[DOOR], runs[peer], strict=True)
            ),
            unit="%",
            least=least if conversations == 1 else None,
        )
        for peer, least in SAVES.items()
        if DOOR in runs and peer in runs
    ]
    for name in own:
        wire = name.partition(", ")[2]
        rows.append(
            Row(
                metric=f"rollout, {many}: time, {wire}",
                value=middle(name, lambda one: one.wall),
                unit="s",
                peers={peer: middle(peer, lambda one: one.wall) for peer in others},
                note=assumed,
            )
        )
        rows.append(
            Row(
                metric=f"rollout, {many}: bytes sent per conversation, {wire}",
                value=middle(name, lambda one: one.up / conversations),
                unit="bytes",
                peers={peer: middle(peer, lambda one: one.up / conversations) for peer in others},
            )
        )
        for peer in others:
            saved = statistics.median(
                1 - mine.wall / theirs.wall for mine, theirs in zip(runs[name], runs[peer], strict=True)
            )
            rows.append(
                Row(
                    metric=f"rollout, {many}: time saved over {peer}, {wire}",
                    value=saved * 100,
                    unit="%",
                    least=40 if "new connection" in peer and conversations == 1 else None,
                )
            )
        rows.append(
            Row(
                metric=f"rollout, {many}: time over the ideal, {wire}",
                value=middle(name, lambda one: one.wall / one.ideal),
                unit="x",
                most=1.05 if conversations == 1 else None,
            )
        )
        if FLOOR in runs:
            over = [mine.wall / least.wall for mine, least in zip(runs[name], runs[FLOOR], strict=True)]
            rows.append(
                Row(
                    metric=f"rollout, {many}: time over the floor's, {wire}",
                    value=statistics.median(over),
                    unit="x",
                )
            )
    for name in names:
        rows.append(
            Row(
                metric=f"rollout, {many}: split of {name}",
                value=middle(name, lambda one: one.wall),
                unit="s",
                note=f"think {TURNS * THINK:.2f}, stream {TURNS * STREAM:.2f}, "
                f"link {middle(name, lambda one: one.link):.2f}, "
                f"client {middle(name, lambda one: one.client):.2f} s; "
                f"CPU {middle(name, lambda one: one.cpu / conversations) * 1e3:.0f} ms per conversation, "
                f"{middle(name, lambda one: one.connections / conversations):g} connections each",
            )
        )
    rows.append(
        Row(
            metric=f"rollout, {many}: CPU of server or link at its busiest",
            value=max(one.busy for found in runs.values() for one in found) * 100,
            unit="%",
            most=80,
        )
    )
    return rows
