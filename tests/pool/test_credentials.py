"""Credentials: checked early, asked for per dial, shown nowhere."""

from __future__ import annotations

import logging
import pickle
import traceback

import pytest
import trio

import wspool
from tests.helpers import CANARY, FakeConnector, echo, fake_manager, fake_pool, policy, refused, serving
from wspool.pool.credentials import CredentialError, Secret, secret_source
from wspool.server import EchoModel
from wspool.wire.wire import ConnectError

BAD_KEYS = ["", " ", f"{CANARY}\n", f"\n{CANARY}", f"{CANARY} x", f"{CANARY}\r\nX: y", f"{CANARY}é", b"bytes"]


@pytest.mark.parametrize("key", [*BAD_KEYS, 7, None])
def test_what_is_no_key_is_refused_without_showing_it(key) -> None:
    """A key that a header cannot carry is refused before any library sees it."""
    with pytest.raises(ValueError, match="visible ASCII") as caught:
        Secret(key)

    assert "canary" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("key", BAD_KEYS)
def test_a_pool_is_not_opened_with_a_bad_key(key) -> None:
    """The error comes where the key was written, not with the first dial."""
    with pytest.raises(ValueError, match="visible ASCII") as caught:
        fake_manager(FakeConnector.__new__(FakeConnector), api_key=key)

    assert "canary" not in str(caught.value)


def test_a_secret_does_not_show_itself() -> None:
    """Neither its texts nor a pickle hold the key; only `reveal` gives it."""
    secret = Secret(CANARY)

    assert ("<Secret>", "<Secret>", "<Secret>") == (repr(secret), str(secret), f"{secret}")
    assert CANARY == secret.reveal()
    with pytest.raises(TypeError, match="not pickled") as caught:
        pickle.dumps(secret)
    assert "canary" not in str(caught.value)
    assert not hasattr(secret, "__dict__")


async def test_a_fixed_key_is_given_to_every_dial(autojump_clock) -> None:
    """The key goes into one header, beside the fixed ones."""
    connector = FakeConnector(echo)
    async with fake_pool(connector, headers=[("OpenAI-Organization", "org")]) as pool:
        (await pool.acquire()).release()

    assert (("OpenAI-Organization", "org"), ("Authorization", f"Bearer {CANARY}")) == connector.headers


async def test_a_key_function_is_asked_once_per_dial(autojump_clock) -> None:
    """A key that changes is taken as it is at each dial, and not in between."""
    asked = 0

    async def key() -> str:
        nonlocal asked
        asked += 1
        await trio.sleep(1)
        return f"sk-{asked}"

    connector = FakeConnector(echo)
    async with fake_pool(connector, api_key=key) as pool, pool.lease() as first:
        async with first.create(model="m") as turn:
            await turn.result()
        assert ("Authorization", "Bearer sk-1") in connector.headers
        async with pool.lease():
            assert ("Authorization", "Bearer sk-2") in connector.headers

    assert (2, 2) == (asked, connector.dials)


@pytest.mark.parametrize("how", ["raises", "bad", "nothing"])
async def test_a_key_function_that_fails_fails_the_waiters(how, autojump_clock) -> None:
    """Its class is told, its text is not: it may hold the key."""

    async def key() -> str:
        if how == "raises":
            raise LookupError(f"vault said {CANARY}")
        return f"{CANARY}\n" if how == "bad" else None  # type: ignore[return-value] # a careless function

    connector = FakeConnector(echo)
    async with fake_pool(connector, api_key=key) as pool:
        with pytest.raises(wspool.AuthenticationError) as caught:
            await pool.acquire()

        shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
        assert "canary" not in shown
        assert ("LookupError" if how == "raises" else "ValueError") in str(caught.value)
        assert isinstance(caught.value.__cause__, CredentialError)
        assert isinstance(caught.value.__cause__, ConnectError)
        assert 0 == connector.dials


async def test_a_key_function_that_hangs_does_not_hang_the_pool(autojump_clock) -> None:
    """Asking for the key is part of the dial, and bounded as the dial is."""

    async def key() -> str:
        await trio.sleep_forever()
        raise AssertionError

    async with fake_pool(FakeConnector(echo), api_key=key, limits=policy(min_idle=1)) as pool:
        with trio.fail_after(60), pytest.raises(wspool.DialFailedError):
            await pool.wait_ready()


async def test_a_cancelled_dial_cancels_its_key_function(autojump_clock) -> None:
    """The function is awaited in the dial's own task, so a closing pool stops it."""
    cancelled = False

    async def key() -> str:
        nonlocal cancelled
        try:
            await trio.sleep_forever()
        finally:
            cancelled = True
        raise AssertionError

    async with fake_pool(FakeConnector(echo), api_key=key, limits=policy(min_idle=1)):
        await trio.sleep(1)
    assert cancelled


async def test_the_source_of_a_fixed_key_is_a_secret(autojump_clock) -> None:
    """What is handed around is never the bare key."""
    secret = await secret_source(CANARY)()

    assert CANARY not in repr(secret)


async def test_no_sink_ever_sees_the_key(caplog, autojump_clock) -> None:
    """Logs at DEBUG, texts of all objects, errors and their tracebacks: the key is in none of them."""
    caplog.set_level(logging.DEBUG)
    shown: list[str] = []

    def show(*things: object) -> None:
        shown.extend(repr(thing) + str(thing) for thing in things)

    async with serving(EchoModel(), api_key=CANARY) as world:
        manager = world.pool(limits=policy(min_idle=1))
        show(manager, manager._setup, manager._setup.headers)
        async with manager as pool:
            await pool.wait_ready()
            async with pool.conversation(model="m") as conversation, conversation.turn("hi") as turn:
                show(pool, conversation, turn, pool.statistics(), await turn.result())
                show(pool._connections, pool._leases, vars(pool))
                for connection in pool._connections.values():
                    show(connection, vars(connection))
            await world.cut()
            await trio.sleep(1)
        assert any(value == f"Bearer {CANARY}" for value in world.server.handshakes[0][1].values())

    connector = FakeConnector(echo)
    connector.failures.extend([RuntimeError("crash"), refused(503), refused(401)])
    async with fake_pool(connector) as pool:
        with pytest.raises(wspool.AuthenticationError) as caught:
            await pool.acquire()
        show(*traceback.format_exception(caught.value), vars(caught.value))

    shown.extend(record.getMessage() for record in caplog.records if record.name.startswith("wspool."))
    assert "canary" not in "".join(shown)
