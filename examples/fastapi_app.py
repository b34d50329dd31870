"""A web service that streams answers: FastAPI, under uvicorn or hypercorn.

`python fastapi_app.py` asks itself once under each and ends. To keep it running: `uvicorn fastapi_app:app`,
with OPENAI_API_KEY set, or WSPOOL_EXAMPLES_URL.
"""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import hypercorn.asyncio
import hypercorn.config
import uvicorn
from endpoint import MODEL, endpoint
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

import wspool


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, wspool.aio.Pool]]:
    """One pool for the application; running answers may end when it stops."""
    with endpoint() as where:
        async with wspool.aio.open_pool(where.url, policy=wspool.PoolPolicy(max_size=8, min_idle=2)) as pool:
            await pool.wait_ready()
            yield {"pool": pool}
            await pool.aclose(grace=10)


app = FastAPI(lifespan=lifespan)


@app.get("/ask")
async def ask(request: Request, question: str) -> StreamingResponse:
    """Stream an answer as plain text. A client that goes away gives the turn up."""

    async def pieces() -> AsyncIterator[str]:
        async with request.state.pool.conversation(model=MODEL, store=False) as conversation:
            async with conversation.turn(question) as turn:
                async for event in turn:
                    if event.type == "response.output_text.delta":
                        yield event.data["delta"]

    return StreamingResponse(pieces(), media_type="text/plain")


async def ask_once(port: int) -> str:
    """Ask the service, as soon as it is there."""
    async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(retries=8)) as client:
        return (await client.get(f"http://127.0.0.1:{port}/ask", params={"question": "Who are you?"})).text


async def main() -> None:
    """Serve and ask, once under each."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning"))
    serving = asyncio.create_task(server.serve())
    print("uvicorn:", await ask_once(port))
    server.should_exit = True
    await serving

    config, over = (
        hypercorn.config.Config.from_mapping(bind=[f"127.0.0.1:{port}"], accesslog=None),
        asyncio.Event(),
    )
    config.errorlog = None
    serving = asyncio.create_task(hypercorn.asyncio.serve(app, config, shutdown_trigger=over.wait))
    print("hypercorn:", await ask_once(port))
    over.set()
    await serving


if __name__ == "__main__":
    asyncio.run(main())
