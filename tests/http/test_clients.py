"""SDKs and frameworks that nobody here wrote, unchanged but for their `http_client`: all deltas are taken."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import Any

import pytest
import trio

import wspool
import wspool.http
from wspool.runtime import Runtime
from wspool.server import ModelTurn, message
from wspool.testing.local import LocalServer, local_server, refusal

openai: Any = pytest.importorskip("openai", reason="the openai SDK is not installed")

pytestmark = [pytest.mark.network, pytest.mark.clients]

ONE = wspool.PoolPolicy(max_size=1, min_idle=0)
TOOL = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather of a city.",
    "strict": False,
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


def call(number: int, city: str) -> dict[str, Any]:
    arguments = f'{{ "city": "{city}",  "days": 3.0 }}'
    return {
        "type": "function_call",
        "call_id": f"call_{number}",
        "name": "get_weather",
        "arguments": arguments,
    }


REASONING = {"type": "reasoning", "summary": [], "encrypted_content": "gAAAAx"}
#: Two calls at once, one more, and an answer.
SCRIPT = [
    ModelTurn(output=[REASONING, call(1, "Paris"), call(2, "Rome")]),
    ModelTurn(output=[{**REASONING, "encrypted_content": "gAAAAy"}, call(3, "Oslo")]),
    ModelTurn(output=[message("mild")]),
]


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Generator[LocalServer]:
    with local_server(delay_per_token=getattr(request, "param", 0.0)) as it:
        it.script(*SCRIPT)
        yield it


@pytest.fixture
def runtime() -> Generator[Runtime]:
    it = Runtime()
    yield it
    it.close()


@pytest.fixture(params=["asyncio", "trio"])
def run(request: pytest.FixtureRequest) -> Callable[[Callable[[], Any]], Any]:
    return (lambda main: asyncio.run(main())) if request.param == "asyncio" else trio.run


def outputs(output: Any) -> list[dict[str, Any]]:
    """What a host answers to the calls of a response."""
    return [
        {"type": "function_call_output", "call_id": item.call_id, "output": "mild"}
        for item in output
        if item.type == "function_call"
    ]


def assert_deltas(server: LocalServer, *sizes: int, continued: int | None = None) -> None:
    """Assert that all went over WebSocket, and how many items each request had."""
    entries = sorted(server.ledger, key=lambda entry: entry["received_order"])
    assert {"websocket"} == {entry["transport"] for entry in entries}
    assert [*sizes] == [entry["input_items"] for entry in entries]
    server.expect(continued=len(sizes) - 1 if continued is None else continued)


def make(kind: Any, server: LocalServer, runtime: Runtime, **options: Any) -> Any:
    door = wspool.http.client if kind is openai.OpenAI else wspool.http.async_client
    client = door(runtime=runtime, **{"policy": ONE, **options})
    return kind(api_key="sk-test", base_url=server.base_url, http_client=client)


@pytest.mark.parametrize("store", [True, False])
def test_openai_async(server: LocalServer, runtime: Runtime, run: Any, store: bool) -> None:
    """A tool loop over typed items: each follow-up sends its outputs only."""

    async def main() -> str:
        async with make(openai.AsyncOpenAI, server, runtime) as client:
            items: list[Any] = [{"role": "user", "content": "Weather?"}]
            while True:
                response = await client.responses.create(model="m", input=items, tools=[TOOL], store=store)
                items += response.output
                answers = outputs(response.output)
                if not answers:
                    return str(response.output_text)
                items += answers

    assert "mild" == run(main)
    assert_deltas(server, 1, 2, 1)


def test_openai_stream(server: LocalServer, runtime: Runtime, run: Any) -> None:
    """The streaming helper, which checks the grammar of events; the final response is whole."""

    async def main() -> str:
        async with make(openai.AsyncOpenAI, server, runtime) as client:
            items: list[Any] = [{"role": "user", "content": "Weather?"}]
            while True:
                async with client.responses.stream(model="m", input=items, tools=[TOOL]) as stream:
                    types = [event.type async for event in stream]
                    response = await stream.get_final_response()
                assert ("response.created", "response.completed") == (types[0], types[-1])
                items += [item.model_dump(exclude_none=True) for item in response.output]
                answers = outputs(response.output)
                if not answers:
                    return str(response.output_text)
                items += answers

    assert "mild" == run(main)
    assert_deltas(server, 1, 2, 1)


def test_openai_sync(server: LocalServer, runtime: Runtime) -> None:
    """From a thread, plain and streaming, raw responses too."""
    with make(openai.OpenAI, server, runtime) as client:
        items: list[Any] = [{"role": "user", "content": "Weather?"}]
        raw = client.responses.with_raw_response.create(model="m", input=items, tools=[TOOL])
        assert raw.headers["x-request-id"].startswith("wspool-")
        response = raw.parse()
        items += [item.to_dict() for item in response.output]
        items += outputs(response.output)
        events = list(client.responses.create(model="m", input=items, tools=[TOOL], stream=True))
        response = events[-1].response
        items += [*response.output, *outputs(response.output)]
        assert "mild" == client.responses.create(model="m", input=items, tools=[TOOL]).output_text
        with client.responses.create(model="m", input=items, stream=True) as stream:
            next(iter(stream))

    assert [1, 2, 1] == [entry["input_items"] for entry in server.ledger][:3]


def test_openai_named_parents(server: LocalServer, runtime: Runtime) -> None:
    """A host that chains by itself is let."""
    with make(openai.OpenAI, server, runtime) as client:
        response = client.responses.create(model="m", input="Weather?", tools=[TOOL])
        while answers := outputs(response.output):
            response = client.responses.create(
                model="m", input=answers, tools=[TOOL], previous_response_id=response.id
            )

    assert_deltas(server, 1, 2, 1)


def test_openai_errors_and_retries(runtime: Runtime) -> None:
    """The SDK's own exceptions; what may be asked again is, what may have run is not."""
    with local_server() as server, make(openai.OpenAI, server, runtime) as client:
        with pytest.raises(openai.BadRequestError) as refused:
            client.responses.create(model="m", input="hi", previous_response_id="resp_none")
        assert "previous_response_not_found" == refused.value.code
        server.fault("reset", at="response.created", after=True)
        before = len(server.ledger)
        with pytest.raises(openai.InternalServerError):
            client.responses.create(model="m", input="hi")
        assert before + 1 == len(server.ledger)
        server.fault("rate_limited")
        assert "hi" == client.responses.create(model="m", input="hi").output_text
        server.script(refusal(401, "invalid_api_key"))
        with pytest.raises(openai.AuthenticationError):
            client.responses.create(model="m", input="hi")
        gone = client.with_options(base_url="http://127.0.0.1:9/v1", max_retries=0, timeout=0.5)
        with pytest.raises(openai.APIConnectionError):
            gone.responses.create(model="m", input="hi")


