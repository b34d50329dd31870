"""The standing of a run: how its tasks have ended so far, which is what is told of it and what may end it."""

from collections import Counter
from typing import Any, Final

import trio

from wspool.core.statistics import PoolStatistics
from wspool.rollout.errors import Errors
from wspool.rollout.limits import Limits
from wspool.rollout.progress import Progress
from wspool.rollout.summary import Meter, Summary
from wspool.rollout.tally import Tally
from wspool.rollout.tasks import OUTCOMES, WELL, Outcome, Result

__all__ = ["Standing"]

#: Outcomes with an answer, whatever it is worth.
_ANSWERED: Final = WELL | {"wrong"}

#: What an answer does that is right by a score.
_MEANING: Final = {"number": "end with the right number", "contains": "contain the right one"}


class Standing:
    """Counts results.

    Args:
      limits: how many may fail, and what tokens cost.
      tally: of the scores of earlier runs, to go on with.

    To be made when the run begins, in its trio run.
    """

    def __init__(self, limits: Limits, tally: Tally) -> None:
        self._limits = limits
        self._tally = tally
        self._errors = Errors()
        self._outcomes: dict[Outcome, int] = dict.fromkeys(OUTCOMES, 0)
        self._better = Counter[str]()
        self._began = trio.current_time()

    @property
    def ended(self) -> int:
        """Tasks that have a result."""
        return sum(self._outcomes.values())

    def add(self, result: Result) -> str | None:
        """Count a *result*; return why the run has to end now, or None."""
        id = result.task.id
        self._outcomes[result.outcome] += 1
        if result.score is not None:
            self._tally.add(id, result.score, right=result.outcome == "right")
        if result.failure is not None:
            self._errors.add(id, result.failure)
        if result.better is not None:
            self._better[result.better] += 1
        return self._limits.too_many(self._outcomes["failed"], self.ended)

    def progress(self, pool: PoolStatistics, **fields: Any) -> Progress:
        """How far the run is; *fields* are what is known elsewhere."""
        return Progress(
            finished=self.ended,
            failed=sum(count for outcome, count in self._outcomes.items() if outcome not in _ANSWERED),
            right=self._outcomes["right"],
            wrong=self._outcomes["wrong"],
            score=self._tally.mean,
            seconds=trio.current_time() - self._began,
            pool=pool,
            **fields,
        )

    def summary(self, meter: Meter, pool: PoolStatistics, **fields: Any) -> Summary:
        """What the run came to; *fields* are what is known elsewhere."""
        return Summary.of(
            meter,
            pool,
            **self._outcomes,
            seconds=trio.current_time() - self._began,
            cost=meter.usage.cost(self._limits.price) if self._limits.price is not None else None,
            errors=self._errors.commonest(),
            score=self._tally.mean,
            pass_at=self._tally.pass_at(),
            hint=self._hint(),
            **fields,
        )

    def _hint(self) -> str | None:
        """What to do where most answers are wrong as texts only."""
        for name, count in self._better.most_common(1):
            if count > self._outcomes["right"] + self._outcomes["wrong"] - count:
                return f"{count} of {self._outcomes['wrong']} wrong answers {_MEANING[name]}: --score {name}"
        return None
