"""Credentials: checked early, asked for per dial, shown nowhere."""

from __future__ import annotations

import logging
import pickle
import traceback
from functools import partial

import pytest
import trio
import trio.testing
from hypothesis import given, strategies as st

import wspool
from tests.helpers import (
    CANARY,
    FakeConnector,
    echo,
    fake_manager,
    fake_pool,
    held_by,
    policy,
    refused,
    serving,
)
from wspool.pool.credentials import CredentialError, Redactor, forget, is_secret, secret_source
from wspool.pool.upgrade import USER_AGENT
from wspool.server import EchoModel
from wspool.wire.secret import Secret
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


def frames_that_show(error: BaseException, text: str) -> list[str]:
    """The variables of our frames that hold *text*, in all tracebacks that hang on *error*."""
    found, seen, todo = list[str](), set[int](), [error]
    while todo:
        one = todo.pop()
        seen.add(id(one))
        found += [
            f"{frame.f_code.co_name}.{name}"
            for frame, _ in traceback.walk_tb(one.__traceback__)
            if frame.f_globals["__name__"].startswith("wspool.")
            for name, value in frame.f_locals.items()
            if text in repr(value)
        ]
        linked = (one.__cause__, one.__context__, *getattr(one, "exceptions", ()))
        todo += [other for other in linked if other is not None and id(other) not in seen]
    return found


class Shown:
    """Not a key, but shows one."""

    def __repr__(self) -> str:
        return CANARY


#: What is wrong with a key, as a file, a variable or a vault may give it.
bad_keys = st.one_of(
    st.tuples(st.text(max_size=3), st.text("\n\r\t \0é€\x7f", min_size=1, max_size=3)).map(
        lambda parts: parts[0] + CANARY + parts[1]
    ),
    st.sampled_from(
        ["", " ", 7, 1.5, CANARY.encode(), bytearray(CANARY.encode()), [CANARY], {"key": CANARY}]
    ),
    st.just((CANARY,)),
    st.builds(Shown),
)


@given(key=bad_keys)
def test_no_frame_of_ours_shows_a_bad_key(key) -> None:
    """Whatever is wrong with it: crash reporters print the variables of all frames."""
    for refuse in (Secret, secret_source, lambda key: wspool.open_pool("ws://localhost", api_key=key)):
        with pytest.raises(ValueError, match="visible ASCII") as caught:
            refuse(key)
        assert [] == frames_that_show(caught.value, "canary")
        assert "canary" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("end", ["\n", "\r\n", "é", " x"])
def test_no_frame_of_ours_shows_a_bad_variable(end, monkeypatch) -> None:
    """The usual way to a key with a line end: a file."""
    monkeypatch.setenv("OPENAI_API_KEY", CANARY + end)
    with pytest.raises(ValueError, match="visible ASCII") as caught:
        wspool.open_pool()

    assert [] == frames_that_show(caught.value, "canary")


@pytest.mark.parametrize(
    "wrong",
    [
        {"url": "http://h"},
        {"url": f"wss://u:{CANARY}@h"},
        {"url": f"wss://h:{CANARY}"},
        {"url": f"wss://ü\u200d{CANARY}"},
        {"proxy": f"http://u:{CANARY}@h/x"},
        {"proxy": f"http://u:{CANARY}%FF@h"},
        {"proxy": f"http://u:{CANARY}@h:port"},
        {"headers": [("X-Auth-Token", f"{CANARY}\n")]},
        {"headers": [("X-Auth-Token", CANARY), ("X A", "b")]},
        {"headers": [("Authorization", CANARY)]},
        {"headers": [CANARY]},
        {"headers": 7},
        {"wire": "nope"},
        {"policy": 7},
        {"provider": 7, "warm_up": {}},
        {"warm_up": {"model": object()}},
        {"warm_up": 7},
        {"ssl_context": "nope"},
        {"unknown": 7},
    ],
    ids=lambda wrong: "-".join(wrong),
)
def test_no_frame_of_ours_shows_a_key_when_something_else_is_wrong(wrong) -> None:
    """The key is good, and as an argument in the frame of the one that refuses the other."""
    with pytest.raises((ValueError, TypeError, AttributeError)) as caught:
        wspool.open_pool(**{"url": "wss://h.example", "api_key": CANARY, **wrong})

    assert [] == frames_that_show(caught.value, "canary")
    assert "canary" not in "".join(traceback.format_exception(caught.value, limit=0))


