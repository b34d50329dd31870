"""TLS on a stream, made for many small records: one read gives all that has come.

trio's own `SSLStream` gives one record per call, with a full round through its machinery each time.
A server that writes one event per record makes that the largest cost of all. Here one call
decrypts every complete record that is there.

Rules of this module:

* OpenSSL only ever sees memory; bytes go to the stream in the order in which OpenSSL made them.
* An end of the stream without a TLS goodbye is a plain end, and none is sent: WebSocket has its own.
* After a write that was cut short nothing more is written.
* What came before a bad record is delivered; then every call says that it was bad. OpenSSL says it once.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Final, cast

import trio

__all__ = ["TLSStream"]

#: Bytes per read of the stream below: four full records.
_RECEIVE: Final = 64 * 1024

#: Most bytes of text in one record. Source: RFC 8446 section 5.1.
_RECORD: Final = 16 * 1024


class TLSStream(trio.abc.Stream):
    """The client's end of a TLS connection.

    Args:
        transport: the stream below. It is closed with this one.
        context: TLS settings.
        server_hostname: the name that the certificate must hold; a dot at its end is no part of it.

    Raises:
        ValueError: no certificate can hold such a name.
    """

    def __init__(self, transport: trio.abc.Stream, context: ssl.SSLContext, server_hostname: str) -> None:
        self._transport = transport
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        name = server_hostname.removesuffix(".")  # RFC 6066 section 3; nor is it in any certificate
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=name)
        self._lock = trio.Lock()
        self._broken = False
        self._ended = False
        #: What OpenSSL said of a bad record.
        self._bad: ssl.SSLError | None = None
        #: A task is reading the stream below; others wait until it has.
        self._pulling = False
        self._pulled = trio.lowlevel.ParkingLot()
        #: How often that gave something.
        self._pulls = 0

    @property
    def transport(self) -> trio.abc.Stream:
        """The stream below."""
        return self._transport

    def version(self) -> str | None:
        """Return the name of the TLS version, such as "TLSv1.3"; None before the handshake."""
        return self._tls.version()

    def certificate(self) -> Mapping[str, object]:
        """Return the server's certificate as `ssl.SSLSocket.getpeercert` does; empty if it is not checked."""
        return cast("Mapping[str, object]", self._tls.getpeercert() or {})

    async def do_handshake(self) -> None:
        """Shake hands and check the certificate. A checkpoint; cancelling leaves nothing but closing.

        Raises:
            ssl.SSLError: it failed; `ssl.SSLCertVerificationError` if the certificate was refused.
            trio.BrokenResourceError: the stream ended or broke in the middle of it.
        """
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
            except ssl.SSLError:
                try:
                    await self._flush()  # tells the server why  # noqa: ASYNC120 # or is cancelled
                except trio.BrokenResourceError:
                    pass  # it does not want to know
                raise
            else:
                return await self._flush()
            if not await self._pull():
                raise trio.BrokenResourceError("the stream ended during the handshake")

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt and send *data*. A checkpoint; not returning normally ends the sending side.

        Raises:
            trio.BrokenResourceError: the stream broke, now or earlier.
        """
        if not data:  # OpenSSL has no empty records
            await trio.lowlevel.checkpoint()
            return
        while True:
            pulls = self._pulls
            try:
                self._tls.write(data)
                break
            except ssl.SSLWantReadError as error:
                # The server wants to renegotiate (TLS 1.2), and speaks before we may.
                await self._flush()  # noqa: ASYNC120 # it is no error but a state
                # Somebody who reads may have got it meanwhile, and now waits for what we have to say.
                if pulls == self._pulls and not await self._pull():  # noqa: ASYNC120 # the same
                    raise trio.BrokenResourceError("the stream ended in a renegotiation") from error
            except ssl.SSLError as error:
                raise trio.BrokenResourceError("TLS cannot send") from error
        await self._flush()

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the stream below can take something. A checkpoint."""
        await self._transport.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return all that has come, at most *max_bytes* of it, b"" at the end.

        A checkpoint; cancelling loses nothing.

        Raises:
            trio.BrokenResourceError: the stream broke, or what came is no proper TLS.
        """
        limit = _RECEIVE if max_bytes is None else max_bytes
        if limit < 1:
            raise ValueError(f"max_bytes must be at least 1, not {max_bytes!r}")
        await trio.lowlevel.checkpoint_if_cancelled()
        pulled = False
        while not (data := self._decrypt(limit)) and not self._ended:
            if self._outgoing.pending and not self._lock.locked():
                # Reading made OpenSSL answer, to a change of keys for one. Not done with data in hand,
                # which would be lost by a cancellation.
                await self._flush()
            await self._pull()
            pulled = True
        if not pulled:
            await trio.lowlevel.cancel_shielded_checkpoint()
        return data

    async def aclose(self) -> None:
        """Close the stream below."""
        await self._transport.aclose()

    def _decrypt(self, limit: int) -> bytes:
        """Return at most *limit* bytes out of the records that are there."""
        if self._bad is not None:
            raise trio.BrokenResourceError("what came is no proper TLS") from self._bad
        pieces: list[bytes] = []
        # A record may hold a single event, and a look-up too many is 2 % of what that costs.
        incoming, held, read, add = self._incoming, self._tls.pending, self._tls.read, pieces.append
        try:
            # Asked only when there is something: an exception costs as much as a small record.
            while limit > 0 and (incoming.pending or held()):
                piece = read(_RECORD if limit > _RECORD else limit)
                if not piece:
                    self._ended = True
                    break
                add(piece)
                limit -= len(piece)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:  # the goodbye
            self._ended = True
        except ssl.SSLError as error:
            self._bad = error
            if not pieces:
                raise trio.BrokenResourceError("what came is no proper TLS") from error
        return b"".join(pieces)

    async def _pull(self) -> bool:
        """Read the stream below once, or wait until another task has; return whether there was something."""
        if self._pulling:
            await self._pulled.park()
            return not self._ended
        self._pulling = True
        try:
            data = await self._transport.receive_some(_RECEIVE)
        finally:
            self._pulling = False
            if self._pulled:
                self._pulled.unpark_all()
        if not data:
            self._ended = True
            return False
        self._incoming.write(data)
        self._pulls += 1
        return True

    async def _flush(self) -> None:
        """Send what OpenSSL has made, in its order: whoever holds the lock sends for all.

        A checkpoint if there is something to send; cancelled before that, nothing is lost.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        # Taking a free lock the usual way would cost a round through the scheduler.
        try:
            self._lock.acquire_nowait()
        except trio.WouldBlock:
            await self._lock.acquire()
        try:
            while self._outgoing.pending:
                if self._broken:
                    raise trio.BrokenResourceError("an earlier write was cut short")
                self._broken = True
                await self._transport.send_all(self._outgoing.read())
                self._broken = False
        finally:
            self._lock.release()
