"""What goes with an upgrade: headers as people write them, the key where it belongs, and who asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

import attrs
import pytest

import wspool
from tests.helpers import CANARY, URL, FakeConnector, echo, fake_pool
from wspool.core.policy import UNKNOWN
from wspool.core.providers import _VARIABLES
from wspool.pool.open import _PoolManager
from wspool.pool.upgrade import USER_AGENT

WHO = ("User-Agent", f"wspool/{wspool.__version__}")

AZURE_URL = "wss://res.openai.azure.com/openai/v1/responses?api-version=preview"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key for each provider, as on a machine of somebody who uses them all."""
    for variable in _VARIABLES.values():
        monkeypatch.setenv(variable, f"{variable}-{CANARY}")


async def sent(url: str = URL, **options: Any) -> list[tuple[str, str]]:
    """The headers of one dial, without the one that says who asks."""
    connector = FakeConnector(echo)
    manager: Any = wspool.open_pool(url, wire=connector, **options)
    headers = list(await manager.setup.headers())
    assert headers[0][0] == "User-Agent" or any(name.lower() == "user-agent" for name, _ in headers)
    return [header for header in headers if header != WHO]


@pytest.mark.parametrize(
    ("url", "variable"),
    [
        ("wss://api.openai.com/v1/responses", "OPENAI_API_KEY"),
        ("wss://eu.api.openai.com./v1/responses", "OPENAI_API_KEY"),
        ("wss://api.x.ai/v1/responses", "XAI_API_KEY"),
        ("wss://ai-gateway.vercel.sh/v1/responses", "AI_GATEWAY_API_KEY"),
    ],
)
async def test_a_key_of_the_environment_goes_to_its_own_provider(url: str, variable: str) -> None:
    """Each host gets its own provider's, and no other."""
    assert [("Authorization", f"Bearer {variable}-{CANARY}")] == await sent(url)


@pytest.mark.parametrize("host", ["127.0.0.1:1", "localhost:1", "[::1]:1", "127.9.9.9"])
@pytest.mark.parametrize("provider", [None, "openai", "azure", wspool.XAI])
async def test_no_key_of_the_environment_goes_to_a_loopback_port(host: str, provider: Any) -> None:
    """Whoever listens there, and whatever it is said to be: it gets the key that was passed, or none."""
    assert [] == await sent(f"ws://{host}/v1/responses", provider=provider)


@pytest.mark.parametrize(
    "host", ["example.com", "api.openai.com.example.com", "openai.com", "10.0.0.1", "gateway.internal"]
)
@pytest.mark.parametrize("provider", [None, "openai", "xai", wspool.OPENAI])
async def test_no_key_of_the_environment_goes_to_another_host(host: str, provider: Any) -> None:
    """That is said, not sent; passed, it goes where it was passed to."""
    url = f"wss://{host}/v1/responses"
    with pytest.raises(ValueError, match="no API key: pass api_key=") as caught:
        await sent(url, provider=provider)
    assert "canary" not in str(caught.value)

    assert [("Authorization", f"Bearer {CANARY}")] == await sent(url, provider=provider, api_key=CANARY)


async def test_a_missing_key_is_asked_for_by_its_name(monkeypatch) -> None:
    """The variable that is looked at is the one that is named."""
    for variable in _VARIABLES.values():
        monkeypatch.delenv(variable)
    for url, variable in (("wss://api.x.ai/", "XAI_API_KEY"), (AZURE_URL, "AZURE_OPENAI_API_KEY")):
        with pytest.raises(ValueError, match=f"^no API key: set {variable}, or pass api_key=$"):
            await sent(url)


@pytest.mark.parametrize("write", [dict, list, tuple, iter], ids=["mapping", "list", "tuple", "iterator"])
async def test_headers_are_a_mapping_or_pairs(write: Callable[[Any], Any]) -> None:
    """As curl, httpx and the SDKs take them, and in their order."""
    pairs = [("X-B", "1"), ("X-A", "2")]

    assert pairs == await sent(headers=write(pairs))


@pytest.mark.parametrize("bad", ["X-A: b", ["XA"], [("X-A",)], [("X-A", CANARY, "c")], [1], 7, {"a"}, [None]])
async def test_headers_that_are_neither_are_refused(bad: Any) -> None:
    """With what to write, and without what was written."""
    with pytest.raises(TypeError, match="headers is a mapping of names to values, or pairs") as caught:
        await sent(headers=bad)

    assert "canary" not in repr(caught.value)


@pytest.mark.parametrize("value", [None, 1, b"x"])
async def test_a_value_that_is_no_text_is_refused(value: Any) -> None:
    """It could not be sent; an environment variable that is not set comes as None."""
    with pytest.raises(ValueError, match="the value of header 'X-A' must be visible ASCII"):
        await sent(headers={"X-A": value})


async def test_who_asks_is_said_and_can_be_said_otherwise() -> None:
    """There are edges that refuse whoever does not say; a caller's own name takes its place, in any case."""
    manager: Any = wspool.open_pool(URL, wire=FakeConnector(echo))
    assert (WHO,) == tuple(await manager.setup.headers())
    assert USER_AGENT == WHO[1]
    assert [("user-agent", "mine/1")] == await sent(headers={"user-agent": "mine/1"})


@pytest.mark.parametrize("name", ["api-key", "Api-Key", "X-API-Key", "x-goog-api-key"])
@pytest.mark.parametrize("url", [AZURE_URL, "wss://gateway.example/v1", "wss://api.openai.com/v1"])
async def test_a_key_in_a_header_is_the_credential(name: str, url: str) -> None:
    """No other is wanted, and none of the environment is sent beside it."""
    assert [(name, CANARY)] == await sent(url, headers={name: CANARY})


