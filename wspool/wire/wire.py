"""The seam between the pool and whatever moves WebSocket messages.

A *wire* is one open WebSocket, a *connector* makes wires. Both are small on purpose:
anything that can do these few things can stand behind a pool, and every rule about
*whether* to send, wait or hang up lives elsewhere.

Rules of this seam:

* One task receives; any one task at a time sends. A wire never reads ahead without bound.
* A `send` that did not return normally leaves the wire unusable; the caller aborts it.
* Everything that goes wrong while dialling is a `ConnectError`; everything that goes
  wrong later is a `WireClosedError`. Cancellation passes through untouched.
* Whatever happens, `abort` (or a failed `connect`) leaves no socket open.
"""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Sequence
from typing import Final, Literal, Protocol, runtime_checkable

import attrs
import trio

from wspool.wire.gauge import Gauge
from wspool.wire.secret import Secret

__all__ = [
    "ABNORMAL_CLOSURE",
    "ByHttp",
    "ConnectError",
    "Connector",
    "Endpoint",
    "Gauged",
    "Phase",
    "Proxy",
    "ProxyScheme",
    "Serial",
    "Stateless",
    "Wire",
    "WireClosedError",
    "WireError",
]

#: Close code for a connection that ended without a close frame. Source: RFC 6455 section 7.1.5.
ABNORMAL_CLOSURE: Final = 1006

#: The steps of a dial, in order.
Phase = Literal["resolve", "tcp", "proxy", "tls", "upgrade"]


#: How a proxy is spoken to.
ProxyScheme = Literal["http", "https", "socks5", "socks5h"]


class WireError(Exception):
    """Base of what a wire or a connector reports."""


class ConnectError(WireError):
    """A dial ended without a wire. Nothing was ever sent on it.

    Attributes:
        phase: the step that failed.
        status: HTTP status of the answer to the upgrade (in phase "proxy": of the proxy's answer to
            CONNECT), or None if there was none.
        headers: headers of that answer, names in lower case.
        body: at most `MAX_REJECT_BODY` bytes of that answer's body.
        certificate: True when the peer's certificate was refused.
        timed_out: True when the deadline of the dial passed in this phase.
    """

    def __init__(
        self,
        message: str,
        *,
        phase: Phase,
        status: int | None = None,
        headers: Sequence[tuple[str, str]] = (),
        body: bytes = b"",
        certificate: bool = False,
        timed_out: bool = False,
    ) -> None:
        super().__init__(message)
        self.phase: Phase = phase
        self.status = status
        self.headers = tuple(headers)
        self.body = body
        self.certificate = certificate
        self.timed_out = timed_out


class WireClosedError(WireError):
    """The wire is closed: no message will come, none can be sent.

    Attributes:
        code: the close code (RFC 6455 section 7.4), 1006 when the stream just ended.
        reason: the peer's text, possibly empty. It is the peer's: never trust it, never parse it.
        by_peer: whether the peer has said that code; else it is what this side has made of it.
    """

    def __init__(self, code: int = ABNORMAL_CLOSURE, reason: str = "", *, by_peer: bool = False) -> None:
        super().__init__(f"WebSocket closed with code {code}" + (f": {reason}" if reason else ""))
        self.code = code
        self.reason = reason
        self.by_peer = by_peer


@attrs.frozen(kw_only=True)
class Proxy:
    """One proxy that opens tunnels, with CONNECT or as SOCKS5 does (`wspool.wire.dial.parse_proxy`).

    Attributes:
        scheme: how it is spoken to: HTTP, that over TLS, SOCKS5, or that with the name lookup left to it.
        host: host name or address, without brackets.
        port: TCP port.
        credentials: user and password as Basic authentication sends them, None to send none. Never shown.
    """

    host: str
    port: int
    credentials: Secret | None = attrs.field(default=None, repr=False)
    scheme: ProxyScheme = attrs.field(default="http", repr=False)

    @property
    def is_socks(self) -> bool:
        """Whether it speaks SOCKS5."""
        return self.scheme in ("socks5", "socks5h")


