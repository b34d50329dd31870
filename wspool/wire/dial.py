"""From a URL to an open byte stream: parse, look up, connect, ask a proxy, shake hands.

Rules of this module:

* A URL is parsed once and refused early. No message of a refusal quotes the URL: it may hold a secret.
* Each step names itself (`enter`) before it starts, so that whoever holds the deadline
  (`time_limit`) can say which step ate the time, and whoever measures (`stopwatch`) what each took.
  One deadline covers the whole dial.
* No proxy is used unless the endpoint names one, and its password is in no text.
* Every failure is a `ConnectError` with its phase, and the operating system's or OpenSSL's own
  exception as the cause. Its first line says what happened and what to do about it.
* Whatever ends a step, also cancellation, no socket stays open.
"""

from __future__ import annotations

import base64
import errno
import ipaddress
import math
import os
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final, cast
from urllib.parse import SplitResult, unquote_to_bytes, urlsplit
from urllib.request import getproxies_environment

import trio

from wspool.wire.answer import AnswerReader, NotHttpError, parse_answer
from wspool.wire.descriptors import has_room, is_shortage
from wspool.wire.secret import Secret
from wspool.wire.tls import TLSStream
from wspool.wire.wire import ConnectError, Endpoint, Phase, Proxy

__all__ = [
    "OpenStream",
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

_DEFAULT_PORTS: Final = {"ws": 80, "wss": 443}

#: Host names that a URL may hold once international names are encoded. Underscores are not legal in
#: RFC 952, but container networks use them.
_HOST: Final = re.compile(r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9_.])?", re.ASCII)

#: Header names and values that cannot break out of their line. Source: RFC 9110 sections 5.1 and 5.5.
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE: Final = re.compile(r"([\x21-\x7e]([\x20-\x7e\t]*[\x21-\x7e])?)?")

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


def parse_url(
    url: str,
    *,
    ssl_context: ssl.SSLContext | None = None,
    proxy: Proxy | None = None,
    allow_insecure: bool = False,
    connect_timeout: float,
    close_timeout: float,
    max_message_size: int,
) -> Endpoint:
    """Return the endpoint that *url* names.

    Args:
        url: ``wss://host[:port][/path][?query]``. International host names are encoded.
        ssl_context: TLS settings for wss; by default those of `ssl.create_default_context`.
        proxy: the proxy to go through, see `parse_proxy`.
        allow_insecure: let ws:// leave this machine. Without it ws:// may only go to localhost,
            127.0.0.0/8 or ::1, because credentials and conversations would cross the network in clear.
        connect_timeout: seconds for the whole dial.
        close_timeout: seconds for a closing handshake.
        max_message_size: largest inbound message, in bytes.

    Not async. The default TLS context reads the system's certificates: call this once per pool.

    Raises:
        ValueError: the URL cannot be used. The text says what to change and never quotes the URL.
    """
    parts, host, port = _split(url, "URL", "wss://host:port/path")
    if parts.scheme not in _DEFAULT_PORTS:
        raise ValueError("the URL must start with wss:// (or ws:// for this machine)")
    if "@" in parts.netloc:
        raise ValueError("the URL holds credentials: remove the part before '@' and pass them as api_key")
    resource = (parts.path or "/") + ("?" + parts.query if "?" in url else "")
    if not resource.isascii():
        raise ValueError("the URL's path or query is not ASCII: percent-encode it")
    secure = parts.scheme == "wss"
    if ssl_context is not None and not secure:
        raise ValueError("an ssl_context needs a wss:// URL")
    host, loopback = _parse_host(host, "URL", "wss://host:port/path")
    # What a proxy calls localhost is the proxy's machine.
    loopback = loopback and (proxy is None or _parse_host(proxy.host, "proxy", "")[1])
    if not (secure or loopback or allow_insecure):
        raise ValueError(
            "ws:// to another machine sends credentials in clear: use wss://, or pass allow_insecure=True"
        )
    if math.isnan(connect_timeout) or connect_timeout <= 0:
        raise ValueError(f"connect_timeout must be more than 0 seconds, not {connect_timeout!r}")
    if math.isnan(close_timeout) or close_timeout < 0:
        raise ValueError(f"close_timeout must be 0 seconds or more, not {close_timeout!r}")
    if max_message_size < 1:
        raise ValueError(f"max_message_size must be at least 1 byte, not {max_message_size!r}")
    return Endpoint(
        host=host,
        port=port or _DEFAULT_PORTS[parts.scheme],
        resource=resource,
        ssl_context=(ssl_context or ssl.create_default_context()) if secure else None,
        proxy=proxy,
        connect_timeout=connect_timeout,
        close_timeout=close_timeout,
        max_message_size=max_message_size,
    )


