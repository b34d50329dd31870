"""Handshake: how a client of the proxy becomes a WebSocket client.

Pure. Nothing is negotiated: no extension, no subprotocol. Who is let in was looked at before.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable, Sequence
from typing import Final

from wspool.proxy.headers import Fields, listed

__all__ = ["accepted_head", "is_upgrade", "what_is_wrong"]

#: Source: RFC 6455, 1.3.
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

#: Source: RFC 6455, 4.1.
VERSION: Final = b"13"


def is_upgrade(method: bytes, headers: Fields) -> bool:
    """Return whether a request wants to become a WebSocket connection; *headers* have lower-case names.

    It may name several protocols, of which we choose one; and whoever wants to send something may offer them
    with that, where we need not choose any. Source: RFC 9110, 7.8.
    """
    return method == b"GET" and b"websocket" in listed(headers, b"upgrade")


def what_is_wrong(headers: Sequence[tuple[bytes, bytes]]) -> str | None:
    """Return what is wrong with the head of an upgrade, None if nothing is.

    What is asked of it by RFC 6455, 4.2.1, beside method and version of HTTP.
    """
    given: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        given.setdefault(name, []).append(value.strip())
    if b"upgrade" not in listed(headers, b"connection"):
        return "An upgrade needs the header Connection: Upgrade."
    if given.get(b"sec-websocket-version") != [VERSION]:
        return "Only version 13 of WebSocket is spoken here."
    keys = given.get(b"sec-websocket-key", [])
    try:
        sound = len(keys) == 1 and len(base64.b64decode(keys[0], validate=True)) == 16
    except (ValueError, binascii.Error):
        sound = False
    if given.get(b"content-length", [b"0"]) != [b"0"] or b"transfer-encoding" in given:
        return "An upgrade has no body."
    return None if sound else "An upgrade needs one Sec-WebSocket-Key of 16 bytes."


def accepted_head(headers: Iterable[tuple[bytes, bytes]], more: Iterable[tuple[str, str]] = ()) -> bytes:
    """Return the head that accepts an upgrade in whose *headers* nothing is wrong.

    Args:
        more: further headers of the answer.
    """
    key = next(value.strip() for name, value in headers if name == b"sec-websocket-key")
    accept = base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest()).decode()
    lines = ["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade"]
    lines += [f"Sec-WebSocket-Accept: {accept}", *(f"{name}: {value}" for name, value in more), "", ""]
    return "\r\n".join(lines).encode("latin-1")
