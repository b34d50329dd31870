"""`run_sharded`: a batch over a Ray cluster, from a program."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import attrs

import wspool
from wspool.ray.cluster import connect, on_actors
from wspool.rollout.batch import read_tasks
from wspool.rollout.limits import Limits
from wspool.rollout.method import Agent, Method
from wspool.rollout.owed import run_owed
from wspool.rollout.results import ResultFile
from wspool.rollout.runner import run_batch
from wspool.rollout.selection import Selection
from wspool.rollout.shapes import Columns
from wspool.rollout.summary import Meter, Summary
from wspool.rollout.tally import Tally
from wspool.rollout.tasks import Task

__all__ = ["run_sharded"]


def run_sharded(
    tasks: str | Path,
    out: str | Path,
    *,
    agent: Agent | None = None,
    tools: Iterable[Callable[..., object]] = (),
    score: Callable[..., object] | Literal["exact", "number", "contains"] | None = None,
    samples: int = 1,
    model: str | None = None,
    actors: int | None = None,
    address: str | None = None,
    options: Mapping[str, Any] | None = None,
    concurrency: int = 128,
    policy: wspool.PoolPolicy | None = None,
    budget: wspool.Budget | None = None,
    quiet: bool = False,
    **endpoint: Any,
) -> Summary:
    """Run a file of tasks on Ray actors, and append a line for each to `results.jsonl` as it ends. It blocks.

    What is there already is not run again, however many actors there were. To be called in the main thread:
    the first Ctrl-C finishes what runs, the second stops, the third ends the process.

    Args:
      tasks: the file, as for `wspool rollout`.
      out: directory of the results.
      agent: async function of a conversation and a row, called for each task.
      tools: without an agent, functions that the model may call.
      score: of answers: "exact", "number", "contains", or a function as for `--score`.
      samples: attempts at each task.
      model: for tasks that name none.
      actors: how many; by default one for each node.
      address: of the cluster, "auto" for the one that runs here; if not given and there is none, one is
        started on this machine.
      options: of the actors, as for `ray.remote`; by default they take no CPU and are spread over the nodes.
      concurrency: tasks at once, of all actors.
      policy: of the pools; its `max_size` is that of all of them together, by default *concurrency*.
        Refusals are waited out unless it says otherwise, at one pace for all, and turns of an agent that were
        lost are taken again (`replay`).
      budget: of the run, all actors together: its limits count, and not what it has spent.
      quiet: no progress.
      **endpoint: what pools are opened with, as for `wspool.open_pool`: `url`, `api_key`, `headers` ... It
        goes to the actors inside of the cluster. Without a key each takes that of its own environment.

    Returns:
      the numbers.

    Raises:
      ImportError, ConnectionError: there is no Ray, or no cluster.
      BatchError: the file has mistakes.
      TypeError, ValueError: an argument is not usable, or *out* has the results of other tasks.
    """
    batch = read_tasks(Path(tasks), Columns(for_agent=agent is not None))
    batch = list(Selection(samples=samples).of(batch))
    method, limits, meter = Method.of(agent, tools, score, model), Limits.of(budget), Meter()
    nodes = connect(address)
    actors, policy = actors or nodes, policy or method.policy(concurrency)
    for what, number in (("max_size", policy.max_size), ("concurrency", concurrency)):
        if number < actors:
            raise ValueError(f"{what} is {number}, less than one for each of {actors} actors")
    team = partial(on_actors, endpoint, policy, method, limits, meter=meter, options=options)
    run = partial(
        run_batch, meter=meter, concurrency=concurrency, total=len(batch), limits=limits, quiet=quiet
    )

    async def main(owed: Sequence[Task], results: ResultFile, tally: Tally) -> Summary:
        async with team(actors=min(actors, len(owed))) as place:
            return await run(place, owed, sink=results.append, tally=tally)

    return attrs.evolve(run_owed(batch, Path(out), main), samples=samples)
