"""Calls: what a model asks its client to do, and what the client still owes it.

Rules of this module:

* A call of the client's is open until an output with its `call_id` comes after it. A request that leaves one
  open is refused ("No tool output found for ..."), now and in every later turn, so none is sent. An async
  call may stay open: the model goes on without its output. So does one after which a model has gone on: where
  it must be answered the history says that it was not (`wspool.core.sending.sendable`).
* `Conversation.run` makes calls of functions and of custom tools. A response that has other calls beside them
  is the caller's to answer, as a whole: whoever answers a part of it is refused.
* A new message says that the user goes on without what was asked for: what is open then is closed with an
  output that says so. Input that answers some of the open calls goes on with all of them.
* Each item of a history is looked into once, and only if it can be a call or an output.

Source of the kinds, of `async` and of the parts of an output: the item types of openai-python 3.57
(`ResponseFunctionToolCall`, `FunctionCallOutput` and their like).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from operator import itemgetter
from typing import Any, Final, Generic, TypeVar, cast

import attrs

from wspool.core.encoding import Encoded, read
from wspool.core.frames import encode
from wspool.core.items import OUTPUTS, Item
from wspool.core.plain import plain

__all__ = [
    "ANSWERS",
    "OpenCalls",
    "Opening",
    "answer",
    "arguments_of",
    "described",
    "id_of",
    "is_others",
    "is_ours",
    "is_question",
    "open_calls",
    "opening",
    "output_of",
    "owed",
    "retold",
    "signature",
    "tool_calls",
]

_T = TypeVar("_T")

#: What answers a call of the client.
ANSWERS: Final = frozenset(OUTPUTS.values())
#: Of those, the ones that `Conversation.run` makes.
_OURS: Final = frozenset({"function_call", "custom_tool_call"})
#: No call, and nobody refuses a request without its answer; but only the client can give it.
_QUESTION: Final = "mcp_approval_request"

#: Items that are no message and no output, and not the model's either.
_BROUGHT: Final = frozenset({"mcp_approval_response", "program_output", "additional_tools", "item_reference"})

#: What an output may be made of beside text.
_PARTS: Final = frozenset({"input_text", "input_image", "input_file"})

#: Calls that a sentence names, and characters of each name.
_NAMED: Final = 5
_NAME: Final = 60


def _kind(item: object) -> str:
    """The type of an item, whatever it is: a server or a file may hold anything."""
    kind = cast("Mapping[str, Any]", item).get("type") if isinstance(item, Mapping) else None
    return kind if isinstance(kind, str) else ""


def _is_call(item: object) -> bool:
    """Whether an item is a call that the client has to answer; the server makes some of the same kinds."""
    kind = _kind(item)
    if kind not in OUTPUTS:
        return False
    call = cast("Mapping[str, Any]", item)
    if kind == "tool_search_call":
        return call.get("execution") == "client"
    where = call.get("environment")
    return not (isinstance(where, dict) and cast("Item", where).get("type") == "container_reference")


def id_of(item: Mapping[str, Any]) -> str:
    """Return what a call, or its output, is called."""
    return str(item.get("call_id") or item.get("id"))


def tool_calls(output: Sequence[Item]) -> list[Item]:
    """Return the items of *output* that call a function or a custom tool of the client."""
    return [item for item in output if is_ours(item)]


def is_ours(item: Item) -> bool:
    """Return whether *item* is a call that `Conversation.run` makes."""
    return _kind(item) in _OURS


def is_question(item: Item) -> bool:
    """Return whether *item* is no call, but asks the client for what `Conversation.run` cannot give."""
    return _kind(item) == _QUESTION


def is_others(item: Item) -> bool:
    """Return whether *item* asks the client for what `Conversation.run` cannot give."""
    return is_question(item) or (_is_call(item) and not is_ours(item))


class _Open(Generic[_T]):
    """What is open after some items, in whatever form it is kept.

    To note an item takes as long however many are open: a server can leave any number open.
    """

    __slots__ = ("_count", "_given", "_later", "_nameless", "_owed")

    def __init__(self) -> None:
        #: By the id that a call and its output share; by their own, after a NUL, where there is none. Each
        #: with its place among all calls.
        self._owed: dict[str, list[tuple[int, _T]]] = {}
        #: Those for whose output the model does not wait.
        self._later: dict[str, list[tuple[int, _T]]] = {}
        #: The keys of those without an id that is shared, oldest first.
        self._nameless: dict[str, None] = {}
        self._count = 0
        #: True while the last item is no work of the model.
        self._given = False

    def __bool__(self) -> bool:
        return bool(self._owed or self._later)

    def note(self, item: object, kept: _T) -> None:
        """Take the next *item*, to be kept as *kept*."""
        if _kind(item) in ANSWERS:
            self._answer(cast("Item", item))
            self._given = True
        elif not _is_made(item):
            self._given = True
        else:
            if self._given and self._owed:
                # The model has gone on without what it asked for then.
                for key in self._owed:
                    if key not in self._later:
                        self._nameless.pop(key, None)
                self._owed = {}
            self._given = False
            if _is_call(item):
                self._add(cast("Item", item), kept)

    def _add(self, call: Item, kept: _T) -> None:
        name = call.get("call_id")
        key = str(name or f"\0{call.get('id')}")
        if not name:
            self._nameless.setdefault(key)
        self._count += 1
        where = self._later if call.get("async") is True else self._owed
        where.setdefault(key, []).append((self._count, kept))

    def _answer(self, output: Item) -> None:
        key = str(output.get("call_id") or f"\0{output.get('id')}")
        if not output.get("call_id") and key not in self._nameless:
            # Its call has none either: that which it names, or the first such.
            key = next(iter(self._nameless), "")
        self._owed.pop(key, None)
        self._later.pop(key, None)
        self._nameless.pop(key, None)

    def left(self) -> list[_T]:
        """Return what is open, oldest first."""
        found = [call for where in (self._owed, self._later) for calls in where.values() for call in calls]
        return [kept for _, kept in sorted(found, key=itemgetter(0))]


def _is_made(item: object) -> bool:
    """Whether an item is a work of the model."""
    kind = _kind(item)
    if kind in ("", "message"):
        role = cast("Mapping[str, Any]", item).get("role") if isinstance(item, Mapping) else None
        return role not in ("user", "system", "developer")
    return kind not in _BROUGHT


def open_calls(items: Sequence[Item]) -> list[Item]:
    """Return the calls of the client that nothing answers, and without which nobody went on; oldest first."""
    found = _Open[Item]()
    for item in items:
        found.note(item, item)
    return found.left()


#: What a message begins with that says first what it is: to look through a long one takes a microsecond.
_MESSAGE: Final = b'{"type":"message",'


class OpenCalls:
    """The open calls of a history that grows; looks at each item once."""

    __slots__ = ("_open", "_seen", "_start")

    def __init__(self) -> None:
        #: None while nothing is open.
        self._open: _Open[Encoded] | None = None
        self._start = self._seen = 0

    def of(self, items: Sequence[Encoded], start: int) -> list[Item]:
        """Return the open calls in *items*, a history that has only grown, from *start* on."""
        if start != self._start:
            self._open = None
            self._start = self._seen = start
        for data in items[self._seen :]:  # to skip what was seen would take as long as the history is
            if self._open is not None or not (data.startswith(_MESSAGE) or data.find(b'_call"') < 0):
                found: _Open[Encoded] = self._open or _Open()
                found.note(read(data), data)
                self._open = found or None
        self._seen = len(items)
        return [] if self._open is None else [read(data) for data in self._open.left()]


@attrs.frozen
class Opening:
    """What becomes of open calls when there is new input.

    Attributes:
        run: to be made now; their outputs go before the input.
        close: to be closed, for the input goes on without them.
        stuck: neither, and nothing can be sent: only the caller can answer them.
    """

    run: Sequence[Item] = ()
    close: Sequence[Item] = ()
    stuck: Sequence[Item] = ()


def opening(calls: Sequence[Item], given: Sequence[Item] | None) -> Opening:
    """Decide what becomes of the open *calls* before *given*, the input of a tool loop; None for no input."""
    left = _left(calls, given or ())
    if stuck := [call for call in left if not is_ours(call)]:
        return Opening(stuck=stuck)
    if given is None or len(left) < len(calls):
        return Opening(run=left)
    return Opening(close=left)


def owed(calls: Sequence[Item], given: Sequence[Item], waited_for: Collection[str] = ()) -> list[Item]:
    """Return those of the open *calls* that a request with the input *given* must not leave open.

    Args:
        calls: the open calls.
        given: the input.
        waited_for: names of tools that are async.
    """
    return [
        call
        for call in _left(calls, given)
        if call.get("async") is not True and str(call.get("name")) not in waited_for
    ]


def _left(calls: Sequence[Item], given: Sequence[Item]) -> list[Item]:
    """Return those of the open *calls* that *given* does not answer."""
    outputs = [item for item in given if _kind(item) in ANSWERS]
    return open_calls([*calls, *outputs]) if outputs else [*calls]


def answer(call: Item, output: str | Sequence[Item]) -> Item:
    """Return the item that answers *call*, one that `Conversation.run` makes, with *output*."""
    return {"type": OUTPUTS[str(call["type"])], "call_id": call.get("call_id"), "output": output}


def signature(call: Item) -> str:
    """Return what *call* asks for, whatever it is called: two of the same do the same."""
    texts = [call.get(name) for name in ("type", "namespace", "name", "input", "arguments")]
    try:
        texts[-1] = json.dumps(arguments_of(call), sort_keys=True)
    except (TypeError, ValueError, RecursionError):
        pass  # what cannot be read is compared as it came
    return repr([text if isinstance(text, str) else None for text in texts])


def retold(call: Item, number: int) -> Item:
    """Return *call*, of a lost response, as an item that tells a model of it, under a name of its own."""
    kept = ("type", "namespace", "name", "arguments", "input")
    called = f"{id_of(call)[:48]}_lost{number}"
    return {name: call[name] for name in kept if name in call} | {"call_id": called}


def arguments_of(call: Item) -> dict[str, Any]:
    """Return the arguments of a function call: the text of a JSON object, or, as some servers say it, one.

    Raises:
        TypeError, ValueError: they are no JSON object.
    """
    given: Any = call.get("arguments")
    if isinstance(given, str) or given is None:
        try:
            given = json.loads(given or "{}")
        except RecursionError:
            raise ValueError(f"the arguments of {_name(call)} are nested too deep") from None
    if not isinstance(given, dict):
        raise TypeError(f"the arguments of {_name(call)} are not a JSON object")
    return cast("dict[str, Any]", given)


def output_of(result: object, name: str) -> str | list[Item]:
    """Return what a tool of *name* returned as the output of its call.

    A text stays one. Content parts (`input_text`, `input_image`, `input_file`; one, or a list that may hold
    texts too) are sent as parts. Everything else is sent as the text of its JSON.

    Raises:
        TypeError, ValueError: it holds what JSON cannot; the text says where.
    """
    if isinstance(result, str):
        return result
    what = f"the result of {name!r:.{_NAME}}"
    parts = [result] if _is_part(result) else result
    if isinstance(parts, (list, tuple)):
        given = cast("Sequence[object]", parts)
        if any(map(_is_part, given)) and all(isinstance(each, str) or _is_part(each) for each in given):
            sent = [{"type": "input_text", "text": each} if isinstance(each, str) else each for each in given]
            return cast("list[Item]", read(Encoded(encode(sent, what))))
    try:
        return json.dumps(result, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return encode(result, what).decode()  # or it says where it is no JSON


def _is_part(value: object) -> bool:
    return isinstance(value, Mapping) and cast("Mapping[str, object]", value).get("type") in _PARTS


def described(calls: Sequence[Mapping[str, Any]]) -> str:
    """Return the names of *calls* for a sentence: `function_call look (call_1)`."""
    names = [" ".join(filter(None, (_kind(call), _name(call), _number(call)))) for call in calls[:_NAMED]]
    rest = f" and {len(calls) - _NAMED} more" if len(calls) > _NAMED else ""
    return ", ".join(names) + rest


def _name(call: Mapping[str, Any]) -> str:
    name = call.get("name")
    return plain(repr(name[:_NAME]), _NAME) if isinstance(name, str) else ""


def _number(call: Mapping[str, Any]) -> str:
    return f"({plain(id_of(call), _NAME)})"
