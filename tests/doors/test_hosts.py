"""asyncio as web services have it: loops of uvloop, and a FastAPI application that shares one pool."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

import wspool
from tests.doors.conftest import Far
from wspool import aio

POLICY = wspool.PoolPolicy(max_size=4, min_idle=0)

TOOLS = [{"type": "function", "name": "one", "parameters": {"type": "object", "properties": {}}}]


def test_uvloop(far: Far) -> None:
    """Two runs in a process: turns, streams, tools in its loop; a cancelled turn is given up."""
    uvloop: Any = pytest.importorskip("uvloop", reason="uvloop is not installed")
    loops: list[Any] = []

    async def one() -> str:
        loops.append(asyncio.get_running_loop())
        await asyncio.sleep(0)
        return "done"

    async def main() -> None:
        async with asyncio.timeout(30), aio.open_pool(far.url, policy=POLICY) as pool:

            async def talk(number: int) -> None:
                async with pool.conversation(model="m") as conversation:
                    assert f"n{number}" == (await conversation.respond(f"n{number}")).output_text
                    async with conversation.turn("again") as turn:
                        assert "response.completed" == [event.type async for event in turn][-1]

            await asyncio.gather(*[talk(number) for number in range(8)])
            async with pool.conversation(model="m", tools=TOOLS) as conversation:
                assert "done" == (await conversation.run("call one", tools={"one": one})).output_text
            with pytest.raises(asyncio.TimeoutError):
                async with pool.conversation(model="m") as conversation:
                    await asyncio.wait_for(conversation.respond("wait"), 0.1)
            assert 0 == pool.statistics().leased
        assert {asyncio.get_running_loop()} == set(loops)
        loops.clear()

    for _ in range(2):
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main())


@pytest.mark.filterwarnings("default")  # theirs are not ours
def test_fastapi(far: Far) -> None:
    """A pool for the length of the application; handlers that answer and that stream."""
    fastapi: Any = pytest.importorskip("fastapi", reason="fastapi is not installed")
    testclient: Any = pytest.importorskip("fastapi.testclient", reason="its test client needs httpx")
    responses: Any = pytest.importorskip("starlette.responses")
    pools: list[Any] = []

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncGenerator[None]:
        async with aio.open_pool(far.url, policy=POLICY) as pool:
            pools.append(pool)
            yield

    app = fastapi.FastAPI(lifespan=lifespan)

    @app.get("/ask")  # type: ignore[untyped-decorator, unused-ignore] # if it is not installed
    async def ask(text: str) -> dict[str, str]:
        async with pools[0].conversation(model="m") as conversation:
            return {"answer": (await conversation.respond(text)).output_text}

    @app.get("/stream")  # type: ignore[untyped-decorator, unused-ignore] # the same
    async def stream(text: str) -> Any:
        async def events() -> AsyncGenerator[str]:
            async with pools[0].conversation(model="m") as conversation, conversation.turn(text) as turn:
                async for event in turn:
                    yield f"data: {event.type}\n\n"

        return responses.StreamingResponse(events(), media_type="text/event-stream")

    with testclient.TestClient(app) as client:
        assert {"answer": "hello"} == client.get("/ask", params={"text": "hello"}).json()
        lines = client.get("/stream", params={"text": "a b c"}).text.split()
        assert ("response.created", "response.completed") == (lines[1], lines[-1])
        assert 0 == pools[0].statistics().leased
    assert 2 == len(far.ledger)
