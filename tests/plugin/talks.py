"""The same talk by different clients: a question, a tool call, its output, the answer."""

from collections.abc import Callable
from typing import Any

import openai
import trio
from openai.types.responses import Response

import wspool

QUESTION = "What is the weather in Paris?"
INSTRUCTIONS = "Be brief."
TOOL: dict[str, Any] = {
    "type": "function",
    "name": "weather",
    "description": "Says what the weather is.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
SETTINGS: dict[str, Any] = {"model": "gpt-5.2", "instructions": INSTRUCTIONS, "tools": [TOOL]}


def call_id(response: Response) -> str:
    return next(item.call_id for item in response.output if item.type == "function_call")


def by_openai_over_http(url: str, question: str = QUESTION) -> str:
    """The whole conversation each time, once as JSON and once as a stream."""
    with openai.OpenAI(api_key="sk-test", base_url=url, max_retries=0) as client:
        items: list[Any] = [{"role": "user", "content": question}]
        first = client.responses.create(input=items, **SETTINGS)
        items += [item.model_dump(exclude_none=True) for item in first.output]
        items.append({"type": "function_call_output", "call_id": call_id(first), "output": "sunny"})
        with client.responses.stream(input=items, **SETTINGS) as stream:
            stream.until_done()
            return stream.get_final_response().output_text


def by_openai_over_websocket(url: str, question: str = QUESTION) -> str:
    """Only what is new, on one connection."""
    with (
        openai.OpenAI(api_key="sk-test", base_url=url, max_retries=0) as client,
        client.responses.connect() as connection,
    ):

        def turn(**fields: Any) -> Response:
            connection.response.create(store=False, **SETTINGS, **fields)
            for event in connection:
                assert event.type != "error", event
                if event.type == "response.completed":
                    return event.response
            raise AssertionError

        first = turn(input=question)
        output = {"type": "function_call_output", "call_id": call_id(first), "output": "sunny"}
        return turn(previous_response_id=first.id, input=[output]).output_text


def by_wspool(url: str, question: str = QUESTION) -> str:
    """Deltas over a pool."""

    async def main() -> str:
        policy = wspool.PoolPolicy(max_size=2, min_idle=0)
        async with (
            wspool.open_pool(url.replace("http", "ws") + "/responses", policy=policy) as pool,
            pool.conversation(**SETTINGS) as conversation,
        ):
            response = await conversation.run(question, tools={"weather": lambda city: "sunny"})
        return response.output_text

    return trio.run(main)


TALKS: list[Callable[..., str]] = [by_openai_over_http, by_openai_over_websocket, by_wspool]
