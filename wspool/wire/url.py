"""What a URL names: parsed once per pool, and refused early.

Rules of this module:

* No message of a refusal quotes the URL: it may hold a secret.
* A name in ASCII is taken as it is written, any other by IDNA 2008 as browsers do it (UTS 46).
* A dot at the end of a name says that it is complete. It stays for the name lookup and the Host header, as
  with curl, and counts nowhere else: certificates, NO_PROXY and `is_loopback` mean the same host without it.
"""

from __future__ import annotations

import functools
import ipaddress
import math
import re
import ssl
from typing import Final
from urllib.parse import SplitResult, urlsplit

import idna  # trio's, which encodes names with it as well

from wspool.wire.wire import Endpoint, Proxy

__all__ = [
    "DEFAULT_PORTS",
    "below",
    "bracketed",
    "host_header",
    "is_loopback",
    "parse_host",
    "parse_url",
    "split_url",
]

DEFAULT_PORTS: Final = {"ws": 80, "wss": 443}

#: Host names in ASCII. Underscores are not legal in RFC 952, but container networks use them.
_LABEL: Final = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST: Final = re.compile(rf"(?=.{{1,253}}\.?\Z){_LABEL}(?:\.{_LABEL})*\.?", re.ASCII)

#: Versions of TLS that nobody should speak, and the options that leave them out. Source: RFC 8996.
_OLD: Final = (
    (ssl.TLSVersion.TLSv1, ssl.OP_NO_TLSv1),
    (ssl.TLSVersion.TLSv1_1, ssl.OP_NO_TLSv1_1),
)

_LOOPBACK: Final = ipaddress.ip_network("127.0.0.0/8")


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
        ssl_context: TLS settings for wss; by default those of `ssl.create_default_context`. One that does not
            check certificates and host names, or takes an older TLS than 1.2, needs *allow_insecure*.
        proxy: the proxy to go through, see `parse_proxy`.
        allow_insecure: let ws:// leave this machine, and take any TLS settings. Without it ws:// may only go
            to localhost, 127.0.0.0/8 or ::1, because credentials and conversations would cross the network in
            clear.
        connect_timeout: seconds for the whole dial.
        close_timeout: seconds for a closing handshake.
        max_message_size: largest inbound message, in bytes.

    Not async. The default TLS context reads the system's certificates: call this once per pool.

    Raises:
        ValueError: the URL cannot be used. The text says what to change and never quotes the URL.
    """
    parts, host, port = split_url(url, "URL", "wss://host:port/path")
    if parts.scheme not in DEFAULT_PORTS:
        # Most who write another one have that of an SDK.
        raise ValueError(
            "the URL must start with wss:// (or ws:// for this machine); "
            "of an SDK's base URL, https://HOST/v1, that is wss://HOST/v1/responses"
        )
    if "@" in parts.netloc:
        raise ValueError("the URL holds credentials: remove the part before '@' and pass them as api_key")
    resource = (parts.path or "/") + ("?" + parts.query if "?" in url else "")
    if not resource.isascii():
        raise ValueError("the URL's path or query is not ASCII: percent-encode it")
    secure = parts.scheme == "wss"
    if ssl_context is not None and not secure:
        raise ValueError("an ssl_context needs a wss:// URL")
    host = parse_host(host, "URL", "wss://host:port/path")
    # What a proxy calls localhost is the proxy's machine.
    stays = is_loopback(host) and (proxy is None or is_loopback(proxy.host))
    if not (secure or stays or allow_insecure):
        raise ValueError(
            "ws:// to another machine sends credentials in clear: use wss://, or pass allow_insecure=True"
        )
    if ssl_context is not None and not allow_insecure:
        _check_context(ssl_context)
    if math.isnan(connect_timeout) or connect_timeout <= 0:
        raise ValueError(f"connect_timeout must be more than 0 seconds, not {connect_timeout!r}")
    if math.isnan(close_timeout) or close_timeout < 0:
        raise ValueError(f"close_timeout must be 0 seconds or more, not {close_timeout!r}")
    if max_message_size < 1:
        raise ValueError(f"max_message_size must be at least 1 byte, not {max_message_size!r}")
    return Endpoint(
        host=host,
        port=port or DEFAULT_PORTS[parts.scheme],
        resource=resource,
        ssl_context=(ssl_context or ssl.create_default_context()) if secure else None,
        proxy=proxy,
        connect_timeout=connect_timeout,
        close_timeout=close_timeout,
        max_message_size=max_message_size,
    )


def _check_context(context: ssl.SSLContext) -> None:
    """Refuse a context with which anybody on the way could read and change everything."""
    if context.verify_mode != ssl.CERT_REQUIRED:
        problem = "does not check certificates"
    elif not context.check_hostname:
        problem = "does not check whose certificate it is (check_hostname)"
    elif context.protocol != ssl.PROTOCOL_TLSv1_2 and _takes_old_versions(context):
        problem = "takes versions of TLS before 1.2 (minimum_version)"
    else:
        return
    raise ValueError(
        f"the ssl_context {problem}, so the key could go to anybody: begin with ssl.create_default_context() "
        "and load your certificates into it, or pass allow_insecure=True"
    )


def _takes_old_versions(context: ssl.SSLContext) -> bool:
    """Return whether *context* takes TLS 1.0 or 1.1, which are not to be used (RFC 8996)."""
    least, options = context.minimum_version, context.options
    return any(least <= version and not options & without for version, without in _OLD)


def split_url(url: str, what: str, form: str) -> tuple[SplitResult, str, int | None]:
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


def parse_host(host: str, what: str, form: str) -> str:
    """Return *host* as it goes into a lookup; the texts of errors call its URL *what* and never quote it."""
    if not host.isascii():
        try:
            host = idna.encode(host, uts46=True).decode("ascii")
        except UnicodeError:
            host = ""
    host = host.lower()
    try:
        address = ipaddress.ip_address(host.removesuffix("."))
    except ValueError:
        pass
    else:
        if "%" in host:
            raise ValueError(f"the {what}'s host has an IPv6 zone: use an address without '%'")
        return str(address)
    if not _HOST.fullmatch(host):
        raise ValueError(f"the {what}'s host is missing or not a host name: write {form}")
    # With its dot it would be asked of a name server (RFC 6761 section 6.3).
    return "localhost" if host == "localhost." else host


@functools.lru_cache(maxsize=256)
def is_loopback(host: str) -> bool:
    """Return whether *host*, as `parse_host` gives it, is this machine: localhost, 127.0.0.0/8 or ::1.

    Written out because `is_loopback` of ::ffff:127.0.0.1 depends on the version of Python.
    """
    if host in ("localhost", "::1"):
        return True
    try:
        return ipaddress.ip_address(host) in _LOOPBACK
    except ValueError:
        return False


def below(resource: str, suffix: str) -> str:
    """Return *resource* (path and query) with *suffix*, such as "/compact", at the end of its path."""
    path, mark, query = resource.partition("?")
    return path.rstrip("/") + suffix + mark + query


def host_header(endpoint: Endpoint) -> str:
    """Return the Host header for *endpoint*: brackets round IPv6, no default port (RFC 9110 section 7.2)."""
    host = bracketed(endpoint.host)
    default = DEFAULT_PORTS["ws" if endpoint.ssl_context is None else "wss"]
    return host if endpoint.port == default else f"{host}:{endpoint.port}"


def bracketed(host: str) -> str:
    """Return *host* as it stands in a URL: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host
