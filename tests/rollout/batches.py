"""A batch in one pool."""

from collections.abc import Sequence
from typing import Any

import wspool
from wspool.rollout import runner
from wspool.rollout.checkpoints import Checkpoints
from wspool.rollout.holding import Holder
from wspool.rollout.limits import Limits
from wspool.rollout.method import Method
from wspool.rollout.summary import Meter, Summary
from wspool.rollout.tasks import Task

__all__ = ["run_batch"]


async def run_batch(
    pool: wspool.Pool,
    tasks: Sequence[Task],
    method: Method,
    *,
    meter: Meter,
    limits: Limits | None = None,
    checkpoints: Checkpoints | None = None,
    **run: Any,
) -> Summary:
    """See `wspool.rollout.runner.run_batch`, and `Holder`."""
    limits = limits or Limits()
    holder = Holder(pool, method, meter=meter, limits=limits, budget=limits.of_run(), checkpoints=checkpoints)
    return await runner.run_batch(holder, tasks, meter=meter, limits=limits, **run)
