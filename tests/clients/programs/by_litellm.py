"""litellm's `aresponses` with a client of wspool's: a tool loop that brings its history."""

import asyncio
import json
import os
import sys

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm
from litellm.llms.custom_httpx.http_handler import AsyncHTTPHandler

import wspool.http

TOOL = {
    "type": "function",
    "name": "weather",
    "description": "The weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


async def main():
    handler = AsyncHTTPHandler()
    handler.client = wspool.http.async_client()
    items = [{"role": "user", "content": "Is it nice in Paris?"}]
    while True:
        response = await litellm.aresponses(
            model="openai/gpt-5.2",
            input=items,
            tools=[TOOL],
            api_key="sk-test",
            api_base=os.environ["BASE_URL"],
            client=handler,
        )
        output = [
            item if isinstance(item, dict) else item.model_dump(exclude_none=True) for item in response.output
        ]
        items += output
        calls = [item for item in output if item["type"] == "function_call"]
        if not calls:
            return [
                "".join(
                    part["text"] for item in output if item["type"] == "message" for part in item["content"]
                )
            ]
        items += [
            {"type": "function_call_output", "call_id": call["call_id"], "output": "sunny"} for call in calls
        ]


sys.stdout.write(json.dumps(asyncio.run(main())) + "\n")
