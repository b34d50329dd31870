"""Under openai-agents: eight runs at a time, over a pool, by the model provider of `wspool.contrib`."""

import asyncio

from agents import Agent, RunConfig, Runner, function_tool
from endpoint import MODEL, endpoint

from wspool.contrib.agents import model_provider
from wspool.server import ModelTurn, ScriptedModel, function_call, message

SCRIPT = [
    ModelTurn(output=[function_call("weather", {"city": "Lisbon"})]),
    ModelTurn(output=[message("It is sunny in Lisbon.")]),
]


@function_tool
def weather(city: str) -> str:
    """Say what the weather is."""
    return f"sunny in {city}"


async def main(base_url: str, key: str) -> None:
    """Start eight, and wait for all."""
    agent = Agent(name="guide", model=MODEL, tools=[weather])
    config = RunConfig(model_provider=model_provider(base_url=base_url, api_key=key), tracing_disabled=True)
    runs = [Runner.run(agent, "How is the weather in Lisbon?", run_config=config) for _ in range(8)]
    for result in await asyncio.gather(*runs):
        print(result.final_output)


if __name__ == "__main__":
    with endpoint(ScriptedModel(SCRIPT)) as where:
        asyncio.run(main(where.base_url, where.sdk_key))