def parse_proxy(url: str) -> Proxy:
    """Return the proxy that *url* names.

    Args:
        url: ``http://[user:password@]host[:port]``, user and password percent-encoded.

    Not async.

    Raises:
        ValueError: it cannot be used. The text says what to change and never quotes the URL.
    """
    form = "http://user:password@host:port"
    parts, host, port = _split(url, "proxy", form)
    if parts.scheme != "http":
        raise ValueError(f"the proxy must be an HTTP proxy that opens tunnels: write {form}")
    if parts.path not in ("", "/") or "?" in url:
        raise ValueError(f"the proxy has a path: write {form}")
    credentials: Secret | None = None
    if "@" in parts.netloc:
        user, password = _unquote(parts.username or ""), _unquote(parts.password or "")
        if not user or ":" in user:  # RFC 7617 section 2
            raise ValueError("the proxy's user name is empty or holds a colon, which HTTP cannot send")
        credentials = Secret(base64.b64encode(f"{user}:{password}".encode()).decode())
    host, _ = _parse_host(host, "proxy", form)
    return Proxy(host=host, port=port or _DEFAULT_PORTS["ws"], credentials=credentials)


def _unquote(text: str) -> str:
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        raise ValueError("the proxy's user name or password is not UTF-8 once percent-decoded") from None


def environment_proxy(host: str, port: int) -> str | None:
    """Return the proxy that the environment names for *host* and *port*, None for none.

    HTTPS_PROXY, else ALL_PROXY, unless NO_PROXY names the host, its domain or "*"; each in capitals
    or not. Never for this machine. Only for who asks: nothing else of this package looks there.
    """
    proxies = getproxies_environment()
    names = [name.strip().lstrip(".") for name in proxies.get("no", "").lower().split(",")]
    exempt = any(
        name == "*" or name in (host, f"{host}:{port}") or (name and host.endswith(f".{name}"))
        for name in names
    )
    if exempt or _parse_host(host, "URL", "")[1]:
        return None
    return proxies.get("https") or proxies.get("all") or None


def _split(url: str, what: str, form: str) -> tuple[SplitResult, str, int | None]:
    """Take *url* apart; the texts of errors call it *what* and never quote it."""
    # Checked first because urlsplit silently removes tabs and line ends.
    if any(character <= " " or character == "\x7f" for character in url):
        raise ValueError(f"the {what} holds a space or control character: percent-encode it")
    if "#" in url:
        raise ValueError(f"the {what} has a fragment: remove the part from '#' on")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        # The original text quotes the URL, and with it whatever secret is in there.
        raise ValueError(f"the {what} cannot be parsed: write {form}") from None
    if port == 0:
        raise ValueError(f"the {what}'s port must be between 1 and 65535")
    return parts, host, port


