"""Decoding: the body of a request that was sent compressed, within a size that the sender does not choose.

Pure. What a body unpacks to is read up to the limit and no further, and zstd may look back over no more than
`ZSTD_WINDOW`; so a bomb costs what an honest request of the limit costs. zstd needs a library: the extra
`zstd`.
"""

import io
import zlib
from collections.abc import Iterable
from typing import Final

from wspool.listening.errors import RequestError, TurnError, invalid_request

__all__ = ["ZSTD_WINDOW", "decoded"]

#: Bytes that a zstd frame may refer back: what every decoder should allow. Source: RFC 8878, 3.1.1.1.2.
ZSTD_WINDOW: Final = 8 * 1024 * 1024

#: Codings of one body, one in the other. Nobody uses two.
_MOST: Final = 2

# How zlib is told what it reads. Source: the documentation of zlib.decompressobj.
_GZIP: Final = 31
_ZLIB: Final = 15
_RAW: Final = -15


def decoded(body: bytes, codings: Iterable[str], limit: int) -> bytes:
    """*body* as it was before it was encoded.

    Args:
      codings: the values of `Content-Encoding`, in the order of the request.
      limit: bytes of the result at most.

    Raises:
      RequestError: the coding is unknown, the body is not encoded so, or the result is too large.
    """
    names = [name.strip().lower() for value in codings for name in value.split(",")]
    wanted = [name for name in names if name not in ("", "identity")]
    if len(wanted) > _MOST:
        raise RequestError(_unsupported(", ".join(wanted[: _MOST + 1])))
    for name in reversed(wanted):
        body = _one(body, name, limit)
    return body


def _one(body: bytes, name: str, limit: int) -> bytes:
    match name:
        case "gzip" | "x-gzip":
            return _inflated(body, _GZIP, limit, name)
        case "deflate":
            # Both are sent under this name. Source: RFC 9110, 8.4.1.2.
            is_zlib = len(body) > 1 and body[0] & 0x0F == 8 and (body[0] << 8 | body[1]) % 31 == 0
            return _inflated(body, _ZLIB if is_zlib else _RAW, limit, name)
        case "zstd":
            return _unpacked(body, limit)
        case _:
            raise RequestError(_unsupported(name))


def _inflated(body: bytes, kind: int, limit: int, name: str) -> bytes:
    decoder, result = zlib.decompressobj(kind), bytearray()
    try:
        while True:
            result += decoder.decompress(body, limit + 1 - len(result))
            if len(result) > limit:
                raise RequestError(_too_large(limit))
            if not decoder.eof:
                raise RequestError(_broken(name))
            body = decoder.unused_data
            if not body:
                return bytes(result)
            if kind != _GZIP:
                raise RequestError(_broken(name))
            # One gzip file may follow another. Source: RFC 1952, 2.2.
            decoder = zlib.decompressobj(kind)
    except zlib.error:
        raise RequestError(_broken(name)) from None


def _unpacked(body: bytes, limit: int) -> bytes:
    try:
        import zstandard
    except ImportError:
        raise RequestError(
            _unsupported("zstd", "This server was installed without zstd: pip install 'wspool[zstd]'.")
        ) from None
    decoder = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW)
    try:
        with decoder.stream_reader(io.BytesIO(body), read_across_frames=True) as reader:
            result = reader.read(limit + 1)
    except zstandard.ZstdError:
        raise RequestError(_broken("zstd")) from None
    if len(result) > limit:
        raise RequestError(_too_large(limit))
    return result


def _unsupported(name: str, why: str = "Supported are gzip, deflate and zstd.") -> TurnError:
    error = invalid_request(
        f"Unsupported content encoding: '{name}'. {why}", code="unsupported_content_encoding", status=415
    )
    return TurnError(
        type=error.type,
        code=error.code,
        message=error.message,
        status=error.status,
        headers={"Accept-Encoding": "gzip, deflate, zstd"},
    )


def _broken(name: str) -> TurnError:
    return invalid_request(
        f"We could not decode the {name} body of your request.", code="invalid_content_encoding"
    )


def _too_large(limit: int) -> TurnError:
    return invalid_request(f"The request is too large: it unpacks to more than {limit} bytes.", status=413)
