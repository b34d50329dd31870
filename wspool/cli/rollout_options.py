"""The options of `wspool rollout`, with what their help says. Each has one place, in its group."""

from pathlib import Path
from typing import Annotated

import attrs
import typer

from wspool.cli.target import ApiKeyEnv, Header, Provider, ProxyUrl, Url
from wspool.rollout.method import RETRIES

__all__ = ["Cluster", "Given", "How", "Input", "Limiting", "Place", "State", "Telling"]


@attrs.frozen(kw_only=True)
class Input:
    """What is to be done."""

    tasks: Annotated[
        Path | None,
        typer.Argument(
            help="The tasks: JSON lines or a JSON array of {id, input, ...}, chats or OpenAI Batch lines, or "
            "CSV; gzipped or not; - for standard input. Without it the bundled tasks are run, questions "
            "about the standard library of this Python."
        ),
    ] = None
    format: Annotated[
        str | None,
        typer.Option(help="What the file holds, if its name does not say so: jsonl, json, csv or tsv."),
    ] = None
    id_field: Annotated[
        str | None,
        typer.Option(
            help="The field with a row's id, if not id; a.b leads into it. Rows without one get one."
        ),
    ] = None
    input_field: Annotated[
        str | None,
        typer.Option(help="The field with a row's input, text or messages, if not input; a.b leads into it."),
    ] = None
    expected_field: Annotated[
        str | None,
        typer.Option(help="The field with the right answer, if not expected; a.b leads into it."),
    ] = None
    leave_out: Annotated[
        list[str],
        typer.Option(
            metavar="FIELD",
            help="Do without this field of requests, such as the seed of a chat, which the Responses API "
            "does not have. May be repeated.",
        ),
    ] = attrs.field(factory=list[str])
    select: Annotated[
        list[str],
        typer.Option(
            metavar="PATTERN",
            help="Only tasks with this id or pattern of ids (* and ?), or FIELD=VALUE of their rows. May be "
            "repeated.",
        ),
    ] = attrs.field(factory=list[str])
    shuffle: Annotated[
        bool, typer.Option("--shuffle", help="In a random order, the same every time; see --seed.")
    ] = False
    seed: Annotated[int | None, typer.Option(help="Of the order of --shuffle; 0 if not given.")] = None
    limit: Annotated[int | None, typer.Option(min=1, help="Run only the first N tasks.")] = None
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Only the I-th of N parts, in a directory of its own; `wspool merge` puts them together.",
        ),
    ] = None
    samples: Annotated[
        int,
        typer.Option("-n", "--samples", min=1, help="Attempts at each task; more later add to those there."),
    ] = 1


@attrs.frozen(kw_only=True)
class Place:
    """Where the tasks go, and how many at once."""

    url: Url = None
    local: Annotated[
        bool,
        typer.Option(
            "--local",
            help="Let the bundled server answer, as `wspool serve` does. The bundled tasks do so by "
            "themselves.",
        ),
    ] = False
    provider: Provider = None
    proxy: ProxyUrl = None
    header: Header = attrs.field(factory=list[str])
    model: Annotated[str | None, typer.Option(help="Model for tasks that name none.")] = None
    api_key_env: ApiKeyEnv = None
    concurrency: Annotated[
        int, typer.Option("-c", "--concurrency", min=1, help="Conversations running at once, at most.")
    ] = 128
    max_connections: Annotated[
        int | None,
        typer.Option(min=1, help="Connections at once; if not given, 8 for the bundled tasks, else as -c."),
    ] = None
    max_lifetime: Annotated[
        float | None,
        typer.Option(min=0.1, help="Seconds to use one connection; the provider's limit if not given"),
    ] = None
    max_wait: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="Seconds that a turn waits while the endpoint is down or refuses everybody (overload, rate "
            "limits); as long as it takes if not given.",
        ),
    ] = None


@attrs.frozen(kw_only=True)
class How:
    """How each task is done."""

    agent: Annotated[
        str | None,
        typer.Option(
            help="pkg.mod:callable or ./file.py:callable, async def agent(conversation, task) -> answer. If "
            "not given, --tools are called until there is an answer, and without those a task is one turn."
        ),
    ] = None
    agent_arg: Annotated[
        list[str],
        typer.Option(
            metavar="KEY=VALUE",
            help="A keyword argument for the agent, VALUE as JSON or else a text. May be repeated.",
        ),
    ] = attrs.field(factory=list[str])
    tools: Annotated[
        str | None,
        typer.Option(
            help="pkg.mod:tools or ./file.py:tools, functions or {name: function}; what the model is told of "
            'them is made from their signatures and docstrings. "bundled" for the tools of the bundled '
            "tasks, which read the standard library."
        ),
    ] = None
    set: Annotated[
        list[str],
        typer.Option(
            metavar="KEY=VALUE",
            help="A field of every request, such as temperature=0 or reasoning.effort=low, instead of what "
            "the task says; VALUE as JSON or else a text. May be repeated.",
        ),
    ] = attrs.field(factory=list[str])
    score: Annotated[
        str | None,
        typer.Option(
            help="pkg.mod:function or ./file.py:function, which takes by name what it needs of answer, "
            "expected, task, response and items, and returns a number or a dict of some, "
            '"score" first; async or not. "exact" (as without it), "number" (the last one) and "contains" '
            "compare with the expected answer.",
        ),
    ] = None
    right_from: Annotated[
        float | None,
        typer.Option(
            metavar="SCORE",
            help="The score from which on an answer is right, and below wrong; if not given, 1 is right, 0 "
            "is wrong, and others are neither.",
        ),
    ] = None
    unknown_effects: Annotated[
        str,
        typer.Option(
            metavar="tell|stop",
            help="With --checkpoint-turns: of a call that a killed run had begun, and whose tool is not "
            "repeatable, tell the model that its outcome is unknown, or stop the task for a person to look.",
        ),
    ] = "tell"
    retries: Annotated[
        int,
        typer.Option(
            min=0,
            help="How often a turn of a task is taken again that was lost or failed for a moment; it may be "
            "paid twice. Of an agent's those that were lost, unless it has seen their first output.",
        ),
    ] = RETRIES


