"""The connection of a client that is read all the time: see `wspool.proxy.entrance.watched`."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from wspool.proxy.entrance.watched import Watched


@asynccontextmanager
async def watched() -> AsyncGenerator[tuple[trio.abc.HalfCloseableStream, Watched]]:
    client, theirs = trio.testing.memory_stream_pair()
    it = Watched(theirs)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(it.read)
        yield client, it
        nursery.cancel_scope.cancel()


async def test_what_comes_is_kept_for_whoever_takes_it(autojump_clock) -> None:
    """In order, in pieces as large as they are wanted, and its end as often as it is asked for."""
    async with watched() as (client, it):
        await client.send_all(b"abcdef")
        await trio.sleep(1)
        await client.send_all(b"gh")
        await client.send_eof()
        await trio.sleep(1)
        got = [await it.receive_some(4), await it.receive_some(4), await it.receive_some()]
        assert [b"abcd", b"ef", b"gh"] == got
        assert (b"", b"") == (await it.receive_some(), await it.receive_some())


async def test_a_client_that_sends_on_is_not_read_for_ever(autojump_clock) -> None:
    """What nobody takes is bounded; once it is taken, more is read."""
    piece, got = bytes(1000), 0
    async with watched() as (client, it):
        for _ in range(200):
            await client.send_all(piece)
            await trio.sleep(1)
        waiting = sum(map(len, it._came))
        assert 65_536 <= waiting < 65_536 + 1000
        while got < 200 * len(piece):
            got += len(await it.receive_some(65_536))
    assert got == 200 * len(piece)


async def test_whoever_waits_is_told_once(autojump_clock) -> None:
    """That the client has hung up: also if it had before, and not if they have gone."""
    told: list[str] = []
    async with watched() as (client, it):
        it.watch(lambda: told.append("gone"))
        it.watch(None)
        it.watch(lambda: told.append("first"))
        await client.send_all(b"a request that was sent ahead")
        await client.send_eof()
        await trio.sleep(1)
        assert ["first"] == told
        it.watch(lambda: told.append("second"))
        assert ["first", "second"] == told


async def test_a_reset_is_a_reset_for_who_reads(autojump_clock) -> None:
    """After what came before it."""
    told: list[str] = []
    async with watched() as (client, it):
        it.watch(lambda: told.append("gone"))
        await client.send_all(b"a")
        await trio.sleep(1)
        await trio.aclose_forcefully(it.stream)
        await trio.sleep(1)
        assert b"a" == await it.receive_some()
        with pytest.raises(trio.ClosedResourceError):
            await it.receive_some()
    assert ["gone"] == told


async def test_whoever_takes_it_over_has_all(autojump_clock) -> None:
    """What nobody has taken, and then the connection itself."""
    async with watched() as (client, it):
        await client.send_all(b"ahead")
        await trio.sleep(1)
        assert b"ahead" == await it.release()
        await client.send_all(b" and later")
        assert b" and later" == await it.stream.receive_some()
