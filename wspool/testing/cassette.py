"""Cassettes: what an endpoint said, in a file that people can read, and that answers in its place.

A cassette is a list of exchanges: what a request meant, and the events that answered it, or its refusal. It
knows nothing of sockets: the same one answers over WebSocket and over HTTP, whole conversations and deltas.

1. A request is answered by the first exchange that means the same (`wspool.testing.meaning`) and has not been
   played yet. Each is played once, in the order of the file among equals: the answer to a retry comes second.
2. No exchange fits: the difference to the nearest one is told, and nothing is made up.
3. Nothing in the file depends on when or how it was recorded: no times of ours, no headers, no keys.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import attrs

from wspool.core.frames import encode_received
from wspool.server.models import Item, is_object
from wspool.testing.meaning import Difference, Meaning, first_difference, items_of
from wspool.testing.pieces import dumps, in_pieces

__all__ = ["Cassette", "CassetteError", "Exchange", "MismatchError"]

_VERSION: Final = 1

#: Of a request: how it is carried, which is left to whoever replays it. The rest of it is kept.
_CARRIED: Final = frozenset(
    {"background", "generate", "previous_response_id", "stream", "stream_id", "stream_options", "type"}
)

_TERMINAL: Final = frozenset({"response.completed", "response.failed", "response.incomplete"})


#: Bytes of the digest of a conversation.
_MARK: Final = 8

_T = TypeVar("_T")


class CassetteError(Exception):
    """The file is no cassette; the text says where it is wrong."""


class MismatchError(Exception):
    """No exchange fits a request; the text names the first difference to the nearest one."""


@attrs.define(eq=False)
class Exchange:
    """One request and its answer."""

    request: Mapping[str, Any]
    """Its fields, without `input`, and without how it was carried."""
    context: Sequence[Item]
    """The whole conversation up to its answer, in normal form."""
    events: list[dict[str, Any]] = attrs.field(factory=list[dict[str, Any]])
    """The answer."""
    refusal: Mapping[str, Any] | None = None
    """Or instead: `status` and `error`, as over HTTP."""
    parent: str | None = None
    """What it continues that is in no exchange before it."""
    played: bool = False
    """Whether it was given as an answer already."""
    marks: bytes = attrs.field(init=False)
    """Digests of the conversation up to each of its items, one behind the other (`_marks`)."""
    _meaning: Meaning | None = attrs.field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        self.marks = _marks(self.context)

    @classmethod
    def of(cls, body: Mapping[str, Any], before: Sequence[Item] | None) -> "Exchange":
        """An exchange without an answer yet.

        Args:
          before: the conversation that its `previous_response_id` stands for; None: not known.
        """
        parent = body.get("previous_response_id") if before is None else None
        kept = {key: value for key, value in body.items() if key not in _CARRIED and key != "input"}
        return cls(kept, [*(before or ()), *items_of(body.get("input"))], parent=parent)

    @property
    def meaning(self) -> Meaning:
        """What the request means."""
        if self._meaning is None:
            fields = {**self.request, "input": self.context, "previous_response_id": self.parent}
            self._meaning = Meaning.of(fields)
        return self._meaning

    @property
    def response(self) -> Mapping[str, Any] | None:
        """The response as it ended, or None."""
        last = self.events[-1] if self.events else {}
        response = last.get("response") if last.get("type") in _TERMINAL else None
        return response if is_object(response) else None

    def said(self) -> list[Item]:
        """The answer, as items in normal form."""
        response = self.response or {}
        output = response.get("output") or [
            event.get("item") for event in self.events if event.get("type") == "response.output_item.done"
        ]
        return items_of(output)

    def after(self) -> list[Item]:
        """The conversation with the answer."""
        return [*self.context, *self.said()]

    def end_mark(self) -> bytes:
        """The digest of the conversation with the answer; empty if nothing is in it."""
        return (self.marks + _marks(self.said(), self.marks[-_MARK:]))[-_MARK:]

    def longest(self, ends: Mapping[bytes, _T]) -> _T | None:
        """What *ends* has, by `end_mark`, of the longest conversation that this one begins with."""
        for place in range(len(self.marks) - _MARK, -1, -_MARK):
            if (found := ends.get(self.marks[place : place + _MARK])) is not None:
                return found
        return None


class Cassette:
    """The exchanges of one file."""

    def __init__(self, exchanges: Sequence[Exchange] = (), *, endpoint: str = "") -> None:
        self.endpoint = endpoint
        """Where it was recorded, for the reader."""
        self.exchanges: list[Exchange] = list(exchanges)

    def contexts(self) -> dict[str, list[Item]]:
        """By response id: the conversations that its answers can be continued from."""
        return {
            exchange.response["id"]: exchange.after()
            for exchange in self.exchanges
            if exchange.response is not None and isinstance(exchange.response.get("id"), str)
        }

    def play(self, asked: Meaning) -> Exchange:
        """The exchange that answers a request. It is played from then on.

        Raises:
          MismatchError: there is none.
        """
        nearest: tuple[int, Difference] | None = None
        played = None
        for number, exchange in enumerate(self.exchanges, 1):
            difference = first_difference(exchange.meaning, asked)
            if difference is None and not exchange.played:
                exchange.played = True
                return exchange
            if difference is None:
                played = number
            elif not exchange.played and (nearest is None or difference.same > nearest[1].same):
                nearest = number, difference
        count = len(self.exchanges)
        if played is not None:
            raise MismatchError(f"exchange {played} of {count} answers this request, and was played already")
        if nearest is None:
            raise MismatchError(f"no exchange is left for this request; all {count} were played")
        raise MismatchError(f"no exchange fits; the nearest is {nearest[0]} of {count}, {nearest[1]}")

    # The file.

    @classmethod
    def load(cls, path: Path) -> "Cassette":
        """Read a file.

        Raises:
          OSError: it can not be read.
          CassetteError: it is no cassette.
        """
        number = 0
        try:
            # Others have their turn between two of its objects.
            data = json.loads(path.read_text(encoding="utf-8"), object_hook=_itself)
            if data["wspool_cassette"] != _VERSION:
                raise ValueError(f"version {data['wspool_cassette']!r} is not known here")
            cassette = cls(endpoint=str(data.get("endpoint", "")))
            for entry in data["exchanges"]:
                number += 1
                cassette.exchanges.append(cassette._read(entry))
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as problem:
            where = f", in exchange {number}" if number else ""
            what = f"{type(problem).__name__}: {problem}"
            raise CassetteError(f"{path} is no cassette{where}: {what}") from problem
        return cassette

    def _read(self, entry: Mapping[str, Any]) -> Exchange:
        request = dict(entry["request"])
        continued: int = entry.get("continues", 0)
        before = self.exchanges[continued - 1].after() if continued else []
        context = [*before, *items_of(request.pop("input", []))]
        parent = request.pop("previous_response_id", None)
        exchange = Exchange(request, context, parent=parent)
        if "refusal" in entry:
            exchange.refusal = dict(entry["refusal"])
        else:
            exchange.events = [dict(event) for event in entry["events"]]
            if exchange.response is None:
                raise ValueError("its last event is not the end of a response")
        return exchange

    def save(self, path: Path, *, mode: int = 0o666) -> None:
        """Write the file, all of it or nothing. What is the same is written the same, byte for byte.

        Args:
          mode: of the file, less what the umask takes away.

        Raises:
          OSError: it cannot be written.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f".{path.name}.{os.getpid()}")
        new.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        try:
            with open(os.open(new, flags, mode), "w", encoding="utf-8", newline="\n") as file:
                for line in self._lines():
                    file.writelines(in_pieces(line))
            new.replace(path)
        except BaseException:
            new.unlink(missing_ok=True)  # a full disk would stay so
            raise

    def text(self) -> str:
        """The file's text: JSON, laid out so that a change of one thing changes one line."""
        return "".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f'{{\n"wspool_cassette": {_VERSION},\n"endpoint": {_line(self.endpoint)},\n"exchanges": [\n'
        ends: dict[bytes, tuple[int, int]] = {}
        for number, exchange in enumerate(self.exchanges, 1):
            if number > 1:
                yield ",\n"
            yield from _entry(exchange, exchange.longest(ends) or (0, 0))
            if end := exchange.end_mark():
                ends.setdefault(end, (number, len(exchange.after())))
        yield "\n]\n}\n"


