"""verifiers' client for evaluations with a client of wspool's: tool loops that bring their history.

Of a rollout's requests one is answered whole and one is streamed, as its harnesses ask for either.
"""

import asyncio
import json
import os
import sys

os.environ["KEY"] = "sk-test"

from verifiers.v1.clients.eval import EvalClient
from verifiers.v1.configs.client import EvalClientConfig
from verifiers.v1.dialects.responses import ResponsesDialect

import wspool.http

TOOL = {
    "type": "function",
    "name": "weather",
    "description": "The weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "strict": False,
}


async def rollout(client, number):
    dialect = ResponsesDialect()
    session = f"rollout-{number}"
    items = [{"role": "user", "content": f"Is it nice in Paris, {number}?"}]
    body = {"model": "gpt-5.2", "input": items, "tools": [TOOL]}
    response = await client.get_response(dialect, body, None, session_id=session)
    output = response.raw["output"]
    calls = [item for item in output if item["type"] == "function_call"]
    items = [
        *items,
        *output,
        *({"type": "function_call_output", "call_id": call["call_id"], "output": "sunny"} for call in calls),
    ]
    reply = await client.relay(dialect, {**body, "input": items, "stream": True}, session_id=session)
    parser = dialect.stream_parser()
    try:
        async for chunk in reply.chunks:
            parser.feed(chunk)
    finally:
        await reply.close()
    return parser.finish().message.content


async def main():
    client = EvalClient(EvalClientConfig(base_url=os.environ["BASE_URL"], api_key_var="KEY"))
    await client.close()
    client.client = wspool.http.async_client(library="httpx")
    try:
        return await asyncio.gather(*(rollout(client, number) for number in range(4)))
    finally:
        await client.close()


sys.stdout.write(json.dumps(asyncio.run(main())) + "\n")
