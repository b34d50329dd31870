"""langchain-openai with `http_client=` and `http_async_client=` of wspool, in each of its output versions."""

import asyncio
import json
import os
import sys

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

import wspool.http


@tool
def weather(city: str) -> str:
    """The weather of a city."""
    return "sunny" if city == "Paris" else "rain"


def said(message):
    return (
        message.content
        if isinstance(message.content, str)
        else "".join(part.get("text", "") for part in message.content if isinstance(part, dict))
    )


def answered(message):
    return [ToolMessage(weather.invoke(call["args"]), tool_call_id=call["id"]) for call in message.tool_calls]


async def loop(model):
    messages = [HumanMessage("Is it nice in Paris?")]
    while True:
        message = await model.ainvoke(messages)
        messages.append(message)
        if not message.tool_calls:
            return said(message)
        messages += answered(message)


def blocking(model):
    messages = [HumanMessage("Is it nice in Paris?")]
    while True:
        message = None
        for chunk in model.stream(messages):
            message = chunk if message is None else message + chunk
        messages.append(message)
        if not message.tool_calls:
            return said(message)
        messages += answered(message)


async def main():
    answers = []
    for version in ("v0", "responses/v1", "v1"):
        model = ChatOpenAI(
            model="gpt-5.2",
            api_key="sk-test",
            base_url=os.environ["BASE_URL"],
            use_responses_api=True,
            output_version=version,
            http_client=wspool.http.client(),
            http_async_client=wspool.http.async_client(),
        ).bind_tools([weather])
        answers += [await loop(model), await asyncio.to_thread(blocking, model)]
    return answers


sys.stdout.write(json.dumps(asyncio.run(main())) + "\n")
