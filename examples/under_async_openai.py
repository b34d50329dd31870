"""Under the openai SDK: one line is different, and only what is new goes over the wire."""

import asyncio

from endpoint import MODEL, endpoint
from openai import AsyncOpenAI

import wspool.http


async def main(base_url: str, key: str) -> None:
    """Two questions with the whole history each, and one that is streamed."""
    http_client = wspool.http.async_client(policy=wspool.PoolPolicy(max_size=8))
    async with AsyncOpenAI(base_url=base_url, api_key=key, http_client=http_client) as client:
        items = [{"role": "user", "content": "What is the capital of France?"}]
        for question in ("And of Spain?", "Thank you."):
            response = await client.responses.create(model=MODEL, input=items, store=False)
            print(response.output_text)
            items += [*response.output, {"role": "user", "content": question}]
        async with client.responses.stream(model=MODEL, input=items, store=False) as stream:
            async for event in stream:
                if event.type == "response.output_text.delta":
                    print(event.delta, end="", flush=True)
        print()


if __name__ == "__main__":
    with endpoint() as where:
        asyncio.run(main(where.base_url, where.sdk_key))
