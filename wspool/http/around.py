"""The way round the pools: what sends over plain HTTP, where nobody has given a transport for that.

Rules of this module:

* It goes as the pools do: through the same proxy, and with the same certificates. A program that reaches its
  endpoint by one of the two reaches it by the other.
* A transport is made when it is needed first: most programs never do.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Mapping
from typing import Any, Literal, cast

from wspool.http.identity import Url
from wspool.wire.proxy_environment import environment_proxy

__all__ = ["Around"]


class Around:
    """Transports of httpx2 or httpx, one for each proxy.

    Args:
        kind: the name of their class.
        given: one that a caller has given, which is all there is then.
        options: what the pools are opened with.
    """

    def __init__(
        self, kind: Literal["AsyncHTTPTransport", "HTTPTransport"], given: Any, options: Mapping[str, Any]
    ) -> None:
        self._kind = kind
        self._given = given
        self._context: ssl.SSLContext | None = options.get("ssl_context")
        self._proxy: str | None = options.get("proxy")
        self._making = threading.Lock()
        self._made: dict[str | None, Any] = {}

    def to(self, module: Any, url: Any) -> Any:
        """Return what sends to *url*, that of a request of *module*. From any thread.

        Raises:
            ImportError: the library lacks what its proxy needs.
        """
        if self._given is not None:
            return self._given
        proxy = self._proxy_for(cast("Url", url))
        with self._making:
            if proxy not in self._made:
                options: dict[str, Any] = {} if self._context is None else {"verify": self._context}
                self._made[proxy] = getattr(module, self._kind)(proxy=proxy, **options)
            return self._made[proxy]

    @property
    def all(self) -> list[Any]:
        """All that there are, to be closed."""
        return [self._given] if self._given is not None else list(self._made.values())

    def _proxy_for(self, url: Url) -> str | None:
        proxy = self._proxy
        if proxy == "environment":
            secure = url.scheme == "https"
            proxy = environment_proxy(url.host, url.port or (443 if secure else 80), secure=secure)
        if proxy is None or "://" in proxy:
            return proxy
        return f"http://{proxy}"
