"""Making: a directory of results in, one HTML file out."""

import importlib
import importlib.util
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import wspool
from wspool.core.plain import plain
from wspool.report.figures import Figures, Grouping
from wspool.report.grouping import group_by
from wspool.report.picked import MOST_SHOWN, Pick, Picked
from wspool.report.reading import Reading, part
from wspool.report.sections import Shown, of_run, shown_task, told
from wspool.rollout.files import replace
from wspool.rollout.provenance import Provenance

__all__ = ["REPORT", "facts_of", "is_of", "look_through", "make_report", "missing", "write_page"]

#: Name of the file in the directory of the results.
REPORT: Final = "report.html"
#: What the extra `report` brings.
_NEEDED: Final = ("jinja2", "pygal")
#: Columns that hold sentences.
_WORDS: Final = ("error", "message", "answer", "before", "after", "then", "now")


def missing() -> list[str]:
    """The names of packages that are needed and not installed."""
    return [name for name in _NEEDED if importlib.util.find_spec(name) is None]


def is_of(results: Path, path: Path) -> bool:
    """Whether the report at *path* is of *results* as they are. Raises OSError: there are none."""
    return path.is_file() and path.stat().st_mtime_ns >= results.stat().st_mtime_ns


def make_report(directory: Path, path: Path, group: str | None = None) -> None:
    """Write the report of the run in *directory* to *path*.

    Args:
      directory: where the results are; they may be those of a run that goes on, or was killed.
      path: the file; its owner's alone if it is new.
      group: the field by which results are grouped.

    Raises:
      NoResultsError: there are no results.
      GroupError: nothing has that field.
      OSError: the file cannot be written.
    """
    reading = Reading(directory)
    figures, picked = look_through(reading, group)
    places = dict.fromkeys(pick.place for pick in _all(picked))
    anchors = {place: f"t{number}" for number, place in enumerate(places, 1)}
    page = {
        "title": f"Rollout {plain(directory.resolve().name, 100)}",
        "facts": facts_of(reading.run),
        "sections": of_run(reading, figures, picked, anchors),
        "notes": [plain(note) for note in reading.notes],
        "has_tasks": bool(anchors),
        "tasks": _tasks(reading, anchors),
    }
    write_page(path, page)


def look_through(reading: Reading, group: str | None = None) -> tuple[Figures, Picked]:
    """Read all results; return what they add up to, and which are to be shown."""
    figures, picked = Figures(), Picked()
    grouping, of = Grouping(), None if group is None else group_by(group, reading)
    if of is not None:
        figures.groupings[f"field {group}"] = grouping
    for line in reading.lines():
        figures.add(line)
        picked.add(line)
        if of is not None:
            grouping.add(of(line), line)
    return figures, picked


def _all(picked: Picked) -> Iterator[Pick]:
    for trouble in picked.troubles[:MOST_SHOWN]:
        yield trouble.first
    yield from picked.lowest
    yield from picked.costliest
    yield from picked.slowest


def _tasks(reading: Reading, anchors: Mapping[int, str]) -> Iterator[Shown]:
    """One after the other, as they are written: no two are in memory."""
    for place, anchor in anchors.items():
        if (line := reading.again(place)) is not None:
            yield shown_task(line, anchor)


def facts_of(run: Provenance | None) -> list[tuple[str, str]]:
    """What is to be known of how results were made. No path of this machine, and no argument of an agent."""
    if run is None:
        return []
    settings = {name: value for name, value in run.settings.items() if not name.endswith("_source")}
    settings["agent_args"] = ", ".join(part(run.settings, "agent_args"))  # their values may be secrets
    options = part(run.more, "options")
    more = {
        "actors": (options.get("actors") or "one for each node") if options.get("ray") is True else None,
        "began": run.more.get("began"),
        "wspool": run.more.get("wspool"),
        "merged": run.more.get("merged"),
    }
    named = {"tasks": Path(run.tasks).name, **settings, **more}
    return told((name.replace("_", " "), value) for name, value in named.items())


def write_page(path: Path, page: Mapping[str, Any]) -> None:
    """Write the page to *path*, in pieces. Raises OSError."""
    # Not there where the extra is not installed.
    jinja2: Any = importlib.import_module("jinja2")
    source = files("wspool.report").joinpath("page.html").read_text(encoding="utf-8")
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(source)
    pieces: Iterator[str] = template.generate({**page, "words": _WORDS, "version": wspool.__version__})
    replace(path, (piece.encode() for piece in pieces))
