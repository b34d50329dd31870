"""Frameworks through the door, beside their own WebSocket mode: openai-agents and pydantic-ai, all at once.

The server is the reference server, in a thread of this process, for everybody. Runs of openai-agents have one
turn, which takes 0.43 s; there are 40 at once. A conversation of pydantic-ai has four calls of a tool and an
answer, each turn takes 0.1 s; there are 64 at once. Everybody starts without a connection.

What is left of that time where no byte is carried is measured as well: the framework, on a client whose
transport has each answer ready after those 0.1 s.
"""

from __future__ import annotations

import asyncio
import importlib
import itertools
import json
import statistics
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

import attrs

import wspool
import wspool.http
from benchmarks.harness import Row, installed
from wspool.server import ModelRequest, ModelTurn, function_call, message
from wspool.testing.local import LocalServer, local_server

__all__ = ["run"]

RUNS: Final = 40
RUN: Final = 0.43
#: The most that all of them may take, in seconds: with a lane to a connection, and with 16 on each of 4.
ONE_LANE: Final = 1.3
MANY_LANES: Final = 0.7

TALKS: Final = 64
CALLS: Final = 4
TURN: Final = 0.1
#: The most that the door may take of the time of the framework's own WebSocket mode.
PART: Final = 1 / 3

_MODEL: Final = "gpt-5.2"
_LANES: Final = wspool.PoolPolicy(max_size=4, min_idle=0, lanes=16, close_timeout=0.1)
_ONE: Final = wspool.PoolPolicy(min_idle=0, close_timeout=0.1)


class _Caller:
    """Calls a tool so many times, then answers; each turn takes *seconds*."""

    def __init__(self, calls: int, seconds: float) -> None:
        self._calls = calls
        self._seconds = seconds

    def respond(self, request: ModelRequest) -> ModelTurn:
        done = sum(item.get("type") == "function_call_output" for item in request.context)
        said = function_call("read", {"part": done}) if done < self._calls else message("read")
        return ModelTurn(output=[said], delay=self._seconds)


@attrs.frozen
class _Seen:
    """What one contestant took, in seconds on the clock and of CPU, with the server; and what that saw."""

    seconds: float
    cpu: float
    deltas: int
    by_http: int


#: Is told how many at once make so many: one, to warm up.
Play = Callable[[LocalServer, Callable[[int], int]], Coroutine[Any, Any, None]]


def run(*, quick: bool) -> list[Row]:
    """Measure all of it."""
    rows: list[Row] = []
    if installed("agents"):
        rows += _agents(1 if quick else 5)
    if installed("pydantic_ai"):
        rows += _pydantic(1 if quick else 5)
    return rows


def _agents(rounds: int) -> list[Row]:
    own = RUNS if rounds > 1 else 4  # one after the other, so long that a part says all
    seen = _in_turn(
        {
            "one lane": lambda server, many: _runs_of_agents(_door(server, _ONE), many(RUNS)),
            "lanes": lambda server, many: _runs_of_agents(_door(server, _LANES), many(RUNS)),
            "own": lambda server, many: _runs_of_agents(_sdk(server), many(own), own_sockets=True),
        },
        _Caller(0, RUN),
        rounds,
    )
    peers: dict[str, float | None] = {
        f"its own WebSocket mode, {own} runs": _middle(seen["own"], lambda one: one.seconds)
    }
    return [
        Row(
            metric=f"openai-agents, {RUNS} runs of {RUN} s at once, {what}",
            value=_middle(seen[name], lambda one: one.seconds),
            unit="s",
            most=most,
            peers=peers,
            note=_shown(seen[name]),
        )
        for name, what, most in (
            ("one lane", "one lane a connection", ONE_LANE),
            ("lanes", "16 lanes on each of 4", MANY_LANES),
        )
    ]


def _pydantic(rounds: int) -> list[Row]:
    seen = _in_turn(
        {
            "door": lambda server, many: _talks_of_pydantic(_door(server, _ONE), many(TALKS)),
            "own": lambda server, many: _talks_of_pydantic(_sdk(server), many(TALKS), own_sockets=True),
            "nothing carried": lambda _, many: _talks_of_pydantic(_at_hand(), many(TALKS)),
        },
        _Caller(CALLS, TURN),
        rounds,
    )
    what = f"pydantic-ai, {TALKS} conversations x {CALLS + 1} turns"
    rest: tuple[tuple[str, Callable[[_Seen], int], int | None, int | None], ...] = (
        ("deltas", lambda one: one.deltas, TALKS * CALLS, None),
        ("turns over HTTP", lambda one: one.by_http, None, 0),
    )
    parts = {
        who: statistics.median(
            one.seconds / own.seconds for one, own in zip(seen[who], seen["own"], strict=True)
        )
        for who in ("door", "nothing carried")
    }
    rows = [
        Row(
            metric=f"{what}: time, over its own WebSocket mode",
            value=parts["door"],
            unit="x",
            most=PART,
            peers={"nothing carried": parts["nothing carried"]},
            note=", ".join(f"{who} {_shown(found)}" for who, found in seen.items()),
        )
    ]
    for unit, count, least, most in rest:
        values = {who: _middle(found, count) for who, found in seen.items()}
        rows.append(
            Row(
                metric=f"{what}: {unit}",
                value=values["door"],
                unit=unit,
                least=least,
                most=most,
                peers={"its own WebSocket mode": values["own"]},
            )
        )
    return rows


