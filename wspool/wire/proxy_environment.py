"""Which proxy the environment names for a host: HTTPS_PROXY and its kin, and the exceptions in NO_PROXY.

Rules of this module:

* Variables are read as curl reads them: in small letters first, and an empty one is not there. HTTP_PROXY in
  capitals is not believed where a web server could have set it for a client (httpoxy).
* NO_PROXY means what curl takes it for: names with all names below them, whether or not there is a dot before
  or behind; addresses; networks. Beyond that what Go and httpx take: `*.name`, `name:port`, "*" in a list.
* This machine is never reached through a proxy: there its name would mean another one.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterable, Mapping
from typing import Final

from wspool.wire.url import is_loopback

__all__ = ["environment_proxy"]

#: What stands between the entries of NO_PROXY.
_BETWEEN: Final = re.compile(r"[\s,]+")

#: An entry with a port: `name:8443`, `10.0.0.1:80`, `[::1]:443`. An IPv6 address without brackets has none.
_WITH_PORT: Final = re.compile(r"(\[[^\]]*\]|[^:\[\]]*):([0-9]{1,5})")

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def environment_proxy(
    host: str, port: int, *, secure: bool = True, environment: Mapping[str, str] = os.environ
) -> str | None:
    """Return the URL of the proxy that the environment names for *host* and *port*, None for none.

    Args:
        host: in small letters, without brackets.
        port: TCP port.
        secure: True for wss (HTTPS_PROXY, else ALL_PROXY), False for ws (HTTP_PROXY, else ALL_PROXY).
        environment: the variables.

    Only for who asks: nothing else of this package looks there.
    """
    exceptions = _read(environment, "no_proxy")
    if is_loopback(host) or any(_means(entry, host, port) for entry in _BETWEEN.split(exceptions.lower())):
        return None
    kinds: Iterable[str] = ("wss", "https", "all") if secure else ("ws", "http", "all")
    return next(filter(None, (_read(environment, f"{kind}_proxy") for kind in kinds)), None)


def _read(environment: Mapping[str, str], name: str) -> str:
    found = environment.get(name)
    if found or (name == "http_proxy" and "REQUEST_METHOD" in environment):
        return found or ""
    return environment.get(name.upper(), "")


def _means(entry: str, host: str, port: int) -> bool:
    """Return whether *entry* of NO_PROXY means *host*."""
    if (match := _WITH_PORT.fullmatch(entry)) is not None:
        if int(match[2]) != port:
            return False
        entry = match[1]
    if entry == "*":
        return True
    entry = entry.removeprefix("[").removesuffix("]")
    if (address := _address(host)) is not None:
        return _holds(entry, address)
    name, suffix = host.removesuffix("."), entry.removeprefix("*.").removeprefix(".").removesuffix(".")
    return bool(suffix) and (name == suffix or name.endswith(f".{suffix}"))


def _holds(entry: str, address: _Address) -> bool:
    """Return whether *entry*, an address or a network of them, holds *address*."""
    text, slash, bits = entry.partition("/")
    start = _address(text)
    if start is None or start.version != address.version:
        return False
    if not slash or bits.strip("0") == "":  # no bits are all bits, with curl
        return start == address
    if not (bits.isascii() and bits.isdecimal() and int(bits) <= address.max_prefixlen):
        return False
    return address in ipaddress.ip_network(f"{start}/{bits}", strict=False)


def _address(text: str) -> _Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
