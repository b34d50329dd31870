"""Which provider a host is, and where its key is looked for and put."""

from __future__ import annotations

import pytest

from wspool.core.policy import AZURE, OPENAI, PROVIDERS, UNKNOWN, VERCEL, XAI, Provider
from wspool.core.providers import header_of, key_variable, provider_at, provider_named

#: Three parts, as Entra ID gives it.
TOKEN = "eyJhbGciOiJub25lIn0.eyJhdWQiOiJ4In0.c2ln"


@pytest.mark.parametrize(
    ("host", "provider", "variable"),
    [
        ("api.openai.com", OPENAI, "OPENAI_API_KEY"),
        ("api.openai.com.", OPENAI, "OPENAI_API_KEY"),
        ("eu.api.openai.com", OPENAI, "OPENAI_API_KEY"),
        ("api.x.ai", XAI, "XAI_API_KEY"),
        ("us-east-1.api.x.ai", XAI, "XAI_API_KEY"),
        ("ai-gateway.vercel.sh", VERCEL, "AI_GATEWAY_API_KEY"),
        ("eu.ai-gateway.vercel.sh", VERCEL, "AI_GATEWAY_API_KEY"),
        ("res.openai.azure.com", AZURE, "AZURE_OPENAI_API_KEY"),
        ("res.services.ai.azure.com", AZURE, "AZURE_OPENAI_API_KEY"),
        ("res.cognitiveservices.azure.com", AZURE, "AZURE_OPENAI_API_KEY"),
        ("res.openai.azure.us", AZURE, "AZURE_OPENAI_API_KEY"),
    ],
)
def test_a_host_says_whose_it_is(host: str, provider: Provider, variable: str) -> None:
    """The host itself, with or without the dot at its end, and the regions and resources below it."""
    assert provider is provider_at(host)
    assert variable == key_variable(host)


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "127.0.0.1", "::1", "10.0.0.1", "gateway.example", "com", ""),
        *("openai.com", "notapi.openai.com", "api.openai.com.evil.example", "xapi.openai.com"),
        *("azure.com", "openai.azure.com.example", "x.ai", "gateway.vercel.app", "example.azure-api.net"),
    ],
)
def test_nobodys_host_gets_nobodys_key(host: str) -> None:
    """What only looks like a provider's host is not one, and no variable is meant for it."""
    assert UNKNOWN is provider_at(host)
    assert key_variable(host) is None


def test_a_provider_has_a_name() -> None:
    """In capitals or not; another name is quoted beside those that there are."""
    for name, provider in PROVIDERS.items():
        assert provider is provider_named(name) is provider_named(name.upper())
    with pytest.raises(ValueError, match="provider='bedrock' is none of 'openai', 'azure', 'xai', 'vercel'"):
        provider_named("bedrock")


@pytest.mark.parametrize(
    ("provider", "key", "header"),
    [
        (OPENAI, "sk-1", ("Authorization", "Bearer sk-1")),
        (UNKNOWN, TOKEN, ("Authorization", f"Bearer {TOKEN}")),
        (AZURE, "k" * 32, ("api-key", "k" * 32)),
        (AZURE, TOKEN, ("Authorization", f"Bearer {TOKEN}")),
        (AZURE, "eyJ.no", ("api-key", "eyJ.no")),
        (Provider(name="mine", key_header="X-Api-Key"), TOKEN, ("X-Api-Key", TOKEN)),
        (Provider(name="mine", key_header="authorization"), "sk-1", ("Authorization", "Bearer sk-1")),
    ],
)
def test_a_key_goes_where_its_provider_looks_for_it(provider: Provider, key: str, header: object) -> None:
    """A Bearer, or alone in a header of its own; a token of Entra ID is a Bearer also where keys are not."""
    assert header == header_of(key, provider)


def test_an_unknown_provider_is_not_openai() -> None:
    """It has a name of its own, and keeps nothing unasked."""
    assert ("unknown", False, True) == (UNKNOWN.name, UNKNOWN.stores_by_default, OPENAI.stores_by_default)
    assert not Provider(name="mine").stores_by_default


def test_a_gateway_that_takes_no_warm_up_is_sent_none() -> None:
    """It would answer that as it answers a turn."""
    assert [OPENAI, AZURE, XAI] == [each for each in (OPENAI, AZURE, XAI, VERCEL) if each.warm_up]
