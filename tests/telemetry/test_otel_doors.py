"""OpenTelemetry through a door for HTTP clients: whose span it is, and not twice."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import wspool
import wspool.http
from tests.telemetry.test_otel import Sdk
from wspool.testing.local import local_server

pytestmark = pytest.mark.network

KEY = {"authorization": "Bearer sk-test"}


@pytest.mark.parametrize("operation", [None, "chat"])
def test_a_request_of_an_http_client_is_a_span_of_its_caller(operation: str | None) -> None:
    """As without a door; an instrumented SDK has made that span already, and is told what the pool knows."""
    pytest.importorskip("httpx")
    sdk = Sdk()
    attributes: dict[str, Any] = {} if operation is None else {"gen_ai.operation.name": operation}

    async def main(url: str) -> None:
        async with wspool.http.async_client(library="httpx", instrument=sdk.instrument) as client:

            async def ask(name: str) -> None:
                with sdk.tracer.start_as_current_span(name, attributes=attributes):
                    answer = await client.post(url, json={"model": name, "input": "hello"}, headers=KEY)
                    assert 200 == answer.status_code

            await asyncio.gather(*(ask(f"caller {number}") for number in range(4)))

    with local_server() as server:
        asyncio.run(main(server.http_url))
    callers = {span.name: span for span in sdk.spans("caller")}
    assert 4 == len(callers)
    if operation is None:
        found = {span.attributes["gen_ai.request.model"]: span.parent.span_id for span in sdk.spans("chat")}
        assert {name: span.context.span_id for name, span in callers.items()} == found
    else:
        assert [] == sdk.spans("chat")
        assert all("wspool.connection" in span.attributes for span in callers.values())
