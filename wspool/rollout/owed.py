"""What of a batch has no result yet is run, for a program: whatever is in the way is one error."""

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import trio

from wspool.rollout.provenance import changed_tasks
from wspool.rollout.results import ResultFile, ResultsError, open_results
from wspool.rollout.summary import Summary
from wspool.rollout.tally import Tally
from wspool.rollout.tasks import Task

__all__ = ["Main", "run_owed"]

#: Runs what is owed, adds it to the results, and counts its scores on.
Main: TypeAlias = Callable[[Sequence[Task], ResultFile, Tally], Awaitable[Summary]]


def run_owed(batch: Sequence[Task], out: Path, main: Main) -> Summary:
    """Have *main* run what of *batch* has no result in the directory *out*. It blocks.

    Raises:
      ValueError: that cannot be used, or has the results of other tasks.
    """
    try:
        with open_results(out) as results:
            if changed := changed_tasks(batch, results.digests):
                raise ValueError(f"the results in {out} are of others: {changed[0]}; use another directory")
            owed, tally = results.left(batch)
            return trio.run(main, owed, results, tally)
    except ResultsError as problem:
        raise ValueError(str(problem)) from problem
