"""open_pool: what it accepts, and what comes out of its block."""

from __future__ import annotations

import ssl
import sys
import warnings
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import cast

import pytest
import trio
import trio.testing
import truststore

import wspool
from tests.garbage import collect
from tests.helpers import (
    CANARY,
    URL,
    FakeConnector,
    assert_empty,
    created,
    echo,
    fake_manager,
    fake_pool,
    policy,
)
from wspool.core.commands import Command
from wspool.core.lending.pool import PoolCore
from wspool.pool.open import _PoolManager
from wspool.pool.upgrade import USER_AGENT
from wspool.wire.trio_websocket import TrioWebSocketConnector
from wspool.wire.websockets import WebSocketsConnector


class Unused:
    """A connector that nobody asks for anything."""

    async def connect(self, nursery, endpoint, headers):
        raise AssertionError("nobody should dial")


def opened(url: str = URL, **options: object) -> _PoolManager:
    """What `open_pool` makes of these arguments."""
    options.setdefault("wire", Unused())
    return cast("_PoolManager", wspool.open_pool(url, **options))  # type: ignore[arg-type] # also wrong ones


# -- arguments ------------------------------------------------------------------------------------


def test_the_default_is_the_documented_endpoint(monkeypatch) -> None:
    """Without arguments: OpenAI, with the key from its usual variable."""
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    setup = cast("_PoolManager", wspool.open_pool()).setup

    assert ("api.openai.com", 443, "/v1/responses") == (
        setup.endpoint.host,
        setup.endpoint.port,
        setup.endpoint.resource,
    )
    assert (wspool.OPENAI, wspool.PoolPolicy()) == (setup.provider, setup.policy)
    assert isinstance(setup.connector, WebSocketsConnector)
    assert setup.endpoint.ssl_context is not None


def test_a_key_is_needed_for_another_machine(monkeypatch) -> None:
    """An endpoint elsewhere without a key is a mistake; one on this machine needs none."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ValueError, match="no API key: set OPENAI_API_KEY"):
        opened("wss://api.openai.com/v1/responses")
    with pytest.raises(ValueError, match="no API key: pass api_key="):
        opened("wss://example.com/v1/responses")
    for host in ("localhost", "127.0.0.1", "[::1]"):
        opened(f"ws://{host}:1/v1/responses")


def test_an_empty_variable_is_no_key(monkeypatch) -> None:
    """An empty environment variable is told, not sent."""
    monkeypatch.setenv("OPENAI_API_KEY", "")
    with pytest.raises(ValueError, match="visible ASCII"):
        opened(wspool.DEFAULT_URL)


async def test_an_endpoint_on_this_machine_gets_no_key_it_does_not_need(monkeypatch, autojump_clock) -> None:
    """Without a key no Authorization header is sent."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    connector = FakeConnector(echo)
    async with fake_pool(connector, api_key=None, headers=[("X-A", "b c")]) as pool:
        (await pool.acquire()).release()

    assert (("User-Agent", USER_AGENT), ("X-A", "b c")) == connector.headers


@pytest.mark.parametrize(
    ("headers", "text"),
    [
        ([("X A", "b")], "'X A' is not a header name"),
        ([("", "b")], "'' is not a header name"),
        ([("X-A\r\nX-B", "b")], "is not a header name"),
        ([("X-A", f"{CANARY}\r\nX-B: c")], "the value of header 'X-A' must be visible ASCII"),
        ([("X-A", f" {CANARY}")], "the value of header 'X-A'"),
        ([("X-A", "")], "the value of header 'X-A'"),
        ([("X-A", "ü")], "the value of header 'X-A'"),
        ([("authorization", CANARY)], "pass the credential as api_key="),
        ([("Host", CANARY)], "'Host' belongs to the handshake itself"),
        ([("Sec-WebSocket-Protocol", CANARY)], "belongs to the handshake itself"),
        ([("Transfer-Encoding", "chunked")], "belongs to the handshake itself"),
    ],
)
def test_headers_are_checked_where_they_are_written(headers: Sequence[tuple[str, str]], text) -> None:
    """No header can smuggle another, and no value is shown: it may be a credential."""
    with pytest.raises(ValueError, match=text) as caught:
        opened(headers=headers)

    assert "canary" not in str(caught.value)


