"""openai-agents: a model provider whose models share pools of connections.

::

    from agents import RunConfig, Runner
    from wspool.contrib.agents import model_provider

    await Runner.run(agent, "Hello.", run_config=RunConfig(model_provider=model_provider()))

The SDK's own WebSocket mode has one connection and one lock for each model and loop, so runs that are started
together wait for each other. Here they do not.
"""

# Where the SDK is not installed, pyright takes this module, which is beside itself, for it.
# pyright: basic, reportMissingImports=false, reportGeneralTypeIssues=false, reportAttributeAccessIssue=false

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wspool.http import async_client

if TYPE_CHECKING:
    from agents import ModelProvider

__all__ = ["model_provider"]


def model_provider(*, base_url: str | None = None, api_key: str | None = None, **pool: Any) -> ModelProvider:
    """Return a provider for `RunConfig(model_provider=...)`, or for one agent's `get_model`. Never waits.

    Args:
        base_url: where the API is; by default that of the SDK (`OPENAI_BASE_URL`, else OpenAI).
        api_key: the key; by default that of the SDK (`OPENAI_API_KEY`).
        **pool: what the pools are opened with, as for `wspool.open_pool`: `policy`, `provider`, `proxy` ...

    Connections are opened at the first run, and closed with the process. Sessions, handoffs, streaming and
    tracing are the SDK's, as ever.

    Raises:
        ImportError: openai-agents is not installed.
    """
    from agents import OpenAIProvider
    from openai import AsyncOpenAI

    client = AsyncOpenAI(base_url=base_url, api_key=api_key, http_client=async_client(**pool))
    return OpenAIProvider(openai_client=client, use_responses=True, use_responses_websocket=False)