@given(key=bad_keys, plain=st.booleans())
def test_no_frame_of_ours_shows_what_a_key_function_returns(key, plain) -> None:
    """For whoever waits for a connection, and for one answer by HTTP."""

    def ask():
        return key

    async def ask_later():
        return key

    async def main() -> None:
        async with fake_pool(FakeConnector(echo), api_key=ask if plain else ask_later) as pool:
            for wait in (pool.acquire, partial(pool._shell.errands.post, "/compact", b"{}")):
                with pytest.raises(wspool.AuthenticationError, match="returned") as caught:
                    await wait()
                assert [] == frames_that_show(caught.value, "canary")
                assert "canary" not in "".join(traceback.format_exception(caught.value, limit=0))

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


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

    expected = ("OpenAI-Organization", "org"), ("Authorization", f"Bearer {CANARY}")
    assert (("User-Agent", USER_AGENT), *expected) == connector.headers


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


class Vault:
    """A key function whose key changes, or not, each time it is asked.

    Attributes:
        asked: how often it was asked.
    """

    def __init__(self, *keys: str, delay: float = 0.0) -> None:
        self._keys = keys
        self._delay = delay
        self.asked = 0

    async def __call__(self) -> str:
        self.asked += 1
        await trio.sleep(self._delay)
        return self._keys[min(self.asked, len(self._keys)) - 1]


async def test_a_key_that_is_refused_is_asked_for_once_more(autojump_clock) -> None:
    """A 401 asks again at once: the waiter gets its lease without an error, a pause or an outage."""
    vault = Vault("sk-expired", CANARY)
    async with serving(EchoModel(), api_key=CANARY) as world, world.pool(api_key=vault) as pool:
        began = trio.current_time()
        async with pool.conversation(model="m") as conversation:
            assert "hi" == (await conversation.respond("hi")).output_text

        assert (2, began) == (vault.asked, trio.current_time())
        assert [0, 1] == [pool.statistics().dial_failures, pool.statistics().dialed]
        assert ["Bearer sk-expired", f"Bearer {CANARY}"] == [
            headers["authorization"] for _, headers in world.server.handshakes
        ]


@pytest.mark.parametrize("keys", [("sk-1-expired", "sk-2-expired"), ("sk-1-expired",)])
async def test_a_renewed_key_that_is_refused_is_the_end(keys, autojump_clock) -> None:
    """Asked twice, never a third time; a key that has not changed is not shown to the endpoint again."""
    vault = Vault(*keys)
    async with serving(EchoModel(), api_key=CANARY) as world, world.pool(api_key=vault) as pool:
        with pytest.raises(wspool.AuthenticationError, match="check the API key") as caught:
            await pool.acquire()
        await trio.sleep(1000)

        assert (401, 2, len(keys)) == (caught.value.status, vault.asked, len(world.server.handshakes))


async def test_a_fixed_key_is_not_tried_twice(autojump_clock) -> None:
    """There is nothing to ask."""
    async with serving(EchoModel(), api_key=CANARY) as world, world.pool(api_key="sk-wrong-key") as pool:
        with pytest.raises(wspool.AuthenticationError):
            await pool.acquire()
        assert 1 == len(world.server.handshakes)


@pytest.mark.parametrize(
    ("status", "phase"), [(407, "proxy"), (401, "proxy"), (403, "upgrade"), (404, "upgrade")]
)
async def test_only_the_endpoint_can_refuse_a_key(status, phase, autojump_clock) -> None:
    """What a proxy refuses, and what is refused for another reason, asks for no new key."""
    vault = Vault("sk-1", "sk-2")
    connector = FakeConnector(echo)
    connector.failures.append(ConnectError("no", phase=phase, status=status, body=b"{}"))
    async with fake_pool(connector, api_key=vault) as pool:
        with pytest.raises(wspool.DialFailedError):
            await pool.acquire()
        assert (1, 1) == (vault.asked, connector.dials)