@attrs.frozen(kw_only=True)
class Endpoint:
    """One place to dial, parsed once per pool (`wspool.wire.dial.parse_url`).

    Attributes:
        host: host name or address, without brackets.
        port: TCP port.
        resource: path and query of the upgrade request. Not shown: some put a key into the query.
        ssl_context: the TLS context for wss, None for ws.
        proxy: the proxy that opens the way to it, None to go there directly.
        connect_timeout: seconds for the whole dial, from name lookup to the 101 answer.
        close_timeout: seconds for a closing handshake before the stream is dropped.
        max_message_size: largest inbound message accepted, in bytes, all its fragments together.
        subprotocols: those that the upgrade request offers. Not shown: some put a key into one.
    """

    host: str
    port: int
    resource: str = attrs.field(repr=False)
    ssl_context: ssl.SSLContext | None = attrs.field(default=None, repr=False)
    proxy: Proxy | None = None
    connect_timeout: float
    close_timeout: float
    max_message_size: int
    subprotocols: tuple[str, ...] = attrs.field(default=(), repr=False)

    @property
    def digest(self) -> str:
        """What tells it from others, in 16 hex digits: of host, port and path, not of a query."""
        place = f"{self.host}:{self.port}{self.resource.partition('?')[0]}"
        return hashlib.sha256(place.encode()).hexdigest()[:16]


class Wire(Protocol):
    """One open WebSocket."""

    @property
    def headers(self) -> Sequence[tuple[str, str]]:
        """Headers of the 101 answer, names in lower case."""
        ...

    @property
    def heard_at(self) -> float:
        """When bytes last came from the peer, in seconds on trio's clock; the upgrade's answer counts.

        Bytes, not messages: a large message on a slow link is a sign of life all the while it comes
        (over TLS, record by record). What was not read yet does not count, so that it may stand still
        while nobody is in `receive` or `ping`.
        """
        ...

    async def send(self, message: bytes) -> None:
        """Send one text message.

        Args:
            message: the text as UTF-8 bytes.

        A checkpoint. If it does not return normally (cancelled or failed), part of the frame
        may be on the wire: the only thing left to do is `abort`.

        Raises:
            WireClosedError: the wire is closed.
        """
        ...

    async def receive(self) -> Sequence[str | bytes]:
        """Return the next messages, at least one: all that one read of the stream gave.

        A message is text, as str or as UTF-8 bytes, whichever the wire has without a copy.
        A checkpoint; cancelling loses no message.

        Raises:
            WireClosedError: the wire is closed and everything received before was returned.
        """
        ...

    async def ping(self) -> None:
        """Send a ping and return when its pong came. A checkpoint; safe to cancel.

        Raises:
            WireClosedError: the wire closed first.
        """
        ...

    async def aclose(self) -> None:
        """Say goodbye: a closing handshake of at most `Endpoint.close_timeout` seconds, then `abort`.

        A checkpoint. When cancelled the stream is dropped at once. Never raises for a dead peer.
        """
        ...

    async def abort(self) -> None:
        """Drop the stream now, without a handshake and without waiting for the peer.

        Whoever is in `send`, `receive` or `ping` gets its `WireClosedError`, a blocked send as well.
        A checkpoint that never blocks; the socket is closed even when cancelled. Idempotent.
        """
        ...


@runtime_checkable
class Stateless(Protocol):
    """A wire whose server remembers no response for it, and takes nothing but requests.

    Attributes:
        stateless: True.
    """

    stateless: Literal[True]


@runtime_checkable
class Serial(Protocol):
    """A wire that takes a request only after the whole answer to the one before."""

    async def ready(self) -> None:
        """Wait until it takes one, or is closed: the end of an answer that nobody reads may be missing.

        A checkpoint only if it waits. Cancelling changes nothing.

        Raises:
            WireClosedError: the wire is closed, maybe by that end: nothing of the next request was sent.
        """
        ...


@runtime_checkable
class Gauged(Protocol):
    """A wire that says how much it holds of what has come and was not received yet.

    Attributes:
        gauge: says it.
    """

    gauge: Gauge


@runtime_checkable
class ByHttp(Protocol):
    """A connector whose wires carry requests by HTTP. Of one that says nothing they are WebSockets.

    Attributes:
        transport: "http", as records say it.
    """

    @property
    def transport(self) -> Literal["http"]: ...


class Connector(Protocol):
    """Makes wires."""

    async def connect(
        self, nursery: trio.Nursery, endpoint: Endpoint, headers: Sequence[tuple[str, str]]
    ) -> Wire:
        """Dial *endpoint* and return the open wire.

        Args:
            nursery: where the wire may run tasks of its own. It belongs to this connection alone;
                it may be cancelled, and may see exceptions, at any time after this call.
            endpoint: where to dial.
            headers: extra headers of the upgrade request (among them the credentials).

        A checkpoint. Cancelling closes whatever was opened.

        Raises:
            ConnectError: there is no wire, with the phase and the cause.
        """
        ...
