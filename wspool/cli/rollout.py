"""`wspool rollout`: run a batch of agent conversations, and say how it went."""

import json
import random
from collections import Counter
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Final

import attrs
import trio
import typer

import wspool
from wspool.cli.grouped import together
from wspool.cli.rollout_cluster import leave, reach
from wspool.cli.rollout_options import Given
from wspool.cli.rollout_plan import Plan, make_plan
from wspool.cli.rollout_state import prepare
from wspool.cli.target import Target
from wspool.cli.usage import aside_stdout, say, usage_error, warn
from wspool.core.plain import plain
from wspool.errors import DialFailedError
from wspool.pool.setup import carried
from wspool.rollout.checkpoints import Checkpoints, open_checkpoints
from wspool.rollout.holding import Holder
from wspool.rollout.results import ResultFile, ResultsError, open_results
from wspool.rollout.runner import Place, run_batch
from wspool.rollout.samples import Samples
from wspool.rollout.summary import Meter, Summary
from wspool.rollout.tally import Tally
from wspool.rollout.tasks import WELL, Task
from wspool.timeline import Timeline

__all__ = ["rollout"]

#: Seconds of trying after which an endpoint that never answered counts as unreachable.
_REACH_WITHIN: Final = 2.0


@together(Given)
def rollout(given: Given) -> None:
    """Run a batch of agent conversations over a pool of connections.

    Results go to results.jsonl in the output directory, one line per task as it ends. Ctrl-C finishes what
    runs, a second one stops, a third ends it whatever happens. Exit codes: 0 all done (and right, if the
    answers are known), 1 some not, 2 wrong usage, 130 interrupted.
    """
    try:
        with aside_stdout():  # what the user's modules print
            plan = make_plan(given)
    except OSError as problem:  # of a working directory that is gone, or of a disk that is
        usage_error(f"nothing was run: {problem}")
    actors = (
        reach(given, plan) if given.cluster.ray or given.cluster.actors or given.cluster.address else None
    )
    timeline = given.telling.timeline
    if timeline is not None and (timeline.is_dir() or not timeline.absolute().parent.is_dir()):
        usage_error(f"--timeline {plain(str(timeline))} is no place for a file")
    try:
        with open_results(plan.out) as results:
            code = _run(plan, results, actors)
    except ResultsError as problem:
        usage_error(str(problem))
    raise typer.Exit(code)


def _run(plan: Plan, results: ResultFile, actors: int | None) -> int:
    batch, given = plan.batch, plan.given
    prepare(plan, results)
    owed, tally = results.left(batch)
    summary: Summary | None = None
    try:
        answered = {key for key, outcome in results.earlier.items() if outcome != "failed"}
        resumed = given.state.checkpoint_turns
        kept = open_checkpoints(plan.out, owed, answered) if resumed else nullcontext()
        with kept as checkpoints, aside_stdout():
            summary = trio.run(_rollout, plan, owed, results, checkpoints, tally, actors)
            if actors is not None:
                leave()  # while what it prints goes aside
    except* KeyboardInterrupt:
        pass
    if summary is None:
        # Before or after the run itself; what ended has its result.
        warn("interrupted")
        return 130
    earlier = [results.earlier[task.key] for task in batch if task.key in results.earlier]
    not_well = [outcome for outcome in earlier if outcome not in WELL]
    shown = _report(plan, results, summary)
    _tell(summary, results, not_well, shown, as_json=given.telling.as_json)
    if summary.interrupted:
        return 130
    return 1 if summary.not_well or summary.owed or not_well else 0


def _report(plan: Plan, results: ResultFile, summary: Summary) -> Path | None:
    """Make the report, if there is something to report on; where it is. Whatever goes wrong ends nothing."""
    telling = plan.given.telling
    if not telling.report or summary.interrupted or summary.owed == summary.tasks:
        return None
    from wspool.report.making import REPORT, is_of, make_report, missing

    path = results.path.with_name(REPORT)
    if needed := missing():
        if not telling.quiet:
            warn(f"there is no report: it needs {' and '.join(needed)} (pip install 'wspool[report]')")
        return None
    try:
        if summary.owed + summary.skipped == summary.tasks and is_of(results.path, path):
            return path  # nothing has ended since
        make_report(results.path.parent, path)
    except (Exception, KeyboardInterrupt) as problem:  # the results are there, and the run has ended
        warn(f"there is no report: {type(problem).__name__}: {problem}")
        return None
    return path


def _tell(
    summary: Summary, results: ResultFile, not_well: Sequence[str], shown: Path | None, *, as_json: bool
) -> None:
    if as_json:
        places = {"results": str(results.path), "report": str(shown) if shown is not None else None}
        say(json.dumps(summary.as_json() | places))
    elif summary.turns or not summary.problem:
        say(str(summary))
        say(f"results in {plain(str(results.path))}")
        if shown is not None:
            say(f"report in {plain(str(shown))}")
    if summary.problem:
        warn(f"{plain(summary.problem)} ({summary.owed} tasks are owed)")
    elif summary.owed:
        warn(f"{summary.owed} tasks are owed; the same command runs them")
    if summary.unknown_calls:
        warn(
            f"calls of an earlier run whose outcome is unknown: {summary.unknown_calls}; the model was told "
            "so. A tool that may be called twice is @wspool.tool(repeatable=True); with --unknown-effects "
            "stop a person can look"
        )
    if not_well:
        counts = ", ".join(f"{count} {name}" for name, count in Counter(not_well).most_common())
        way = "--redo-wrong" if set(not_well) == {"wrong"} else "--redo-errors"
        warn(f"of an earlier run: {counts}; {way} runs them again")