def _entry(exchange: Exchange, continued: tuple[int, int]) -> Iterator[str]:
    """The text of one exchange.

    Args:
      continued: the number of the exchange that it goes on from, 0 for none, and how long it is by then.
    """
    before, length = continued
    request = dict(exchange.request)
    yield f'{{\n"continues": {before},\n' if before else "{\n"
    if exchange.parent is not None:
        request["previous_response_id"] = exchange.parent
    yield '"request": {\n'
    for name, value in sorted(request.items()):
        yield f"  {_line(name)}: {_line(value)},\n"
    yield '  "input": '
    yield from _list(exchange.context[length:], "    ")
    if exchange.refusal is not None:
        yield f'\n}},\n"refusal": {_line(exchange.refusal)}'
    else:
        yield '\n},\n"events": '
        yield from _list(exchange.events, "  ")
    yield "\n}"


def _list(values: Sequence[object], indent: str) -> Iterator[str]:
    """The text of a list, a line for each of *values*."""
    before = "[\n"
    for value in values:
        yield f"{before}{indent}{_line(value)}"
        before = ",\n"
    yield f"\n{indent[2:]}]" if values else "[]"


def _itself(value: dict[str, Any]) -> dict[str, Any]:
    return value


def _marks(items: Iterable[Item], mark: bytes = b"") -> bytes:
    """Digests of a conversation up to each of *items*, one behind the other; *mark*: that before them."""
    marks = bytearray()
    for item in items:
        text = dumps(item, sort_keys=True).encode()
        mark = hashlib.blake2b(text, digest_size=_MARK, key=mark).digest()
        marks += mark
    return bytes(marks)


def _line(value: object) -> str:
    try:
        text = dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:  # a number that is none in JSON, as servers write them
        return encode_received(value).decode()
    try:
        for piece in in_pieces(text):
            piece.encode("utf-8")
    except UnicodeEncodeError:  # half a surrogate pair, as models write them
        return dumps(value, allow_nan=False)
    return text
