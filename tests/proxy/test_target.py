"""What a request asks for: every spelling of a path, and nothing above or beside the endpoint."""

from __future__ import annotations

from urllib.parse import quote, unquote, urlsplit

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
        (BARE, "/", "http://127.0.0.1:9/"),
        (OPENAI, "/v1/%72espon%73es", "https://api.openai.com/v1/responses"),
        (OPENAI, "/%76%31/a%7Eb%2db", "https://api.openai.com/v1/a~b-b"),
        (OPENAI, "///s/a%20b///v1/responses", "https://api.openai.com/v1/responses"),
        (OPENAI, "/%73/%61%20b/responses", "https://api.openai.com/v1/responses"),
        (OPENAI, "/models/s/x", "https://api.openai.com/v1/models/s/x"),
        (OPENAI, "/sx/y", "https://api.openai.com/v1/sx/y"),
    ],
)
def test_every_spelling_leads_to_the_endpoint(upstream: Upstream, target: str, url: str) -> None:
    """Below its own path, whatever the program puts before."""
    found = Target.of(target, upstream)

    assert found is not None
    assert url == found.at(upstream)
    assert ("20b" in target) == (found.session == "a b")


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
        "/v1/..;/x",
        "/v1/..;a=b",
        "/v1/x%0d%0ay",
        "/v1/x%7f",
        "/v1/x%250Ay",
        "/v1",
        "/v1/",
        "/v1//v1/",
        "/s",
        "/s/",
        "/s//v1/responses",
        "//s///v1/responses",
        "/s/x",
        "/s/x/",
        "/s/x/v1",
        "/s/x/v1/",
        "/s/x/s/y/v1/responses",
        "/s/x//s/y/v1/responses",
        "/s/%ff/v1/responses",
        "/s/x%09y/v1/responses",
        "/s/" + "x" * 129 + "/v1/responses",
        "/s/" + "%C3%A4" * 129 + "/v1/responses",
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


@pytest.mark.parametrize("name", ["x" * 128, "ä" * 128, "a/b", " ", "日本 7", "%41", ".x", "s", "v1"])
def test_a_session_has_the_name_that_was_given(name: str) -> None:
    """Its length is that of the name, not of what that is encoded as."""
    found = Target.of(f"/s/{quote(name, safe='')}/v1/responses", OPENAI)

    assert Target("/responses", session=name) == found


@given(st.text(alphabet="/sv1x.%2fF5", max_size=16).map("/".__add__))
def test_what_begins_as_a_session_s_is_one_s_or_nothing(target: str) -> None:
    """Its name is the second segment as it stands there, never what comes after that."""
    first, *rest = target.lstrip("/").split("/")
    found = Target.of(target, OPENAI)

    if first == "s":
        assert found is None or [found.session] == [unquote(part) for part in rest[:1]]
    elif "%" not in first:
        assert found is None or found.session is None


@given(st.text(alphabet="/sv1rx~-._", max_size=12).map("/".__add__), st.data())
def test_one_path_has_one_spelling(target: str, data: st.DataObject) -> None:
    """Whatever of it is encoded that need not be."""
    encoded = "".join(
        f"%{ord(char):02X}" if char != "/" and data.draw(st.booleans()) else char for char in target
    )

    assert Target.of(target, OPENAI) == Target.of(encoded, OPENAI)
