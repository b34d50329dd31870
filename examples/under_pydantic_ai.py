"""Under pydantic-ai: the provider is given a client whose requests go over a pool."""

import asyncio

from endpoint import MODEL, endpoint
from openai import AsyncOpenAI
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

import wspool.http
from wspool.server import ModelTurn, ScriptedModel, function_call, message

SCRIPT = [
    ModelTurn(output=[function_call("depth", {"lake": "Baikal"})]),
    ModelTurn(output=[message("Lake Baikal is 1642 m deep.")]),
]


async def main(base_url: str, key: str) -> None:
    """Four agents with a tool, at the same time."""
    http_client = wspool.http.async_client()
    async with AsyncOpenAI(base_url=base_url, api_key=key, http_client=http_client) as client:
        agent = Agent(OpenAIResponsesModel(MODEL, provider=OpenAIProvider(openai_client=client)))

        @agent.tool_plain
        def depth(lake: str) -> str:
            """Say how deep a lake is, in metres."""
            return {"Baikal": "1642"}.get(lake, "unknown")

        for result in await asyncio.gather(*(agent.run("How deep is Lake Baikal?") for _ in range(4))):
            print(result.output)


if __name__ == "__main__":
    with endpoint(ScriptedModel(SCRIPT)) as where:
        asyncio.run(main(where.base_url, where.sdk_key))
