"""aiperf (NVIDIA's load generator): a transport for the WebSocket side of an endpoint.

::

    $ aiperf profile --transport wspool --endpoint-type responses --streaming --url http://127.0.0.1:8080 ...

It is found by its entry point. The URL is that of the endpoint's HTTP side, since aiperf 0.13 takes no other
scheme; the pool makes `ws` and `wss` of it. aiperf's datasets, arrivals, measures and reports stay its own,
and so does the whole history that it sends with each turn: what the endpoint has is left out here.

Rules of this module:

* No request waits for another one: each worker of aiperf has as many connections as it has requests at once.
  What is measured is then the endpoint, and not a queue of ours.
* Nothing goes by HTTP, and nothing is sent again that may have run: a load test wants to see what happened.
"""

# Where the host is not installed, pyright takes this module, which is beside itself, for it.
# pyright: basic, reportMissingImports=false, reportGeneralTypeIssues=false, reportAttributeAccessIssue=false
# pyright: reportUntypedFunctionDecorator=false, reportUntypedBaseClass=false
# mypy: disable-error-code="misc,no-any-return,untyped-decorator"

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit, urlunsplit

import orjson
from aiperf.common.hooks import on_init, on_stop
from aiperf.common.models import ErrorDetails, RequestRecord, TextResponse
from aiperf.common.redact import redact_headers
from aiperf.plugin.enums import TransportType
from aiperf.plugin.schema.schemas import TransportMetadata
from aiperf.transports.base_transports import BaseTransport
from aiperf.transports.sse_utils import AsyncSSEStreamReader

from wspool.core.policy import PoolPolicy
from wspool.http import async_client

if TYPE_CHECKING:
    from aiperf.common.models import RequestInfo

__all__ = ["Transport"]

#: Connections of one worker at most: aiperf decides how many requests are under way.
_MAX_SIZE: Final = 4_096
#: The endpoint's path where `--url` has none and `--custom-endpoint` is not given.
_PATH: Final = "/v1/responses"
_NANOSECONDS: Final = 1_000_000_000


class _NoHttp:
    """What takes a request that would go by HTTP: nothing does."""

    async def handle_async_request(self, request: object) -> object:
        raise OSError("the endpoint takes this request by HTTP only: measure that with --transport http")

    async def aclose(self) -> None:
        """There is nothing to close."""


class Transport(BaseTransport):
    """aiperf's `Transport` over a pool of WebSockets. Made by aiperf, one for each of its workers."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self._client: Any = None

    @classmethod
    def metadata(cls) -> TransportMetadata:
        """Say which schemes of URL this is for. Never waits."""
        return TransportMetadata(transport_type=TransportType("wspool"), url_schemes=["ws", "wss"])

    @on_init
    async def _open(self) -> None:
        policy = PoolPolicy(max_size=_MAX_SIZE, connect_timeout=60)
        timeout = self.model_endpoint.endpoint.timeout
        client = {"timeout": timeout, "follow_redirects": False}
        self._client = async_client(http=_NoHttp(), client=client, policy=policy)

    @on_stop
    async def _close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    def get_transport_headers(self, request_info: RequestInfo) -> dict[str, str]:
        """Return what says in which form the answer is wanted. Never waits."""
        streaming = request_info.model_endpoint.endpoint.streaming
        accept = "text/event-stream" if streaming else "application/json"
        return {"Accept": accept, "Content-Type": "application/json"}

    def get_url(self, request_info: RequestInfo) -> str:
        """Return the URL of the endpoint's HTTP side. Never waits."""
        endpoint = request_info.model_endpoint.endpoint
        scheme, host, path, query, _ = urlsplit(endpoint.get_url(request_info.url_index))
        wanted = _PATH if endpoint.custom_endpoint is None else "/" + endpoint.custom_endpoint.lstrip("/")
        path = path.rstrip("/")
        if not path.endswith(wanted):
            path = path.removesuffix("/v1") + wanted
        return urlunsplit(({"ws": "http", "wss": "https"}.get(scheme, scheme), host, path, query, ""))

    async def send_request(
        self, request_info: RequestInfo, payload: Any, *, first_token_callback: Any = None
    ) -> RequestRecord:
        """Perform one request. Return its record, with every event and its time, whatever went wrong."""
        headers = self.build_headers(request_info)
        record = RequestRecord(request_headers=redact_headers(headers))
        body = payload if isinstance(payload, bytes) else orjson.dumps(payload)
        limit = request_info.cancel_after_ns
        try:
            async with asyncio.timeout(None if limit is None else limit / _NANOSECONDS):
                await self._perform(self.build_url(request_info), body, headers, record, first_token_callback)
        except TimeoutError as error:
            record.end_perf_ns = time.perf_counter_ns()
            if limit is not None:
                record.cancellation_perf_ns = record.end_perf_ns
                record.error = ErrorDetails(
                    type="RequestCancellationError",
                    message=f"cancelled {limit / _NANOSECONDS:.3f} s after it was asked for",
                    code=499,
                )
            else:
                record.error = ErrorDetails.from_exception(error)
        except Exception as error:  # aiperf counts what went wrong by the record; a worker must not end of it
            record.end_perf_ns = time.perf_counter_ns()
            record.error = ErrorDetails.from_exception(error)
        return record

    async def _perform(
        self, url: str, body: bytes, headers: dict[str, str], record: RequestRecord, callback: Any
    ) -> None:
        record.timestamp_ns, record.start_perf_ns = time.time_ns(), time.perf_counter_ns()
        async with self._client.stream("POST", url, content=body, headers=headers) as answer:
            record.status = answer.status_code
            if not answer.is_success:
                text = (await answer.aread()).decode("utf-8", "replace")
                record.end_perf_ns = time.perf_counter_ns()
                record.error = ErrorDetails(code=answer.status_code, type=answer.reason_phrase, message=text)
                return
            record.recv_start_perf_ns = time.perf_counter_ns()
            if answer.headers.get("content-type", "").startswith("text/event-stream"):
                waiting = callback is not None
                async for message in AsyncSSEStreamReader(answer.aiter_raw()):
                    AsyncSSEStreamReader.inspect_message_for_error(message)
                    record.responses.append(message)
                    if waiting:
                        waiting = not await callback(message.perf_ns - record.start_perf_ns, message)
            else:
                text = (await answer.aread()).decode("utf-8", "replace")
                kind = answer.headers.get("content-type", "")
                now = time.perf_counter_ns()
                record.responses.append(TextResponse(perf_ns=now, content_type=kind, text=text))
            record.end_perf_ns = time.perf_counter_ns()