def _in_turn(plays: dict[str, Play], model: Any, rounds: int) -> dict[str, list[_Seen]]:
    """Let all of them play in turn, each on a server of its own, once they have been warmed up."""
    seen: dict[str, list[_Seen]] = {name: [] for name in plays}
    for play in plays.values():
        with local_server(model=model, profile="openai") as server:
            asyncio.run(play(server, lambda _: 1))
    for _ in range(rounds):
        for name, play in plays.items():
            with local_server(model=model, profile="openai") as server:
                cpu, began = time.process_time(), time.perf_counter()
                asyncio.run(play(server, lambda many: many))
                seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
                entries = [entry for entry in server.ledger if entry["generate"]]
            deltas = sum(entry["previous_response_id"] is not None for entry in entries)
            by_http = sum(entry["transport"] == "http" for entry in entries)
            seen[name].append(_Seen(seconds, cpu, deltas, by_http))
    return seen


def _middle(seen: list[_Seen], what: Callable[[_Seen], float]) -> float:
    return statistics.median(what(one) for one in seen)


def _shown(seen: list[_Seen]) -> str:
    seconds, cpu = _middle(seen, lambda one: one.seconds), _middle(seen, lambda one: one.cpu)
    return f"{seconds:.2f} s, of CPU {cpu:.2f} s"


def _door(server: LocalServer, policy: wspool.PoolPolicy) -> Any:
    openai: Any = importlib.import_module("openai")
    http = wspool.http.async_client(policy=policy)
    return openai.AsyncOpenAI(api_key="none", base_url=server.base_url, http_client=http, timeout=60)


def _at_hand() -> Any:
    openai: Any = importlib.import_module("openai")
    library: Any = importlib.import_module(type(wspool.http.async_client()).__module__.partition(".")[0])
    counted = itertools.count()

    async def answer(request: Any) -> Any:
        items = json.loads(request.content)["input"]
        done = sum(item.get("type") == "function_call_output" for item in items)
        number = next(counted)
        said: dict[str, Any] = {
            "type": "function_call",
            "id": f"fc_{number}",
            "call_id": f"call_{number}",
            "name": "read",
            "arguments": json.dumps({"part": done}),
            "status": "completed",
        }
        if done == CALLS:
            text = {"type": "output_text", "text": "read", "annotations": []}
            said = {
                "type": "message",
                "id": f"msg_{number}",
                "role": "assistant",
                "status": "completed",
                "content": [text],
            }
        await asyncio.sleep(TURN)
        response = {
            "id": f"resp_{number}",
            "object": "response",
            "created_at": 0,
            "status": "completed",
            "model": _MODEL,
            "output": [said],
            "tools": [],
            "tool_choice": "auto",
            "parallel_tool_calls": True,
        }
        return library.Response(200, json=response)

    http = library.AsyncClient(transport=library.MockTransport(answer))
    return openai.AsyncOpenAI(api_key="none", base_url="http://localhost/v1", http_client=http, timeout=60)


def _sdk(server: LocalServer) -> Any:
    openai: Any = importlib.import_module("openai")
    return openai.AsyncOpenAI(api_key="none", base_url=server.base_url, timeout=60)


async def _runs_of_agents(client: Any, runs: int, *, own_sockets: bool = False) -> None:
    agents: Any = importlib.import_module("agents")
    agents.set_tracing_disabled(disabled=True)
    async with client:
        kind = "OpenAIResponsesWSModel" if own_sockets else "OpenAIResponsesModel"
        module: Any = importlib.import_module("agents.models.openai_responses")
        model = getattr(module, kind)(_MODEL, openai_client=client)
        agent = agents.Agent(name="a", instructions="Be brief.", model=model)
        results = await asyncio.gather(*(agents.Runner.run(agent, f"Say {n}.") for n in range(runs)))
        assert {"read"} == {result.final_output for result in results}
        if own_sockets:
            await model.close()


async def _talks_of_pydantic(client: Any, talks: int, *, own_sockets: bool = False) -> None:
    pydantic_ai: Any = importlib.import_module("pydantic_ai")
    models: Any = importlib.import_module("pydantic_ai.models.openai")
    providers: Any = importlib.import_module("pydantic_ai.providers.openai")
    profiles: Any = importlib.import_module("pydantic_ai.profiles.openai")
    options: dict[str, Any] = {}
    if own_sockets:
        # Lanes: the server has them, which it would not look for at another host than OpenAI's.
        options["profile"] = profiles.OpenAIModelProfile(openai_responses_supports_websocket_stream_id=True)
        options["settings"] = {"openai_transport": "websocket"}
    async with client:
        provider = providers.OpenAIProvider(openai_client=client)
        agent = pydantic_ai.Agent(models.OpenAIResponsesModel(_MODEL, provider=provider, **options))

        def read(part: int) -> str:
            """Read a part."""
            return "text"

        agent.tool_plain(read)
        async with agent:
            results = await asyncio.gather(*(agent.run(f"Read {n}.") for n in range(talks)))
        assert {"read"} == {result.output for result in results}
