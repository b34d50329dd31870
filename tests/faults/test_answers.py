"""What an endpoint answers to the handshake instead of becoming a connection."""

from __future__ import annotations

import time
from collections.abc import Callable
from email.utils import formatdate
from typing import Any

import pytest
import trio
import trio.testing

import wspool
from tests.helpers import CANARY
from wspool.server import Rejection, Server
from wspool.wire.wire import Endpoint

from .scene import Make, Scene, faulty

BAD_ACCEPT = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: bm9wZQ==\r\n\r\n"
)

Open = Callable[[Server, Endpoint], Any]


def answering_first(*answers: bytes) -> Open:
    """An opener whose first streams lead to peers that say *answers*, one each; the others to the server."""
    left = list(answers)

    async def open_stream(server: Server, endpoint: Endpoint) -> trio.abc.Stream:
        if not left:
            return await server.open_stream(endpoint)
        near, far = trio.testing.memory_stream_pair()
        await far.send_all(left.pop(0))
        await far.send_eof()
        return near

    return open_stream


async def refused(scene: Scene, *, waiters: int = 3) -> list[wspool.DialFailedError]:
    """What that many waiters got, all of them at once and the same."""
    errors: list[wspool.DialFailedError] = []

    async def wait() -> None:
        story = await scene.ask()
        assert isinstance(story.error, wspool.DialFailedError), repr(story.error)
        assert ("not_sent", 0) == (story.error.delivery, story.took)
        errors.append(story.error)

    async with trio.open_nursery() as nursery:
        for _ in range(waiters):
            nursery.start_soon(wait)
    assert 1 == len({(str(error), error.status) for error in errors})
    return errors


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (BAD_ACCEPT, "not a WebSocket handshake"),
        (BAD_ACCEPT.replace(b"Upgrade: websocket\r\n", b""), "not a WebSocket handshake"),
        (b"HTTP/1.1 101 Switching Protocols\r\nX: " + b"x" * 200_000, "more than 16384 bytes of headers"),
        (b"HTTP/1.1 101 Switching Protocols\r\n" + b"X: y\r\n" * 40_000, "more than 16384 bytes of headers"),
        (b"\x00\xff junk \r\n\r\n", "not a WebSocket handshake"),
        (b"HTTP/1.1 101 Switch", "in the middle"),
    ],
    ids=["accept", "upgrade", "long header", "many headers", "junk", "half"],
)
async def test_f37_no_handshake(make: Make, answer: bytes, words: str, autojump_clock) -> None:
    """F37: an answer with a wrong `Accept`, without `Upgrade`, with 200 KB of headers, junk or half of one ->
    nothing: that connection is refused at once, the turn waits for another. If none comes, the error says
    what did.
    """
    async with faulty(make, open_stream=answering_first(answer)) as scene:
        (await scene.ask()).assert_answer(took=1)
        assert {"dial_failed": 1} == scene.closed
        await scene.assert_well(creates=1, connection=1)

    everything = {"give_up_after": 0.01}
    async with faulty(make, open_stream=answering_first(*[answer] * 20), limits=everything) as scene:
        story = await scene.ask()
        assert isinstance(story.error, wspool.DialFailedError)
        assert words in str(story.error)
        assert ("upgrade", None) == (story.error.phase, story.error.status)


@pytest.mark.parametrize("where", ["/elsewhere", "wss://evil.example/v1/responses"])
@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_f38_redirect(make: Make, status: int, where: str, autojump_clock) -> None:
    """F38: a redirect, to the same host or another -> `DialFailedError` for every waiter at once, with what
    to do; it is not followed, and the key goes nowhere else.
    """
    went: list[tuple[str, str]] = []

    async def open_stream(server: Server, endpoint: Endpoint) -> trio.abc.Stream:
        went.append((endpoint.host, endpoint.resource))
        return await server.open_stream(endpoint)

    async with faulty(make, open_stream=open_stream) as scene:
        scene.server.reject_handshakes(*[Rejection(status=status, headers={"Location": where})] * 3)
        error = (await refused(scene))[0]
        assert ("redirects are never followed; use the final URL" in str(error), status) == (
            True,
            error.status,
        )
        assert "evil" not in str(error)
        assert not isinstance(error, wspool.AuthenticationError)
        assert {("localhost", "/v1/responses")} == set(went)


