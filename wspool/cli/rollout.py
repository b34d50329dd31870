"""`wspool rollout`: run a batch of agent conversations, and say how it went."""

import importlib
import json
import os
import random
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, nullcontext
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import attrs
import trio
import typer

import wspool
from wspool.cli.target import ApiKeyEnv
from wspool.cli.usage import usage_error
from wspool.core.plain import plain
from wspool.errors import DialFailedError
from wspool.pool.setup import carried
from wspool.rollout.batch import BatchError, read_tasks
from wspool.rollout.bundled import bundled_tasks
from wspool.rollout.checkpoints import TURNS, Checkpoints, open_checkpoints
from wspool.rollout.results import ResultFile, ResultsError, open_results
from wspool.rollout.runner import Agent, run_batch
from wspool.rollout.summary import Meter, Summary
from wspool.rollout.tasks import Task
from wspool.server.lookup import LookupModel
from wspool.server.server import open_server

__all__ = ["rollout"]

#: Connections for the bundled tasks: far fewer than conversations, so that they have to share.
_BUNDLED_CONNECTIONS = 8

#: Seconds of trying after which an endpoint that never answered counts as unreachable.
_REACH_WITHIN = 2.0


@attrs.frozen(kw_only=True)
class _Options:
    out: Path
    url: str | None
    api_key: str | None
    model: str | None
    concurrency: int
    max_connections: int
    agent: Agent | None
    #: None: go on with a batch that was interrupted, start over one that ended.
    resume: bool | None
    redo_errors: bool
    checkpoint_turns: bool
    retries: int
    quiet: bool
    max_lifetime: float | None


_Tasks = Annotated[
    Path | None,
    typer.Argument(
        help="A JSONL file: lines {id, input, ...} or OpenAI Batch lines. Without it the bundled tasks "
        "are run, questions about the standard library of this Python."
    ),
]
_Out = Annotated[
    Path | None, typer.Option(help="Directory of the results; rollout-results/NAME if not given.")
]
_Url = Annotated[
    str | None, typer.Option(help="WebSocket URL of the provider; an embedded local one if not given.")
]
_Model = Annotated[str | None, typer.Option(help="Model for tasks that name none.")]
_Concurrency = Annotated[
    int, typer.Option("-c", "--concurrency", min=1, help="Conversations running at once.")
]
_MaxConnections = Annotated[
    int | None,
    typer.Option(min=1, help="Connections at once; if not given, 8 for the bundled tasks, else as -c."),
]
_AgentName = Annotated[
    str | None,
    typer.Option(
        help="pkg.mod:callable, async def agent(conversation, task) -> answer; a loop with the bundled "
        "tools if not given."
    ),
]
_Resume = Annotated[
    bool | None,
    typer.Option(
        "--resume/--no-resume",
        help="Skip tasks that have results, or start over (old results are kept as results.jsonl.old).",
        show_default="resume",
    ),
]
_RedoErrors = Annotated[bool, typer.Option("--redo-errors", help="Run failed tasks again.")]
_CheckpointTurns = Annotated[
    bool,
    typer.Option(
        "--checkpoint-turns",
        help="Keep every finished turn, so that a killed run loses none; give it to the next run as "
        "well. An agent must look at conversation.items to see where it is.",
    ),
]
_Retries = Annotated[
    int,
    typer.Option(
        min=0,
        help="How often a turn of a task is taken again that was lost or failed for a moment; it may be "
        "paid twice. An agent decides for itself.",
    ),
]
_Limit = Annotated[int | None, typer.Option(min=1, help="Run only the first N tasks.")]
_MaxLifetime = Annotated[
    float | None,
    typer.Option(min=0.1, help="Seconds to use one connection; the provider's limit if not given"),
]
_Quiet = Annotated[bool, typer.Option("--quiet", help="No progress.")]
_AsJson = Annotated[bool, typer.Option("--json", help="The summary as one JSON object.")]


