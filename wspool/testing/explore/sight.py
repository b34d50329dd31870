"""Sight: what is seen of a run that shall be told: each step, who made it, and where it led."""

from __future__ import annotations

import contextlib
import linecache
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Final

import attrs
import outcome
import trio

from wspool.core import given
from wspool.testing.explore.deciders import Kind

__all__ = ["Seen", "Sight", "place_of", "raised_at"]

#: Files whose frames are nobody's own: trio and what it stands on, this package, and what looks at arguments.
_NOT_OWN: Final = tuple(
    str(path)
    for path in (
        Path(trio.__file__).parent,
        Path(__file__).parent,
        Path(outcome.__file__).parent,
        Path(contextlib.__file__),
        Path(given.__file__),
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
    """Return where *task* waits: its innermost line that is neither trio's nor the explorer's, if any is."""
    frames = list(task.iter_await_frames())
    own = [(frame, line) for frame, line in frames if _is_own(frame)]
    return _told(*own[-1]) if own else _told(*frames[0]) if frames else "its beginning"


def raised_at(error: BaseException) -> str:
    """Return where *error* was raised: the innermost line as above, an empty text if it has none."""
    found = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        if _is_own(frame):
            found = _told(frame, line)
    return found


def _is_own(frame: FrameType) -> bool:
    return not frame.f_code.co_filename.startswith(_NOT_OWN)


def _told(frame: FrameType, line: int) -> str:
    name = frame.f_code.co_filename
    text = linecache.getline(name, line).strip()
    return f"{Path(name).name}:{line} in {frame.f_code.co_name}: {text}".rstrip(": ")
