"""Hostile HTTP: what is slow, huge, ambiguous or broken ends, bounded, and harms nobody else."""

import itertools
import json
import re
from collections.abc import Iterable
from functools import partial

import pytest
import trio
from hypothesis import given, settings, strategies as st
from trio.testing import MockClock

from wspool.listening.intake import Intake, IntakeLimits, Unfinished
from wspool.server import EchoModel, Entry, Server, open_server
from wspool.server.protocol.requests import RequestError

from .client import connected

BODY = json.dumps({"model": "m", "input": "hi", "store": False}).encode()
START = b"POST /v1/responses HTTP/1.1\r\nHost: localhost\r\n"
GOOD = START + b"Content-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
LIMITS = IntakeLimits()


async def talk(server: Server, pieces: Iterable[bytes], gap: float = 0.0) -> tuple[list[int], float]:
    """Send *pieces*, *gap* seconds apart, and read on to the end: the statuses, and how long it took."""
    start, received = trio.current_time(), bytearray()
    client, theirs = trio.testing.memory_stream_pair()

    async def send() -> None:
        try:
            for piece in pieces:
                await client.send_all(piece)
                await trio.sleep(gap)
        except trio.BrokenResourceError:
            return

    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(server.serve, theirs, stranger=True))
        nursery.start_soon(send)
        try:
            while data := await client.receive_some():
                received += data
        except trio.BrokenResourceError:
            pass
        took = trio.current_time() - start
        nursery.cancel_scope.cancel()
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", received)], took


def drip(data: bytes) -> list[bytes]:
    """One byte at a time."""
    return [data[n : n + 1] for n in range(len(data))]


def chunked(*chunks: bytes) -> bytes:
    return START + b"Transfer-Encoding: chunked\r\n\r\n" + b"".join(chunks)


HEX = b"%x\r\n%b\r\n" % (len(BODY), BODY)


