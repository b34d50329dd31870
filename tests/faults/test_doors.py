"""The doors of the dial: where a key goes, and what an endpoint is told."""

from __future__ import annotations

import ssl

import pytest
import trio
import trio.testing

import wspool
from tests.helpers import CANARY
from tests.wire.peer import read_request, switching_protocols
from wspool.server import Fault, FaultRule, Server
from wspool.wire.wire import Endpoint

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


async def test_f107_endless_interim_answers(make: Make, autojump_clock) -> None:
    """F107: an endpoint answers the upgrade with interim answers (1xx) without end, or a head without end ->
    the dial ends after 16 KiB of them, at once; the next dial goes on as always.
    """
    for endless in (b"HTTP/1.1 102 Processing\r\n\r\n", b"X-A: " + b"b" * 100 + b"\r\n"):
        dials = 0

        async def open_stream(
            server: Server, endpoint: Endpoint, endless: bytes = endless
        ) -> trio.abc.Stream:
            nonlocal dials
            dials += 1
            if dials > 1:
                return await server.open_stream(endpoint)
            near, far = trio.testing.memory_stream_pair()
            begin = b"" if endless.startswith(b"HTTP") else b"HTTP/1.1 101 Switching Protocols\r\n"
            await far.send_all(begin + endless * 1000)
            return near

        async with faulty(make, open_stream=open_stream) as scene:
            began = trio.current_time()
            (await scene.ask()).assert_answer()
            assert (2, True) == (dials, trio.current_time() - began < 2)
            await scene.assert_well(creates=1, connection=1)


async def test_f108_one_message_of_millions_of_values(make: Make, monkeypatch, autojump_clock) -> None:
    """F108: one message holds millions of empty values, which would take many times its size once decoded ->
    `TurnLostError` (`accepted`) that names the limit (2000000 values); the message is never decoded.
    """
    monkeypatch.setattr("wspool.core.frames.MAX_VALUES", 40)
    async with faulty(make) as scene:
        story = await scene.ask(" ".join(["word"] * 60))
        assert "more than 40 values (fixed)" in str(story.error)
        assert isinstance(story.error, wspool.TurnLostError)
        monkeypatch.undo()
        await scene.assert_well(creates=1, connection=2)


async def test_f109_many_turns_at_once_that_grow(make: Make, autojump_clock) -> None:
    """F109: a server sends as much as one turn may have, to many turns at once -> above `max_pool_bytes` in
    all of them the turn that has most is lost (`TurnLostError` with 1009 names the limit), until they fit.
    """
    told: list[str] = []
    rule = FaultRule(Fault("many_events", count=60_000), times=3)
    limits = {"max_pool_bytes": 20 * 2**20, "max_buffered": 100 * 2**20, "max_size": 3}
    async with faulty(make, rule, limits=limits) as scene:

        async def ask() -> None:
            told.append(str((await scene.ask()).error))

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(ask)
        scene.assert_quiet()
    assert any("more than max_pool_bytes=20971520 bytes in all turns" in text for text in told), told


async def test_f185_messages_that_never_become_whole(make: Make, autojump_clock) -> None:
    """F185: a server begins a large message on each of many connections and ends none -> what has come of
    them counts in `max_pool_bytes`: above it the connection that holds most is given up (`TurnLostError`
    with 1009), long before `max_message_size` is reached on each.
    """
    limits = {"max_pool_bytes": 20 * 2**20, "max_size": 3, "max_message_size": 64 * 2**20}
    head = b"\x81\x7f" + (60 * 2**20).to_bytes(8, "big")
    streams: list[trio.abc.Stream] = []

    async def begin(far: trio.abc.Stream) -> None:
        await far.send_all(switching_protocols(await read_request(far)))
        await far.receive_some()  # the request
        await far.send_all(head)
        for _ in range(16):
            await far.send_all(b"x" * 2**19)

    async with trio.open_nursery() as nursery:

        async def open_stream(server: Server, _: Endpoint) -> trio.abc.Stream:
            if len(streams) == 3:
                return await server.open_stream(_)
            near, far = trio.testing.memory_stream_pair()
            streams.append(far)
            nursery.start_soon(begin, far)
            return near

        async with faulty(make, open_stream=open_stream, limits=limits) as scene:
            told: list[BaseException | None] = []

            async def ask() -> None:
                told.append((await scene.ask()).error)

            for _ in range(3):
                nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked(0.1)
            (error,) = told  # two of 8 MiB fit
            assert isinstance(error, wspool.TurnLostError)
            assert ("ambiguous", 1009) == (error.delivery, error.close_code)
            assert "more than max_pool_bytes=20971520 bytes" in str(error)
            (await scene.ask()).assert_answer()
        nursery.cancel_scope.cancel()
