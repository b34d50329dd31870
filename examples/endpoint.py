"""Where the examples go: to OpenAI if OPENAI_API_KEY is set, else to a provider on this machine.

`WSPOOL_EXAMPLES_URL` names another endpoint, such as that of `wspool serve`.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import wspool
from wspool.server import Model
from wspool.testing import local_server

#: What the examples ask for. Any model that calls tools will do.
MODEL = os.environ.get("WSPOOL_EXAMPLES_MODEL", "gpt-5.2")


@dataclass
class Endpoint:
    """An endpoint, as pools and as SDKs write it; what is local needs no key, but SDKs want one."""

    url: str
    key: str | None

    @property
    def base_url(self) -> str:
        """What SDKs call so."""
        return self.url.replace("ws", "http", 1).removesuffix("/responses")

    @property
    def sdk_key(self) -> str:
        """What an SDK is given."""
        return self.key or "sk-of-nobody"


@contextmanager
def endpoint(model: Model | None = None) -> Iterator[Endpoint]:
    """Yield an endpoint; *model* answers if it is local, an echo if there is none."""
    key = os.environ.get("OPENAI_API_KEY")
    if url := os.environ.get("WSPOOL_EXAMPLES_URL"):
        yield Endpoint(url, None)
    elif key:
        yield Endpoint(wspool.DEFAULT_URL, key)
    else:
        with local_server(model=model) as server:
            yield Endpoint(server.url, None)
