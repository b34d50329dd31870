"""`wspool merge`: put the results of shards together."""

import json
from pathlib import Path
from typing import Annotated, Final

import typer

from wspool.cli.usage import say, usage_error, warn
from wspool.core.plain import plain
from wspool.rollout.merging import merge as merge_results
from wspool.rollout.results import RESULTS, ResultsError, open_results

__all__ = ["merge"]

#: Duplicates named one by one.
_MOST_NAMED: Final = 20


def merge(
    directories: Annotated[list[Path], typer.Argument(help="Directories of results, of shards of one run.")],
    out: Annotated[Path, typer.Option(help="Directory of all of them; it must not hold results yet.")],
    allow_mixed: Annotated[
        bool, typer.Option("--allow-mixed", help="Merge results that were made otherwise than each other.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="What there is as one JSON object.")] = False,
) -> None:
    """Put the results of shards (`wspool rollout --shard I/N`) into one directory.

    The same rollout with --out there and no --shard runs what is owed. Results that are there twice and
    differ are named; the one that went well is kept, else the first. Exit codes: 0 each was there once,
    1 some differ, 2 wrong usage.
    """
    for each in directories:
        if not (each / RESULTS).exists():
            usage_error(f"there is no {RESULTS} in {each}")
        if each.resolve() == out.resolve():
            usage_error(f"{out} is merged, and cannot be where the results go; use another --out")
    try:
        with open_results(out) as results:
            if results.earlier:
                usage_error(f"there are results in {out}; use another --out")
            merged = merge_results(directories, results, allow_mixed=allow_mixed)
    except ResultsError as problem:
        usage_error(str(problem))
    except OSError as problem:
        usage_error(f"{out} cannot be written: {problem.strerror}; use another --out")
    total = sum(merged.outcomes.values())
    if as_json:
        say(
            json.dumps(
                {
                    "results": str(out / RESULTS),
                    "tasks": total,
                    **merged.outcomes,
                    "owed": merged.owed,
                    "missing": list(merged.missing),
                    "same": merged.same,
                    "duplicates": list(merged.duplicates),
                }
            )
        )
    else:
        counts = ", ".join(f"{count} {name}" for name, count in merged.outcomes.items())
        owed = f", {merged.owed} owed" if merged.owed else ""
        say(f"{total} results: {counts}{owed}")
        say(f"results in {plain(str(out / RESULTS))}")
    if merged.missing:
        warn(f"shards that are not among them: {', '.join(merged.missing)}")
    for text in merged.duplicates[:_MOST_NAMED]:
        warn(text)
    if len(merged.duplicates) > _MOST_NAMED:
        warn(f"... and {len(merged.duplicates) - _MOST_NAMED} more")
    raise typer.Exit(1 if merged.duplicates else 0)
