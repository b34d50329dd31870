"""The TLS stream: the same bytes as trio's own, in fewer reads, and the same faults."""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
import trustme
import truststore

import wspool
from wspool.wire import dial
from wspool.wire.tls import TLSStream

from .peer import RecordingStream


@pytest.fixture(scope="module")
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A client's and a server's context that go together."""
    authority = trustme.CA()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return client, server


Pair = tuple[TLSStream, trio.SSLStream[trio.abc.Stream], trio.abc.Stream]


@asynccontextmanager
async def connected(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext], wrap: type[RecordingStream] = RecordingStream
) -> AsyncGenerator[Pair, None]:
    """Our end, trio's end after the handshake, and the raw stream below trio's."""
    near, far = trio.testing.memory_stream_pair()
    below = wrap(near)
    ours = TLSStream(below, contexts[0], "localhost")
    theirs: trio.SSLStream[trio.abc.Stream] = trio.SSLStream(
        far, contexts[1], server_side=True, https_compatible=True
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(theirs.do_handshake)
        await ours.do_handshake()
    below.upgraded = True
    yield ours, theirs, far
    await ours.aclose()
    await trio.aclose_forcefully(theirs)
    assert below.closed


async def test_one_read_gives_all_records(contexts):
    """Fifty records that came together cost one call."""
    async with connected(contexts) as (ours, theirs, _):
        for _ in range(50):
            await theirs.send_all(b"event")

        with trio.testing.assert_checkpoints():
            assert await ours.receive_some() == b"event" * 50


async def test_max_bytes_is_kept_and_the_rest_too(contexts):
    """What is over the limit comes with the next call, which is a checkpoint all the same."""
    async with connected(contexts) as (ours, theirs, _):
        await theirs.send_all(b"0123456789")
        await theirs.send_all(b"abc")
        assert await ours.receive_some(4) == b"0123"
        with trio.testing.assert_checkpoints():
            assert await ours.receive_some(7) == b"456789a"
        assert await ours.receive_some() == b"bc"
        with pytest.raises(ValueError, match="max_bytes"):
            await ours.receive_some(0)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_much_crosses_both_ways_at_once(contexts, version):
    """A megabyte each way, in either version of TLS."""
    data = bytes(range(256)) * 4096
    contexts[0].maximum_version = version

    async def receive(stream: trio.abc.ReceiveStream) -> None:
        got = b""
        while len(got) < len(data):
            got += await stream.receive_some()
        assert got == data

    try:
        async with connected(contexts) as (ours, theirs, _), trio.open_nursery() as nursery:
            assert ours.version() == version.name.replace("_", ".")
            for stream in (ours, theirs):
                nursery.start_soon(stream.send_all, data)
                nursery.start_soon(receive, stream)
    finally:
        contexts[0].maximum_version = ssl.TLSVersion.MAXIMUM_SUPPORTED


@pytest.mark.parametrize("goodbye", [True, False])
async def test_an_end_is_a_plain_end(contexts, goodbye):
    """With a TLS goodbye or without, and it stays the end; what came before is not lost."""
    async with connected(contexts) as (ours, theirs, far):
        await theirs.send_all(b"last")
        await (theirs.aclose() if goodbye else far.aclose())
        assert await ours.receive_some() == b"last"
        for _ in range(2):
            assert await ours.receive_some() == b""


class HoardingStream(RecordingStream):
    """A stream that gives everything that waits in one read."""

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.testing.wait_all_tasks_blocked()
        return bytes(await super().receive_some(None))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("limit", [None, 4, 3, 1])
@pytest.mark.parametrize(
    "junk",
    [
        b"\x17\x03\x03\x00\x20" + b"j" * 32,  # a record that nobody sealed
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x17\x03\x03\xff\xff" + b"j" * 0xFFFF,  # longer than a record may be
    ],
    ids=["unsealed", "HTTP", "too long"],
)
async def test_a_bad_record_behind_a_good_one_is_reported(contexts, autojump_clock, version, limit, junk):
    """In one read with the good one: that is delivered, then every call says so, at once."""
    contexts[0].maximum_version = version
    try:
        async with connected(contexts, HoardingStream) as (ours, theirs, far):
            await theirs.send_all(b"good")
            await far.send_all(junk)
            got = b""
            with trio.fail_after(1):
                while len(got) < 4:
                    got += await ours.receive_some(limit)
                for _ in range(2):
                    with pytest.raises(trio.BrokenResourceError, match="no proper TLS"):
                        await ours.receive_some(limit)
            assert got == b"good"
    finally:
        contexts[0].maximum_version = ssl.TLSVersion.MAXIMUM_SUPPORTED


async def test_junk_breaks_the_stream_after_what_was_good(contexts):
    """Bytes that are no TLS record are an error, not text."""
    async with connected(contexts) as (ours, theirs, far):
        await theirs.send_all(b"good")
        await far.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        assert await ours.receive_some() == b"good"
        with pytest.raises(trio.BrokenResourceError) as caught:
            await ours.receive_some()

        assert isinstance(caught.value.__cause__, ssl.SSLError)
        with pytest.raises(trio.BrokenResourceError, match="cannot send"):
            await ours.send_all(b"x")


async def test_a_cancelled_read_loses_nothing(contexts):
    """Cancelled while waiting or before, the next read gets everything."""
    async with connected(contexts) as (ours, theirs, _):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ours.receive_some)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        await theirs.send_all(b"x")
        with trio.CancelScope() as scope:
            scope.cancel()
            await ours.receive_some()
        assert scope.cancelled_caught
        assert await ours.receive_some() == b"x"


class StuckStream(RecordingStream):
    """A stream that takes half of what it is given."""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self.upgraded:
            await super().send_all(data[: len(data) // 2])
            await trio.sleep_forever()
        await super().send_all(data)


async def test_nothing_is_written_after_a_write_that_was_cut_short(contexts, autojump_clock):
    """The server would see a damaged record."""
    async with connected(contexts, StuckStream) as (ours, _, _):
        with trio.move_on_after(1) as scope:
            await ours.send_all(b"x" * 1000)
        assert scope.cancelled_caught
        with pytest.raises(trio.BrokenResourceError, match="cut short"):
            await ours.send_all(b"y")


async def test_sending_nothing_is_a_checkpoint(contexts):
    """And sends no record."""
    async with connected(contexts) as (ours, theirs, _):
        with trio.testing.assert_checkpoints():
            await ours.send_all(b"")
        await ours.wait_send_all_might_not_block()
        await ours.send_all(b"x")
        assert await theirs.receive_some() == b"x"


class Rounds(trio.abc.Instrument):
    """Counts how often the current task was run."""

    def __init__(self) -> None:
        self.task, self.count = trio.lowlevel.current_task(), 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += task is self.task


class InstantStream(RecordingStream):
    """Takes what is sent without a round through the scheduler."""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if not self.upgraded:
            await super().send_all(data)


async def test_a_write_waits_for_nothing_but_the_stream_below(contexts):
    """A lock that is free costs no round through the scheduler: a turn over TLS would take 5 % longer."""
    async with connected(contexts, InstantStream) as (ours, _, _):
        rounds = Rounds()
        trio.lowlevel.add_instrument(rounds)
        await ours.send_all(b"a request")
        trio.lowlevel.remove_instrument(rounds)
        assert rounds.count == 0


async def test_a_write_that_was_cancelled_before_it_began_cuts_nothing_short(contexts):
    """Its bytes are sealed and keep their place: the next write sends both."""
    async with connected(contexts) as (ours, theirs, _):
        with trio.CancelScope() as scope:
            scope.cancel()
            await ours.send_all(b"first ")
        assert scope.cancelled_caught
        await ours.send_all(b"second")
        with trio.fail_after(1):
            assert await theirs.receive_some() + await theirs.receive_some() == b"first second"


async def test_an_end_in_the_handshake_is_seen(contexts):
    """It is an error at once, not an empty stream."""
    near, far = trio.testing.memory_stream_pair()
    await far.aclose()
    stream = TLSStream(near, contexts[0], "localhost")
    with pytest.raises(trio.BrokenResourceError):
        await stream.do_handshake()
    await stream.aclose()


class Renegotiating:
    """OpenSSL in the middle of TLS 1.2, as far as `TLSStream` sees it.

    A server asks for new keys with "?", is answered with "!", and says "." when it is done; all else is text.

    Python's own server side cannot ask for that; `tests/network` has openssl do it.
    """

    def __init__(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> None:
        self._incoming, self._outgoing = incoming, outgoing
        self._asked = False
        self._text = b""

    def _advance(self) -> None:
        for byte in self._incoming.read():
            if byte == ord("?"):
                self._asked = True
                self._outgoing.write(b"!")
            elif byte == ord("."):
                self._asked = False
            else:
                self._text += bytes([byte])

    def pending(self) -> int:
        return len(self._text)

    def read(self, size: int) -> bytes:
        self._advance()
        if not self._text:
            raise ssl.SSLWantReadError
        found, self._text = self._text[:size], self._text[size:]
        return found

    def write(self, data: bytes) -> None:
        self._advance()
        if self._asked:
            raise ssl.SSLWantReadError
        self._outgoing.write(data)


class Context:
    """What makes one."""

    def wrap_bio(
        self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, server_hostname: str
    ) -> Renegotiating:
        return Renegotiating(incoming, outgoing)


class GatedStream(RecordingStream):
    """A stream whose writes wait for the gate."""

    gate: trio.Event | None = None

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await super().send_all(data)
        if self.gate is not None:
            await self.gate.wait()


def renegotiating() -> tuple[TLSStream, GatedStream, trio.abc.Stream]:
    """Our end, the stream below, and the far end of that."""
    near, far = trio.testing.memory_stream_pair()
    below = GatedStream(near)
    return TLSStream(below, Context(), "localhost"), below, far  # type: ignore[arg-type] # all that is used of it


async def test_a_write_waits_for_new_keys():
    """Without anybody who reads, the writer does; what is read on the way is not lost."""
    ours, _, far = renegotiating()
    await far.send_all(b"a?")
    async with trio.open_nursery() as nursery:
        assert await ours.receive_some() == b"a"
        nursery.start_soon(ours.send_all, b"text")
        await trio.testing.wait_all_tasks_blocked()
        assert await far.receive_some() == b"!"
        await far.send_all(b"b.")
        assert await far.receive_some() == b"text"
    assert await ours.receive_some() == b"b"


async def test_an_end_amid_new_keys_breaks_the_write():
    """It is an error, not a wait."""
    ours, _, far = renegotiating()
    await far.send_all(b"a?")
    assert await ours.receive_some() == b"a"
    assert isinstance(far, trio.StapledStream)
    await far.send_stream.aclose()
    with pytest.raises(trio.BrokenResourceError, match="in a renegotiation"):
        await ours.send_all(b"text")


async def test_new_keys_are_there_before_the_writer_waits_for_them(autojump_clock):
    """A reader got the last of it while the writer was still sending the answer: nothing more will come."""
    ours, below, far = renegotiating()
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            await far.send_all(b"a?")
            assert await ours.receive_some() == b"a"
            below.gate = trio.Event()
            nursery.start_soon(ours.send_all, b"text")
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(ours.receive_some)
            await far.send_all(b".")
            await trio.testing.wait_all_tasks_blocked()
            below.gate.set()
            said = b""  # at once or in two pieces, as the writer and the reader take turns
            while len(said) < 5:
                said += await far.receive_some()
            assert said == b"!text"
            await far.send_all(b"z")  # ends the reader


# What a context must do


LIMITS: dict[str, Any] = {"connect_timeout": 1, "close_timeout": 1, "max_message_size": 1}


def _context(**settings: object) -> ssl.SSLContext:
    context = ssl.create_default_context()
    for name, value in settings.items():
        setattr(context, name, value)
    return context


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("make_context", "words"),
    [
        (lambda: _context(check_hostname=False, verify_mode=ssl.CERT_NONE), "not check certificates"),
        (
            lambda: _context(check_hostname=False, verify_mode=ssl.CERT_OPTIONAL),
            "not check certificates",
        ),
        (lambda: ssl.SSLContext(ssl.PROTOCOL_TLS), "not check certificates"),
        (lambda: ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), "not check certificates"),
        (ssl._create_unverified_context, "not check certificates"),
        (lambda: _context(check_hostname=False), "does not check whose certificate it is"),
        (lambda: _context(minimum_version=ssl.TLSVersion.TLSv1), "before 1.2"),
        (lambda: _context(minimum_version=ssl.TLSVersion.TLSv1_1), "before 1.2"),
        (lambda: _context(minimum_version=ssl.TLSVersion.MINIMUM_SUPPORTED), "before 1.2"),
    ],
)
def test_a_context_that_protects_nothing_is_refused(make_context, words) -> None:
    """By the parser, so by every door; the text says what is wrong, and `allow_insecure` says it is meant."""
    context = make_context()
    with pytest.raises(ValueError, match=words) as caught:
        dial.parse_url("wss://h.example/", ssl_context=context, **LIMITS)
    assert "allow_insecure=True" in str(caught.value)
    with pytest.raises(ValueError, match=words):
        wspool.open_pool("wss://localhost/", api_key="sk-1", ssl_context=context)

    endpoint = dial.parse_url("wss://h.example/", ssl_context=context, allow_insecure=True, **LIMITS)
    assert context is endpoint.ssl_context


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "make_context",
    [
        ssl.create_default_context,
        lambda: ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
        lambda: _context(minimum_version=ssl.TLSVersion.TLSv1_3),
        lambda: _context(
            minimum_version=ssl.TLSVersion.MINIMUM_SUPPORTED,
            options=ssl.OP_ALL | ssl.OP_NO_TLSv1 | ssl.OP_NO_TLSv1_1 | ssl.OP_NO_SSLv3,
        ),
        lambda: truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
    ],
)
def test_a_context_that_protects_is_taken_as_it_is(make_context) -> None:
    """A company's certificates, those of the system, a later version at least."""
    context = make_context()

    assert context is dial.parse_url("wss://h.example/", ssl_context=context, **LIMITS).ssl_context


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_context_of_one_version_is_judged_by_that() -> None:
    """TLS 1.2 and nothing else is old-fashioned, and not before 1.2."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLSv1_2)
    context.verify_mode = ssl.CERT_REQUIRED
    context.check_hostname = True

    assert context is dial.parse_url("wss://h.example/", ssl_context=context, **LIMITS).ssl_context