async def test_a_gateway_with_a_credential_of_its_own() -> None:
    """What is no key of the provider's takes the place of none, but makes one dispensable elsewhere."""
    headers = {"cf-access-client-secret": CANARY}
    assert [*headers.items()] == await sent("wss://gateway.example/", headers=headers)
    assert 2 == len(await sent("wss://api.openai.com/", headers=headers))


async def test_azure_gets_keys_as_keys_and_tokens_as_tokens() -> None:
    """Found by its host or named; a function may give either, and is asked for each dial."""
    token = "eyJhbGciOiJub25lIn0.eyJhdWQiOiJ4In0.c2ln"
    given: Iterator[str] = iter(["k" * 32, token])

    async def ask() -> str:
        return next(given)

    assert [("api-key", f"AZURE_OPENAI_API_KEY-{CANARY}")] == await sent(AZURE_URL)
    assert [("api-key", "k" * 32)] == await sent(provider="azure", api_key="k" * 32)
    for key in (token, lambda: token):
        assert [("Authorization", f"Bearer {token}")] == await sent(provider="azure", api_key=key)
    manager: Any = wspool.open_pool(AZURE_URL, wire=FakeConnector(echo), api_key=ask)
    assert ["api-key", "Authorization"] == [(await manager.setup.headers())[-1][0] for _ in range(2)]


async def test_one_credential_has_one_place() -> None:
    """Two of them would disagree; a gateway's own beside the provider's is another matter."""
    with pytest.raises(ValueError, match="as api_key= or as header 'api-key', not as both"):
        await sent(AZURE_URL, api_key=CANARY, headers={"API-Key": CANARY})

    assert 2 == len(await sent("wss://gateway.example/", api_key=CANARY, headers={"x-api-key": CANARY}))


@pytest.mark.parametrize(
    ("name", "text"), [("X A", "is not a header name"), ("Host", "belongs to the handshake")]
)
async def test_a_key_header_is_one_that_can_be_sent(name: str, text: str) -> None:
    """It is checked where it is written, as the others are."""
    with pytest.raises(ValueError, match=text):
        await sent(provider=wspool.Provider(name="mine", key_header=name), api_key=CANARY)


def setup(url: str, **options: Any) -> Any:
    """What `open_pool` makes of these arguments."""
    return cast("_PoolManager", wspool.open_pool(url, wire=FakeConnector(echo), **options)).setup


def test_a_provider_is_named_found_by_its_host_or_unknown() -> None:
    """What is said counts more than the host; what nobody said is not taken for OpenAI."""
    assert wspool.XAI is setup("wss://api.x.ai/v1/responses").provider
    assert wspool.AZURE is setup(AZURE_URL).provider
    assert wspool.XAI is setup(URL, provider="xai").provider
    assert wspool.AZURE is setup("wss://api.openai.com/", provider=wspool.AZURE).provider
    assert UNKNOWN is setup(URL).provider
    assert UNKNOWN is setup("wss://api.openai.com.example/", api_key="sk-1").provider
    with pytest.raises(ValueError, match="provider='grok' is none of"):
        setup(URL, provider="grok")


@pytest.mark.parametrize(
    "resource",
    [
        "/openai/v1/responses?api-version=preview",
        "/openai/deployments/my-model/responses?api-version=2025-04-01-preview&x=%20y",
        "/v1/responses/",
        "/",
        "/?",
    ],
)
def test_a_resource_goes_out_as_it_was_written(resource: str) -> None:
    """Query, deployment, trailing slash."""
    assert resource == setup(f"wss://res.openai.azure.com{resource}").endpoint.resource


def test_subprotocols_are_names_offered_once() -> None:
    """Checked where they are written and never shown, for some put a key into one."""
    offered = setup(URL, subprotocols=["realtime", f"openai-insecure-api-key.{CANARY}"]).endpoint
    assert ("realtime", f"openai-insecure-api-key.{CANARY}") == offered.subprotocols
    assert "canary" not in repr(offered)
    for bad in (["a b"], ["a,b"], [""], ["a", "a"], [CANARY, "ü"], [None]):
        with pytest.raises(ValueError, match="a subprotocol is a name without spaces") as caught:
            setup(URL, subprotocols=bad)
        assert "canary" not in str(caught.value)
    with pytest.raises(TypeError, match="a list of names, not one text"):
        setup(URL, subprotocols="realtime")


async def test_a_pool_of_one_connection(autojump_clock) -> None:
    """`max_size=1` is a policy: the default of what is kept ready goes down with it."""
    assert (1, 2, 2) == (
        wspool.PoolPolicy(max_size=1).min_idle,
        wspool.PoolPolicy(max_size=2).min_idle,
        wspool.PoolPolicy().min_idle,
    )
    with pytest.raises(ValueError, match="min_idle=2 exceeds max_size=1"):
        wspool.PoolPolicy(max_size=1, min_idle=2)
    with pytest.raises(ValueError, match="max_size=0 is below 1"):
        wspool.PoolPolicy(max_size=0)
    with pytest.raises(TypeError, match="max_size='1' is not an int"):
        wspool.PoolPolicy(max_size="1")  # type: ignore[arg-type] # which is the point
    connector = FakeConnector(echo)
    async with (
        fake_pool(connector, limits=attrs.evolve(wspool.PoolPolicy(max_size=1), ping_interval=None)) as pool,
        pool.conversation(model="m") as conversation,
    ):
        for _ in range(3):
            assert "ok" == (await conversation.respond("hi")).output_text
    assert 1 == len(connector.wires)
