"""Fairness: how often each who waits for a lane was passed over, seen from outside the core.

Whoever goes on where its conversation is remembered may pass those in line, bounded (`MAX_SKIPS`): whoever
joined as the n-th was passed over n times as often at most.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from tests.simulation.journal import Journal
from wspool.core.commands import Command, Grant, Refuse, WaiterId
from wspool.core.lending.line import MAX_SKIPS
from wspool.core.lending.pool import PoolCore, Verdict
from wspool.core.lending.trace import INPUTS

__all__ = ["Fairness"]


class Fairness:
    """Watches the line of a fresh core.

    Args:
        core: whose inputs are watched from now on.
        journal: where it is written down.
    """

    def __init__(self, core: PoolCore, journal: Journal) -> None:
        self._core = core
        self._journal = journal
        #: Who is in line, in order: at which place each began, and how often it was passed over since.
        self._line: dict[WaiterId, tuple[int, int]] = {}
        for name in INPUTS:
            setattr(core, name, partial(self._see, name, getattr(core, name)))

    def _see(self, name: str, decide: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if name == "acquire":
            self._line[args[0]] = len(self._line) + 1, 0
        elif name == "abandon":
            del self._line[args[0]]
        parked = name == "begin" and args[0] in self._core._roster.parked
        answer = decide(*args, **kwargs)
        commands: list[Command] = answer[1] if name == "begin" else answer
        if parked and answer[0] is Verdict.GO and not self._core.statistics().paused:
            self._pass_over()
        for command in commands:
            if isinstance(command, (Grant, Refuse)):
                asked = self._line.pop(command.waiter, None) is not None and name == "acquire"
                if asked and isinstance(command, Grant) and command.waiter == args[0]:
                    self._pass_over()
        return answer

    def _pass_over(self) -> None:
        self._journal.passed_over += bool(self._line)
        for waiter, (place, passed) in self._line.items():
            if passed >= place * MAX_SKIPS:
                self._journal.violate(f"waiter {waiter}, who was number {place}, was passed over too often")
            self._line[waiter] = place, passed + 1
