"""Which tasks of a file are run, and how often: chosen, shuffled, cut, sharded, repeated, in this order.

So the shards of a run are together what one run with the same options would do, and have all attempts of a
task in one of them.
"""

import random
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Final

import attrs

from wspool.rollout.fields import column
from wspool.rollout.tasks import Task

__all__ = ["Selection", "parse_shard"]

_SHARD: Final = re.compile(r"(\d{1,9})/(\d{1,9})")


@attrs.frozen(kw_only=True)
class Selection:
    """What of a batch is run.

    Attributes:
      patterns: ids, patterns of them (`*`, `?`), or FIELD=VALUE of the rows; one must fit. Empty for all.
      seed: of the order; None for that of the file.
      limit: how many at most.
      shard: which part of how many, from 1.
      samples: attempts at each.
    """

    patterns: Sequence[str] = ()
    seed: int | None = None
    limit: int | None = None
    shard: tuple[int, int] | None = None
    samples: int = 1

    def of(self, tasks: Sequence[Task]) -> Sequence[Task]:
        """Return what is run. Raises ValueError: a pattern fits nothing, or there is no attempt at any."""
        if self.samples < 1:
            raise ValueError(f"samples={self.samples} must be 1 or more")
        chosen = list(tasks)
        if self.patterns:
            fitting: set[int] = set()
            for pattern in self.patterns:
                fit = [number for number, task in enumerate(tasks) if _fits(task, pattern)]
                if not fit:
                    raise ValueError(f"{pattern!r} fits none of {len(tasks)} tasks")
                fitting.update(fit)
            chosen = [task for number, task in enumerate(tasks) if number in fitting]
        if self.seed is not None:
            random.Random(self.seed).shuffle(chosen)
        chosen = chosen[: self.limit]
        if self.shard is not None:
            number, count = self.shard
            chosen = chosen[number - 1 :: count]
        if self.samples == 1:
            return chosen
        return [
            attrs.evolve(task, attempt=attempt) for task in chosen for attempt in range(1, self.samples + 1)
        ]


def parse_shard(text: str) -> tuple[int, int]:
    """Return which shard of how many *text* says. Raises ValueError: none."""
    found = _SHARD.fullmatch(text)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise ValueError(f"{text!r} must be I/N, such as 1/4 for the first of four")
    return int(found[1]), int(found[2])


def _fits(task: Task, pattern: str) -> bool:
    if pattern == task.id or fnmatchcase(task.id, pattern):
        return True
    name, equals, wanted = pattern.partition("=")
    if not equals:
        return False
    value, is_there = column(task.source, name)
    return is_there and (str(value) == wanted or fnmatchcase(str(value), wanted))
