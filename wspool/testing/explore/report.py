"""Report: what an exploration found, and its story: who ran, what the tape did, where it went wrong."""

from __future__ import annotations

from typing import Final

import attrs

from wspool.testing.explore.run import Failure, Run
from wspool.testing.explore.sight import Seen, Sight
from wspool.testing.explore.tape import NO_DEVIATIONS, ChoiceTape

__all__ = ["FoundError", "Report", "tell"]

#: A story that has no more steps is told whole; of a longer one, what is near a deviation, and its end.
_WHOLE: Final = 60
_NEAR: Final = 3
_END: Final = 12


class FoundError(AssertionError):
    """An exploration found something wrong. The text is the story.

    Attributes:
        report: all that was found.
    """

    def __init__(self, report: Report) -> None:
        super().__init__(str(report))
        self.report = report


@attrs.frozen
class Report:
    """What an exploration has come to.

    Attributes:
        runs: runs made, without those that shortened the tape.
        steps: scheduler steps of all these runs.
        seed: what the schedules were drawn with.
        exhausted: the number of deviations up to which every schedule was tried; -1 if there is no such
            number.
        failure: what went wrong, if anything did.
        tape: the choices with which it goes wrong, as few as were found; empty otherwise.
        story: what happens under that tape, for people; empty if nothing went wrong.
    """

    runs: int
    steps: int
    seed: int
    exhausted: int = -1
    failure: Failure | None = None
    tape: ChoiceTape = NO_DEVIATIONS
    story: str = ""

    def check(self) -> Report:
        """Return this report, if nothing went wrong.

        Raises:
            FoundError: something did. Its cause is the error of the program, if there was one.
        """
        if self.failure is not None:
            raise FoundError(self) from self.failure.error
        return self

    def __str__(self) -> str:
        tried = f"{_counted(self.runs, 'run')}, {_counted(self.steps, 'step')}"
        if self.failure is not None:
            return f"{self.story}\n(seed {self.seed}, {tried})"
        most = (
            f"; every schedule with at most {_counted(self.exhausted, 'deviation')}"
            if self.exhausted >= 0
            else ""
        )
        return f"nothing found in {tried}{most}"


def tell(run: Run, sight: Sight) -> str:
    """Return the story of *run*, of which *sight* saw each step; it must have failed."""
    failure, tape = run.failure, ChoiceTape(tuple(run.deviations))
    assert failure is not None, "bug: nothing to tell"
    lines = [
        f"{failure.sort} after step {failure.step}: {failure.message}",
        f"replay it with the tape {str(tape)!r}: {_counted(len(tape), 'deviation')} from first in, first out",
        "",
        "  step      time  task",
    ]
    seen = sight.seen
    width = max((len(step.task) for step in seen), default=0)
    told = _told(seen)
    skipped = 0
    for index, step in enumerate(seen):
        if index not in told:
            skipped += 1
            continue
        if skipped:
            lines.append(f"        ... {_counted(skipped, 'step')}, first in, first out")
            skipped = 0
        lines += [f"> {note}" for note in step.notes]
        lines.append(f"  {step.step:4}  {step.time:8.3f}  {step.task:{width}}  {step.place}")
    lines += [f"> {note}" for note in sight.notes]
    lines.append(f"x {failure.sort}")
    return "\n".join(lines)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _told(seen: list[Seen]) -> set[int]:
    """Return the indices of the steps that are told."""
    if len(seen) <= _WHOLE:
        return set(range(len(seen)))
    marked = [index for index, step in enumerate(seen) if step.notes]
    near = {other for index in marked for other in range(index - _NEAR, index + _NEAR + 1)}
    return near | set(range(len(seen) - _END, len(seen)))
