"""openai-agents: a run, one that streams, and four at once; over WebSocket if asked for."""

import asyncio
import json
import os
import sys

import agents
import openai
from agents.models import openai_responses

agents.set_tracing_disabled(True)


@agents.function_tool
def weather(city: str) -> str:
    """The weather of a city."""
    return "sunny" if city == "Paris" else "rain"


async def main():
    by_socket = os.environ.get("TRANSPORT") == "websocket"
    kind = openai_responses.OpenAIResponsesWSModel if by_socket else openai_responses.OpenAIResponsesModel
    async with openai.AsyncOpenAI(api_key="sk-test", base_url=os.environ["BASE_URL"]) as client:
        model = kind(model="gpt-5.2", openai_client=client)
        agent = agents.Agent(name="agent", instructions="Be brief.", tools=[weather], model=model)
        plain = await agents.Runner.run(agent, "Is it nice in Paris?")
        streamed = agents.Runner.run_streamed(agent, "Is it nice in Paris, streamed?")
        async for _ in streamed.stream_events():
            pass
        many = await asyncio.gather(*[agents.Runner.run(agent, f"And today, {n}?") for n in range(4)])
    return [plain.final_output, streamed.final_output, *[one.final_output for one in many]]


sys.stdout.write(json.dumps(asyncio.run(main())))