@pytest.mark.parametrize(
    ("pieces", "gap", "statuses", "within"),
    [
        ([], 0, [], LIMITS.head_timeout),
        (drip(GOOD), 1.0, [408], LIMITS.head_timeout),
        ([START], 0, [408], LIMITS.head_timeout),
        ([b"\r\n"], 0, [400], 0),
        ([START + b"Content-Length: 9\r\n\r\n"], 0, [408], LIMITS.silence),
        ([START + b"Content-Length: 900\r\n\r\n", *drip(b"x" * 500)], 1.0, [408], LIMITS.body_timeout),
        ([START + b"Content-Length: 900\r\nExpect: 100-continue\r\n\r\n"], 0, [100, 408], LIMITS.silence),
        ([chunked(b"1\r\n{\r\n")], 0, [408], LIMITS.silence),
        ([GOOD], 0, [200], LIMITS.idle_timeout),
        ([GOOD, GOOD], 1.0, [200, 200], 1 + LIMITS.idle_timeout),
        ([GOOD, START], 1.0, [200, 408], 1 + LIMITS.head_timeout),
        ([GOOD + GOOD[:-1]], 0, [200, 408], LIMITS.silence),
    ],
    ids=itertools.count(),
)
async def test_what_is_slow_ends(
    pieces: Iterable[bytes], gap: float, statuses: list[int], within: float, autojump_clock: MockClock
) -> None:
    """At each place where a client can stop, or go on a byte at a time."""
    async with open_server(EchoModel(), port=None) as server:
        seen, took = await talk(server, pieces, gap)

        assert (statuses, 0) == (seen, server.statistics().failures)
        # And the time that a last word may take, and that is waited for what is still on its way.
        assert within <= took <= within + 2.5


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (START + b"X: " + b"a" * 1_000_000, 431),
        (START + b"X: a\r\n" * 100_000, 431),
        (b"G" * 1_000_000, 431),
        (START + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (START + b"transfer-encoding: chunked\r\ncontent-length: 2\r\n\r\n0\r\n\r\n", 400),
        (START + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400),
        (START + b"Content-Length: 2, 3\r\n\r\n{}", 400),
        (START + b"Content-Length: -1\r\n\r\n", 400),
        (START + b"Content-Length: +2\r\n\r\n{}", 400),
        (START + b"Content-Length: 0x2\r\n\r\n{}", 400),
        (START + b"Content-Length : 2\r\n\r\n{}", 400),
        (START + b"Transfer-Encoding: xchunked\r\n\r\n", 501),
        (START + b"Transfer-Encoding: gzip, chunked\r\n\r\n", 501),
        (START + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n", 501),
        (START + b"Host: evil.example\r\n\r\n", 400),
        (b"POST /v1/responses HTTP/1.1\r\n\r\n", 400),
        (START + b"a b: c\r\n\r\n", 400),
        (START + b"a: b\x00c\r\n\r\n", 400),
        (b"POST /v1/\xff HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (chunked(b"zz\r\n{}\r\n0\r\n\r\n"), 400),
        (chunked(b"-2\r\n{}\r\n0\r\n\r\n"), 400),
        (chunked(b"0x2\r\n{}\r\n0\r\n\r\n"), 400),
        (chunked(b"2 \r\n{}xx\r\n0\r\n\r\n"), 400),
        (chunked(b"f" * 30 + b"\r\n{}"), 400),
        (chunked(b"2;" + b"x" * 1_000_000), 431),
        (chunked(b"0\r\n" + b"x: y\r\n" * 100_000), 431),
        (chunked(*[b"1\r\n \r\n"] * (LIMITS.pieces + 1)), 413),
        (START + b"Content-Length: 99999999999999999999\r\n\r\n" + b"x" * 17_000_000, 413),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_what_is_huge_or_ambiguous_is_refused(
    data: bytes, status: int, autojump_clock: MockClock
) -> None:
    """One answer that says so, and the end: what follows on the connection is nobody's request."""
    async with open_server(EchoModel(), port=None) as server:
        seen, took = await talk(server, [data, GOOD])

        assert ([status], 0) == (seen, server.statistics().failures)
        assert (0, 0) == (server.statistics().creates, server._unfinished.size)
        assert took <= 2.5
        assert [200] == (await talk(server, [GOOD]))[0]


@pytest.mark.parametrize(
    "head",
    [
        b"POST /v1/responses HTTP/1.1\r\nHost: localhost\r\n evil: folded\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\n",
        b"POST /v1/responses HTTP/1.0\r\n\r\n",
        b"GET /v1/responses HTTP/1.0\r\nUpgrade: websocket\r\n\r\n",
        b"POST http://evil.example/v1/responses HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    ],
)
async def test_no_head_gets_around_the_name(head: bytes, autojump_clock: MockClock) -> None:
    """Without a loopback name in `Host` there is no answer, whatever else is tried."""
    async with open_server(EchoModel(), port=None) as server:
        assert [403] == (await talk(server, [head]))[0]
        assert 0 == server.statistics().creates


async def test_what_is_odd_but_clear_is_answered(autojump_clock: MockClock) -> None:
    """Chunks with extensions and trailers, folded headers, and `Connection: close`."""
    async with open_server(EchoModel(), port=None) as server:
        odd = chunked(HEX.replace(b"\r\n", b";a=b\r\n", 1), b"0\r\nx: y\r\n\r\n")
        assert [200] == (await talk(server, [odd]))[0]
        folded = START + b"X: a\r\n b\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(BODY) + BODY
        assert [200] == (await talk(server, [folded]))[0]
        assert [200] == (await talk(server, drip(GOOD), 0.01))[0]


async def test_unfinished_bodies_are_bounded_together(autojump_clock: MockClock) -> None:
    """Each is small enough, all together are not: the last ones are refused, and there is room again."""
    unfinished, refused = Unfinished(), list[int]()

    async def ignore(_: object) -> None:
        await trio.lowlevel.checkpoint()

    async def one(number: int) -> None:
        client, theirs = trio.testing.memory_stream_pair()
        intake = Intake(theirs, IntakeLimits(unfinished=1_000_000), unfinished)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send_all, START + b"Content-Length: 300000\r\n\r\n" + b"x" * 200_000)
            assert await intake.head() is not None
            try:
                await intake.body(10**6, ignore)
            except RequestError as error:
                refused.append(error.error.status)
            assert unfinished.size <= 1_000_000 + 65536

    async with trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(one, number)
    assert (10, 0) == (len(refused), unfinished.size)
    assert {503, 408} == set(refused)


async def test_a_refused_key_costs_no_body(autojump_clock: MockClock) -> None:
    """Who may not ask cannot make the server hold what it sends; a small body keeps the connection."""
    async with open_server(EchoModel(), port=None, api_key="sk-1") as server:
        assert [401, 401] == (await talk(server, [GOOD, GOOD], 1))[0]
        big = START + b"Content-Length: 16000000\r\n\r\n" + b"x" * 16_000_000
        seen, took = await talk(server, [big])
        assert [401] == seen
        assert took <= 2.5


@pytest.mark.network
@pytest.mark.parametrize(
    "data",
    [
        START + b"Content-Length: 99999999999\r\n\r\n" + b"x" * 17_000_000,
        START + b"Content-Length: 4000000\r\nHost: evil.example\r\n\r\n" + b"x" * 4_000_000,
        START.replace(b"localhost", b"evil.example") + b"Content-Length: 4000000\r\n\r\n" + b"x" * 4_000_000,
        START + b"X: " + b"a" * 4_000_000,
    ],
    ids=itertools.count(),
)
async def test_who_sends_too_much_still_finds_the_reason(data: bytes) -> None:
    """Closing at once would reset the connection under the writer, who would never see the answer."""
    async with open_server(EchoModel()) as server:
        stream = await trio.open_tcp_stream("127.0.0.1", int(server.url.split(":")[2].split("/")[0]))
        async with stream:
            await stream.send_all(data)
            received = b""
            while more := await stream.receive_some():
                received += more
        assert re.match(rb"HTTP/1\.1 4\d\d .*\r\n\r\n\{.*\}$", received, re.DOTALL)


async def test_an_answer_that_nobody_reads_ends(autojump_clock: MockClock) -> None:
    """Its connection is not held for ever; the ledger says that it was lost."""
    ledger: list[Entry] = []
    async with open_server(EchoModel(), port=None, ledger=ledger) as server:
        client, theirs = trio.testing.lockstep_stream_pair()
        body = json.dumps({"model": "m", "input": "hi", "stream": True}).encode()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(server.serve, theirs, stranger=True))
            await client.send_all(START + b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
            start = trio.current_time()
        assert 60 <= trio.current_time() - start <= 61
        assert (["lost"], 0) == ([entry["outcome"] for entry in ledger], server.statistics().failures)


NOISE = st.lists(
    st.one_of(
        st.binary(max_size=40),
        st.sampled_from(
            [GOOD, START, b"\r\n", b"\r\n\r\n", b"GET / HTTP/1.1\r\n", b"Upgrade: websocket\r\n", HEX]
        ),
    ),
    max_size=8,
)


@settings(deadline=None)
@given(NOISE, st.sampled_from([0.0, 0.5, 7.0]))
def test_any_bytes_end(pieces: list[bytes], gap: float) -> None:
    """No bytes are a bug, none hold a connection for ever, and others are served meanwhile."""

    async def main() -> None:
        async with open_server(EchoModel(), port=None) as server:
            with trio.fail_after(1000):
                await talk(server, pieces, gap)
            assert (0, 0) == (server.statistics().failures, server._unfinished.size)
            async with connected(server) as client:
                await client.respond()

    trio.run(main, clock=MockClock(autojump_threshold=0))
