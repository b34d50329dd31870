"""`wspool report`: one HTML file of a run, or of what two runs have done otherwise."""

from pathlib import Path
from typing import Annotated

import typer

from wspool.cli.usage import say, usage_error
from wspool.core.plain import plain
from wspool.report.making import REPORT, make_report, missing
from wspool.report.reading import NoResultsError

__all__ = ["report"]


def report(
    directory: Annotated[Path, typer.Argument(help="Directory of results.")],
    other: Annotated[
        Path | None, typer.Argument(help="Directory of another run, to be compared with the first.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The file; report.html in the directory if not given, compare.html in the second."),
    ] = None,
    group_by: Annotated[
        str | None,
        typer.Option(
            metavar="FIELD",
            help="Group results by this field of theirs, or of the rows of the task file; a.b leads into it.",
        ),
    ] = None,
) -> None:
    """Make one HTML file that shows a run, or which answers another run has changed. It opens offline.

    The run may go on, or have been killed: what is there is shown. Exit codes: 0 it was made, 2 wrong usage.
    """
    from wspool.report.comparing import COMPARISON, make_comparison
    from wspool.report.grouping import GroupError

    if needed := missing():
        usage_error(f"a report needs {' and '.join(needed)}: pip install 'wspool[report]'")
    if other is not None and group_by is not None:
        usage_error("--group-by is for the report of one run")
    path = out or (directory / REPORT if other is None else other / COMPARISON)
    try:
        if other is None:
            make_report(directory, path, group_by)
        else:
            make_comparison(directory, other, path)
    except (NoResultsError, GroupError) as problem:
        usage_error(str(problem))
    except OSError as problem:
        usage_error(f"{path} cannot be written: {problem.strerror}; use another --out")
    say(f"report in {plain(str(path))}")