def test_a_wire_is_a_name_or_a_connector() -> None:
    """Names that exist are taken; others are refused with the list."""
    assert isinstance(opened(wire="trio-websocket").setup.connector, TrioWebSocketConnector)
    for name in ("auto", "websockets"):
        assert isinstance(opened(wire=name).setup.connector, WebSocketsConnector)
    with pytest.raises(ValueError, match="wire='carrier-pigeon' is none of"):
        opened(wire="carrier-pigeon")


@pytest.mark.parametrize("url", ["http://localhost", "ws://example.com/v1", f"wss://x:{CANARY}@example.com"])
def test_a_bad_url_is_refused_without_quoting_it(url) -> None:
    """A URL may hold a secret, so errors do not repeat it."""
    with pytest.raises(ValueError, match=r"URL|ws://") as caught:
        opened(url, api_key="sk")

    assert "canary" not in str(caught.value)


def test_a_warm_up_is_checked_where_it_is_written() -> None:
    """What could never be sent is refused at once, and not by every new connection."""
    small = wspool.Provider(name="small", max_request=100)
    opened(warm_up={"model": "m"}, provider=small)
    with pytest.raises(wspool.RequestTooLargeError, match="limit of 100 bytes"):
        opened(warm_up={"model": "m" * 100}, provider=small)
    with pytest.raises(TypeError):
        opened(warm_up={"model": object()})


def test_the_trust_of_the_operating_system_can_be_asked_for(monkeypatch) -> None:
    """By name, with names and certificates checked; what is not installed says how to."""
    context = opened("wss://example.com", api_key="sk", ssl_context="truststore").setup.endpoint.ssl_context

    assert isinstance(context, truststore.SSLContext)
    assert (ssl.CERT_REQUIRED, True) == (context.verify_mode, context.check_hostname)
    with pytest.raises(ValueError, match="needs a wss:// URL"):
        opened(ssl_context="truststore")
    with pytest.raises(ValueError, match="ssl_context='certifi' is neither"):
        opened("wss://example.com", api_key="sk", ssl_context="certifi")
    monkeypatch.setitem(sys.modules, "truststore", None)
    with pytest.raises(ImportError, match=r"pip install 'wspool\[truststore\]'"):
        opened("wss://example.com", api_key="sk", ssl_context="truststore")


def test_an_insecure_url_can_be_asked_for() -> None:
    """`allow_insecure` sends the key in clear to another machine, and says so by its name."""
    manager = opened("ws://example.com/x", api_key="sk", allow_insecure=True)

    assert "example.com" == manager.setup.endpoint.host


# -- the block ------------------------------------------------------------------------------------


async def test_a_pool_is_opened_once(autojump_clock) -> None:
    """The same block cannot be entered again."""
    manager = fake_manager(FakeConnector(echo))
    async with manager:
        with pytest.raises(RuntimeError, match="opened once"):
            await manager.__aenter__()


async def test_a_pool_that_was_never_entered_is_not_left(autojump_clock) -> None:
    """Leaving without entering is a bug of the caller's machinery."""
    with pytest.raises(AssertionError, match="without being entered"):
        await fake_manager(FakeConnector(echo)).__aexit__(None, None, None)


@pytest.mark.parametrize(
    "kind", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit, trio.TooSlowError]
)
async def test_an_exception_of_the_block_comes_out_as_it_is(kind, autojump_clock) -> None:
    """Bare, the same object, and the pool is closed."""
    error = kind()
    with pytest.raises(kind) as caught:  # noqa: PT012 (the whole block raises)
        async with fake_manager(FakeConnector(echo), limits=policy(min_idle=1)) as pool:
            lease = await pool.acquire()
            raise error

    assert error is caught.value
    assert not lease.alive
    assert_empty(pool.statistics())


