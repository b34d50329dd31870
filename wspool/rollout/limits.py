"""What a run may take: tokens, money, errors, time. Whatever is reached first ends it in order.

No other task is begun then, and what is owed stays owed. Tasks that run go on to their end, unless the budget
of the run is spent: then they end before their next turn, and are owed as well.
"""

from collections.abc import Sequence
from typing import Final

import attrs

from wspool.core.usage import Budget

__all__ = ["ALIKE", "Limits"]

#: Tasks that fail first, all of them, before a run is taken for a mistake of its own.
ALIKE: Final = 50


@attrs.frozen(kw_only=True)
class Limits:
    """What a run and each of its tasks may take; None for no limit.

    Attributes:
      max_tokens, max_cost: of the run.
      price: of a million tokens of input, of input from the cache, and of output.
      max_errors: failed tasks; by default the run ends if the first `ALIKE` have all failed.
      max_seconds: seconds after which no other task is begun.
      task_timeout: seconds of one task, time in line included.
      task_max_tokens, max_turns: of one task.
    """

    max_tokens: int | None = None
    max_cost: float | None = None
    price: Sequence[float] | None = None
    max_errors: int | None = None
    max_seconds: float | None = None
    task_timeout: float | None = None
    task_max_tokens: int | None = None
    max_turns: int | None = None

    @classmethod
    def of(cls, budget: Budget | None) -> "Limits":
        """Those of a run that may take what *budget* says, whatever that has spent; None for none."""
        if budget is None:
            return cls()
        return cls(max_tokens=budget.max_tokens, max_cost=budget.max_cost, price=budget.price)

    def of_run(self) -> Budget:
        """The budget of a run."""
        return Budget(
            max_tokens=self.max_tokens, max_cost=self.max_cost, price=self.price, name="the run's budget"
        )

    def of_task(self, run: Budget) -> Budget:
        """The budget of one task of a run."""
        return Budget(
            max_tokens=self.task_max_tokens, max_turns=self.max_turns, within=run, name="the task's budget"
        )

    def too_many(self, failed: int, ended: int) -> str | None:
        """Why so many failed tasks of so many that have ended are too many, or None."""
        if self.max_errors is not None:
            return f"{failed} tasks have failed" if self.max_errors and failed >= self.max_errors else None
        if failed == ended and failed >= ALIKE:
            return f"the first {failed} tasks have all failed (--max-errors 0 goes on all the same)"
        return None