@attrs.frozen(kw_only=True)
class State:
    """Where the results are, and what becomes of those that are there."""

    out: Annotated[
        Path | None,
        typer.Option(help="Directory of the results; rollout-results/NAME if not given."),
    ] = None
    #: None: go on with a batch that was interrupted, start over one that ended.
    resume: Annotated[
        bool | None,
        typer.Option(
            "--resume/--no-resume",
            help="Skip tasks that have results, or start over (old ones are kept, as results.jsonl.old).",
            show_default="resume",
        ),
    ] = None
    redo_errors: Annotated[
        bool,
        typer.Option(
            "--redo-errors",
            help="Run again what did not go well: failed, cut off, filtered, refused, unanswered, or wrong; "
            "what was there is kept in redone.jsonl.",
        ),
    ] = False
    redo_wrong: Annotated[
        bool,
        typer.Option(
            "--redo-wrong",
            help="Run again what was answered wrongly, and nothing else; "
            "what was there is kept in redone.jsonl.",
        ),
    ] = False
    allow_mixed: Annotated[
        bool,
        typer.Option(
            "--allow-mixed",
            help="Add to results that were made otherwise: by another model, endpoint, agent, or of other "
            "tasks.",
        ),
    ] = False
    checkpoint_turns: Annotated[
        bool,
        typer.Option(
            "--checkpoint-turns",
            help="Keep every finished turn and what tools did, so that a killed run loses no turn and "
            "repeats no call; give it to the next run as well. An agent must look at conversation.items to "
            "see where it is, and bring a ledger of its own.",
        ),
    ] = False


@attrs.frozen(kw_only=True)
class Limiting:
    """What the run and each task may take."""

    max_tokens: Annotated[int | None, typer.Option(min=0, help="Tokens of the run, of input and output.")] = (
        None
    )
    max_cost: Annotated[float | None, typer.Option(min=0, help="Cost of the run, by --price.")] = None
    price: Annotated[
        str | None,
        typer.Option(
            help="IN,CACHED,OUT: price of a million tokens of input, of input from the cache, and of output."
        ),
    ] = None
    max_errors: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Failed tasks, 0 for no limit; if not given, a run ends whose first 50 tasks have all "
            "failed.",
        ),
    ] = None
    max_seconds: Annotated[
        float | None, typer.Option(min=0, help="Seconds after which no other task is begun.")
    ] = None
    task_timeout: Annotated[
        float | None, typer.Option(min=0.001, help="Seconds of one task, time in line included.")
    ] = None
    idle_timeout: Annotated[
        float | None,
        typer.Option(min=0.001, help="Seconds without an event in a turn, after which the turn is given up."),
    ] = None
    max_turns: Annotated[
        int | None,
        typer.Option(min=1, help="Turns of one task; 100 if not given, an agent's are its own."),
    ] = None
    task_max_tokens: Annotated[int | None, typer.Option(min=0, help="Tokens of one task.")] = None


@attrs.frozen(kw_only=True)
class Cluster:
    """On how many machines."""

    ray: Annotated[
        bool,
        typer.Option(
            "--ray",
            help="On actors of a Ray cluster, which share -c, --max-connections and all limits; needs "
            "wspool[ray].",
        ),
    ] = False
    address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT|auto",
            help="With --ray: the cluster, auto for the one that runs here. If not given, that of "
            "RAY_ADDRESS or the one that runs here, else one is started on this machine.",
        ),
    ] = None
    actors: Annotated[
        int | None, typer.Option(min=1, help="With --ray: how many actors; one for each node if not given.")
    ] = None


@attrs.frozen(kw_only=True)
class Telling:
    """What it says."""

    timeline: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write what happened when to this file, to be opened at https://ui.perfetto.dev: turns, "
            "dials, waits in line, tools.",
        ),
    ] = None
    report: Annotated[
        bool,
        typer.Option(
            "--report/--no-report",
            help="Make report.html of all results at the end, or not; `wspool report` makes it at any time.",
        ),
    ] = True
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False
    as_json: Annotated[bool, typer.Option("--json", help="The summary as one JSON object.")] = False


@attrs.frozen(kw_only=True)
class Given:
    """What the command was given."""

    input: Input
    place: Place
    how: How
    state: State
    limiting: Limiting
    cluster: Cluster
    telling: Telling