async def test_a_group_of_the_block_comes_out_as_it_is(autojump_clock) -> None:
    """A group that the body raises is not nested into another."""
    error = ExceptionGroup("mine", [ValueError()])
    with pytest.raises(ExceptionGroup) as caught:
        async with fake_manager(FakeConnector(echo)):
            raise error

    assert error is caught.value


async def test_a_cancellation_of_the_block_passes(autojump_clock) -> None:
    """A scope around the pool sees its own cancellation, and the pool is closed."""
    with trio.move_on_after(5) as scope:
        async with fake_manager(FakeConnector(echo), limits=policy(min_idle=2)) as pool:
            await trio.sleep_forever()

    assert scope.cancelled_caught
    assert_empty(pool.statistics())


@pytest.mark.parametrize("order", ["inside", "outside"])
async def test_a_cancellation_with_leases_held_ends(order, autojump_clock) -> None:
    """Neither a lease held by the block nor one held by a task beside it keeps the pool from closing."""
    with trio.move_on_after(5) as scope:
        async with trio.open_nursery() as nursery, fake_manager(FakeConnector(echo)) as pool:

            async def hold() -> None:
                async with pool.lease():
                    await trio.sleep_forever()

            if order == "inside":
                await pool.acquire()
            else:
                nursery.start_soon(hold)
            await trio.sleep_forever()

    assert scope.cancelled_caught
    assert_empty(pool.statistics())


async def test_a_pool_opened_in_a_cancelled_scope_does_not_hang(autojump_clock) -> None:
    """A task that is cancelled already opens nothing."""
    manager = fake_manager(FakeConnector(echo), limits=policy(min_idle=1))
    hung = False

    async def rescue() -> None:
        nonlocal hung
        await trio.sleep(1000)
        hung = True
        assert manager._shell is not None
        assert manager._shell._services is not None
        manager._shell._services.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(rescue)
        with trio.CancelScope() as scope:
            scope.cancel()
            async with manager:
                pass
        nursery.cancel_scope.cancel()

    assert scope.cancelled_caught
    assert not hung


async def test_a_pool_that_cannot_start_says_why(monkeypatch, autojump_clock) -> None:
    """What goes wrong before the block begins comes out of entering it, and nothing is left."""

    def start(core: PoolCore, now: float) -> list[Command]:
        raise ZeroDivisionError

    monkeypatch.setattr(PoolCore, "start", start)
    before = trio.lowlevel.current_statistics().tasks_living
    with pytest.raises(BaseExceptionGroup) as caught:
        await fake_manager(FakeConnector(echo)).__aenter__()

    assert caught.group_contains(ZeroDivisionError)
    assert before == trio.lowlevel.current_statistics().tasks_living


def raised(error: BaseException) -> Callable[[wspool.Pool], Awaitable[None]]:
    """A body that raises *error*."""

    async def body(pool: wspool.Pool) -> None:
        raise error

    return body


async def is_cancelled(pool: wspool.Pool) -> None:
    await trio.sleep_forever()


async def is_cancelled_in_a_group(pool: wspool.Pool) -> None:
    try:
        await trio.sleep_forever()
    except trio.Cancelled as error:
        raise BaseExceptionGroup("mine", [error]) from None


async def is_cancelled_when_left(pool: wspool.Pool) -> None:
    with trio.CancelScope(shield=True):
        await trio.sleep(10)


async def fails_as_it_is_cancelled(pool: wspool.Pool) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)
        with trio.CancelScope(shield=True):
            await trio.sleep(10)
        raise ZeroDivisionError


async def loses_its_pool(pool: wspool.Pool) -> None:
    pool._shell.spawn(partial(raised(KeyError("a bug of the pool")), pool))
    await trio.sleep_forever()


async def loses_its_pool_and_fails(pool: wspool.Pool) -> None:
    try:
        await loses_its_pool(pool)
    finally:
        raise ZeroDivisionError


