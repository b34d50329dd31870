"""`wspool rollout`: run a batch of agent conversations, and say how it went."""

import json
import random
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, nullcontext
from typing import Any, Final

import attrs
import trio
import typer

import wspool
from wspool.cli import rollout_options as opt
from wspool.cli.rollout_plan import Plan, make_plan
from wspool.cli.target import ApiKeyEnv, ProxyUrl, Target, Url
from wspool.cli.usage import usage_error
from wspool.core.plain import plain
from wspool.errors import DialFailedError
from wspool.pool.setup import carried
from wspool.rollout.checkpoints import TURNS, Checkpoints, open_checkpoints
from wspool.rollout.results import ResultFile, ResultsError, open_results
from wspool.rollout.runner import run_batch
from wspool.rollout.summary import Meter, Summary
from wspool.rollout.tasks import WELL, Task
from wspool.server.echo import EchoModel
from wspool.server.lookup import LookupModel
from wspool.server.server import open_server

__all__ = ["rollout"]

#: Seconds of trying after which an endpoint that never answered counts as unreachable.
_REACH_WITHIN: Final = 2.0


def rollout(
    tasks: opt.TasksFile = None,
    out: opt.Out = None,
    url: Url = None,
    local: opt.Local = False,
    provider: opt.ProviderName = None,
    proxy: ProxyUrl = None,
    model: opt.ModelName = None,
    api_key_env: ApiKeyEnv = None,
    concurrency: opt.Concurrency = 128,
    max_connections: opt.MaxConnections = None,
    agent: opt.AgentName = None,
    tools: opt.ToolsName = None,
    resume: opt.Resume = None,
    redo_errors: opt.RedoErrors = False,
    checkpoint_turns: opt.CheckpointTurns = False,
    retries: opt.Retries = 2,
    limit: opt.Limit = None,
    max_lifetime: opt.MaxLifetime = None,
    quiet: opt.Quiet = False,
    as_json: opt.AsJson = False,
) -> None:
    """Run a batch of agent conversations over a pool of connections.

    Results go to results.jsonl in the output directory, one line per task as it ends. Ctrl-C finishes what
    runs, a second one stops. Exit codes: 0 all done (and right, if the answers are known), 1 some not,
    2 wrong usage, 130 interrupted.
    """
    plan = make_plan(opt.Given(**locals()))
    try:
        with open_results(plan.out) as results:
            code = _run(plan, results)
    except ResultsError as problem:
        usage_error(str(problem))
    raise typer.Exit(code)


def _run(plan: Plan, results: ResultFile) -> int:
    batch, given = plan.batch, plan.given
    ids = {task.id for task in batch}
    if plan.resume is False or (plan.resume is None and ids <= results.earlier.keys()):
        results.start_over()
        (plan.out / TURNS).unlink(missing_ok=True)
    if given.redo_errors:
        results.drop({id for id in ids if results.earlier.get(id, "done") not in WELL})
    try:
        results.begin()
    except OSError as problem:
        usage_error(f"{results.path} cannot be written: {problem.strerror}; use another --out")
    owed = [task for task in batch if task.id not in results.earlier]
    earlier = {id: outcome for id, outcome in results.earlier.items() if id in ids}
    summary: Summary | None = None
    try:
        with open_checkpoints(plan.out, owed) if given.checkpoint_turns else nullcontext() as checkpoints:
            summary = trio.run(_rollout, plan, owed, results, checkpoints)
    except* KeyboardInterrupt:
        pass
    if summary is None:
        # Before or after the run itself; what ended has its result.
        typer.echo("wspool: interrupted", err=True)
        return 130
    not_well = [id for id, outcome in earlier.items() if outcome not in WELL]
    _tell(summary, results, len(not_well), as_json=given.as_json)
    if summary.interrupted:
        return 130
    return 1 if summary.not_well or summary.owed or not_well else 0


def _tell(summary: Summary, results: ResultFile, not_well_before: int, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(summary.as_json() | {"results": str(results.path)}))
    elif summary.turns or not summary.problem:
        summary.print()
        typer.echo(f"results in {plain(str(results.path))}")
    if summary.problem:
        typer.echo(f"wspool: {plain(summary.problem)} ({summary.owed} tasks are owed)", err=True)
    elif summary.owed:
        typer.echo(f"wspool: {summary.owed} tasks are owed; the same command runs them", err=True)
    if not_well_before:
        typer.echo(
            f"wspool: {not_well_before} tasks did not go well in an earlier run; --redo-errors runs them "
            "again",
            err=True,
        )


async def _rollout(
    plan: Plan, owed: Sequence[Task], results: ResultFile, checkpoints: Checkpoints | None
) -> Summary:
    meter = Meter()
    policy, total = plan.policy, len(plan.batch)
    # The other ends of the connections to an embedded provider are in this process as well.
    most, warning = carried(policy.max_size, each=1 if plan.target is not None else 2)
    if warning:
        typer.echo(f"wspool: {warning.replace('max_size', '--max-connections')}", err=True)
    policy = attrs.evolve(policy, max_size=most)
    summary = Summary(tasks=total, owed=len(owed), skipped=total - len(owed), max_connections=policy.max_size)
    async with _endpoint(plan) as endpoint:
        if plan.target is not None and owed:
            problem = await _unreachable(endpoint, policy)
            if problem is not None:
                return attrs.evolve(summary, problem=problem)
        async with wspool.open_pool(**endpoint, fallback="http", policy=policy, instrument=meter) as pool:
            summary = await run_batch(
                pool,
                owed,
                plan.method,
                meter=meter,
                sink=results.append,
                concurrency=plan.given.concurrency,
                total=total,
                checkpoints=checkpoints,
                quiet=plan.given.quiet,
            )
    return summary


@asynccontextmanager
async def _endpoint(plan: Plan) -> AsyncGenerator[dict[str, Any], None]:
    """What to open pools with: the endpoint that was asked for, or an embedded one on a loopback socket."""
    target: Target | None = plan.target
    if target is not None:
        yield {
            "url": target.url,
            "api_key": target.key,
            "proxy": target.proxy_url,
            "provider": plan.provider,
        }
        return
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
