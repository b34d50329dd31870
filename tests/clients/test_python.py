"""Python clients in environments of their own, since their dependencies are not ours; as they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clients.conftest import Way
from tests.clients.installed import installed
from tests.clients.model import ANSWER
from wspool.cli.proxy_config import config_for


@pytest.mark.parametrize("version", [2, 3])
def test_openai(way: Way, version: int) -> None:
    """A tool loop that brings all of its history, and one that streams."""
    said = installed(f"python-openai-{version}").ask("by_openai.py", BASE_URL=way.base_url)
    assert [ANSWER, ANSWER] == said
    way.check([1, 4], [1, 4], given="http")


def test_openai_by_websocket(way: Way) -> None:
    """It goes on from a parent of its own."""
    said = installed("python-openai-3").ask("by_openai.py", BASE_URL=way.base_url, TRANSPORT="websocket")
    assert [ANSWER] == said
    way.check([1, 4], given="websocket")


@pytest.mark.parametrize("transport", ["http", "websocket"])
def test_agents(way: Way, transport: str) -> None:
    """A run, one that streams, and four at once."""
    said = installed("python-agents").ask("by_agents.py", BASE_URL=way.base_url, TRANSPORT=transport)
    assert [ANSWER] * 6 == said
    way.check(*[[1, 4]] * 6, given=transport)


@pytest.mark.parametrize("transport", ["http", "websocket"])
def test_pydantic_ai(way: Way, transport: str) -> None:
    """A run, and a second that goes on from it."""
    place = installed("python-pydantic-ai")
    said = place.ask("by_pydantic_ai.py", BASE_URL=way.base_url, TRANSPORT=transport)
    assert [ANSWER, ANSWER] == said
    way.check([1, 4, 7], given=transport)


def test_litellm_in_front(way: Way, tmp_path: Path) -> None:
    """Programs that speak chat completions or messages, by LiteLLM: what they bring is found again."""
    config = tmp_path / "config.yaml"
    config.write_text(config_for("litellm", way.base_url, websocket=True))
    said = installed("python-litellm-proxy").ask("in_front.py", CONFIG=str(config))
    assert [ANSWER, ANSWER] == said
    way.check([1, 4], [1, 4], given="http")
