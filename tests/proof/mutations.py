"""What can go wrong with the frames of one turn: each mutation at every place, with its name.

A mutation takes the frames of an honest turn and says what is sent instead: the turn's own frames, what
comes later while nobody asks, and what comes between the frames of the requests behind it. It also says
what its own turn has to come to (`Wanted`); what everybody else's has to come to is the judge's to know.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Literal

import attrs

from .scripts import IN_STREAM, TERMINALS, Frame, Said, Variant, is_terminal, renumbered

Message = Frame | str

#: honest: as if nothing had happened. any: it may be lost, but not wrong. Else: told so, or lost.
Wanted = Literal["honest", "any", "completed", "incomplete", "failed"]

#: Where a late frame comes in the turn of a later request on the connection.
Place = Literal["before", "created", "middle", "end", "behind"]
PLACES: Final[tuple[Place, ...]] = ("before", "created", "middle", "end", "behind")


@attrs.frozen
class Late:
    """Frames that come with the request that is *hop* requests later on the same connection."""

    hop: int
    place: Place
    frames: list[Message]


@attrs.frozen
class Tampered:
    """What is sent instead of an honest turn."""

    own: list[Message]
    idle: list[Message] = attrs.field(factory=list)
    late: list[Late] = attrs.field(factory=list)


@attrs.frozen
class Around:
    """What a mutation may use beside the frames.

    Attributes:
        fresh: an id that was never seen.
        seen: the id of the response before this one on the connection, or a fresh one.
        stray: a whole turn of nobody's, with a parent that nobody sent.
    """

    fresh: str
    seen: str
    stray: Said
    variant: Variant


@attrs.frozen
class Mutation:
    """One thing that goes wrong, at one place.

    Attributes:
        kind: its family.
        at: where, for people and for finding it again.
        wanted: what the turn itself has to come to.
        harmless: True for notices, which may change nothing at all.
    """

    kind: str
    at: str
    wanted: Wanted
    apply: Callable[[list[Frame], Around], Tampered] = attrs.field(repr=False)
    harmless: bool = False

    def __str__(self) -> str:
        return f"{self.kind}:{self.at}"


def mutations(said: Said, variant: Variant) -> Iterator[Mutation]:
    """Every mutation of one honest turn."""
    for family in (
        _doubled,
        _moved,
        _replayed,
        _retyped,
        _ids,
        _indexes,
        _errors,
        _statuses,
        _outputs,
        _notices,
    ):
        yield from family(said, variant)


# -- what a frame is ------------------------------------------------------------------------------


def _short(frame: Frame) -> str:
    return str(frame["type"]).removeprefix("response.")


def _is_prop(frame: Frame, variant: Variant) -> bool:
    """Whether an answer stands without this frame, where nobody counts."""
    kind = frame["type"]
    if kind in ("response.created", "error") or is_terminal(frame):
        return False
    return variant.output or kind != "response.output_item.done"


def _changed(frames: list[Frame], index: int, frame: Frame) -> list[Frame]:
    return [*frames[:index], frame, *frames[index + 1 :]]


# -- doubled, dropped, swapped --------------------------------------------------------------------


def _whereabouts() -> Iterator[tuple[str, Callable[[list[Frame]], Tampered]]]:
    """Every place behind a turn; what makes a `Tampered` of the frames that come there."""
    yield "idle", lambda frames: Tampered([], idle=list(frames))
    for place in PLACES:
        yield f"next.{place}", lambda frames, place=place: Tampered([], late=[Late(1, place, list(frames))])
    for place in ("before", "middle"):
        yield (
            f"next but one.{place}",
            lambda frames, place=place: Tampered([], late=[Late(2, place, list(frames))]),
        )


def _doubled(said: Said, variant: Variant) -> Iterator[Mutation]:
    last = len(said.frames) - 1
    for index, frame in enumerate(said.frames):
        name = f"{index}.{_short(frame)}"
        plain = not variant.numbered and _is_prop(frame, variant) and frame["type"].endswith(".delta")

        def at_once(frames: list[Frame], around: Around, index=index) -> Tampered:
            return Tampered([*frames[: index + 1], *frames[index:]])

        yield Mutation("doubled at once", name, "honest" if index == last or plain else "any", at_once)
        for place, later in _whereabouts():

            def delayed(frames: list[Frame], around: Around, index=index, later=later) -> Tampered:
                return attrs.evolve(later(frames[index : index + 1]), own=list(frames))

            yield Mutation("doubled later", f"{name}@{place}", "honest", delayed)


def _moved(said: Said, variant: Variant) -> Iterator[Mutation]:
    for index, frame in enumerate(said.frames):
        name = f"{index}.{_short(frame)}"
        prop = not variant.numbered and _is_prop(frame, variant)

        def dropped(frames: list[Frame], around: Around, index=index) -> Tampered:
            return Tampered(_changed(frames, index, frames[index])[:index] + frames[index + 1 :])

        yield Mutation("dropped", name, "honest" if prop else "any", dropped)
        for place, later in _whereabouts():

            def delayed(frames: list[Frame], around: Around, index=index, later=later) -> Tampered:
                own = frames[:index] + frames[index + 1 :]
                return attrs.evolve(later(frames[index : index + 1]), own=own)

            yield Mutation("delayed", f"{name}@{place}", "honest" if prop else "any", delayed)
        if index:

            def swapped(frames: list[Frame], around: Around, index=index) -> Tampered:
                return Tampered(
                    [*frames[: index - 1], frames[index], frames[index - 1], *frames[index + 1 :]]
                )

            yield Mutation("swapped", f"{index - 1}+{name}", "any", swapped)


def _replayed(said: Said, variant: Variant) -> Iterator[Mutation]:
    for place, later in _whereabouts():
        for name, start in (("whole", 0), ("without created", 1)):
            if start < len(said.frames):

                def replayed(frames: list[Frame], around: Around, later=later, start=start) -> Tampered:
                    return attrs.evolve(later(frames[start:]), own=list(frames))

                yield Mutation("turn replayed", f"{name}@{place}", "honest", replayed)

        def stray(frames: list[Frame], around: Around, later=later) -> Tampered:
            return attrs.evolve(later(around.stray.frames), own=list(frames))

        yield Mutation("turn of nobody", place, "honest", stray)


# -- types ----------------------------------------------------------------------------------------


def _retyped(said: Said, variant: Variant) -> Iterator[Mutation]:
    for index, frame in enumerate(said.frames):
        for kind, wanted in _other_types(frame, variant, said.outcome):

            def retyped(frames: list[Frame], around: Around, index=index, kind=kind) -> Tampered:
                return Tampered(_changed(frames, index, {**frames[index], "type": kind}))

            yield Mutation("retyped", f"{index}.{_short(frame)}>{kind}", wanted, retyped)
    if said.outcome == "completed":
        for kind, status in (("response.done", "cancelled"), ("response.cancelled", "cancelled")):

            def cancelled(frames: list[Frame], around: Around, kind=kind, status=status) -> Tampered:
                last = copy.deepcopy(frames[-1])
                last["type"], last["response"]["status"] = kind, status
                return Tampered([*frames[:-1], last])

            yield Mutation("retyped", f"end>{kind} {status}", "any", cancelled)


def _other_types(frame: Frame, variant: Variant, outcome: str) -> Iterator[tuple[str, Wanted]]:
    kind = frame["type"]
    if kind == "error":
        yield "response.failed", "any"
        yield "response.error", "any"
        return
    notice: Wanted = "honest" if _is_prop(frame, variant) else "any"
    yield kind.replace("response.", "x."), notice
    if kind.endswith(".delta"):
        yield kind.replace(".delta", ".morsel"), "honest"
    if kind in TERMINALS:
        for other in TERMINALS:
            name = other.removeprefix("response.")
            # After an error in the stream the caller may have been told of that already.
            told: Wanted = name if outcome != "failed" and name != "completed" else "any"  # type: ignore[assignment] # a Wanted
            if other != kind:
                yield other, told
        if kind != "response.failed":
            yield "response.done", "honest"  # its response has a final status, and is ours
        yield "error", "any"


# -- ids, parents, indexes ------------------------------------------------------------------------


def _ids(said: Said, variant: Variant) -> Iterator[Mutation]:
    for index, frame in enumerate(said.frames):
        if not isinstance(frame.get("response"), dict):
            continue
        for name in ("fresh", "seen", "missing", "null"):

            def renamed(frames: list[Frame], around: Around, index=index, name=name) -> Tampered:
                changed = copy.deepcopy(frames[index])
                if name == "missing":
                    del changed["response"]["id"]
                else:
                    changed["response"]["id"] = {"fresh": around.fresh, "seen": around.seen}.get(name)
                return Tampered(_changed(frames, index, changed))

            yield Mutation("id exchanged", f"{index}.{_short(frame)}>{name}", "any", renamed)
        if variant.echo:

            def adopted(frames: list[Frame], around: Around, index=index) -> Tampered:
                changed = copy.deepcopy(frames[index])
                changed["response"]["previous_response_id"] = around.fresh
                return Tampered(_changed(frames, index, changed))

            yield Mutation("parent exchanged", f"{index}.{_short(frame)}", "any", adopted)


_ODD_INDEXES: Final[Mapping[str, Any]] = {
    "negative": -1,
    "text": "0",
    "huge": 10**9,
    "null": None,
    "true": True,
}


def _indexes(said: Said, variant: Variant) -> Iterator[Mutation]:
    wanted: Wanted = "honest" if variant.output or said.outcome == "failed" else "any"
    ends = [n for n, frame in enumerate(said.frames) if frame["type"] == "response.output_item.done"]
    for index, frame in enumerate(said.frames):
        if "output_index" not in frame:
            continue
        own: Wanted = "honest" if frame["type"] != "response.output_item.done" else wanted
        name = f"{index}.{_short(frame)}"

        def missing(frames: list[Frame], around: Around, index=index) -> Tampered:
            changed = {key: value for key, value in frames[index].items() if key != "output_index"}
            return Tampered(_changed(frames, index, changed))

        yield Mutation("index missing", name, own, missing)
        others = {f"item{n}": n for n in range(len(said.items)) if n != frame["output_index"]}
        for odd, value in {**_ODD_INDEXES, **others, "next": len(said.items)}.items():

            def set_to(frames: list[Frame], around: Around, index=index, value=value) -> Tampered:
                changed = {key: value if key == "output_index" else old for key, old in frames[index].items()}
                return Tampered(_changed(frames, index, changed))

            kind = "index doubled" if odd.startswith("item") else "index odd"
            yield Mutation(kind, f"{name}>{odd}", own, set_to)
    for one, other in zip(ends, ends[1:]):

        def exchanged(frames: list[Frame], around: Around, one=one, other=other) -> Tampered:
            first, second = dict(frames[one]), dict(frames[other])
            first["output_index"], second["output_index"] = second["output_index"], first["output_index"]
            return Tampered(_changed(_changed(frames, one, first), other, second))

        yield Mutation("index exchanged", f"{one}+{other}", wanted, exchanged)

        def crossed(frames: list[Frame], around: Around, one=one, other=other) -> Tampered:
            if around.variant.numbered:  # an honest server may finish its items in any order
                first, second = dict(frames[other]), dict(frames[one])
                for frame, number in ((first, one), (second, other)):
                    frame["sequence_number"] = frames[number]["sequence_number"]
            else:
                first, second = frames[other], frames[one]
            return Tampered(_changed(_changed(frames, one, first), other, second))

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
                    changed = copy.deepcopy(frames[index])
                    changed["response"]["status"] = status
                    if status == "missing":
                        del changed["response"]["status"]
                    return Tampered(_changed(frames, index, changed))

                yield Mutation("status odd", f"{index}.{_short(frame)}>{status}", "honest", odd)


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
                changed = copy.deepcopy(frames[index])
                items = [f["item"] for f in frames if f["type"] == "response.output_item.done"]
                changed["response"]["output"] = _odd_outputs(items)[name]
                if name == "missing":
                    del changed["response"]["output"]
                return Tampered(_changed(frames, index, changed))

            yield Mutation("output odd", f"{index}.{_short(frame)}>{name}", "honest" if plain else "any", odd)
        for name, value in {"null": None, "text": "x", "list": []}.items():

            def hollow(frames: list[Frame], around: Around, index=index, value=value) -> Tampered:
                return Tampered(_changed(frames, index, {**frames[index], "response": value}))

            yield Mutation("response odd", f"{index}.{_short(frame)}>{name}", "any", hollow)


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
                    new = {**message, "sequence_number": 0}  # type: ignore[dict-item] # these are frames
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
