"""Mutations of contents: ids, parents, indexes, states, outputs; errors and notices that come in between."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from .scripts import IN_STREAM, Frame, Message, Said, Variant, is_terminal, renumbered
from .tampering import Around, Mutation, Tampered, Wanted, changed, short


def mutations(said: Said, variant: Variant) -> Iterator[Mutation]:
    """Every mutation of the contents of one honest turn."""
    for family in (_ids, _indexes, _errors, _statuses, _outputs, _notices):
        yield from family(said, variant)


# -- ids, parents, indexes ------------------------------------------------------------------------


def _ids(said: Said, variant: Variant) -> Iterator[Mutation]:
    for index, frame in enumerate(said.frames):
        if not isinstance(frame.get("response"), dict):
            continue
        ends = is_terminal(frame)
        proved = variant.numbered or (variant.output and said.outcome != "failed")
        for name in ("fresh", "seen", "missing", "null"):

            def renamed(frames: list[Frame], around: Around, index=index, name=name) -> Tampered:
                other_frame = copy.deepcopy(frames[index])
                if name == "missing":
                    del other_frame["response"]["id"]
                else:
                    other_frame["response"]["id"] = {"fresh": around.fresh, "seen": around.seen}.get(name)
                return Tampered(changed(frames, index, other_frame))

            # A gateway rewrites ids; the rest says whose it is. Without one, or with an old one, none begins.
            kept = index > 0 and name != "seen" and (proved or not ends)
            wanted: Wanted = "honest" if kept else "any"
            yield Mutation("id exchanged", f"{index}.{short(frame)}>{name}", wanted, renamed)
        if variant.echo:

            def adopted(frames: list[Frame], around: Around, index=index) -> Tampered:
                other_frame = copy.deepcopy(frames[index])
                other_frame["response"]["previous_response_id"] = around.fresh
                return Tampered(changed(frames, index, other_frame))

            yield Mutation("parent exchanged", f"{index}.{short(frame)}", "any", adopted)


_ODD_INDEXES: Final[Mapping[str, Any]] = {
    "negative": -1,
    "text": "0",
    "huge": 10**9,
    "null": None,
    "true": True,
}


def _indexes(said: Said, variant: Variant) -> Iterator[Mutation]:
    """Where only the items that were heard of say what is complete, an odd index may cost the turn."""
    wanted: Wanted = "honest" if variant.output or said.outcome == "failed" else "any"
    ends = [n for n, frame in enumerate(said.frames) if frame["type"] == "response.output_item.done"]
    for index, frame in enumerate(said.frames):
        if "output_index" not in frame:
            continue
        name = f"{index}.{short(frame)}"

        def missing(frames: list[Frame], around: Around, index=index) -> Tampered:
            other_frame = {key: value for key, value in frames[index].items() if key != "output_index"}
            return Tampered(changed(frames, index, other_frame))

        yield Mutation("index missing", name, wanted, missing)
        others = {f"item{n}": n for n in range(len(said.items)) if n != frame["output_index"]}
        for odd, value in {**_ODD_INDEXES, **others, "next": len(said.items)}.items():

            def set_to(frames: list[Frame], around: Around, index=index, value=value) -> Tampered:
                other_frame = {
                    key: value if key == "output_index" else old for key, old in frames[index].items()
                }
                return Tampered(changed(frames, index, other_frame))

            kind = "index doubled" if odd.startswith("item") else "index odd"
            yield Mutation(kind, f"{name}>{odd}", wanted, set_to)
    for one, other in itertools.pairwise(ends):

        def exchanged(frames: list[Frame], around: Around, one=one, other=other) -> Tampered:
            first, second = dict(frames[one]), dict(frames[other])
            first["output_index"], second["output_index"] = second["output_index"], first["output_index"]
            return Tampered(changed(changed(frames, one, first), other, second))

        yield Mutation("index exchanged", f"{one}+{other}", wanted, exchanged)

        def crossed(frames: list[Frame], around: Around, one=one, other=other) -> Tampered:
            if around.variant.numbered:  # an honest server may finish its items in any order
                first, second = dict(frames[other]), dict(frames[one])
                for frame, number in ((first, one), (second, other)):
                    frame["sequence_number"] = frames[number]["sequence_number"]
            else:
                first, second = frames[other], frames[one]
            return Tampered(changed(changed(frames, one, first), other, second))

        yield Mutation("items out of order", f"{one}+{other}", "honest", crossed)


# -- errors ---------------------------------------------------------------------------------------


def _errors(said: Said, variant: Variant) -> Iterator[Mutation]:
    """An error that comes into a turn which goes on all the same, and one that is a notice."""
    expiring = {"code": "connection_expiring", "message": "Connection will close in 5 minutes", "param": None}
    for index in range(len(said.frames)):

        def warned(frames: list[Frame], around: Around, index=index) -> Tampered:
            return Tampered(
                [*frames[:index], {"type": "error", "status": 400, "error": expiring}, *frames[index:]]
            )

        yield Mutation("expiring", str(index), "honest", warned)
    error = {"type": "server_error", "code": "server_error", "message": "a hiccup", "param": None}
    for index in range(1, len(said.frames)):
        for shape in IN_STREAM:

            def inserted(frames: list[Frame], around: Around, index=index, shape=shape) -> Tampered:
                new = IN_STREAM[shape](error)
                if "sequence_number" in new:
                    if not around.variant.numbered:
                        del new["sequence_number"]
                    else:
                        new["sequence_number"] = frames[index - 1].get("sequence_number", index)
                return Tampered([*frames[:index], new, *frames[index:]])

            yield Mutation("error amidst", f"{index}.{shape}", "any", inserted)


# -- contents -------------------------------------------------------------------------------------

_ODD_STATUSES: Final = ("stop", "in_progress", None, 5)


def _statuses(said: Said, variant: Variant) -> Iterator[Mutation]:
    for index, frame in enumerate(said.frames):
        if isinstance(frame.get("response"), dict):
            for status in (*_ODD_STATUSES, "missing"):

                def odd(frames: list[Frame], around: Around, index=index, status=status) -> Tampered:
                    other_frame = copy.deepcopy(frames[index])
                    other_frame["response"]["status"] = status
                    if status == "missing":
                        del other_frame["response"]["status"]
                    return Tampered(changed(frames, index, other_frame))

                yield Mutation("status odd", f"{index}.{short(frame)}>{status}", "honest", odd)


def _odd_outputs(output: list[Any]) -> dict[str, Any]:
    return {
        "text": "done",
        "texts": ["a", "b"],
        "dict": {"0": output[0]} if output else {"0": {}},
        "null inside": [*output, None],
        "number inside": [5, *output],
        "no type": [{key: value for key, value in item.items() if key != "type"} for item in output] or [{}],
        "odd content": [{"type": "message", "role": "assistant", "content": 5}],
        "null": None,
        "missing": ...,
    }


def _outputs(said: Said, variant: Variant) -> Iterator[Mutation]:
    for index, frame in enumerate(said.frames):
        if not isinstance(frame.get("response"), dict):
            continue
        for name in _odd_outputs([]):
            plain = name in ("null", "missing") or not is_terminal(frame) or said.outcome == "failed"

            def odd(frames: list[Frame], around: Around, index=index, name=name) -> Tampered:
                other_frame = copy.deepcopy(frames[index])
                items = [f["item"] for f in frames if f["type"] == "response.output_item.done"]
                other_frame["response"]["output"] = _odd_outputs(items)[name]
                if name == "missing":
                    del other_frame["response"]["output"]
                return Tampered(changed(frames, index, other_frame))

            at = f"{index}.{short(frame)}>{name}"
            wanted: Wanted = "honest" if plain else "any"
            yield Mutation("output odd", at, wanted, odd, plausible=name == "odd content")
        hollows: dict[str, Any] = {"null": None, "text": "x", "list": []}
        for name, value in hollows.items():

            def hollow(frames: list[Frame], around: Around, index=index, value=value) -> Tampered:
                return Tampered(changed(frames, index, {**frames[index], "response": value}))

            yield Mutation("response odd", f"{index}.{short(frame)}>{name}", "any", hollow)


# -- notices --------------------------------------------------------------------------------------

NOTICES: Final[Mapping[str, Message]] = {
    "keepalive": {"type": "keepalive"},
    "ping": {"type": "ping"},
    "limits": {"type": "codex.rate_limits", "rate_limits": {"allowed": True, "limit_reached": False}},
    "session": {"type": "session.updated", "session": {"id": "sess_1"}},
    "vendor": {"type": "openrouter.notice", "message": "hello"},
    "x.y": {"type": "x.y"},
    "empty": "",
    "blank": " \r\n",
}
_NUMBERED: Final = ("keepalive", "vendor", "limits")
_UNKNOWN: Final[Mapping[str, Message]] = {
    "response.notice": {"type": "response.notice", "text": "hello"},
    "response.warming_up": {"type": "response.warming_up"},
}


def _notices(said: Said, variant: Variant) -> Iterator[Mutation]:
    end = len(said.frames)
    for index in range(end + 1):
        for name, message in NOTICES.items():

            def between(frames: list[Frame], around: Around, index=index, message=message) -> Tampered:
                return Tampered([*frames[:index], message, *frames[index:]])

            yield Mutation("notice", f"{index}.{name}", "honest", between, harmless=True)
            if name in _NUMBERED and variant.numbered and said.frames[0]["type"] == "response.created":

                def counted(frames: list[Frame], around: Around, index=index, message=message) -> Tampered:
                    new = {**message, "sequence_number": 0}
                    return Tampered([*renumbered([*frames[:index], new, *frames[index:]], around.variant)])

                yield Mutation("notice numbered", f"{index}.{name}", "honest", counted, harmless=True)
        for name, message in _UNKNOWN.items():
            if index < end and (index == 0 or said.outcome == "completed"):

                def unknown(frames: list[Frame], around: Around, index=index, message=message) -> Tampered:
                    return Tampered([*frames[:index], message, *frames[index:]])

                yield Mutation("unknown type", f"{index}.{name}", "honest", unknown, harmless=True)
    for name, message in NOTICES.items():
        yield Mutation("notice", f"idle.{name}", "honest", _idle(message), harmless=True)


def _idle(message: Message) -> Callable[[list[Frame], Around], Tampered]:
    return lambda frames, around: Tampered(list(frames), idle=[message])