async def _rollout(
    plan: Plan,
    owed: Sequence[Task],
    results: ResultFile,
    checkpoints: Checkpoints | None,
    tally: Tally,
    actors: int | None,
) -> Summary:
    meter = Meter()
    policy, total = plan.policy, len(plan.batch)
    if actors is None:
        # The other ends of the connections to an embedded provider are in this process as well.
        most, warning = carried(policy.max_size, each=1 if plan.target is not None else 2)
        if warning:
            warn(f"{warning.replace('max_size', '--max-connections')}")
        policy = attrs.evolve(policy, max_size=most)
    summary = Summary(tasks=total, owed=len(owed), skipped=total - len(owed), max_connections=policy.max_size)
    async with _endpoint(plan) as endpoint:
        if plan.target is not None and owed:
            problem = await _unreachable(endpoint, policy)
            if problem is not None:
                return attrs.evolve(summary, problem=problem)
        with closing(Samples(results.path.parent)) as samples:
            opened: AbstractAsyncContextManager[Place]
            if actors is None:
                opened = _in_here(plan, endpoint, policy, meter, checkpoints)
            else:
                opened = _on_cluster(plan, endpoint, policy, meter, min(actors, len(owed)))
            async with opened as place:
                summary = await run_batch(
                    place,
                    owed,
                    meter=meter,
                    sink=results.append,
                    concurrency=plan.given.place.concurrency,
                    total=total,
                    limits=plan.limits,
                    tally=tally,
                    samples=samples,
                    quiet=plan.given.telling.quiet,
                )
    return attrs.evolve(summary, samples=plan.given.input.samples)


@asynccontextmanager
async def _in_here(
    plan: Plan,
    endpoint: dict[str, Any],
    policy: wspool.PoolPolicy,
    meter: Meter,
    checkpoints: Checkpoints | None,
) -> AsyncGenerator[Place, None]:
    """One pool."""
    with _watched(meter, plan.given.telling.timeline) as instruments:
        manager = wspool.open_pool(**endpoint, fallback="http", policy=policy, instrument=instruments)
        async with manager as pool:
            limits = plan.limits
            yield Holder(
                pool,
                plan.method,
                meter=meter,
                limits=limits,
                budget=limits.of_run(),
                checkpoints=checkpoints,
            )


def _on_cluster(
    plan: Plan, endpoint: dict[str, Any], policy: wspool.PoolPolicy, meter: Meter, actors: int
) -> AbstractAsyncContextManager[Place]:
    from wspool.ray.cluster import on_actors

    more = {**endpoint, "fallback": "http"}
    return on_actors(more, policy, plan.method, plan.limits, actors=actors, meter=meter)


@contextmanager
def _watched(meter: Meter, path: Path | None) -> Generator[list[wspool.Instrument]]:
    """What watches the pool; what it has seen is written to *path* at the end, however that comes."""
    if path is None:
        yield [meter]
        return
    timeline = Timeline()
    try:
        yield [meter, timeline]
    finally:
        try:
            timeline.save(path)
        except OSError as problem:
            warn(f"{plain(str(path))} cannot be written: {problem.strerror}; there is no timeline")


@asynccontextmanager
async def _endpoint(plan: Plan) -> AsyncGenerator[dict[str, Any], None]:
    """What to open pools with: the endpoint that was asked for, or an embedded one on a loopback socket."""
    target: Target | None = plan.target
    if target is not None:
        yield {
            "url": target.url,
            "api_key": target.key,
            "headers": target.headers,
            "proxy": target.proxy_url,
            "provider": plan.provider,
        }
        return
    # Imported here: who goes elsewhere needs no server.
    from wspool.server.echo import EchoModel
    from wspool.server.lookup import LookupModel
    from wspool.server.server import open_server

    model = LookupModel(otherwise=EchoModel()) if plan.own else LookupModel()
    # Ids of its own: a conversation of an earlier run may go on here.
    async with open_server(model, seed=random.getrandbits(32)) as server:
        yield {"url": server.url, "provider": plan.provider}


async def _unreachable(endpoint: dict[str, Any], policy: wspool.PoolPolicy) -> str | None:
    """Why the endpoint cannot be reached, or None. One connection is dialed and closed again.

    A pool that is running bears an outage of minutes. An endpoint that was never there is a mistake, and
    the user should know at once.
    """
    once = attrs.evolve(policy, max_size=1, min_idle=0, give_up_after=_REACH_WITHIN)
    problem: str | None = None
    async with wspool.open_pool(**endpoint, fallback="http", policy=once) as pool:
        try:
            async with pool.lease():
                pass
        except DialFailedError as error:
            problem = str(error)
    return problem
