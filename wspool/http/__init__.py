"""A pool behind an HTTP client: for whoever holds one of OpenAI's, or a framework on it.

::

    client = AsyncOpenAI(http_client=wspool.http.async_client())
    client = OpenAI(http_client=wspool.http.client())

Needs httpx2 or httpx, whichever the host uses (extra: http). The endpoint is each request's own URL; its
credential is each request's own. What is not for WebSocket goes over plain HTTP, as without this.
"""

from wspool.http.clients import async_client, client
from wspool.http.transport import AsyncPoolTransport, PoolTransport

__all__ = ["AsyncPoolTransport", "PoolTransport", "async_client", "client"]
