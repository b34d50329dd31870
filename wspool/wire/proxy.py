"""The way through a proxy: which one, and the tunnel that it is asked for.

No proxy is used unless the endpoint names one, and its password is in no text. An HTTP proxy is asked with
CONNECT, in the clear or over TLS; a SOCKS5 proxy by python-socks (extra: socks), imported when there is one.
"""

from __future__ import annotations

import base64
import importlib.util
from typing import Final, cast, get_args
from urllib.parse import unquote_to_bytes

import trio

from wspool.wire.answer import AnswerReader, NotHttpError, parse_answer
from wspool.wire.secret import Secret
from wspool.wire.url import bracketed, parse_host, split_url
from wspool.wire.wire import ConnectError, Endpoint, Proxy, ProxyScheme

__all__ = ["check_library", "open_socks_tunnel", "open_tunnel", "parse_proxy"]

_FORM: Final = "http://user:password@host:port"
#: Port of each kind. Source: RFC 9110 section 4.2, and the port of SOCKS at IANA.
_PORTS: Final[dict[ProxyScheme, int]] = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}

#: Longest user name and password of SOCKS5, in bytes. Source: RFC 1929 section 2.
_LONGEST: Final = 255

_NO_LIBRARY: Final = "a SOCKS proxy needs python-socks: pip install 'wspool[socks]'"


def parse_proxy(url: str) -> Proxy:
    """Return the proxy that *url* names.

    Args:
        url: ``[SCHEME://][user:password@]host[:port]``, user and password percent-encoded. SCHEME is http (as
            if there is none), https, socks5, or socks5h, which leaves the name lookup to the proxy.

    Not async.

    Raises:
        ValueError: it cannot be used. The text says what to change and never quotes the URL.
    """
    if "://" not in url:
        url = f"http://{url}"
    parts, host, port = split_url(url, "proxy", _FORM)
    if parts.scheme not in get_args(ProxyScheme):
        raise ValueError(f"the proxy must be an HTTP proxy that opens tunnels, or SOCKS5: write {_FORM}")
    scheme = cast("ProxyScheme", parts.scheme)
    if parts.path not in ("", "/") or "?" in url:
        raise ValueError(f"the proxy has a path: write {_FORM}")
    credentials: Secret | None = None
    if "@" in parts.netloc:
        user, password = _unquote(parts.username or ""), _unquote(parts.password or "")
        if not user or ":" in user:  # RFC 7617 section 2
            raise ValueError("the proxy's user name is empty or holds a colon, which HTTP cannot send")
        if scheme.startswith("socks") and not all(map(_fits_socks, (user, password))):
            raise ValueError(
                f"user name and password of a SOCKS proxy must be ASCII, of 1 to {_LONGEST} characters"
            )
        credentials = Secret(base64.b64encode(f"{user}:{password}".encode()).decode())
    return Proxy(
        scheme=scheme,
        host=parse_host(host, "proxy", _FORM),
        port=port or _PORTS[scheme],
        credentials=credentials,
    )


def check_library(proxy: Proxy | None) -> None:
    """Raise ImportError if *proxy* needs a library that is not installed. Imports nothing."""
    if proxy is not None and proxy.is_socks and importlib.util.find_spec("python_socks") is None:
        raise ImportError(_NO_LIBRARY)


def _fits_socks(text: str) -> bool:
    return text.isascii() and 0 < len(text) <= _LONGEST


def _unquote(text: str) -> str:
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        raise ValueError("the proxy's user name or password is not UTF-8 once percent-decoded") from None


async def open_socks_tunnel(endpoint: Endpoint, proxy: Proxy) -> trio.SocketStream:
    """Connect to *proxy* and have it open a tunnel to *endpoint* (RFC 1928).

    Its scheme says who looks the name up: this machine for socks5, the proxy for socks5h, as with curl. A
    checkpoint. Cancelling closes whatever was opened.

    Raises:
        ConnectError: phase "proxy"; there is no tunnel.
    """
    target = f"{bracketed(endpoint.host)}:{endpoint.port}"
    where = f"the proxy {proxy.host}:{proxy.port}"
    try:
        from python_socks import ProxyConnectionError, ProxyError, ProxyType
        from python_socks.async_.trio import Proxy as SocksProxy
    except ImportError as error:
        raise ConnectError(_NO_LIBRARY, phase="proxy") from error
    user: str | None = None
    password: str | None = None
    if proxy.credentials is not None:
        user, _, password = base64.b64decode(proxy.credentials.reveal()).decode().partition(":")
    by_proxy = proxy.scheme == "socks5h"
    try:
        client = SocksProxy(ProxyType.SOCKS5, proxy.host, proxy.port, user, password, rdns=by_proxy)
        # The deadline of the dial is the only one.
        opened = await client.connect(endpoint.host, endpoint.port, timeout=2 * endpoint.connect_timeout)
        return trio.SocketStream(opened)
    except ProxyConnectionError as error:
        problem = f"no connection to {where}: check the proxy"
        cause: Exception = error
    except ProxyError as error:
        problem = (
            f"{where} refused a tunnel to {target}: check its user name, its password and what it allows"
        )
        cause = error
    except (OSError, UnicodeError, trio.BrokenResourceError) as error:
        problem = f"there is no way to {target} through {where}: check the host name, DNS and the proxy"
        cause = error
    finally:
        del user, password
    raise ConnectError(problem, phase="proxy") from cause


async def open_tunnel(stream: trio.abc.Stream, endpoint: Endpoint, proxy: Proxy) -> None:
    """Ask *proxy* at the end of *stream* for a tunnel to *endpoint* (RFC 9110 section 9.3.6).

    Its answer is known at the end of its head: of the body of a refusal only what came along is kept.

    Raises:
        ConnectError: phase "proxy"; there is no tunnel, and the stream is of no use.
    """
    target = f"{bracketed(endpoint.host)}:{endpoint.port}"
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
        if answer.status != 407:
            advice = "check what it allows"
        elif proxy.credentials is None:
            advice = "it wants a user name and a password, write http://user:password@host:port"
        else:
            advice = "check its user name and password"
        raise ConnectError(
            f"{where} refused a tunnel to {target} with status {answer.status}: {advice}",
            phase="proxy",
            status=answer.status,
            headers=said.headers if said else (),
            body=said.body if said else b"",
        )
    if answer.rest:  # a client speaks first, in TLS as in HTTP
        raise ConnectError(f"{where} sent more than its answer: check the proxy", phase="proxy")