async def test_asking_for_a_new_key_is_bounded_and_can_be_cancelled(autojump_clock) -> None:
    """A vault that hangs the second time costs `connect_timeout`; leaving the pool does not wait for it."""

    class Stuck(Vault):
        async def __call__(self) -> str:
            if self.asked:
                self._delay = 1e6
            return await super().__call__()

    connector = FakeConnector(echo)
    connector.failures.extend([refused(401), refused(401)])
    with trio.move_on_after(1) as scope:
        async with fake_pool(connector, api_key=Stuck("sk-1", "sk-2")) as pool:
            await pool.acquire()
    assert scope.cancelled_caught
    assert 1 == trio.current_time()
    async with fake_pool(connector, api_key=Stuck("sk-1", "sk-2"), limits=policy(min_idle=1)) as pool:
        with pytest.raises(wspool.DialFailedError, match="gave no key within 15 s"):
            await pool.wait_ready(1)
    assert 16 == trio.current_time()


def shown_key(error: BaseException) -> str:
    """All that a crash reporter would print of *error*, the variables of our frames included."""
    told = [repr(error), *traceback.format_exception(error)]
    one: BaseException | None = error
    while one is not None:
        told += [
            f"{frame.f_code.co_name}: {frame.f_locals!r}"
            for frame, _ in traceback.walk_tb(one.__traceback__)
            if frame.f_globals["__name__"].startswith("wspool.")
        ]
        one = one.__cause__ or one.__context__
    return "\n".join(told)


@pytest.mark.parametrize(
    ("returned", "told"),
    [
        (f"{CANARY}\n", "returned no key .*visible ASCII"),
        ("", "returned no key .*visible ASCII"),
        (None, "returned NoneType; it must return the key, a str"),
        (CANARY.encode(), "returned bytes"),
        (TypeError(f"got {CANARY}"), r"is wrong \(TypeError\)"),
        (NameError(f"no {CANARY}"), r"is wrong \(NameError\)"),
        (NotImplementedError(CANARY), r"is wrong \(NotImplementedError\)"),
    ],
)
@pytest.mark.parametrize("plain", [False, True])
async def test_a_key_function_that_is_wrong_fails_the_waiters(returned, told, plain, autojump_clock) -> None:
    """At once, with what is wrong. The text of its exception is not told: it may hold the key."""

    def ask() -> str:
        if isinstance(returned, Exception):
            raise returned
        return returned  # type: ignore[no-any-return] # a careless function

    async def ask_later() -> str:
        return ask()

    connector = FakeConnector(echo)
    async with fake_pool(connector, api_key=ask if plain else ask_later) as pool:
        with pytest.raises(wspool.AuthenticationError, match=told) as caught:
            await pool.acquire()

        assert 0 == trio.current_time()
        assert "canary" not in shown_key(caught.value)
        assert isinstance(caught.value.__cause__, CredentialError)
        assert isinstance(caught.value.__cause__, ConnectError)
        assert caught.value.__cause__.__context__ is None, "it may hold the key"
        assert 0 == connector.dials


class Moody:
    """A key function of which only some calls succeed.

    Args:
        fails: how many calls fail before one succeeds.
        error: what they raise; the text holds the key.
    """

    def __init__(self, fails: float, error: type[Exception]) -> None:
        self._fails = fails
        self._error = error
        self.asked = 0

    def plain(self) -> str:
        self.asked += 1
        if self.asked <= self._fails:
            raise self._error(f"vault said {CANARY}")
        return f"sk-number-{self.asked}"

    async def later(self) -> str:
        await trio.sleep(0.01)
        return self.plain()


@pytest.mark.parametrize(
    "error", [ConnectionResetError, LookupError, ValueError, trio.TooSlowError, RuntimeError]
)
@pytest.mark.parametrize("fails", [1, 3])
@pytest.mark.parametrize("plain", [False, True])
async def test_a_bad_moment_of_a_vault_fails_nobody(error, fails, plain, autojump_clock) -> None:
    """All in line wait for another try, with growing pauses, and are served: nobody's key was wrong."""
    moody = Moody(fails, error)
    answers: list[str] = []
    connector = FakeConnector(echo)
    async with fake_pool(connector, api_key=moody.plain if plain else moody.later) as pool:

        async def ask() -> None:
            async with pool.conversation(model="m") as conversation:
                answers.append((await conversation.respond("hi")).status)

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(ask)

    assert ["completed"] * 10 == answers
    assert fails <= moody.asked - connector.dials <= fails + pool.statistics().max_size
    assert trio.current_time() < 10