def _parse_host(host: str, what: str, form: str) -> tuple[str, bool]:
    """Return *host* as it goes into a lookup and a certificate check, and whether it is this machine."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        pass
    else:
        if "%" in host:
            raise ValueError(f"the {what}'s host has an IPv6 zone: use an address without '%'")
        # Written out because is_loopback of ::ffff:127.0.0.1 depends on the Python version.
        host = str(address)
        return host, address in ipaddress.ip_network("127.0.0.0/8") or host == "::1"
    try:
        host = host.encode("idna").decode("ascii").lower()
    except UnicodeError:
        host = ""
    if not _HOST.fullmatch(host):
        raise ValueError(f"the {what}'s host is missing or not a host name: write {form}")
    return host, host == "localhost"


def host_header(endpoint: Endpoint) -> str:
    """Return the Host header for *endpoint*: brackets round IPv6, no default port (RFC 9110 section 7.2)."""
    host = _bracketed(endpoint.host)
    default = _DEFAULT_PORTS["ws" if endpoint.ssl_context is None else "wss"]
    return host if endpoint.port == default else f"{host}:{endpoint.port}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def encode_headers(headers: Sequence[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    """Return *headers* as bytes, checked so that none can smuggle in a second one.

    Raises:
        ValueError: a name or value is not plain ASCII. The text never holds a value.
    """
    for name, value in headers:
        if not _HEADER_NAME.fullmatch(name):
            raise ValueError("a header name holds a character that HTTP forbids")
        if not _HEADER_VALUE.fullmatch(value):
            raise ValueError(
                f"the value of header {name!r} must be visible ASCII without line ends or outer spaces"
            )
    return [(name.encode("ascii"), value.encode("ascii")) for name, value in headers]


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
        raise ConnectError(
            f"{message} (connect_timeout is {endpoint.connect_timeout:g} s)", phase=phase, timed_out=True
        )


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
    stream = await (_open_tcp(endpoint) if proxy is None else _reach_proxy(endpoint, proxy))
    try:
        if proxy is not None:
            await _open_tunnel(stream, endpoint, proxy)
        if endpoint.ssl_context is None:
            return stream
        return await _start_tls(stream, endpoint, endpoint.ssl_context)
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
    # Not its text: trio puts the address into it once more.
    return os.strerror(number) if number is not None else str(error)


def _advice(error: OSError, advice: str) -> str:
    return "" if is_shortage(error) else f": {advice}"  # then it never came to the network


async def _reach_proxy(endpoint: Endpoint, proxy: Proxy) -> trio.SocketStream:
    enter("proxy")
    try:
        return await trio.open_tcp_stream(proxy.host, proxy.port)
    except OSError as error:
        raise ConnectError(
            f"no connection to the proxy {proxy.host}:{proxy.port} ({_first_reason(error)})"
            + _advice(error, "check the proxy"),
            phase="proxy",
        ) from error


async def _open_tunnel(stream: trio.SocketStream, endpoint: Endpoint, proxy: Proxy) -> None:
    """Ask *proxy* at the end of *stream* for a tunnel to *endpoint* (RFC 9110 section 9.3.6)."""
    target = f"{_bracketed(endpoint.host)}:{endpoint.port}"
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    if proxy.credentials is not None:
        lines.append(f"Proxy-Authorization: Basic {proxy.credentials.reveal()}")
    where = f"the proxy {proxy.host}:{proxy.port}"
    answer = AnswerReader(tunnel=True)
    complete = False
    try:
        await stream.send_all("\r\n".join([*lines, "", ""]).encode("ascii"))
        while not complete and (data := await stream.receive_some()):
            complete = answer.feed(data)
    except (trio.BrokenResourceError, NotHttpError) as error:
        what = "died" if isinstance(error, trio.BrokenResourceError) else "gave an answer that is not HTTP"
        raise ConnectError(
            f"{where} {what} when asked for a tunnel to {target}: check the proxy", phase="proxy"
        ) from (error.__cause__ or error)
    if answer.status is None:
        raise ConnectError(
            f"{where} hung up when asked for a tunnel to {target}: check the proxy", phase="proxy"
        )
    if answer.status >= 300 or answer.status < 200:
        said = parse_answer(bytes(answer.received))
        advice = "check its user name and password" if answer.status == 407 else "check what it allows"
        raise ConnectError(
            f"{where} refused a tunnel to {target} with status {answer.status}: {advice}",
            phase="proxy",
            status=answer.status,
            headers=said.headers if said else (),
            body=said.body if said else b"",
        )
    if answer.rest:  # a client speaks first, in TLS as in HTTP
        raise ConnectError(f"{where} sent more than its answer: check the proxy", phase="proxy")


async def _start_tls(stream: trio.SocketStream, endpoint: Endpoint, context: ssl.SSLContext) -> TLSStream:
    enter("tls")
    where = f"{endpoint.host}:{endpoint.port}"
    try:
        tls = TLSStream(stream, context, endpoint.host)
        await tls.do_handshake()
    except ssl.SSLCertVerificationError as error:
        raise ConnectError(
            f"the certificate of {where} was refused ({error.verify_message.rstrip('.')}): "
            + _CERTIFICATE_ADVICE.get(error.verify_code, _ISSUER_ADVICE),
            phase="tls",
            certificate=True,
        ) from error
    except (ssl.SSLError, trio.BrokenResourceError) as error:
        cause = error.__cause__ or error
        reason = getattr(cause, "reason", None) or getattr(cause, "strerror", None) or "connection lost"
        raise ConnectError(
            f"the TLS handshake with {where} failed ({reason}): check that it is a TLS port", phase="tls"
        ) from cause
    except ValueError as error:  # a name that no certificate can hold
        raise ConnectError(f"{endpoint.host!r} is no name for TLS: check the URL", phase="tls") from error
    return tls