def test_openai_parallel_conversations(runtime: Runtime, run: Any) -> None:
    """Each goes on from its own, whatever the others say."""
    with local_server(delay_per_token=0.05) as server:

        async def talk(client: Any, number: int) -> None:
            items: list[Any] = [{"role": "user", "content": "hello"}]
            for turn in range(3):
                response = await client.responses.create(model="m", input=items, store=False)
                assert items[-1]["content"] == response.output_text
                items += [*response.output, {"role": "user", "content": f"{number} {turn}"}]

        async def in_asyncio(client: Any) -> None:
            await asyncio.gather(*[talk(client, number) for number in range(8)])

        async def in_trio(client: Any) -> None:
            async with trio.open_nursery() as nursery:
                for number in range(8):
                    nursery.start_soon(talk, client, number)

        async def main() -> None:
            policy = wspool.PoolPolicy(max_size=8)
            async with make(openai.AsyncOpenAI, server, runtime, policy=policy) as client:
                await (in_trio if run is trio.run else in_asyncio)(client)

        run(main)
        server.expect(requests=24, continued=16, transport="websocket")


# So that runs which are at the same time are on lanes of their own.
@pytest.mark.parametrize("server", [0.05], indirect=True)
def test_openai_agents(server: LocalServer, runtime: Runtime) -> None:
    """A run, a stream, and parallel runs."""
    agents: Any = pytest.importorskip("agents", reason="openai-agents is not installed")
    agents.set_tracing_disabled(True)

    @agents.function_tool
    def get_weather(city: str) -> str:
        """The weather of a city."""
        return "mild"

    async def main() -> None:
        policy = wspool.PoolPolicy(max_size=20, min_idle=0)
        async with make(openai.AsyncOpenAI, server, runtime, policy=policy) as client:
            model = agents.OpenAIResponsesModel("m", openai_client=client)
            agent = agents.Agent(name="a", instructions="Be brief.", model=model, tools=[get_weather])
            result = await agents.Runner.run(agent, "Weather?")
            assert "mild" == result.final_output
            streamed = agents.Runner.run_streamed(agent, "Weather, streamed?")
            async for _ in streamed.stream_events():
                pass
            assert "mild" == streamed.final_output
            results = await asyncio.gather(*[agents.Runner.run(agent, f"Weather {n}?") for n in range(16)])
            assert {"mild"} == {result.final_output for result in results}

    asyncio.run(main())
    server.expect(requests=3 * 18, continued=2 * 18, transport="websocket")


def test_pydantic_ai(server: LocalServer, runtime: Runtime) -> None:
    """An agent with a tool, and its history for a second run."""
    pydantic_ai: Any = pytest.importorskip("pydantic_ai", reason="pydantic-ai is not installed")
    from pydantic_ai.models.openai import OpenAIResponsesModel
    from pydantic_ai.providers.openai import OpenAIProvider

    async def main() -> None:
        async with make(openai.AsyncOpenAI, server, runtime) as client:
            model = OpenAIResponsesModel("gpt-5.2", provider=OpenAIProvider(openai_client=client))
            agent = pydantic_ai.Agent(model)

            @agent.tool_plain  # type: ignore[untyped-decorator, unused-ignore] # if it is not installed
            def get_weather(city: str, days: float) -> str:
                """The weather of a city."""
                return "mild"

            result = await agent.run("Weather?")
            assert "mild" == result.output

    asyncio.run(main())
    assert_deltas(server, 1, 2, 1)
