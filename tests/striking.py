"""Striking: an interrupt before any one line of the library that a caller's own thread runs.

What a handler of a signal raises is whatever it likes: an alarm, a soft limit of time of a task queue.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from types import FrameType, ModuleType
from typing import Any, Final

__all__ = ["Striker", "interrupted", "interrupted_async"]

#: What comes out of the first, and of what it calls, Python shows and forgets. The second has a lock, which
#: no interrupt can keep Python from letting go of, but a tracer can.
SAFE: Final = ("__del__", "shared")


class Alarm(Exception):
    """What a program's own handler of a signal raises."""


#: What strikes, in turns.
KINDS: Final = (KeyboardInterrupt, Alarm)


class Striker:
    """Raises one of `KINDS` before a line of some modules, in the thread that it is made in.

    Args:
        at: before which, from 1.
        modules: the lines of these count, but for what is safe.
        last: the function that waits for ever: it strikes in that wait at the latest.
        is_open: whether it may strike now.

    Attributes:
        reached: whether it has struck.
        is_last: whether that was in the wait of *last*.
        where: the line.
    """

    def __init__(
        self,
        at: int,
        modules: tuple[ModuleType, ...],
        *,
        last: str | None = None,
        is_open: Callable[[], bool] = lambda: True,
    ) -> None:
        self.reached = False
        self.where = ""
        self.is_last = False
        self._left = at
        self._kind = KINDS[at % len(KINDS)]
        self._files = {module.__file__ for module in modules}
        self._last = last
        self._is_open = is_open

    def __call__(self, frame: FrameType, event: str, _: object) -> Any:
        code = frame.f_code
        if code.co_filename not in self._files or self.reached or _is_in(frame, SAFE):
            return None
        if event == "line" and self._is_open():
            self._left -= 1
            self.is_last = code.co_name == "wait" and _is_in(frame, (self._last,))
            if self._left == 0 or self.is_last:
                self.reached = True
                self.where = f"{code.co_filename}:{frame.f_lineno} in {code.co_name}"
                raise self._kind
        return self


def _is_in(frame: FrameType | None, names: tuple[str | None, ...]) -> bool:
    """Whether one of these functions runs, or waits for what *frame* does."""
    while frame is not None and frame.f_code.co_name not in names:
        frame = frame.f_back
    return frame is not None


def interrupted(striker: Striker, act: Callable[[], object]) -> None:
    """Run *act*, which the interrupt may come out of."""
    tracer = sys.gettrace()  # coverage's, if that is measured
    sys.settrace(striker)
    try:
        act()
    except KINDS:
        pass
    finally:
        sys.settrace(tracer)


async def interrupted_async(striker: Striker, act: Callable[[], Awaitable[object]]) -> None:
    """The same for a task of an event loop."""
    tracer = sys.gettrace()
    sys.settrace(striker)
    try:
        await act()
    except KINDS:
        pass
    finally:
        sys.settrace(tracer)
