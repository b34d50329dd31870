"""Items: what a history is made of, each written once and never changed.

Rules of this module:

* An item is kept as its JSON. So nothing that a caller does to what it gave or got can change what is sent,
  and to send a history again costs no more than to copy its bytes.
* Values are made of it anew for whoever wants to look.
* What a caller gives is an item if it is a mapping; what a server gives must also say its type. What is none
  stays out of the history.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, cast

import attrs

from wspool.core.encoding import Encoded, is_lossless, read
from wspool.core.frames import ARRAY, OBJECT, encode, encode_received

__all__ = [
    "OUTPUTS",
    "Item",
    "Output",
    "as_items",
    "asks_store",
    "encode_fields",
    "encode_items",
    "no_input",
    "read_items",
    "with_encrypted_reasoning",
    "without_encrypted_reasoning",
]

_NULL: Final = Encoded(b"null")
_ENCRYPTED_REASONING: Final = "reasoning.encrypted_content"
_ONLY_ENCRYPTED: Final = Encoded(b'["reasoning.encrypted_content"]')

#: Calls of the client, and what answers them.
OUTPUTS: Final = {
    "function_call": "function_call_output",
    "custom_tool_call": "custom_tool_call_output",
    "local_shell_call": "local_shell_call_output",
    "shell_call": "shell_call_output",
    "computer_call": "computer_call_output",
    "apply_patch_call": "apply_patch_call_output",
    "tool_search_call": "tool_search_output",
}
#: Items that wait for an answer of the client.
ASKING: Final = frozenset(OUTPUTS) | {"mcp_approval_request"}

#: What stands round the text of a user message that is nothing else.
_BEFORE: Final = b'{"type":"message","role":"user","content":[{"type":"input_text","text":'
_BEHIND: Final = b"}]}"

#: One input or output item, as the API defines it.
Item = dict[str, Any]


def encode_items(given: str | Sequence[Mapping[str, Any]] | Sequence[Encoded]) -> list[Encoded]:
    """Return *given* as input items: a text becomes one user message. What is encoded stays as it is.

    Raises:
        TypeError, ValueError: it is neither a text nor a sequence of mappings, or holds what JSON cannot.
    """
    if isinstance(given, str):
        return [Encoded(_BEFORE + encode(given) + _BEHIND)]
    if isinstance(cast("object", given), Mapping | bytes) or not isinstance(cast("object", given), Iterable):
        raise no_input(given)
    return [_encoded(item, index) for index, item in enumerate(cast("Sequence[object]", given))]


def _encoded(item: object, index: int) -> Encoded:
    if isinstance(item, Encoded):
        return item
    # A caller without a type checker gets the same answer as one with.
    if not isinstance(item, Mapping):
        raise no_input(item, index)
    return Encoded(encode(dict(cast("Mapping[str, Any]", item)), f"input[{index}]"))


def no_input(given: object, index: int | None = None) -> TypeError:
    """Return the error of an input that is none, for what was *given*, or stands at *index* in it.

    It says none of its words, for errors are written down, and prompts are not to be.
    """
    kind = type(given).__name__
    what = kind if index is None else f"a list with {kind} at [{index}]"
    return TypeError(f"input must be a str or a list of item dicts, not {what}")


def read_items(items: Iterable[Encoded]) -> list[Item]:
    """Return *items* as values, new ones each time."""
    return [cast("Item", read(item)) for item in items]


def as_items(given: str | Sequence[Mapping[str, Any]]) -> list[Item]:
    """Return *given* as input items that share nothing with it. Raises what `encode_items` raises."""
    return read_items(encode_items(given))


def encode_fields(fields: Mapping[str, Any]) -> dict[str, Encoded]:
    """Return the fields of a body, each encoded. What is encoded stays as it is.

    Raises:
        TypeError, ValueError: one holds what JSON cannot, or has no text for a name; the text says where.
    """
    for name in fields:
        if not isinstance(cast("object", name), str):
            raise TypeError(f"the name of a field must be a str, not {type(name).__name__}")
    return {
        name: value if isinstance(value, Encoded) else Encoded(encode(value, name))
        for name, value in fields.items()
    }


def asks_store(fields: Mapping[str, Encoded], *, by_default: bool) -> bool:
    """Return whether a request with *fields* has its response stored; *by_default* if it does not say."""
    store = fields.get("store", _NULL)
    return store == b"true" or (store == _NULL and by_default)


def with_encrypted_reasoning(include: Encoded | None) -> Encoded:
    """Return the field `include` of a request whose response nobody stores: reasoning is always in it.

    Without its encrypted form reasoning cannot be sent again when the connection is lost. An empty list says
    that nothing is wanted, such as for a model that has none; it stays so.
    """
    if include is None or include == _ONLY_ENCRYPTED:
        return _ONLY_ENCRYPTED
    wanted = read(include)
    if not wanted or not isinstance(wanted, list) or _ENCRYPTED_REASONING in wanted:
        return include
    return Encoded(encode([*cast("list[object]", wanted), _ENCRYPTED_REASONING]))


def without_encrypted_reasoning(fields: Mapping[str, Encoded]) -> Mapping[str, Encoded] | None:
    """Return *fields* without the wish for encrypted reasoning; None if they have none."""
    include = read(fields.get("include", _NULL))
    if not isinstance(include, list) or _ENCRYPTED_REASONING not in include:
        return None
    left = [each for each in cast("list[object]", include) if each != _ENCRYPTED_REASONING]
    others = {name: value for name, value in fields.items() if name != "include"}
    return {**others, "include": Encoded(encode(left))} if left else others


def _is_clients(call: Item) -> bool:
    """Whether a call of a kind that the client answers is not the server's own."""
    return bool(call.get("execution") != "server")


@attrs.define  # not frozen: one is made for every turn
class Output:
    """The output of a response as a history keeps it. Never changed.

    Attributes:
        items: what of it is an item.
        whole: True if that is all of it.
        compaction: place of its last compaction item, if it has one.
        lossless: False if numbers or characters of it are none in JSON, and are kept as null and U+FFFD.
        asks: True if it holds calls that whoever asked has to answer before it goes on.
    """

    items: Sequence[Encoded] = ()
    whole: bool = True
    compaction: int | None = None
    lossless: bool = True
    asks: bool = False

    @classmethod
    def of(cls, output: Any) -> Output:
        """Return what can be kept of *output*, whatever the server made of it. Never raises."""
        if not isinstance(output, ARRAY):
            return cls(whole=not output)
        items: list[Encoded] = []
        compaction: int | None = None
        lossless, asks = True, False
        for item in output:
            kind = item.get("type") if isinstance(item, OBJECT) else None
            if not isinstance(kind, str):
                continue
            asks = asks or (kind in ASKING and _is_clients(item))
            try:
                data = Encoded(encode_received(item))
            except ValueError:
                continue
            lossless = lossless and is_lossless(item, data)
            items.append(data)
            if kind == "compaction":
                compaction = len(items) - 1
        return cls(items, len(items) == len(output), compaction, lossless, asks)
