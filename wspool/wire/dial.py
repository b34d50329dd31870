"""From an endpoint to an open byte stream: look up, connect, ask a proxy, shake hands.

Rules of this module:

* Each step names itself (`enter`) before it starts, so that whoever holds the deadline
  (`time_limit`) can say which step ate the time, and whoever measures (`stopwatch`) what each took.
  One deadline covers the whole dial.
* Every failure is a `ConnectError` with its phase, and the operating system's or OpenSSL's own
  exception as the cause. Its first line says what happened and what to do about it.
* Whatever ends a step, also cancellation, no socket stays open.
"""

from __future__ import annotations

import errno
import functools
import os
import socket
import ssl
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final, cast

import trio

from wspool.wire.descriptors import has_room, is_shortage
from wspool.wire.headers import encode_headers
from wspool.wire.proxy import check_library, open_socks_tunnel, open_tunnel, parse_proxy
from wspool.wire.proxy_environment import environment_proxy
from wspool.wire.tls import TLSStream
from wspool.wire.url import host_header, parse_url
from wspool.wire.wire import ConnectError, Endpoint, Phase, Proxy

__all__ = [
    "OpenStream",
    "check_library",
    "encode_headers",
    "enter",
    "environment_proxy",
    "host_header",
    "open_stream",
    "parse_proxy",
    "parse_url",
    "stopwatch",
    "time_limit",
]

#: How to get a byte stream to an endpoint.
OpenStream = Callable[[Endpoint], Awaitable[trio.abc.Stream]]

#: Where the dial of the current task is; only its deadline reads it.
_phase: ContextVar[Phase] = ContextVar("wspool_dial_phase", default="tcp")

#: Who measures the dial of the current task, if anybody does.
_watch: ContextVar[_Stopwatch | None] = ContextVar("wspool_dial_watch", default=None)

_TOO_SLOW: Final[dict[Phase, str]] = {
    "resolve": "the name lookup of {host!r} did not finish: check DNS",
    "tcp": "{where} did not accept a TCP connection: check the address and the firewall",
    "proxy": "the proxy did not open a tunnel to {where}: check the proxy",
    "tls": "{where} did not finish the TLS handshake: check that it is a TLS port",
    "upgrade": "{where} did not answer the WebSocket upgrade: check that it serves WebSockets",
}


#: What to do about a certificate, by OpenSSL's verdict; else it is its issuer that is not trusted.
#: Source: the X509_V_ERR codes of x509_vfy.h.
_CERTIFICATE_ADVICE: Final[dict[int, str]] = {
    **dict.fromkeys((62, 64), "check the host in the URL; the certificate is for another one"),
    **dict.fromkeys((9, 10), "check this machine's clock; if it is right, the server needs a new one"),
}

_ISSUER_ADVICE: Final = (
    "if you trust its issuer, name it in SSL_CERT_FILE or pass an ssl_context ('truststore' takes what this "
    "machine trusts)"
)


class _Stopwatch:
    """What each phase of one dial took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._phase: Phase | None = None
        self._since = 0.0

    def enter(self, phase: Phase | None) -> None:
        """End the phase that runs, and begin *phase* if it is one."""
        now = trio.current_time()
        if self._phase is not None:
            self.seconds[self._phase] = self.seconds.get(self._phase, 0.0) + now - self._since
        self._phase, self._since = phase, now


@contextmanager
def stopwatch() -> Generator[dict[str, float], None, None]:
    """Measure the dial in the block: gives the seconds of each phase that was begun, in order.

    The dict is filled as phases end, the last one at the end of the block, failed or not. A connector
    that never calls `enter` leaves it empty.
    """
    watch = _Stopwatch()
    token = _watch.set(watch)
    try:
        yield watch.seconds
    finally:
        watch.enter(None)
        _watch.reset(token)


def enter(phase: Phase) -> None:
    """Note that the current task's dial is in *phase* from now on."""
    _phase.set(phase)
    if (watch := _watch.get()) is not None:
        watch.enter(phase)


@contextmanager
def time_limit(endpoint: Endpoint) -> Generator[None, None, None]:
    """Give the block `Endpoint.connect_timeout` seconds for a whole dial.

    Raises:
        ConnectError: time is up; `phase` is the last one that was entered.
    """
    _phase.set("tcp")  # for an opener that never says where it is
    with trio.move_on_after(endpoint.connect_timeout) as scope:
        yield
    if scope.cancelled_caught:
        phase = _phase.get()
        where = f"{endpoint.host}:{endpoint.port}"
        message = _TOO_SLOW[phase].format(host=endpoint.host, where=where)
        error = ConnectError(
            f"{message} (connect_timeout is {endpoint.connect_timeout:g} s)", phase=phase, timed_out=True
        )
        try:
            raise error
        finally:
            # It would be our own `Cancelled`, which tells nobody anything, and which goes in circles if it
            # came through `nursery.start` of a trio before 0.34.
            error.__context__ = None


