"""The way through an HTTP proxy: which one, and the tunnel that it is asked for.

No proxy is used unless the endpoint names one, and its password is in no text.
"""

from __future__ import annotations

import base64
from urllib.parse import unquote_to_bytes
from urllib.request import getproxies_environment

import trio

from wspool.wire.answer import AnswerReader, NotHttpError, parse_answer
from wspool.wire.secret import Secret
from wspool.wire.url import DEFAULT_PORTS, bracketed, is_loopback, parse_host, split_url
from wspool.wire.wire import ConnectError, Endpoint, Proxy

__all__ = ["environment_proxy", "open_tunnel", "parse_proxy"]


def parse_proxy(url: str) -> Proxy:
    """Return the proxy that *url* names.

    Args:
        url: ``http://[user:password@]host[:port]``, user and password percent-encoded.

    Not async.

    Raises:
        ValueError: it cannot be used. The text says what to change and never quotes the URL.
    """
    form = "http://user:password@host:port"
    parts, host, port = split_url(url, "proxy", form)
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
    return Proxy(
        host=parse_host(host, "proxy", form), port=port or DEFAULT_PORTS["ws"], credentials=credentials
    )


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
    names = [name.strip().strip(".") for name in proxies.get("no", "").lower().split(",")]
    host = host.removesuffix(".")
    exempt = any(
        name == "*" or name in (host, f"{host}:{port}") or (name and host.endswith(f".{name}"))
        for name in names
    )
    if exempt or is_loopback(host):
        return None
    return proxies.get("https") or proxies.get("all") or None


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
