"""Sight: what is seen of a run that shall be told: each step, who made it, and where it led."""

from __future__ import annotations

import contextlib
import linecache
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Final

import attrs
import outcome
import trio

from wspool.testing.explore.deciders import Kind

__all__ = ["Seen", "Sight", "place_of"]

#: Files whose frames are nobody's own: trio and what it stands on, and this package.
_NOT_OWN: Final = tuple(
    str(path)
    for path in (
        Path(trio.__file__).parent,
        Path(__file__).parent,
        Path(outcome.__file__).parent,
        Path(contextlib.__file__),
    )
)


@attrs.frozen
class Seen:
    """One step.

    Attributes:
        step: its number, from 1.
        time: virtual seconds since the start.
        task: who made it.
        place: where that task waits now, or that it has ended.
        notes: what the tape did before it, with its deviation.
    """

    step: int
    time: float
    task: str
    place: str
    notes: tuple[str, ...]


class Sight:
    """Sees the steps of one run.

    Attributes:
        seen: all steps.
        notes: what the tape did since the last of them.
    """

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.notes: list[str] = []

    def note(self, deviation: tuple[int, int], kind: Kind, what: str, names: Sequence[str]) -> None:
        """Note a deviation before the step that comes, which is about the tasks of those *names*."""
        place, option = deviation
        match kind:
            case "task":
                said = f"{names[option]} runs before {', '.join(names[:option])}"
            case "told":
                said = f"number {option + 1} of those that are cancelled {what}"
            case "cancel":
                said = f"the scope that {names[0]} opened {what}"
            case "timer":
                said = what
            case "choice":
                said = f"{what or 'the program'}: option {option}"
        self.notes.append(f"{place}:{option}  {said}")

    def step(self, number: int, name: str, place: str) -> None:
        """Note a step of the task of that *name*, which waits at *place* now."""
        self.seen.append(Seen(number, trio.current_time(), name, place, tuple(self.notes)))
        self.notes.clear()


def place_of(task: trio.lowlevel.Task) -> str:
    """Return where *task* waits: the innermost line that is neither trio's nor the explorer's."""
    found: tuple[FrameType, int] | None = None
    last: tuple[FrameType, int] | None = None
    for frame, line in task.iter_await_frames():
        last = frame, line
        if not frame.f_code.co_filename.startswith(_NOT_OWN):
            found = last
    if (at := found or last) is None:
        return "its beginning"
    frame, line = at
    name = frame.f_code.co_filename
    text = linecache.getline(name, line).strip()
    return f"{Path(name).name}:{line} in {frame.f_code.co_name}: {text}".rstrip(": ")
