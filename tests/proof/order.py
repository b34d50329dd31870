"""Mutations of order and type: doubled, delayed, dropped, swapped, replayed, retyped, at every place."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator

import attrs

from .scripts import TERMINALS, Frame, Said, Variant
from .tampering import PLACES, Around, Late, Mutation, Place, Tampered, Wanted, changed, is_prop, short

_Later = Callable[[list[Frame]], Tampered]


def mutations(said: Said, variant: Variant) -> Iterator[Mutation]:
    """Every mutation of the order of one honest turn."""
    for family in (_doubled, _moved, _replayed, _retyped):
        yield from family(said, variant)


# -- doubled, dropped, swapped --------------------------------------------------------------------


def _whereabouts() -> Iterator[tuple[str, _Later]]:
    """Every place behind a turn; what makes a `Tampered` of the frames that come there."""
    yield "idle", _idle
    for place in PLACES:
        yield f"next.{place}", functools.partial(_behind, 1, place)
    for place in PLACES[::2]:
        yield f"next but one.{place}", functools.partial(_behind, 2, place)


def _idle(frames: list[Frame]) -> Tampered:
    return Tampered([], idle=frames)


def _behind(hop: int, place: Place, frames: list[Frame]) -> Tampered:
    return Tampered([], late=[Late(hop, place, frames)])


def _doubled(said: Said, variant: Variant) -> Iterator[Mutation]:
    last = len(said.frames) - 1
    for index, frame in enumerate(said.frames):
        name = f"{index}.{short(frame)}"
        # The number says that it comes twice, or the item that it changes nothing.
        plain = is_prop(frame, variant) and (variant.numbered or frame["type"].endswith(".delta"))

        def at_once(frames: list[Frame], around: Around, index=index) -> Tampered:
            return Tampered([*frames[: index + 1], *frames[index:]])

        yield Mutation("doubled at once", name, "honest" if index == last or plain else "any", at_once)
        for place, later in _whereabouts():

            def delayed(frames: list[Frame], around: Around, index=index, later: _Later = later) -> Tampered:
                return attrs.evolve(later(frames[index : index + 1]), own=list(frames))

            yield Mutation("doubled later", f"{name}@{place}", "honest", delayed)


def _moved(said: Said, variant: Variant) -> Iterator[Mutation]:
    for index, frame in enumerate(said.frames):
        name = f"{index}.{short(frame)}"
        # A gap in the numbers says that something is missing: then only the last event can say all of it.
        prop = is_prop(frame, variant) and (variant.output or not variant.numbered)

        def dropped(frames: list[Frame], around: Around, index=index) -> Tampered:
            return Tampered(changed(frames, index, frames[index])[:index] + frames[index + 1 :])

        yield Mutation("dropped", name, "honest" if prop else "any", dropped)
        for place, later in _whereabouts():

            def delayed(frames: list[Frame], around: Around, index=index, later: _Later = later) -> Tampered:
                own = frames[:index] + frames[index + 1 :]
                return attrs.evolve(later(frames[index : index + 1]), own=own)

            yield Mutation("delayed", f"{name}@{place}", "honest" if prop else "any", delayed)
        if index:

            def swapped(frames: list[Frame], around: Around, index=index) -> Tampered:
                return Tampered(
                    [*frames[: index - 1], frames[index], frames[index - 1], *frames[index + 1 :]]
                )

            both = prop and is_prop(said.frames[index - 1], variant) and variant.output
            yield Mutation("swapped", f"{index - 1}+{name}", "honest" if both else "any", swapped)


def _replayed(said: Said, variant: Variant) -> Iterator[Mutation]:
    for place, later in _whereabouts():
        for name, start in (("whole", 0), ("without created", 1)):
            if start < len(said.frames):

                def replayed(
                    frames: list[Frame], around: Around, later: _Later = later, start=start
                ) -> Tampered:
                    return attrs.evolve(later(frames[start:]), own=list(frames))

                yield Mutation("turn replayed", f"{name}@{place}", "honest", replayed)

        for name, start in (("", 0), ("without created@", 1)):

            def stray(frames: list[Frame], around: Around, later: _Later = later, start=start) -> Tampered:
                return attrs.evolve(later(around.stray.frames[start:]), own=list(frames))

            yield Mutation("turn of nobody", f"{name}{place}", "honest", stray)


# -- types ----------------------------------------------------------------------------------------


def _retyped(said: Said, variant: Variant) -> Iterator[Mutation]:
    for index, frame in enumerate(said.frames):
        for kind, wanted in _other_types(frame, variant, said.outcome):

            def retyped(frames: list[Frame], around: Around, index=index, kind=kind) -> Tampered:
                return Tampered(changed(frames, index, {**frames[index], "type": kind}))

            yield Mutation("retyped", f"{index}.{short(frame)}>{kind}", wanted, retyped)
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
    notice: Wanted = "honest" if is_prop(frame, variant) else "any"
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
