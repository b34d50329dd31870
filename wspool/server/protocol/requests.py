"""Requests: from bytes off the wire to a body that is safe to work with, or to the error that the client
gets.

Pure. Whatever gets past this module has the shapes that the rest of the server relies on. Whether all of it
is as the provider wants it is asked on top of that (`protocol.fields`), unless the server is lenient.
"""

import json
import math
import re
from collections.abc import Mapping
from typing import Any, Final, NoReturn

from wspool.listening.errors import RequestError, invalid_request
from wspool.server.models import Item, is_array, is_object
from wspool.server.protocol.fields import refusal_of

__all__ = ["RequestError", "check_create", "check_lane", "invalid_request", "is_warm_up", "parse"]

_LANE: Final = re.compile(r"[A-Za-z0-9_.-]{1,256}")

# What may be half a surrogate pair: its escape, or its bytes.
_HALF: Final = re.compile(rb"\\u[dD][89a-fA-F]|\xed[\xa0-\xbf]")


def parse(text: str | bytes) -> Item:
    """The JSON object in *text*.

    Raises:
      RequestError: it is not JSON as RFC 8259 has it (NaN and numbers beyond a float included), holds half a
        surrogate pair, is nested too deeply, or is not an object.
    """
    data = text.encode(errors="surrogatepass") if isinstance(text, str) else text
    try:
        body = json.loads(data, parse_constant=_refuse, parse_float=_finite)
        if _HALF.search(data):
            json.dumps(body, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise RequestError(invalid_request("We could not parse the JSON body of your request.")) from None
    if not is_object(body):
        raise RequestError(invalid_request("The request must be a JSON object."))
    return body


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)


def _finite(digits: str) -> float:
    value = float(digits)
    return value if math.isfinite(value) else _refuse(digits)


# What the server itself works with: field -> (types, in words).
_SHAPES: Final[dict[str, tuple[tuple[type, ...], str]]] = {
    "context_management": ((list,), "an array of objects"),
    "input": ((str, list), "a string or an array of items"),
    "instructions": ((str,), "a string"),
    "previous_response_id": ((str,), "a string"),
    "prompt_cache_options": ((dict,), "an object"),
    "store": ((bool,), "a boolean"),
    "stream_options": ((dict,), "an object"),
    "tools": ((list,), "an array of objects"),
}


def check_create(body: Item, *, lenient: bool = False, needs_model: bool = True) -> None:
    """Check the fields of a request that the server works with.

    Args:
      lenient: take what a provider refuses, as long as it can be worked with.
      needs_model: it must name one.

    Raises:
      RequestError: one is missing or has the wrong shape, or asks for what this mode does not offer.
    """
    if needs_model and not isinstance(body.get("model"), str):
        raise RequestError(
            invalid_request(
                "Missing required parameter: 'model'.", code="missing_required_parameter", param="model"
            )
        )
    for field, (types, words) in _SHAPES.items():
        value = body.get(field)
        if value is not None and not isinstance(value, types):
            raise _wrong_type(field, words)
    for field in ("context_management", "input", "tools"):
        value = body.get(field)
        if is_array(value):
            for number, element in enumerate(value):
                if not is_object(element):
                    raise _wrong_type(f"{field}[{number}]", "an object")
                if field == "input":
                    _check_content(element, f"input[{number}].content")
    if not lenient and (problem := refusal_of(body)) is not None:
        raise RequestError(problem)
    if body.get("background"):
        raise RequestError(
            invalid_request("Background mode is not supported on this connection.", param="background")
        )


def _check_content(item: Mapping[str, Any], where: str) -> None:
    content = item.get("content")
    plain = content is None or isinstance(content, str)
    if not plain and not (is_array(content) and all(is_object(part) for part in content)):
        raise _wrong_type(where, "a string or an array of objects")


def _wrong_type(field: str, words: str) -> RequestError:
    return RequestError(
        invalid_request(f"Invalid type for '{field}': expected {words}.", code="invalid_type", param=field)
    )


def check_lane(stream_id: object, names: set[str], limit: int) -> str | None:
    """The lane that *stream_id* names; None is the default lane. A new name is added to *names*.

    Raises:
      RequestError: it is no name, or it is the one after *limit*.
    """
    if stream_id is None:
        return None
    if not isinstance(stream_id, str) or not _LANE.fullmatch(stream_id):
        raise RequestError(
            invalid_request(
                "The 'stream_id' field must be a non-empty string with at most 256 characters and may only "
                "contain letters, numbers, underscores, hyphens, and periods.",
                code="invalid_stream_id",
                param="stream_id",
            )
        )
    if stream_id not in names and len(names) >= limit:
        raise RequestError(
            invalid_request(
                f"This WebSocket connection has reached its maximum number of distinct stream IDs ({limit}). "
                "Reuse an existing stream_id or open a new WebSocket connection.",
                code="websocket_stream_limit_reached",
                param="stream_id",
            )
        )
    names.add(stream_id)
    return stream_id


def is_warm_up(body: Item) -> bool:
    """Whether the request asks for a response without output, to be continued later."""
    options: Item = body.get("prompt_cache_options") or {}
    return body.get("generate") is False or options.get("prewarm") is True