async def test_a_vault_that_stays_away_is_told_like_an_outage(autojump_clock) -> None:
    """After `give_up_after`, with the class of the last exception and not its text; it is not hammered."""
    moody = Moody(float("inf"), ConnectionResetError)
    async with fake_pool(FakeConnector(echo), api_key=moody.later) as pool:
        with pytest.raises(
            wspool.DialFailedError, match=r"api_key function failed \(ConnectionReset"
        ) as caught:
            await pool.acquire()

    assert not isinstance(caught.value, wspool.AuthenticationError)
    assert "canary" not in shown_key(caught.value)
    assert pool.statistics().dial_failures == moody.asked < 30
    assert 120 <= trio.current_time() < 151


async def test_a_plain_key_function_is_as_good(autojump_clock) -> None:
    """Asked once per dial, and once more if its key is refused."""
    keys = iter(["sk-expired", CANARY])
    async with serving(EchoModel(), api_key=CANARY) as world, world.pool(api_key=lambda: next(keys)) as pool:
        async with pool.conversation(model="m") as conversation:
            assert "hi" == (await conversation.respond("hi")).output_text
        assert 0 == pool.statistics().dial_failures


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
        show(manager, manager.setup, manager.setup.headers)
        async with manager as pool:
            await pool.wait_ready()
            async with pool.conversation(model="m") as conversation, conversation.turn("hi") as turn:
                show(pool, conversation, turn, pool.statistics(), await turn.result())
                show(pool._shell._connections, pool._shell._leases, vars(pool._shell))
                for connection in pool._shell._connections.values():
                    show(connection, held_by(connection))
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


def test_what_a_server_echoes_is_taken_out() -> None:
    """A gateway that shows the request it refused shows no key to whoever prints its answer."""
    try:
        try:
            raise ExceptionGroup("both", [ValueError(f"illegal line {CANARY!r}"), OSError(5, "no")])
        except ExceptionGroup as group:
            raise ConnectError(
                "refused", phase="upgrade", status=400, headers=[("x", f"<{CANARY}>")], body=CANARY.encode()
            ) from group
    except ConnectError as error:
        forget(error, Redactor([("Authorization", f"Bearer {CANARY}")]))
        caught = error

    assert ("refused", (("x", "<<hidden>>"),), b"<hidden>") == (str(caught), caught.headers, caught.body)
    shown = "".join(traceback.format_exception(caught))
    assert CANARY not in shown
    assert "[Errno 5] no" in shown


def test_frames_are_forgotten_and_their_lines_are_not() -> None:
    """A crash reporter that prints variables finds none; a person still sees where it was."""

    def dial() -> str:
        header = f"Bearer {CANARY}"
        raise LookupError(len(header))

    try:
        try:
            _ = [dial()]
        except LookupError as error:
            raise ConnectError("crashed", phase="upgrade") from error
    except ConnectError as error:
        before = traceback.TracebackException.from_exception(error, capture_locals=True)
        forget(error)
        forget(error)
        after = traceback.TracebackException.from_exception(error, capture_locals=True)
        notes = getattr(error.__cause__, "__notes__", [])

    assert CANARY in "".join(before.format())
    shown = "".join(after.format())
    assert CANARY not in shown
    assert 1 == shown.count("raise LookupError(len(header))")
    assert "_ = [dial()]" in "".join(notes)
    assert "^" not in "".join(notes), "lines are parsed for that, on the pool's thread"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("Authorization", CANARY, True),
        ("api-key", CANARY, True),
        ("X-Auth-Token", CANARY, True),
        ("OpenAI-Organization", "org-12345678", False),
        ("Authorization", "k", False),
    ],
)
def test_which_headers_are_secret(name, value, expected) -> None:
    """Names decide; what is too short is no secret, and is in every text."""
    assert expected is is_secret(name, value)
