"""What travels on a connection: inbound message -> `Event`, outbound body -> bytes.

Rules of this module:

* The type of an event is known at once, its body is decoded only when somebody looks. Most
  events are deltas that nobody decodes twice.
* A message is one JSON text or it is an error; that is known without reading it.
* An unknown type or field is never an error. No type at all, or no JSON object, is. So is one that is nested
  too deep: whatever is kept of it must still go out again, however deep the caller's own stack is. So is one
  with so many values that it would take many times its size; that is known before it is decoded.
* Number and lane of an event are looked for where servers write them, right after the type or at the end,
  with nothing but plain members behind. There they cannot be part of anything else, and nothing needs to be
  decoded. What has its number elsewhere is decoded: an event that seems to have none looks like a gap.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, cast

from wspool.core.encoding import write, write_received, write_sorted
from wspool.core.error import Delivery, WsPoolError
from wspool.core.openai_types import openai_event

if TYPE_CHECKING:
    from openai.types.responses import ResponseStreamEvent

__all__ = [
    "ARRAY",
    "OBJECT",
    "Event",
    "Likeness",
    "MalformedMessageError",
    "as_number",
    "as_text",
    "decode_fast",
    "encode",
    "encode_received",
    "encode_sorted",
    "has_too_many_values",
    "lane_of",
    "parse_event",
    "read_object",
]

# Servers write the type first. Both spellings of the separator are common.
_TYPE_FIRST: Final = re.compile(
    r'\{"type": ?+"([A-Za-z0-9_.:-]{1,128}+)"'
    r'(?:, ?+"sequence_number": ?+(-?+[0-9]{1,18}+)(?:, ?+"stream_id": ?+"([^"\\]{1,256}+)")?)?[,}]'
)
_TYPE_FIRST_BYTES: Final = re.compile(_TYPE_FIRST.pattern.encode())
#: Bytes at the end of an event that may hold its lane.
_END: Final = 320
# What stands before the last bracket of an object, with no other bracket between, is a member of that object.
# OpenAI writes the others in the order of their names: `"sequence_number":5,"text":"..."}`. Quotation marks
# in a text are escaped, so one before a colon is that of a name.
_NUMBER_LAST: Final = re.compile(
    r'"sequence_number": ?+(-?+[0-9]{1,18}+)'
    r'((?:, ?+"[A-Za-z0-9_]{1,64}+": ?+(?:"(?:[^"\\]++|\\.)*+"|[^"\[\]{},]++))*+)\}',
    re.DOTALL,
)
_LANE: Final = re.compile(r'"stream_id": ?+"([^"\\]{1,256}+)"')

# What a delta is about, where servers write it first; of an id with an escaped quotation mark its beginning.
_ITEM_NEXT: Final = re.compile(r' ?"item_id": ?"[^"]{1,256}"')

_LANE_LAST: Final = re.compile(r'"stream_id": ?"([^"\\]{1,256})"\}')

# Where one JSON text would end and another begin. Text may hold the same characters; then all of it is read.
_TWO_TEXTS: Final = re.compile(r"\}\s*\{")
_TWO_TEXTS_BYTES: Final = re.compile(_TWO_TEXTS.pattern.encode())

#: Numbers below this are written once for all: to write one takes as long as to compare it with a message.
_FEW: Final = 1024
_WRITTEN: Final = tuple(map(str, range(_FEW)))

#: Most values in one message: objects, arrays, texts, numbers. Ten times what the longest answers of today's
#: models have, probabilities of all tokens included; decoded, so many take some 500 MiB.
MAX_VALUES: Final = 2_000_000

#: All that stands before a comma or an opening bracket that is in no text; without looking back.
_VALUE: Final = r'(?:[^"\[{,]++|"(?:[^"\\]++|\\.)*+")*+[\[{,]'
_VALUES: Final = re.compile(_VALUE, re.DOTALL)
_VALUES_BYTES: Final = re.compile(_VALUE.encode(), re.DOTALL)

#: Deepest nesting of a message, in arrays and objects. Far above any schema or output, and far below
#: what Python's json takes from an empty stack (about 1000).
MAX_DEPTH: Final = 256

_CONTAINERS: Final[tuple[type, ...]] = (dict, list)

#: What JSON calls an object, and an array. To ask so is to be told nothing of what is in it, and what is not
#: known needs no `cast`, which is a call.
OBJECT: Final[type[Any]] = dict
ARRAY: Final[type[Any]] = list


class MalformedMessageError(WsPoolError):
    """A message of the server that is no JSON object with a type.

    A turn that needs its contents is lost (`TurnLostError`). Where nobody had to look inside, the event is
    delivered, and the first look at its `data` raises this. Its text says what is wrong with the message and
    repeats none of it, for a server may have put anything there; look at the event's `raw`.
    """

    delivery: Delivery = "accepted"


class Event:
    """One server event.

    Attributes:
        type: the event's type.
        raw: the message as it came, text or UTF-8 bytes.
        sequence_number: its number in its response, if it has one in a usual place.
        stream_id: the lane it names, if it names one beside its number (`lane_of` looks everywhere).
    """

    __slots__ = ("_data", "raw", "sequence_number", "stream_id", "type")

    def __init__(
        self,
        type: str,
        raw: str | bytes,
        data: dict[str, Any] | None = None,
        sequence_number: int | None = None,
        stream_id: str | None = None,
    ) -> None:
        self.type = type
        self.raw = raw
        self.sequence_number = sequence_number
        self.stream_id = stream_id
        self._data = data

    @property
    def data(self) -> dict[str, Any]:
        """The event as a dict; decoded at the first look, then kept.

        An integer of more than 64 bits may come as a float.

        Raises:
            MalformedMessageError: the message is no JSON object after all.
        """
        if self._data is None:
            self._data = _decode(self.raw)
        return self._data

    @property
    def agent(self) -> str | None:
        """Name of the agent that it is of, in a turn of several (`/root`, `/root/critic`); else None.

        What is about the whole response has none, its end above all. Source: OpenAI's multi-agent guide.
        Decodes the event only if it may have one.

        Raises:
            MalformedMessageError: the message is no JSON object after all.
        """
        raw = self.raw
        if not ('"agent"' in raw if isinstance(raw, str) else b'"agent"' in raw):
            return None
        agent = self.data.get("agent")
        return as_text(cast("dict[str, Any]", agent).get("agent_name")) if isinstance(agent, dict) else None

    def to_openai(self) -> ResponseStreamEvent:
        """Return it as the event of the package `openai`, if that is installed. Made anew each time.

        Raises:
            ImportError: it is not.
            ValueError: the installed version has no such event.
            MalformedMessageError: the message is no JSON object after all.
        """
        return openai_event(self.data)

    def __repr__(self) -> str:
        return f"<Event {self.type}, {len(self.raw)} bytes>"


@functools.cache
def _orjson() -> Any:
    """The module `orjson`, None if it is not installed. Only looked for once there is JSON to read."""
    try:
        import orjson
    except ImportError:
        return None
    return orjson


def _loads(raw: str | bytes) -> Any:
    if (fast := _orjson()) is not None:
        try:
            return fast.loads(raw)
        except ValueError:
            pass  # it refuses what some servers send, half a surrogate for one: json has the last word
    return json.loads(raw)


def has_too_many_values(raw: str | bytes | bytearray) -> bool:
    """Return whether a message has more than `MAX_VALUES` values. Nothing is decoded or copied; linear."""
    if len(raw) <= 2 * MAX_VALUES:  # each takes two characters at least, with what is between them
        return False
    if isinstance(raw, str):
        marks, pattern = raw.count(",") + raw.count("[") + raw.count("{"), cast("Any", _VALUES)
    else:
        marks, pattern = raw.count(b",") + raw.count(b"[") + raw.count(b"{"), cast("Any", _VALUES_BYTES)
    if marks <= MAX_VALUES:
        return False
    # Most of them may be in texts. What is counted past the limit would change nothing.
    found = iter(pattern.scanner(raw).match, None)
    return sum(1 for _ in islice(found, MAX_VALUES + 1)) > MAX_VALUES


def _decode(raw: str | bytes) -> dict[str, Any]:
    if len(raw) > 2 * MAX_VALUES and has_too_many_values(raw):
        raise MalformedMessageError(f"more than {MAX_VALUES} values (fixed)")
    data: Any = None
    problem = ""
    try:
        data = _loads(raw)
        if len(raw) > 2 * MAX_DEPTH and _brackets(raw) > MAX_DEPTH and _is_deep(data):
            raise RecursionError
    except RecursionError:
        problem = f"nested deeper than {MAX_DEPTH} levels (fixed)"
    except ValueError as error:
        problem = f"not JSON ({type(error).__name__})"
    # Raised out here: in the context of ours, theirs would hold the whole message.
    if problem:
        raise MalformedMessageError(problem)
    if not isinstance(data, OBJECT):
        raise MalformedMessageError("not a JSON object")
    found: dict[str, Any] = data
    return found


def _brackets(raw: str | bytes) -> int:
    """How many levels there can be at most; each takes two characters."""
    return raw.count("{") + raw.count("[") if isinstance(raw, str) else raw.count(b"{") + raw.count(b"[")


def _is_deep(data: Any) -> bool:
    """Return whether *data* is nested deeper than `MAX_DEPTH`. Goes level by level: it must not recurse."""
    level: list[Any] = [data]
    for _ in range(MAX_DEPTH):
        # In one expression, since a final event may hold tens of thousands of objects.
        below: list[Any] = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)  # pyright: ignore[reportUnknownVariableType]
            if isinstance(inner, _CONTAINERS)
        ]
        level = below
        if not level:
            return False
    return True


def _check_one(raw: str | bytes) -> None:
    """Raise `MalformedMessageError` if a message is more, or less, than one JSON text."""
    if has_too_many_values(raw):
        raise MalformedMessageError(f"more than {MAX_VALUES} values (fixed)")
    problem = False
    try:
        _loads(raw)
    except RecursionError:
        pass  # one, and nobody may want to look inside
    except ValueError:
        problem = True
    if problem:
        raise MalformedMessageError("not one JSON text")


def read_object(raw: str | bytes) -> dict[str, Any]:
    """Return the JSON object that *raw* is; an empty one if it is none, or over the limits of a message."""
    try:
        return _decode(raw)
    except MalformedMessageError:
        return {}


def _at_end(raw: str, start: int) -> tuple[str | None, str | None]:
    """Return the number from *start* on, and the lane beside it, if they are members of the whole message."""
    last = _NUMBER_LAST.fullmatch(raw, start)
    if last is None:
        return None, None
    return last[1], lane[1] if (lane := _LANE.search(raw, last.end(1))) is not None else None


def parse_event(raw: str | bytes) -> Event:
    """Return the event in one message.

    Raises:
        MalformedMessageError: it is no JSON object with a string `type`.
    """
    if isinstance(raw, str):
        if (match := _TYPE_FIRST.match(raw)) and raw[-1] == "}":
            before, _, rest = raw.partition("}")
            if "{" in rest and _TWO_TEXTS.search(raw, len(before)):
                _check_one(raw)
            kind, number, lane = match.groups()
            if number is None:
                start = raw.rfind('"sequence_number":')
                if start < 0:
                    return Event(kind, raw)
                number = raw[start + 18 : -1]
                if len(number) > 18 or not number.isdecimal():
                    number, lane = _at_end(raw, start)
            if number is not None:
                return Event(kind, raw, None, int(number), lane)
    elif (found := _TYPE_FIRST_BYTES.match(raw)) and raw.endswith(b"}"):
        if (at := raw.find(b"}", 0, -1)) >= 0 and _TWO_TEXTS_BYTES.search(raw, at):
            _check_one(raw)
        kind, number, lane = (None if part is None else part.decode() for part in found.groups())
        if number is None:
            start = raw.rfind(b'"sequence_number":')
            if start < 0:
                return Event(str(kind), raw)
            number, lane = _at_end(raw[start:].decode(errors="replace"), 0)
        if number is not None:
            return Event(str(kind), raw, None, int(number), lane)
    data = _decode(raw)
    kind = data.get("type")
    if not isinstance(kind, str):
        raise MalformedMessageError("no type")
    return Event(kind, raw, data, as_number(data.get("sequence_number")), as_text(data.get("stream_id")))


class Likeness:
    """How an event looks that goes on where another one was: the same letters round the next number.

    Deltas come by the hundred and differ in their number and their text. `parse_event` reads nothing of
    the text, so that to compare the ends of a message with what they must be is all there is to know.
    """

    __slots__ = ("_after", "_before", "_head", "_lane", "_type")

    def __init__(self, event: Event, head: str | None, before: str, after: str) -> None:
        self._type, self._lane = event.type, event.stream_id
        #: What a message begins with that ends in its number; None where it begins with the number.
        self._head = head
        self._before, self._after = before, after

    @classmethod
    def of(cls, event: Event) -> Likeness | None:
        """Return what is like *event*, as parsed from text; None where its number is in no usual place."""
        raw = event.raw
        match = _TYPE_FIRST.match(raw) if isinstance(raw, str) else None
        if not isinstance(raw, str) or match is None:
            return None
        # The next key belongs to what must be the same, or it could be one that says more. So does the item.
        known, (start, stop) = match.end(), match.span(2)
        end = raw.find(":", known) + 1
        key = raw[known:end]
        if not end or "stream_id" in key or "sequence_number" in key:
            return None
        if (item := _ITEM_NEXT.match(raw, known)) is not None:
            end = item.end()
        if stop >= 0:
            return cls(event, None, raw[:start], raw[stop:end])
        start = raw.rfind('"sequence_number":')
        last = _NUMBER_LAST.fullmatch(raw, start) if start >= 0 else None
        if last is None:
            return None
        return cls(event, raw[:end], raw[start : last.start(1)], raw[last.end(1) :])

    def run(self, messages: Sequence[str | bytes], number: int) -> tuple[list[Event], str]:
        """Return the events of those first of *messages* that go on with *number*, and these as one text."""
        kind, lane, head, before, after = self._type, self._lane, self._head, self._before, self._after
        events: list[Event] = []
        add, new = events.append, object.__new__
        texts = cast("Sequence[str]", messages)
        try:
            for raw in texts:
                same = f"{before}{_WRITTEN[number] if number < _FEW else number}{after}"
                if not (
                    raw.startswith(same) if head is None else raw.startswith(head) and raw.endswith(same)
                ):
                    break
                # Nearly none has a bracket before its last, and nothing sees that in less time.
                _, bracket, rest = raw.partition("}")
                if not bracket or (rest and (raw[-1] != "}" or _TWO_TEXTS.search(bracket + rest))):
                    break  # it may be no message, or two: it is read as a whole
                event = new(Event)  # without a call of __init__, which costs as much as all of the checks
                event.type, event.raw = kind, raw
                event._data = None  # pyright: ignore[reportPrivateUsage]
                event.sequence_number, event.stream_id = number, lane
                add(event)
                number += 1
        except TypeError:
            pass  # bytes, which are not compared
        return events, "".join(texts[: len(events)])


def lane_of(event: Event) -> str | None:
    """Return the lane that *event* names, wherever it does, and keep it in `stream_id`.

    Raises:
        MalformedMessageError: it had to be decoded and is no JSON object.
    """
    if event.stream_id is None:
        raw = event.raw
        end = raw[-_END:] if isinstance(raw, str) else raw[-_END:].decode(errors="replace")
        start = end.rfind('"stream_id":')
        last = _LANE_LAST.fullmatch(end, start) if start >= 0 else None
        event.stream_id = last[1] if last is not None else as_text(event.data.get("stream_id"))
    return event.stream_id


def encode(value: Any, name: str = "") -> bytes:
    """Return *value*, a request or a part of one, as compact JSON, UTF-8. See `encoding`.

    Args:
        value: what is to be sent.
        name: what an error calls it.

    Raises:
        TypeError, ValueError: it holds what JSON cannot, or is nested too deep; the text says where.
    """
    return write(value, _orjson(), name)


def encode_received(value: Any) -> bytes:
    """Return *value*, which a server sent, as JSON that can be sent. Raises ValueError: nested too deep."""
    return write_received(value, _orjson())


def encode_sorted(value: Any) -> bytes:
    """Return *value* as JSON to be compared with others of this process. See `encoding.write_sorted`."""
    return write_sorted(value, _orjson())


def decode_fast(text: str) -> Any:
    """Return the value of a JSON text, as fast as can be. An integer of more than 64 bits may be a float.

    Raises:
        ValueError, RecursionError: it is no JSON, or nested too deep.
    """
    return _loads(text)


def as_number(value: object) -> int | None:
    """Return *value* if it is a whole number, else None."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def as_text(value: object) -> str | None:
    """Return *value* if it is a text that says something, else None."""
    return value if isinstance(value, str) and value else None