@pytest.mark.parametrize(
    "rejection", [Rejection(status=401), Rejection(status=403, body=b'{"error":{"code":"no"}}')], ids=str
)
async def test_f39_key_refused(make: Make, rejection: Rejection, autojump_clock) -> None:
    """F39: 401, or 403 with a JSON body -> `AuthenticationError` for all waiters at once, without the key."""
    async with faulty(make) as scene:
        scene.server.reject_handshakes(*[rejection] * 3)
        for error in await refused(scene):
            assert isinstance(error, wspool.AuthenticationError)
            assert "check the API key" in str(error)
            assert CANARY not in f"{error!r}{error}{vars(error)}{error.__cause__!r}"
        assert 3 >= len(scene.server.handshakes)


async def test_f39_key_renewed(make: Make, autojump_clock) -> None:
    """F39: 401, and `api_key` is a function -> nothing: it is asked once more, at once. A second 401 is
    final.
    """
    asked = 0

    async def key() -> str:
        nonlocal asked
        asked += 1
        return f"sk-number-{asked}"

    async with faulty(make, pool_options={"api_key": key}) as scene:
        scene.server.reject_handshakes(401)
        (await scene.ask()).assert_answer(took=0)
        assert (2, {}) == (asked, scene.closed)
        await scene.assert_well(creates=1, connection=2)

    async with faulty(make, pool_options={"api_key": key}) as scene:
        scene.server.reject_handshakes(401, 401)
        assert isinstance((await refused(scene, waiters=1))[0], wspool.AuthenticationError)
        assert 4 == asked


@pytest.mark.parametrize("times", [2, None], ids=["for a moment", "for ever"])
async def test_f39_no_key_for_the_moment(make: Make, times: int | None, autojump_clock) -> None:
    """F39: the `api_key` function raises, as its vault cannot be reached -> a wait: it is asked again, with
    growing pauses; after `give_up_after` (120 s) of it `DialFailedError` with the class of the exception.
    """
    asked = 0

    async def key() -> str:
        nonlocal asked
        asked += 1
        if times is None or asked <= times:
            raise ConnectionResetError(CANARY)
        return "sk-number-1"

    async with faulty(make, pool_options={"api_key": key}) as scene:
        story = await scene.ask()
        if times is not None:
            story.assert_answer(took=3)
            assert times + 1 == asked
        else:
            assert type(story.error) is wspool.DialFailedError
            assert "ConnectionResetError" in str(story.error)
            assert CANARY not in repr(story.error)
            assert 120 <= story.took <= 151
            assert asked < 30


@pytest.mark.parametrize("mistake", [TypeError, NameError, ImportError, NotImplementedError])
async def test_f39_wrong_key_function(make: Make, mistake: type[Exception], autojump_clock) -> None:
    """F39: the `api_key` function raises a TypeError, NameError, ImportError or NotImplementedError ->
    `AuthenticationError` for all waiters at once: it is wrong itself.
    """

    def key() -> str:
        raise mistake(CANARY)

    async with faulty(make, pool_options={"api_key": key}) as scene:
        for error in await refused(scene):
            assert isinstance(error, wspool.AuthenticationError)
            assert mistake.__name__ in str(error)
            assert CANARY not in repr(error)
        assert [] == scene.taps


