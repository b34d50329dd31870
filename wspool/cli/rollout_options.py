"""The options of `wspool rollout`, with what their help says."""

from pathlib import Path
from typing import Annotated

import attrs
import typer

__all__ = [
    "AgentName",
    "AllowMixed",
    "AsJson",
    "CheckpointTurns",
    "Concurrency",
    "Given",
    "IdleTimeout",
    "Limit",
    "Local",
    "MaxConnections",
    "MaxCost",
    "MaxErrors",
    "MaxLifetime",
    "MaxSeconds",
    "MaxTokens",
    "MaxTurns",
    "MaxWait",
    "ModelName",
    "Out",
    "Price",
    "ProviderName",
    "Quiet",
    "RedoErrors",
    "RedoWrong",
    "Resume",
    "Retries",
    "TaskMaxTokens",
    "TaskTimeout",
    "TasksFile",
    "ToolsName",
]

_ENDPOINT = "Where it goes"
_METHOD = "How a task is done"
_STATE = "Results, and going on"

TasksFile = Annotated[
    Path | None,
    typer.Argument(
        help="A JSONL file: lines {id, input, ...} or OpenAI Batch lines. Without it the bundled tasks "
        "are run, questions about the standard library of this Python."
    ),
]
Local = Annotated[
    bool,
    typer.Option(
        "--local",
        help="Let the bundled server answer, as `wspool serve` does. The bundled tasks do so by themselves.",
        rich_help_panel=_ENDPOINT,
    ),
]
ModelName = Annotated[str | None, typer.Option(help="Model for tasks that name none.")]
ProviderName = Annotated[
    str | None,
    typer.Option(
        "--provider",
        help="What the endpoint can do: openai, azure, xai, vercel or litellm; found out if not given.",
        rich_help_panel=_ENDPOINT,
    ),
]
Concurrency = Annotated[
    int, typer.Option("-c", "--concurrency", min=1, help="Conversations running at once.")
]
MaxConnections = Annotated[
    int | None,
    typer.Option(min=1, help="Connections at once; if not given, 8 for the bundled tasks, else as -c."),
]
AgentName = Annotated[
    str | None,
    typer.Option(
        help="pkg.mod:callable or ./file.py:callable, async def agent(conversation, task) -> answer. If not "
        "given, --tools are called until there is an answer, and without those a task is one turn.",
        rich_help_panel=_METHOD,
    ),
]
ToolsName = Annotated[
    str | None,
    typer.Option(
        "--tools",
        help='"bundled" for the tools of the bundled tasks, which read the standard library.',
        rich_help_panel=_METHOD,
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(help="Directory of the results; rollout-results/NAME if not given.", rich_help_panel=_STATE),
]
Resume = Annotated[
    bool | None,
    typer.Option(
        "--resume/--no-resume",
        help="Skip tasks that have results, or start over (old ones are kept, as results.jsonl.old).",
        show_default="resume",
        rich_help_panel=_STATE,
    ),
]
RedoErrors = Annotated[
    bool,
    typer.Option(
        "--redo-errors",
        help="Run again what did not go well: failed, cut off, filtered, refused, unanswered, or wrong.",
        rich_help_panel=_STATE,
    ),
]
RedoWrong = Annotated[
    bool,
    typer.Option(
        "--redo-wrong",
        help="Run again what was answered wrongly, and nothing else.",
        rich_help_panel=_STATE,
    ),
]
AllowMixed = Annotated[
    bool,
    typer.Option(
        "--allow-mixed",
        help="Add to results that were made otherwise: by another model, endpoint, agent, or of other tasks.",
        rich_help_panel=_STATE,
    ),
]
CheckpointTurns = Annotated[
    bool,
    typer.Option(
        "--checkpoint-turns",
        help="Keep every finished turn, so that a killed run loses none; give it to the next run as "
        "well. An agent must look at conversation.items to see where it is.",
        rich_help_panel=_STATE,
    ),
]
MaxWait = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        help="Seconds that a turn waits while the endpoint is down or refuses everybody (overload, rate "
        "limits); as long as it takes if not given.",
        rich_help_panel=_ENDPOINT,
    ),
]
Retries = Annotated[
    int,
    typer.Option(
        min=0,
        help="How often a turn of a task is taken again that was lost or failed for a moment; it may be "
        "paid twice. An agent decides for itself.",
        rich_help_panel=_METHOD,
    ),
]
Limit = Annotated[int | None, typer.Option(min=1, help="Run only the first N tasks.")]
MaxLifetime = Annotated[
    float | None,
    typer.Option(
        min=0.1,
        help="Seconds to use one connection; the provider's limit if not given",
        rich_help_panel=_ENDPOINT,
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress.")]
AsJson = Annotated[bool, typer.Option("--json", help="The summary as one JSON object.")]

_LIMITS = "What it may take; what is reached first ends it in order, and what is owed stays owed"

MaxTokens = Annotated[
    int | None, typer.Option(min=0, help="Tokens of the run, of input and output.", rich_help_panel=_LIMITS)
]
MaxCost = Annotated[
    float | None, typer.Option(min=0, help="Cost of the run, by --price.", rich_help_panel=_LIMITS)
]
Price = Annotated[
    str | None,
    typer.Option(
        help="IN,CACHED,OUT: price of a million tokens of input, of input from the cache, and of output.",
        rich_help_panel=_LIMITS,
    ),
]
MaxErrors = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Failed tasks, 0 for no limit; if not given, a run ends whose first 50 tasks have all failed.",
        rich_help_panel=_LIMITS,
    ),
]
MaxSeconds = Annotated[
    float | None,
    typer.Option(min=0, help="Seconds after which no other task is begun.", rich_help_panel=_LIMITS),
]
TaskTimeout = Annotated[
    float | None,
    typer.Option(min=0, help="Seconds of one task, time in line included.", rich_help_panel=_LIMITS),
]
IdleTimeout = Annotated[
    float | None,
    typer.Option(
        min=0.001,
        help="Seconds without an event in a turn, after which the turn is given up.",
        rich_help_panel=_LIMITS,
    ),
]
MaxTurns = Annotated[
    int | None,
    typer.Option(
        min=1, help="Turns of one task; 100 if not given, an agent's are its own.", rich_help_panel=_LIMITS
    ),
]
TaskMaxTokens = Annotated[
    int | None, typer.Option(min=0, help="Tokens of one task.", rich_help_panel=_LIMITS)
]


@attrs.frozen(kw_only=True)
class Given:
    """What the command was given: its arguments and options, by name."""

    tasks: Path | None
    out: Path | None
    url: str | None
    local: bool
    provider: str | None
    proxy: str | None
    model: str | None
    api_key_env: str | None
    concurrency: int
    max_connections: int | None
    agent: str | None
    tools: str | None
    #: None: go on with a batch that was interrupted, start over one that ended.
    resume: bool | None
    redo_errors: bool
    redo_wrong: bool
    allow_mixed: bool
    checkpoint_turns: bool
    retries: int
    max_wait: float | None
    limit: int | None
    max_lifetime: float | None
    max_tokens: int | None
    max_cost: float | None
    price: str | None
    max_errors: int | None
    max_seconds: float | None
    task_timeout: float | None
    idle_timeout: float | None
    max_turns: int | None
    task_max_tokens: int | None
    quiet: bool
    as_json: bool
