"""pydantic-ai: a run, and a second that brings the history of the first; over WebSocket if asked for."""

import asyncio
import json
import os
import sys

import openai
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider


def weather(city: str) -> str:
    """The weather of a city."""
    return "sunny" if city == "Paris" else "rain"


async def main():
    settings = {"openai_transport": os.environ.get("TRANSPORT", "http")}
    async with openai.AsyncOpenAI(api_key="sk-test", base_url=os.environ["BASE_URL"]) as client:
        model = OpenAIResponsesModel("gpt-5.2", provider=OpenAIProvider(openai_client=client))
        agent = Agent(model, instructions="Be brief.", tools=[weather])
        first = await agent.run("Is it nice in Paris?", model_settings=settings)
        history = first.all_messages()
        second = await agent.run("And tomorrow?", message_history=history, model_settings=settings)
    return [first.output, second.output]


sys.stdout.write(json.dumps(asyncio.run(main())))