@pytest.mark.parametrize("body", [b"", b"<html><body>cf-ray: 1</body></html>"])
async def test_f39_edge_403(make: Make, body: bytes, autojump_clock) -> None:
    """F39: 403 with an empty or an HTML body -> nothing: that is an edge's hiccup; it is tried again."""
    async with faulty(make) as scene:
        scene.server.reject_handshakes(Rejection(status=403, body=body))
        (await scene.ask()).assert_answer(took=2)
        await scene.assert_well(creates=1, connection=2)


async def test_f40_key_revoked(make: Make, autojump_clock) -> None:
    """F40: the key is revoked while connections live -> these work on; new ones fail with
    `AuthenticationError`, once per lease that is asked for, not in a storm.
    """
    async with faulty(make, limits={"min_idle": 0}) as scene, scene.pool.conversation(model="m") as old:
        (await scene.ask("one", conversation=old)).assert_answer("one")
        scene.server.reject_handshakes(*[401] * 50)
        async with old.turn("two") as turn:
            for error in await refused(scene):
                assert isinstance(error, wspool.AuthenticationError)
            assert "two" == (await turn.result()).output_text
        await trio.sleep(250)  # less than `max_idle`: a free lane that is not used for longer goes
        assert 4 >= len(scene.server.handshakes)
        (await scene.ask("three", conversation=old)).assert_answer("three", took=0)
        assert {1} == {entry["connection"] for entry in scene.ledger}


@pytest.mark.parametrize("status", [200, 404, 405, 426])
async def test_f41_no_websocket(make: Make, status: int, autojump_clock) -> None:
    """F41: 404, 405 or 426, or a page instead of an upgrade -> `WebSocketNotOfferedError` for every waiter at
    once, with `status` and the advice to check the URL; whether to fall back to HTTP is yours to say.
    """
    async with faulty(make) as scene:
        scene.server.reject_handshakes(*[status] * 3)
        error = (await refused(scene))[0]
        assert ("no WebSocket is offered at this path" in str(error), status) == (True, error.status)
        assert type(error) is wspool.WebSocketNotOfferedError


@pytest.mark.parametrize(
    ("value", "least", "most"),
    [
        ("7", 6.9, 9),
        (lambda: formatdate(time.time() + 30, usegmt=True), 25, 33),
        (None, 0, 2),
        ("soon", 0, 2),
    ],
    ids=["seconds", "date", "absent", "nonsense"],
)
async def test_f42_too_many(make: Make, value: Any, least: float, most: float, autojump_clock) -> None:
    """F42: 429, with a `Retry-After` in seconds, as a date, absent or absurd -> a wait: no dial of the whole
    pool before that time, an hour at most. Your own deadlines hold.
    """
    async with faulty(make) as scene:
        text = value() if callable(value) else value
        headers = {} if text is None else {"Retry-After": text}
        scene.server.reject_handshakes(Rejection(status=429, headers=headers))
        took: list[float] = []

        async def ask() -> None:
            story = await scene.ask()
            story.assert_answer()
            took.append(story.took)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            with trio.move_on_after(0.01) as impatient:
                await scene.ask()
            for _ in range(4):
                nursery.start_soon(ask)
        # Nobody asked to wait: the pause is drawn at random, and may be next to nothing.
        assert impatient.cancelled_caught or least == 0
        assert all(least <= each <= most for each in took), took


async def test_f42_absurd_wait(make: Make, autojump_clock) -> None:
    """F42: a `Retry-After` of years -> `DialFailedError` after `give_up_after` (120 s); its `retry_after`
    is what the server said, up to a year, and the next dial goes out after an hour all the same.
    """
    async with faulty(make) as scene:
        scene.server.reject_handshakes(Rejection(status=429, headers={"Retry-After": "99999999"}))
        story = await scene.ask()
        assert isinstance(story.error, wspool.DialFailedError)
        assert (429, 366 * 86400.0) == (story.error.status, story.error.retry_after)
        assert 119 <= story.took <= 121
        assert 1 == len(scene.server.handshakes)
        await trio.sleep(3600)
        (await scene.ask()).assert_answer()


