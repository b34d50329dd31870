"""Encoding: JSON values become bytes, the same ones whatever is installed.

Rules of this module:

* Compact, UTF-8, linear in the size of the value. `orjson` writes what it can; `json` writes the rest, and
  everything where `orjson` is not installed. Neither the bytes nor the error tell which of them it was, but
  for the spelling of a float's exponent.
* What is no JSON is refused, and the error says where it is: NaN and infinity, foreign objects, a value that
  contains itself. Enums are written as their values, UUIDs as their text.
* Half a surrogate pair has no UTF-8, and strict readers refuse its escape (`\\ud800`) with the whole request.
  It is sent as U+FFFD, as every browser sends it; two halves that stand together are joined.
* What a server said must be possible to say again, or a conversation would be stuck at its next full
  send: there NaN and infinity, which are no JSON, become null.
"""

from __future__ import annotations

import enum
import functools
import json
import math
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, cast

__all__ = ["Encoded", "assemble", "is_lossless", "read", "write", "write_received", "write_sorted"]

_REPLACEMENT: Final = "\ufffd".encode()


class Encoded(bytes):
    """A JSON value, written. Nobody can change it, so it can be shared."""

    __slots__ = ()


def write(value: Any, fast: Any, name: str = "") -> bytes:
    """Return *value* as JSON.

    Args:
        value: JSON values, enums and UUIDs.
        fast: the module `orjson`, or None.
        name: what the value is called in an error.

    Raises:
        TypeError, ValueError: it holds something that JSON cannot, or is nested too deep.
    """
    if fast is not None:
        try:
            options = fast.OPT_PASSTHROUGH_DATACLASS | fast.OPT_PASSTHROUGH_DATETIME
            data: bytes = fast.dumps(value, option=options | fast.OPT_PASSTHROUGH_SUBCLASS)
        except TypeError:
            pass  # a number as a key, a long one, a subclass, half a surrogate, or what json cannot do either
        else:
            # It writes null for what is no number. Where that is all it wrote null for, nobody can tell.
            # In a text there is no number: to look for one would take longer than to write it.
            if isinstance(value, str) or b"null" not in data or _holds_numbers_only(value):
                return data
    try:
        return _utf8(
            json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=_plain)
        )
    except RecursionError:
        raise ValueError(f"{name or 'the request'} is nested too deep to be written as JSON") from None
    except (TypeError, ValueError) as error:
        problem = error
    place, culprit = _culprit(value, name) or (name, None)
    if isinstance(culprit, float):
        raise ValueError(
            f"{place or 'a value'} is {culprit}, and JSON has no such number; send null or a text"
        )
    kind = TypeError if isinstance(problem, TypeError) else ValueError
    raise kind(f"{place}: {problem}" if place else str(problem))


def write_received(value: Any, fast: Any) -> bytes:
    """Return *value*, as a server sent it, as JSON that can be sent.

    Raises:
        ValueError: it is nested too deep.
    """
    if fast is not None:
        try:
            data: bytes = fast.dumps(value)
            return data  # without `cast`, which is a call
        except TypeError:
            pass  # a long number, half a surrogate
    try:
        text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
        if "NaN" in text or "Infinity" in text:  # perhaps only in a string
            value = json.loads(text, parse_constant=lambda _: None)
            text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    except RecursionError:
        raise ValueError("nested too deep to be written as JSON") from None
    return _utf8(text)


def write_sorted(value: Any, fast: Any) -> bytes:
    """Return *value* as JSON that is the same whatever the order of its keys. To be compared, not to be sent.

    Only what is written by the same process can be compared. Takes and raises what `write` does.
    """
    if fast is not None:
        try:
            return cast("bytes", fast.dumps(value, option=fast.OPT_SORT_KEYS))
        except TypeError:
            pass  # as in `write`
    return json.dumps(value, separators=(",", ":"), sort_keys=True, default=_plain).encode("ascii")


def is_lossless(value: Any, data: bytes) -> bool:
    """Return whether *data*, what `write_received` made of *value*, says all that it said."""
    if b"null" in data and not _holds_numbers_only(value):
        return False
    if _REPLACEMENT in data:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            return False
    return True


def read(data: bytes) -> Any:
    """Return the value that was written as *data*: a new one each time."""
    # orjson would make floats of long integers, and json has first to find out that bytes are UTF-8.
    return json.loads(data.decode())


def assemble(members: Mapping[str, bytes], items: Sequence[bytes]) -> bytes:
    """Return the object that has *members* and, as its `input`, the list of *items*.

    All are written already, and are copied once.
    """
    parts = [b"{"]
    for name, data in members.items():
        parts += _key(name), data, b","
    parts += b'"input":[', items[0] if len(items) == 1 else b",".join(items), b"]}"
    return b"".join(parts)


@functools.lru_cache(maxsize=256)  # the names of fields are few, and the same in every request
def _key(name: str) -> bytes:
    return _utf8(json.dumps(name, ensure_ascii=False)) + b":"


def _plain(value: object) -> object:
    """Return a plain value in the place of one that orjson writes by itself."""
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, uuid.UUID):
        return str(value)
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        # Through UTF-16, since there two halves that stand together are one character.
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()


def _holds_numbers_only(value: Any) -> bool:
    """Return whether no number in *value* is NaN or infinite. It was written, so it has an end."""
    todo = [value]
    for each in todo:
        if isinstance(each, dict):
            todo += cast("dict[str, Any]", each).values()
        elif isinstance(each, (list, tuple)):
            todo += cast("list[Any]", each)
        elif isinstance(each, float):
            if not math.isfinite(each):
                return False
        elif isinstance(each, enum.Enum):
            todo.append(each.value)
    return True


_END: Final = object()


def _culprit(value: object, name: str) -> tuple[str, Any] | None:
    """Return place and value of the first thing in *value* that is no JSON; None for none."""
    path: list[tuple[str, object, Iterator[tuple[str, object]]]] = [("", None, iter([(name, value)]))]
    while path:  # in the order of the text, and without recursion
        step, each = next(path[-1][2], ("", _END))
        if each is _END:
            path.pop()
        elif isinstance(each, (dict, list, tuple)):
            if any(each is outer for _, outer, _ in path):
                return None
            container = cast("dict[object, object] | list[object]", each)
            path.append((step, container, _members(container)))
        elif not _is_leaf(each):
            place = "".join(part for part, _, _ in path) + step
            return place.removeprefix("."), each
    return None


def _is_leaf(value: object) -> bool:
    while isinstance(value, enum.Enum) and not isinstance(value, (str, int, float)):
        value = value.value
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, (str, int, uuid.UUID, dict, list, tuple))


def _members(container: dict[object, object] | list[object]) -> Iterator[tuple[str, object]]:
    if isinstance(container, dict):
        return ((f".{name}", each) for name, each in container.items())
    return ((f"[{index}]", each) for index, each in enumerate(container))