async def open_stream(endpoint: Endpoint) -> trio.abc.Stream:
    """Connect to *endpoint* over TCP, through its proxy if it has one, and TLS where it asks for it.

    Addresses are raced (RFC 8305) and Nagle's algorithm is off. The stream answers a TCP end without
    a TLS goodbye as a plain end: WebSocket has a goodbye of its own. A checkpoint. Cancelling closes
    whatever was opened. It has no deadline of its own: see `time_limit`.

    No socket is opened that would take the last file descriptors of this process (`wspool.wire.descriptors`).

    Raises:
        ConnectError: phase "resolve", "tcp", "proxy" or "tls", with the cause.
    """
    if not has_room():
        shortage = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        raise ConnectError(
            f"no file descriptor for a connection to {endpoint.host}:{endpoint.port} ({shortage.strerror})",
            phase="tcp",
        ) from shortage
    proxy = endpoint.proxy
    stream: trio.abc.Stream = await (_open_tcp(endpoint) if proxy is None else _reach_proxy(endpoint, proxy))
    try:
        if proxy is not None and not proxy.is_socks:
            if proxy.scheme == "https":
                # Whoever vouches for the endpoint may vouch for the way to it: a company for both.
                context = endpoint.ssl_context or _default_context()
                stream = await _start_tls(stream, proxy.host, proxy.port, context, "proxy")
            await open_tunnel(stream, endpoint, proxy)
        if endpoint.ssl_context is None:
            return stream
        enter("tls")
        return await _start_tls(stream, endpoint.host, endpoint.port, endpoint.ssl_context, "tls")
    except BaseException:
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(stream)
        raise


async def _open_tcp(endpoint: Endpoint) -> trio.SocketStream:
    host, port = endpoint.host, endpoint.port
    try:
        enter("resolve")
        # open_tcp_stream looks up again, which a resolver's cache makes cheap; without this first
        # lookup a deadline could not tell a silent resolver from a silent server.
        await trio.socket.getaddrinfo(host, port, type=trio.socket.SOCK_STREAM)
        enter("tcp")
        return await trio.open_tcp_stream(host, port)
    except socket.gaierror as error:
        raise ConnectError(
            f"the name lookup of {host!r} failed ({error.strerror}): check the host name and DNS",
            phase="resolve",
        ) from error
    except OSError as error:
        raise ConnectError(
            f"no TCP connection to {host}:{port} ({_first_reason(error)})"
            + _advice(error, "check the address, the firewall, and that the server runs"),
            phase="tcp",
        ) from error


def _first_reason(error: OSError) -> str:
    """Return the system's text for the first of the attempts that trio sums up in *error*."""
    first: BaseException | None = error.__cause__
    while isinstance(first, BaseExceptionGroup):
        first = cast("BaseExceptionGroup[BaseException]", first).exceptions[0]
    number = getattr(first or error, "errno", None)
    if number is None:
        return str(error)
    # Not its text: trio puts the address into it once more. Windows has a table of its own for sockets.
    table: dict[int, str] = getattr(socket, "errorTab", {})
    return table.get(number, os.strerror(number)).rstrip(".")


def _advice(error: OSError, advice: str) -> str:
    return "" if is_shortage(error) else f": {advice}"  # then it never came to the network


async def _reach_proxy(endpoint: Endpoint, proxy: Proxy) -> trio.SocketStream:
    enter("proxy")
    if proxy.is_socks:
        return await open_socks_tunnel(endpoint, proxy)
    try:
        return await trio.open_tcp_stream(proxy.host, proxy.port)
    except OSError as error:
        raise ConnectError(
            f"no connection to the proxy {proxy.host}:{proxy.port} ({_first_reason(error)})"
            + _advice(error, "check the proxy"),
            phase="proxy",
        ) from error


@functools.cache
def _default_context() -> ssl.SSLContext:
    return ssl.create_default_context()


async def _start_tls(
    stream: trio.abc.Stream, host: str, port: int, context: ssl.SSLContext, phase: Phase
) -> TLSStream:
    """Shake hands over *stream* with what is called *host*: the endpoint, or in phase "proxy" the proxy."""
    where = f"{host}:{port}" if phase == "tls" else f"the proxy {host}:{port}"
    try:
        tls = TLSStream(stream, context, host)
        await tls.do_handshake()
    except ssl.SSLCertVerificationError as error:
        raise ConnectError(
            f"the certificate of {where} was refused ({error.verify_message.rstrip('.')}): "
            + _CERTIFICATE_ADVICE.get(error.verify_code, _ISSUER_ADVICE),
            phase=phase,
            certificate=True,
        ) from error
    except (ssl.SSLError, trio.BrokenResourceError) as error:
        cause = error.__cause__ or error
        reason = getattr(cause, "reason", None) or getattr(cause, "strerror", None) or "connection lost"
        raise ConnectError(
            f"the TLS handshake with {where} failed ({reason}): check that it is a TLS port", phase=phase
        ) from cause
    except ValueError as error:  # a name that no certificate can hold
        raise ConnectError(f"{host!r} is no name for TLS: check the URL", phase=phase) from error
    return tls