@pytest.mark.parametrize("strict", [True, False], ids=["strict", "loose"])
@pytest.mark.parametrize(
    ("body", "out"),
    [
        (raised(ValueError()), ValueError),
        (
            raised(ExceptionGroup("mine", [ValueError(), ExceptionGroup("deep", [KeyError()])])),
            ExceptionGroup,
        ),
        (raised(BaseExceptionGroup("mine", [KeyboardInterrupt()])), BaseExceptionGroup),
        (is_cancelled, None),
        (is_cancelled_in_a_group, None),
        (is_cancelled_when_left, None),
        (fails_as_it_is_cancelled, ZeroDivisionError),
        (loses_its_pool, KeyError),
        (loses_its_pool_and_fails, KeyError),
    ],
)
@pytest.mark.filterwarnings("ignore:trio.run:trio.TrioDeprecationWarning")
def test_the_block_adds_and_takes_nothing(
    body: Callable[[wspool.Pool], Awaitable[None]], out: type[BaseException] | None, strict: bool
) -> None:
    """What the body ends with comes out, with strict exception groups and with loose ones.

    A cancellation always reaches the scope that asked for it, and what crashed in the pool is not hidden.
    """
    came_out: list[BaseException] = []
    went_in: list[BaseException] = []

    async def main() -> bool:
        with trio.move_on_after(5) as scope:
            try:
                async with fake_manager(FakeConnector(echo), limits=policy(min_idle=1)) as pool:
                    try:
                        await body(pool)
                    except BaseException as error:
                        went_in.append(error)
                        raise
            except BaseException as error:
                came_out.append(error)
                if all(isinstance(leaf, trio.Cancelled) for leaf in leaves(error)):
                    raise
            else:
                pytest.fail("it swallowed something")
        assert_empty(pool.statistics())
        return scope.cancelled_caught

    caught = trio.run(
        main, clock=trio.testing.MockClock(autojump_threshold=0), strict_exception_groups=strict
    )

    assert caught is (out is None)
    if went_in and out is not KeyError:
        assert came_out == went_in
    elif out is None:
        assert isinstance(came_out[0], trio.Cancelled)
    else:
        assert [out] == [type(leaf) for leaf in leaves(came_out[0])]


def leaves(error: BaseException) -> list[BaseException]:
    """The exceptions in *error* that are no groups."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in leaves(inner)]
    return [error]


async def test_bodies_unwind_while_readers_still_run(autojump_clock) -> None:
    """A turn in a shielded clean-up still gets its answer after the pool's task was cancelled."""
    connector = FakeConnector()
    text: str | None = None
    with trio.move_on_after(5):
        async with (
            fake_manager(connector) as pool,
            pool.lease() as lease,
            lease.create(model="m") as turn,
        ):
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep(10)
                    echo(connector.wire, {})
                    text = (await turn.result()).output_text

    assert text == "ok"
    assert [1000] == [wire.goodbye for wire in connector.wires]


async def test_an_error_of_the_body_is_not_hidden_by_a_cancellation(autojump_clock) -> None:
    """A body that fails while it is being cancelled tells its error."""
    with trio.move_on_after(5), pytest.raises(ZeroDivisionError):  # noqa: PT012 (the whole block raises)
        async with fake_manager(FakeConnector(echo), limits=policy(min_idle=1)):
            try:
                await trio.sleep_forever()
            finally:
                _ = 1 / 0


async def test_nothing_is_left(autojump_clock) -> None:
    """No task, no warning, no lease: after the block the pool is gone."""
    before = trio.lowlevel.current_statistics().tasks_living
    connector = FakeConnector(lambda wire, request: wire.push(created("r")))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        async with fake_manager(connector, limits=policy(min_idle=3, ping_interval=1)) as pool:
            await pool.wait_ready()
            lease = await pool.acquire()
            turn = await lease.create(model="m").__aenter__()
            await trio.sleep(10)
        await turn.__aexit__(None, None, None)
        del turn, lease
        collect()

    assert [] == [str(warning.message) for warning in caught if warning.category is ResourceWarning]
    assert before == trio.lowlevel.current_statistics().tasks_living
    assert all(wire.goodbye is not None for wire in connector.wires)
    assert_empty(pool.statistics())
