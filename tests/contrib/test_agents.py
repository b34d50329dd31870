"""openai-agents, by the model provider of wspool."""

from __future__ import annotations

import asyncio

import pytest

from wspool.server import ModelTurn, ScriptedModel, function_call, message
from wspool.testing import local_server

agents = pytest.importorskip("agents", reason="not installed: openai-agents")

pytestmark = [pytest.mark.network, pytest.mark.clients]

SCRIPT = [
    ModelTurn(output=[function_call("weather", {"city": "Paris"})]),
    ModelTurn(output=[message("Sunny.")]),
]


def test_runs_share_a_pool_and_send_what_is_new() -> None:
    """Each run's second turn goes on from its first, over as many connections as the policy allows."""
    import wspool
    from wspool.contrib.agents import model_provider

    @agents.function_tool
    def weather(city: str) -> str:
        """Say what the weather is."""
        return f"sunny in {city}"

    async def main(base_url: str) -> list[str]:
        provider = model_provider(base_url=base_url, api_key="k", policy=wspool.PoolPolicy(max_size=4))
        config = agents.RunConfig(model_provider=provider, tracing_disabled=True)
        agent = agents.Agent(name="a", model="gpt-5.2", tools=[weather])
        runs = [agents.Runner.run(agent, f"{n}: how is it in Paris?", run_config=config) for n in range(4)]
        return [result.final_output for result in await asyncio.gather(*runs)]

    with local_server(model=ScriptedModel(SCRIPT), api_key="k") as server:
        assert ["Sunny."] * 4 == asyncio.run(main(server.base_url))

        server.expect(requests=8, continued=4, transport="websocket")
        assert len({entry["connection"] for entry in server.ledger}) <= 4


def test_a_model_by_name_is_one_of_the_responses_api() -> None:
    """Not of chat completions, and not over the SDK's own WebSocket, whatever its defaults are."""
    from wspool.contrib.agents import model_provider

    agents.set_default_openai_api("chat_completions")
    try:
        model = model_provider(api_key="k").get_model("gpt-5.2")
    finally:
        agents.set_default_openai_api("responses")

    assert type(model) is agents.OpenAIResponsesModel
