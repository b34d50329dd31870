"""The doors of the dial: where a key goes, and what an endpoint is told."""

from __future__ import annotations

import ssl

import pytest

import wspool
from tests.helpers import CANARY

from .scene import Make, faulty


async def test_f103_a_key_of_the_environment_stays_with_its_provider(make: Make, monkeypatch) -> None:
    """F103: a program is given another URL while `OPENAI_API_KEY` is set -> the key goes to OpenAI's hosts
    only. A port of this machine, the embedded provider too, gets none; for a host elsewhere `open_pool`
    raises `ValueError` before anything is dialled. What you pass goes where you pass it.
    """
    for variable in ("OPENAI_API_KEY", "AZURE_OPENAI_API_KEY", "XAI_API_KEY", "AI_GATEWAY_API_KEY"):
        monkeypatch.setenv(variable, CANARY)
    for host in ("example.com", "api.openai.com.example.com", "10.0.0.1"):
        with pytest.raises(ValueError, match="no API key: pass api_key="):
            wspool.open_pool(f"wss://{host}/v1/responses", provider="openai")
    async with faulty(make, pool_options={"api_key": None}) as scene:
        (await scene.ask()).assert_answer()
        await scene.assert_well(creates=1, connection=1)
        assert CANARY.encode() not in scene.taps[0].sent
        assert b"authorization" not in scene.taps[0].sent.lower()


async def test_f104_an_endpoint_with_a_key_header_of_its_own(make: Make) -> None:
    """F104: Azure wants its key as `api-key`, a gateway as whatever it says, an edge wants to know who
    asks -> *Nothing*: the provider says which header carries the key, and a `User-Agent` is sent.
    """
    for provider in ("azure", wspool.Provider(name="gateway", key_header="Api-Key")):
        async with faulty(make, api_key=CANARY, pool_options={"provider": provider}) as scene:
            (await scene.ask()).assert_answer()
            await scene.assert_well(creates=1, connection=1)
            head = bytes(scene.taps[0].sent).partition(b"\r\n\r\n")[0].lower()
            assert f"\r\napi-key: {CANARY}".encode() in head
            assert b"\r\nauthorization" not in head
            assert f"\r\nuser-agent: wspool/{wspool.__version__}".encode() in head


def test_f106_an_ssl_context_that_checks_nothing() -> None:
    """F106: an `ssl_context` does not check certificates or host names, or takes TLS before 1.2 ->
    `ValueError` by `open_pool`, which says which; `allow_insecure=True` says that it is meant.
    """
    unchecked, nameless, old = (ssl.create_default_context() for _ in range(3))
    unchecked.check_hostname = nameless.check_hostname = False
    unchecked.verify_mode = ssl.CERT_NONE
    old.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    for context, words in ((unchecked, "certificates"), (nameless, "check_hostname"), (old, "before 1.2")):
        with pytest.raises(ValueError, match=words) as caught:
            wspool.open_pool("wss://localhost/", api_key=CANARY, ssl_context=context)
        assert "canary" not in str(caught.value)
        wspool.open_pool("wss://localhost/", api_key=CANARY, ssl_context=context, allow_insecure=True)
