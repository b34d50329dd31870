"""Plain HTTP beside the pools: it goes as they go, and what a client would pass over is told."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import socket
import ssl
import threading
import time
from collections.abc import Generator
from types import SimpleNamespace
from typing import Any

import pytest

import wspool.http
from tests.http.test_transport import KEY, body, library as library, runtime as runtime, server as server
from wspool.http.around import Around
from wspool.http.clients import _BESIDE, _OF_CLIENT
from wspool.runtime import Runtime
from wspool.testing.local import LocalServer

MAKERS = [wspool.http.client, wspool.http.async_client]


class Refusing:
    """A proxy that writes down where it is asked to go, and refuses."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with client, client.makefile("rb") as lines:
                self.asked.append(lines.readline().decode().rsplit(" ", 1)[0])
                while lines.readline().strip():
                    pass
                client.sendall(b"HTTP/1.1 407 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


@pytest.fixture
def proxy() -> Generator[Refusing]:
    it = Refusing()
    yield it
    it.close()


def ask_both_ways(client: Any) -> None:
    """Ask for a response and for something else, at an endpoint that only a proxy could reach."""
    for method, path in (("POST", "responses"), ("GET", "models")):
        with pytest.raises(Exception, match=r"407|No"):
            client.request(
                method, f"https://provider.invalid/v1/{path}", headers=KEY, json=body()
            ).raise_for_status()


@pytest.mark.parametrize("scheme", ["", "http://"])
def test_both_ways_go_through_the_proxy(proxy: Refusing, runtime: Runtime, library: Any, scheme: str) -> None:
    """Not only WebSockets: what goes over plain HTTP went past it."""
    options: Any = {"library": library, "runtime": runtime, "fallback": None, "proxy": scheme + proxy.address}
    with wspool.http.client(**options) as client:
        ask_both_ways(client)
    assert set(proxy.asked) == {"CONNECT provider.invalid:443"}
    assert len(proxy.asked) >= 2


def test_the_environment_s_proxy_is_taken_as_by_any_client(
    proxy: Refusing, runtime: Runtime, library: Any, server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By default, for both ways; this machine is not asked for through it."""
    for name in ("HTTPS_PROXY", "HTTP_PROXY"):
        monkeypatch.delenv(name.lower(), raising=False)
        monkeypatch.setenv(name, f"http://{proxy.address}")
    options: Any = {"library": library, "runtime": runtime}
    with wspool.http.client(**options) as client:
        ask_both_ways(client)
        assert set(proxy.asked) == {"CONNECT provider.invalid:443"}
        asked = len(proxy.asked)
        assert asked >= 2
        for path in ("responses", "responses/input_tokens"):
            client.post(f"{server.base_url}/{path}", headers=KEY, json=body())
        assert len(client._transport._around.all) == 2
    with (
        wspool.http.client(client={"trust_env": False}, **options) as client,
        pytest.raises(Exception, match=r"(?i)name|resol|known|connect"),
    ):
        client.get("https://provider.invalid/v1/models", headers=KEY)
    assert len(proxy.asked) == asked


def test_both_ways_trust_the_same(library: Any, runtime: Runtime) -> None:
    """One context, also where it is named: each pool made one of its own."""
    pytest.importorskip("truststore")
    context = ssl.create_default_context()
    client = wspool.http.client(library=library, runtime=runtime, ssl_context=context)
    assert client._transport._options["ssl_context"] is context
    named = wspool.http.client(library=library, runtime=runtime, ssl_context="truststore")
    assert isinstance(named._transport._options["ssl_context"], ssl.SSLContext)
    module: Any = SimpleNamespace(HTTPTransport=lambda **options: options)
    url: Any = SimpleNamespace(scheme="https", host="h", port=None, path="/")
    made = Around("HTTPTransport", None, client._transport._options).to(module, url)
    assert made["verify"] is context


def test_threads_that_need_it_at_once_have_one() -> None:
    """Two were made, of which one was closed by nobody."""
    made: list[object] = []
    together = threading.Barrier(8)

    class Url:
        scheme, host, path = "https", "127.0.0.1", "/"

        @property
        def port(self) -> int:
            together.wait()
            return 443

    def make(**options: object) -> object:
        time.sleep(0)  # another one's turn
        made.append(options)
        return object()

    around = Around("HTTPTransport", None, {"proxy": "environment"})
    module: Any = SimpleNamespace(HTTPTransport=make)
    threads = [threading.Thread(target=around.to, args=(module, Url())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == len(around.all) == 1


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("name", sorted(_BESIDE))
def test_what_a_client_would_pass_over_says_what_to_write(make: Any, name: str, runtime: Runtime) -> None:
    """One with a transport looks at none of it: neither at what shall be trusted nor at a proxy."""
    with pytest.raises(TypeError, match=r"would be passed over: .*="):
        make(client={name: None}, runtime=runtime)
    if name != "proxy":
        with pytest.raises(TypeError, match=rf"{name}= is not for pools: .*="):
            make(**{name: None}, runtime=runtime)


@pytest.mark.parametrize("kind", ["Client", "AsyncClient"])
def test_each_argument_of_a_client_is_known(library: Any, kind: str) -> None:
    """A new one of the libraries is one that somebody has to think about."""
    made_with = set(inspect.signature(getattr(importlib.import_module(library), kind)).parameters)
    assert made_with <= {*_OF_CLIENT, *_BESIDE, "headers"}


def test_a_gateway_s_headers_go_with_the_upgrade(server: LocalServer, runtime: Runtime, library: Any) -> None:
    """Those that say who asks, and those that are said for all; the request's own word counts more."""
    who = {"cf-access-client-id": "i", "cf-access-client-secret": "s", "Ocp-Apim-Subscription-Key": "o"}
    options: Any = {
        "library": library,
        "runtime": runtime,
        "headers": {"x-team": "t", "OpenAI-Project": "all"},
    }

    async def main() -> None:
        async with wspool.http.async_client(**options) as client:
            for more in ({}, {"openai-project": "mine"}):
                headers = {**KEY, **who, **more, "x-about-this-one": "1", "idempotency-key": "2"}
                answer = await client.post(server.http_url, json=body(), headers=headers)
                assert answer.status_code == 200

    asyncio.run(main())
    first, *_, second = ({k.lower(): v for k, v in said.items()} for _, said in server.server.handshakes)
    for name, value in who.items():
        assert first[name.lower()] == second[name.lower()] == value
    assert ("t", "all") == (first["x-team"], first["openai-project"])
    assert ("t", "mine") == (second["x-team"], second["openai-project"])
    assert not {"x-about-this-one", "idempotency-key"} & {*first, *second}


@pytest.mark.parametrize("make", MAKERS)
def test_headers_that_cannot_be_sent_are_told_at_once(make: Any, runtime: Runtime) -> None:
    """Not by the first request."""
    for headers, why in (
        ("x-a: b", "mapping"),
        ({"authorization": "Bearer sk"}, "api_key"),
        ({"upgrade": "x"}, "handshake"),
    ):
        with pytest.raises((TypeError, ValueError), match=why):
            make(headers=headers, runtime=runtime)
