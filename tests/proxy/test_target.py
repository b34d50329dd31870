"""What a request asks for: every spelling of a path, and nothing above or beside the endpoint."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given, strategies as st

from wspool.proxy.target import Target, Upstream

OPENAI = Upstream("wss://api.openai.com/v1/responses")
CODEX = Upstream("wss://chatgpt.com/backend-api/codex/responses")
BARE = Upstream("ws://127.0.0.1:9/responses")


@pytest.mark.parametrize(
    ("upstream", "target", "url"),
    [
        (OPENAI, "/v1/models", "https://api.openai.com/v1/models"),
        (OPENAI, "/models?a=b", "https://api.openai.com/v1/models?a=b"),
        (OPENAI, "/v1/v1/models", "https://api.openai.com/v1/models"),
        (OPENAI, "//v1///models", "https://api.openai.com/v1/models"),
        (OPENAI, "/s/a%20b/v1/models", "https://api.openai.com/v1/models"),
        (OPENAI, "/v1/models/org%2Fname", "https://api.openai.com/v1/models/org%2Fname"),
        (OPENAI, "/v1x", "https://api.openai.com/v1/v1x"),
        (CODEX, "/backend-api/codex/responses", "https://chatgpt.com/backend-api/codex/responses"),
        (CODEX, "/v1/responses/", "https://chatgpt.com/backend-api/codex/responses"),
        (BARE, "/v1/responses", "http://127.0.0.1:9/responses"),
    ],
)
def test_every_spelling_leads_to_the_endpoint(upstream: Upstream, target: str, url: str) -> None:
    """Below its own path, whatever the program puts before."""
    found = Target.of(target, upstream)

    assert found is not None
    assert url == found.at(upstream)
    assert target.startswith("/s/") == (found.session == "a b")


@pytest.mark.parametrize(
    "target",
    [
        "",
        "*",
        "models",
        "http://other.example/v1/models",
        "other.example:443",
        "/v1/..",
        "/v1/../x",
        "/v1/%2e%2e/x",
        "/v1/.%2E/x",
        "/v1/..%2fx",
        "/v1/%252e%252e/x",
        "/v1/..%5cx",
        "/v1/x%00y",
        "/s/x/../v1/models",
        "/v1/./x",
        "/v1/x#y",
    ],
)
def test_nothing_leads_elsewhere(target: str) -> None:
    """No host, no step, however it is written."""
    assert Target.of(target, OPENAI) is None


@given(st.text(alphabet="/.%2eEfF5cv1sa\\?#:@", max_size=30))
def test_whatever_is_asked_for_is_below_the_endpoint(text: str) -> None:
    """For each way to read it."""
    found = Target.of("/" + text, OPENAI)
    if found is not None:
        parts = urlsplit(found.at(OPENAI))
        assert ("https", "api.openai.com") == (parts.scheme, parts.netloc)
        for path in (parts.path, unquote(parts.path), unquote(unquote(parts.path))):
            assert path.startswith("/v1/")
            assert ".." not in path.replace("\\", "/").split("/")
