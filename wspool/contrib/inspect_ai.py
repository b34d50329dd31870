"""inspect_ai: `--model wspool/gpt-5.2` is OpenAI's provider over a pool of connections.

It is found by its entry point; nothing needs to be imported::

    inspect eval task.py --model wspool/gpt-5.2 -M max_size=64 -M lanes=8

Arguments of the model (`-M`) with the names of `wspool.PoolPolicy` are the pool's limits, all others those of
inspect's own OpenAI provider, whose key and base URL it takes as well. On asyncio and trio.
"""

# pyright: basic, reportMissingImports=false

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from wspool.core.policy import PoolPolicy
from wspool.http import async_client

if TYPE_CHECKING:
    from inspect_ai.model import ModelAPI

__all__ = ["model_api", "register"]


def model_api() -> type[ModelAPI]:
    """Return the class behind `wspool/...`. Never waits.

    Raises:
        ImportError: inspect_ai or openai is not installed.
    """
    # Not public there, but what `openai/...` is; its public cousin is for other companies' endpoints.
    from inspect_ai.model._providers.openai import OpenAIAPI

    class WspoolAPI(OpenAIAPI):  # type: ignore[misc, unused-ignore]
        """OpenAI's Responses API, over WebSocket."""

        def __init__(self, model_name: str, **arguments: Any) -> None:
            names = attrs.fields_dict(PoolPolicy).keys() & arguments.keys()
            self._policy = PoolPolicy(**{name: arguments.pop(name) for name in names})
            arguments["responses_api"] = True
            client: Any = async_client(policy=self._policy)
            super().__init__(model_name, http_client=client, **arguments)

        def initialize(self) -> None:
            # After an eval its client is closed, and the next one begins with this.
            client: Any = self.http_client
            self.http_client: Any = async_client(policy=self._policy) if client.is_closed else client
            super().initialize()

    return WspoolAPI


def register() -> None:
    """Make `wspool/...` known to inspect_ai. Never waits; what its entry point does.

    Raises:
        ImportError: inspect_ai is not installed.
    """
    from inspect_ai.model import modelapi

    modelapi(name="wspool")(model_api)


def __getattr__(name: str) -> Any:
    # An entry point is looked up, not called. So this module can be imported where inspect_ai is not.
    if name == "registered":
        register()
        return True
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