def rollout(
    tasks: _Tasks = None,
    out: _Out = None,
    url: _Url = None,
    model: _Model = None,
    api_key_env: ApiKeyEnv = "OPENAI_API_KEY",
    concurrency: _Concurrency = 128,
    max_connections: _MaxConnections = None,
    agent: _AgentName = None,
    resume: _Resume = None,
    redo_errors: _RedoErrors = False,
    checkpoint_turns: _CheckpointTurns = False,
    retries: _Retries = 2,
    limit: _Limit = None,
    max_lifetime: _MaxLifetime = None,
    quiet: _Quiet = False,
    as_json: _AsJson = False,
) -> None:
    """Run a batch of agent conversations over a pool of connections.

    Results go to results.jsonl in the output directory, one line per task as it ends. Ctrl-C finishes what
    runs, a second one stops. Exit codes: 0 all done (and right, if the answers are known), 1 some not,
    2 wrong usage, 130 interrupted.
    """
    batch = _tasks(tasks)[:limit]
    if not batch:
        usage_error("no bundled task can be run: this Python has no source code of its standard library")
    if url is not None:
        model = _checked(url, model, batch, api_key_env)
    options = _Options(
        out=out or Path("rollout-results") / (tasks.stem if tasks else "bundled"),
        url=url,
        api_key=os.environ.get(api_key_env) or None,
        model=model or "lookup",
        concurrency=concurrency,
        max_connections=max_connections or (concurrency if tasks else _BUNDLED_CONNECTIONS),
        agent=_agent(agent) if agent else None,
        # The bundled batch without a place of its own is a demonstration: running it again runs it again.
        resume=True if resume is None and (tasks or out) else resume,
        redo_errors=redo_errors,
        checkpoint_turns=checkpoint_turns,
        retries=retries,
        quiet=quiet,
        max_lifetime=max_lifetime,
    )
    try:
        with open_results(options.out) as results:
            code = _run(batch, results, options, as_json=as_json)
    except ResultsError as problem:
        usage_error(str(problem))
    raise typer.Exit(code)


def _run(batch: list[Task], results: ResultFile, options: _Options, *, as_json: bool) -> int:
    ids = {task.id for task in batch}
    if options.resume is False or (options.resume is None and ids <= results.earlier.keys()):
        results.start_over()
        (options.out / TURNS).unlink(missing_ok=True)
    if options.redo_errors:
        results.drop({id for id in ids if results.earlier.get(id) == "failed"})
    try:
        results.begin()
    except OSError as problem:
        usage_error(f"{results.path} cannot be written: {problem.strerror}; use another --out")
    owed = [task for task in batch if task.id not in results.earlier]
    earlier = {id: outcome for id, outcome in results.earlier.items() if id in ids}
    summary: Summary | None = None
    try:
        with (
            open_checkpoints(options.out, owed) if options.checkpoint_turns else nullcontext()
        ) as checkpoints:
            summary = trio.run(_rollout, owed, len(batch), results, checkpoints, options)
    except* KeyboardInterrupt:
        pass
    if summary is None:
        # Before or after the run itself; what ended has its result.
        typer.echo("wspool: interrupted", err=True)
        return 130
    if as_json:
        typer.echo(json.dumps(summary.as_json() | {"results": str(results.path)}))
    elif summary.turns or not summary.problem:
        summary.print()
        typer.echo(f"results in {plain(str(results.path))}")
    if summary.problem:
        typer.echo(f"wspool: {plain(summary.problem)} ({summary.owed} tasks are owed)", err=True)
    elif summary.owed:
        typer.echo(f"wspool: {summary.owed} tasks are owed; the same command runs them", err=True)
    not_well = [id for id, outcome in earlier.items() if outcome in ("failed", "wrong")]
    if not_well:
        typer.echo(
            f"wspool: {len(not_well)} tasks failed in an earlier run; --redo-errors runs them again", err=True
        )
    if summary.interrupted:
        return 130
    return 1 if summary.failed or summary.wrong or summary.owed or not_well else 0