@pytest.mark.parametrize("status", [500, 502, 503, 504])
async def test_f43_trouble(make: Make, status: int, autojump_clock) -> None:
    """F43: 500, 502, 503 or 504 -> a wait: dials go on one by one with growing pauses; after
    `give_up_after` (120 s) of it `DialFailedError` with the last answer.
    """
    async with faulty(make) as scene:
        scene.server.reject_handshakes(*[status] * 3)
        (await scene.ask()).assert_answer(took=20)
        assert {"dial_failed": 3} == scene.closed
        scene.pool.clear()
        scene.server.reject_handshakes(*[status] * 1000)
        story = await scene.ask()
        assert isinstance(story.error, wspool.DialFailedError)
        assert (status, "try again later" in str(story.error)) == (story.error.status, True)
        assert 119 <= story.took <= 140
        assert 40 > len(scene.server.handshakes)


async def test_f44_connection_cap(make: Make, autojump_clock) -> None:
    """F44: the endpoint takes two connections and answers any more with 429 -> a wait in line: everybody is
    served by these two, and the endpoint is not hammered.
    """
    async with faulty(make, max_connections=2) as scene:
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(scene.ask, f"word {number}")
        assert 20 == scene.server.statistics().creates
        assert ["completed"] * 20 == [entry["outcome"] for entry in scene.ledger]
        assert 20 >= len(scene.server.handshakes)


#: What no waiting mends, and the class of its error. Any other 4xx is like 400.
FOR_GOOD = {
    **dict.fromkeys(
        (402, 406, 407, 410, 413, 414, 415, 417, 418, 421, 422, 428, 431, 451), wspool.DialFailedError
    ),
    **dict.fromkeys((505, 508, 511), wspool.DialFailedError),
    501: wspool.WebSocketNotOfferedError,
}


@pytest.mark.parametrize("status", FOR_GOOD)
async def test_f97_refused_for_good(make: Make, status: int, autojump_clock) -> None:
    """F97: 402, 410, 413, 451 or another status that no waiting mends -> `DialFailedError` at once for
    everybody in line, `permanent`, with the code and the words of the answer.
    """
    body = b'{"error": {"code": "deactivated_thing", "message": "Payment\\u001b[2J required."}}'
    async with faulty(make) as scene:
        scene.server.reject_handshakes(*[Rejection(status=status, body=body)] * 9)
        for error in await refused(scene):
            assert FOR_GOOD[status] is type(error)
            assert (status, "deactivated_thing", True) == (error.status, error.code, error.permanent)
            assert "deactivated_thing: Payment\\x1b[2J required." in str(error)
        assert trio.current_time() < 1
        assert len(scene.server.handshakes) <= 3


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (429, "insufficient_quota", wspool.DialFailedError),
        (429, "usage_limit_reached", wspool.DialFailedError),
        (400, "invalid_api_key", wspool.AuthenticationError),
    ],
)
async def test_f97_refused_by_code(
    make: Make, status: int, code: str, kind: type[wspool.DialFailedError], autojump_clock
) -> None:
    """F97: a status that could pass, with a code that cannot (a spent quota, a bad key) -> the same: the code
    counts.
    """
    async with faulty(make) as scene:
        body = b'{"error": {"code": "%b"}}' % code.encode()
        scene.server.reject_handshakes(*[Rejection(status=status, body=body)] * 9)
        for error in await refused(scene):
            assert (kind, code, True) == (type(error), error.code, error.permanent)
        assert len(scene.server.handshakes) <= 3


@pytest.mark.parametrize("status", [408, 409, 423, 425, 499, 520, 522, 529, 530])
async def test_f97_passes(make: Make, status: int, autojump_clock) -> None:
    """F97: 408, 409, 425, 499, 520 to 530: statuses that pass -> a wait."""
    async with faulty(make) as scene:
        scene.server.reject_handshakes(status)
        (await scene.ask()).assert_answer(took=20)
