"""Cassettes and agent frameworks: one file for each of them, over both of their transports.

They are not among the test dependencies: `pip install openai-agents 'pydantic-ai-slim[openai]'`, then
`pytest -m clients`.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import openai
import pytest

from wspool.server import function_call
from wspool.testing import local_server, tape_server

from .talks import INSTRUCTIONS, QUESTION, TALKS, by_openai_over_http

pytestmark = [
    pytest.mark.clients,
    pytest.mark.network,
    pytest.mark.filterwarnings("default"),  # theirs are not ours
]

ANSWER = "It is sunny."
CALL = function_call("weather", {"city": "Paris"})


def weather(city: str) -> str:
    """Says what the weather is."""
    return "sunny" if city == "Paris" else "rain"


async def with_agents(url: str, transport: str) -> Any:
    agents: Any = pytest.importorskip("agents", reason="openai-agents is not installed")
    responses: Any = pytest.importorskip("agents.models.openai_responses")
    agents.set_tracing_disabled(True)
    kind = responses.OpenAIResponsesWSModel if transport == "websocket" else responses.OpenAIResponsesModel
    async with openai.AsyncOpenAI(api_key="sk-test", base_url=url, max_retries=0) as client:
        agent = agents.Agent(
            name="agent",
            instructions=INSTRUCTIONS,
            tools=[agents.function_tool(weather)],
            model=kind(model="gpt-5.2", openai_client=client),
        )
        return (await agents.Runner.run(agent, QUESTION)).final_output


async def with_pydantic_ai(url: str, transport: str) -> Any:
    pydantic_ai: Any = pytest.importorskip("pydantic_ai", reason="pydantic-ai is not installed")
    models: Any = pytest.importorskip("pydantic_ai.models.openai")
    providers: Any = pytest.importorskip("pydantic_ai.providers.openai")
    async with openai.AsyncOpenAI(api_key="sk-test", base_url=url, max_retries=0) as client:
        model = models.OpenAIResponsesModel(
            "gpt-5.2", provider=providers.OpenAIProvider(openai_client=client)
        )
        agent = pydantic_ai.Agent(model, instructions=INSTRUCTIONS, tools=[weather])
        return (await agent.run(QUESTION, model_settings={"openai_transport": transport})).output


FRAMEWORKS: list[Callable[[str, str], Coroutine[Any, Any, Any]]] = [with_agents, with_pydantic_ai]


@pytest.mark.parametrize("transport", ["http", "websocket"])
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_framework_replays_what_others_recorded(
    tmp_path: Path, framework: Callable[[str, str], Coroutine[Any, Any, Any]], transport: str
) -> None:
    """In under a second, over the transport that it was asked for."""
    path = tmp_path / "c.json"
    with local_server() as server:
        server.script(CALL, ANSWER)
        with tape_server(path, record=server.url) as tape:
            by_openai_over_http(tape.base_url)
    asyncio.run(_replay(framework, path, transport))  # what is loaded at first use is loaded
    # Real sockets and threads, so real time: how long a user's test takes is what is promised. The machine
    # may be busy with another test.
    took: list[float] = []
    for _ in range(3):
        began = time.perf_counter()
        asyncio.run(_replay(framework, path, transport))
        took.append(time.perf_counter() - began)
    assert min(took) < 1


@pytest.mark.parametrize("transport", ["http", "websocket"])
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_others_replay_what_a_framework_recorded(
    tmp_path: Path, framework: Callable[[str, str], Coroutine[Any, Any, Any]], transport: str
) -> None:
    """Every other client, and every framework over every transport."""
    path = tmp_path / "c.json"
    with local_server() as server:
        server.script(CALL, ANSWER)
        with tape_server(path, record=server.url) as tape:
            assert ANSWER == asyncio.run(framework(tape.base_url, transport))
            tape.check()
    for talk in TALKS:
        with tape_server(path) as tape:
            assert ANSWER == talk(tape.base_url)
            tape.check()
    asyncio.run(_replay(framework, path, transport))


async def _replay(
    framework: Callable[[str, str], Coroutine[Any, Any, Any]], path: Path, transport: str
) -> None:
    with tape_server(path) as tape:
        assert ANSWER == await framework(tape.base_url, transport)
        tape.check()
        websockets = len(tape.server.handshakes)
        assert (websockets > 0) == (transport == "websocket")