async def _rollout(
    owed: list[Task],
    total: int,
    results: ResultFile,
    checkpoints: Checkpoints | None,
    options: _Options,
) -> Summary:
    meter = Meter()
    # The other ends of the connections to an embedded provider are in this process as well.
    most, warning = carried(options.max_connections, each=1 if options.url is not None else 2)
    if warning:
        typer.echo(f"wspool: {warning.replace('max_size', '--max-connections')}", err=True)
    policy = wspool.PoolPolicy(max_size=most, min_idle=0, max_lifetime=options.max_lifetime)
    summary = Summary(tasks=total, owed=len(owed), skipped=total - len(owed), max_connections=policy.max_size)
    async with _endpoint(options.url) as url:
        if options.url is not None and owed:
            problem = await _unreachable(url, options.api_key, policy)
            if problem is not None:
                return attrs.evolve(summary, problem=problem)
        async with wspool.open_pool(
            url, fallback="http", api_key=options.api_key, policy=policy, instrument=meter
        ) as pool:
            summary = await run_batch(
                pool,
                owed,
                options.agent,
                meter=meter,
                sink=results.append,
                concurrency=options.concurrency,
                defaults={"model": options.model},
                total=total,
                checkpoints=checkpoints,
                retries=options.retries,
                quiet=options.quiet,
            )
    return summary


@asynccontextmanager
async def _endpoint(url: str | None) -> AsyncGenerator[str, None]:
    """The URL to use: the given one, or that of an embedded provider on a loopback socket."""
    if url is not None:
        yield url
        return
    # Ids of its own: a conversation of an earlier run may go on here.
    async with open_server(LookupModel(), seed=random.getrandbits(32)) as server:
        yield server.url


async def _unreachable(url: str, api_key: str | None, policy: wspool.PoolPolicy) -> str | None:
    """Why *url* cannot be reached, or None. One connection is dialed and closed again.

    A pool that is running bears an outage of minutes. An endpoint that was never there is a mistake, and
    the user should know at once.
    """
    once = attrs.evolve(policy, max_size=1, min_idle=0, give_up_after=_REACH_WITHIN)
    problem: str | None = None
    async with wspool.open_pool(url, fallback="http", api_key=api_key, policy=once) as pool:
        try:
            async with pool.lease():
                pass
        except DialFailedError as error:
            problem = str(error)
    return problem


def _tasks(path: Path | None) -> list[Task]:
    if path is None:
        return bundled_tasks()
    try:
        return read_tasks(path)
    except BatchError as problem:
        usage_error(f"nothing was run, because of mistakes in the tasks\n{problem}")


def _checked(url: str, model: str | None, batch: list[Task], api_key_env: str) -> str:
    """The model to use at *url*, when all that can be known beforehand is right."""
    try:
        parts = urlsplit(url)
        local = parts.hostname in ("localhost", "127.0.0.1", "::1")
    except ValueError as problem:
        usage_error(f"{url!r} is no URL: {problem}")
    if parts.scheme not in ("ws", "wss") or not parts.hostname:
        usage_error(f"{url!r} is no WebSocket URL; it looks like wss://api.openai.com/v1/responses")
    if parts.scheme == "ws" and not local:
        usage_error(f"{url!r} would send the key in the clear; use wss://, ws:// is for this machine only")
    if not local and not os.environ.get(api_key_env):
        usage_error(
            f"there is no API key in the environment variable {api_key_env}; set it, or name another one "
            "with --api-key-env"
        )
    if model is None and not local:
        nameless = [task.id for task in batch if "model" not in task.body]
        if nameless:
            usage_error(
                f"{len(nameless)} tasks name no model (the first is {nameless[0]!r}); say which with --model"
            )
    return model or "lookup"


def _agent(name: str) -> Agent:
    """Import `pkg.mod:callable`, from the working directory too."""
    module_name, colon, attribute = name.partition(":")
    if not colon or not module_name or not attribute:
        usage_error(f"--agent {name!r} must be pkg.mod:callable")
    sys.path.insert(0, os.getcwd())
    try:
        found: object = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except Exception as problem:  # whatever the agent's module raises
        usage_error(f"--agent {name!r} cannot be imported: {type(problem).__name__}: {problem}")
    if not iscoroutinefunction(found) and not iscoroutinefunction(type(found).__call__):
        usage_error(f"--agent {name!r} must be an async function: async def agent(conversation, task)")
    return found  # type: ignore[return-value]
