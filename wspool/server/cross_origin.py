"""Cross-origin requests: what tells a browser that a page may read the answer.

Pure. Whether a page may ask at all has been decided before (`admission`); whoever may is told so by its own
name, as a page's key goes in a header and never in a cookie.

Source: the Fetch standard, 3.3, and the Private Network Access draft.
"""

from typing import Final

from wspool.listening.admission import Headers, is_preflight

__all__ = ["cross_origin_headers"]

_METHODS: Final = "GET, HEAD, POST, DELETE, OPTIONS"
_READABLE: Final = "x-request-id, retry-after"

#: Seconds that a browser need not ask again. Browsers do not remember it for longer than two hours.
_REMEMBERED: Final = 7200


def cross_origin_headers(method: bytes, headers: Headers) -> dict[str, str]:
    """The headers of the answer to a request that was let in; none if no page asks."""
    fields = {name: value.decode("latin-1") for name, value in headers}
    origin = fields.get(b"origin")
    if origin is None:
        return {}
    allowed = {
        "Access-Control-Allow-Origin": origin,
        "Access-Control-Expose-Headers": _READABLE,
        "Vary": "Origin",
    }
    if is_preflight(method, headers):
        allowed["Access-Control-Allow-Methods"] = _METHODS
        allowed["Access-Control-Allow-Headers"] = fields.get(b"access-control-request-headers", "*")
        allowed["Access-Control-Max-Age"] = str(_REMEMBERED)
        if fields.get(b"access-control-request-private-network") == "true":
            allowed["Access-Control-Allow-Private-Network"] = "true"
    return allowed
