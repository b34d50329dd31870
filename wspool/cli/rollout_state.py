"""What becomes of results that are there already: gone on with, put aside, run again, or refused."""

import json
from collections import Counter
from collections.abc import Sequence

from wspool.cli.rollout_plan import Plan
from wspool.cli.usage import say, usage_error, warn
from wspool.rollout.checkpoints import EFFECTS, TURNS, begun_before
from wspool.rollout.provenance import RUN, Provenance, changed_tasks, read_provenance
from wspool.rollout.results import ResultFile
from wspool.rollout.samples import SAMPLES
from wspool.rollout.summary import Summary
from wspool.rollout.tasks import WELL, Task

__all__ = ["prepare"]


def prepare(plan: Plan, results: ResultFile) -> None:
    """Make the results ready to be added to. Whatever is in the way ends the command.

    Args:
      plan: what the run will do.
      results: those that are there.
    """
    given, keys = plan.given, {task.key for task in plan.batch}
    now = plan.provenance()
    try:
        if plan.resume is False or (plan.resume is None and keys <= results.earlier.keys()):
            begun = any(
                path.exists() and path.stat().st_size for path in (plan.out / TURNS, plan.out / EFFECTS)
            )
            beside = (plan.out / name for name in (RUN, TURNS, EFFECTS, SAMPLES))
            results.start_over(*beside, begun=begun)
        elif results.earlier and not given.state.allow_mixed:
            _refuse_others(plan, now, results)
        again = {
            key
            for key in keys & results.earlier.keys()
            if (given.state.redo_errors and results.earlier[key] not in WELL)
            or (given.state.redo_wrong and results.earlier[key] == "wrong")
        }
        if not (given.state.checkpoint_turns or given.state.allow_mixed):
            ended = results.earlier.keys() - again
            _refuse_to_forget(plan, [task for task in plan.batch if task.key not in ended])
        if given.state.redo_errors or given.state.redo_wrong:
            counts = Counter(results.earlier[key] for key in again)
            named = ", ".join(f"{count} {name}" for name, count in counts.most_common())
            warn(f"{len(again)} tasks run again ({named})" if again else "there is nothing to run again")
        results.drop(again)
        now.write(plan.out)
        results.begin()
    except OSError as problem:
        usage_error(f"{plan.out} cannot be written: {problem.strerror}; use another --out")
    if results.unlocked:
        warn(
            f"{plan.out} cannot be locked ({results.unlocked}): let no other run use it",
        )


def _refuse_to_forget(plan: Plan, owed: Sequence[Task]) -> None:
    """End the command if tasks that are begun anew would do again what an earlier run has done for them."""
    if begun := begun_before(plan.out, owed):
        usage_error(
            f"a run with --checkpoint-turns has begun {len(begun)} of these tasks (first {begun[0]!r}), and "
            "without it they do again what they have done\nsay --checkpoint-turns, start over with "
            "--no-resume (what is there is kept), or let them begin anew with --allow-mixed"
        )


def _refuse_others(plan: Plan, now: Provenance, results: ResultFile) -> None:
    """End the command if the results that are there are other ones than those that are to come."""
    given, before = plan.given, read_provenance(plan.out)
    if before is None:
        warn(
            f"there is no {RUN} in {plan.out}: nobody knows how its results were made",
        )
    differences = now.differences(before) if before is not None else []
    differences += changed_tasks(plan.batch, results.digests)
    if before is not None and results.earlier.keys().isdisjoint(task.key for task in plan.batch):
        differences += now.other_tasks(before)
    if differences:
        if given.telling.as_json:
            skipped = len({task.key for task in plan.batch} & results.earlier.keys())
            refused = Summary(
                tasks=len(plan.batch), skipped=skipped, max_connections=0, problem=differences[0]
            )
            say(json.dumps(refused.as_json()))
        lines = "\n".join(f"  {each}" for each in differences)
        usage_error(
            f"the results in {plan.out} were made otherwise\n{lines}\nuse another --out, start over with "
            "--no-resume (what is there is kept), or add to them all the same with --allow-mixed"
        )
