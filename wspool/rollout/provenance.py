"""Where results come from: `run.json` beside them, and a digest of its task in each line.

Results of another model, endpoint, agent or text under the same id are other results. They are told from
those of the same run here, so that nobody mixes them without knowing.
"""

import hashlib
import json
import platform
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any, Final, cast

import attrs

from wspool.rollout.files import read_from, replace
from wspool.rollout.results import ResultsError
from wspool.rollout.rows import STDIN
from wspool.rollout.tasks import Task

__all__ = [
    "BUNDLED",
    "RUN",
    "Provenance",
    "changed_tasks",
    "directory_for",
    "read_provenance",
    "source_digest",
]

#: Name of the file in the directory of the results.
RUN: Final = "run.json"
#: What is said of tasks that are in no file.
BUNDLED: Final = "bundled"
#: Version of the format.
_FORMAT: Final = 1
#: Ids named in one message.
_MOST_NAMED: Final = 5


@attrs.frozen(kw_only=True)
class Provenance:
    """How results were made.

    Attributes:
      tasks: the task file, or `BUNDLED`.
      settings: what makes a difference to the results: url, provider, model, agent and so on.
      more: what is noted beside it: versions, options, the digest of the task file, when it began.
    """

    tasks: str
    settings: Mapping[str, Any]
    more: Mapping[str, Any]

    @classmethod
    def of(
        cls,
        tasks: Path | None,
        batch: Sequence[Task],
        settings: Mapping[str, Any],
        more: Mapping[str, Any],
    ) -> "Provenance":
        """Put together what is known of a run that begins now."""
        whole = hashlib.sha256()
        for task in batch:
            whole.update(task.digest.encode())
        return cls(
            tasks=_named(tasks),
            settings=settings,
            more={
                "tasks_digest": whole.hexdigest(),
                "task_count": len(batch),
                **more,
                "python": platform.python_version(),
                "platform": platform.platform(),
                "began": datetime.now(UTC).isoformat(timespec="seconds"),
            },
        )

    def write(self, directory: Path) -> None:
        """Write it down beside the results. Raises OSError."""
        data = json.dumps({"format": _FORMAT, **attrs.asdict(self)}, indent=2).encode() + b"\n"
        replace(directory / RUN, [data])

    def differences(self, before: "Provenance") -> list[str]:
        """What makes these results other ones than those from *before*, one text each."""
        names = [*self.settings, *(name for name in before.settings if name not in self.settings)]
        return [
            f"{name.replace('_', ' ')}: {before.settings.get(name)!r} then, {self.settings.get(name)!r} now"
            for name in names
            if self.settings.get(name) != before.settings.get(name)
        ]

    def other_tasks(self, before: "Provenance") -> list[str]:
        """What to say of results that are of none of these tasks; nothing if they are of the same file, of
        which one part is run after the other."""
        if self.tasks == before.tasks:
            return []
        return [f"tasks: {before.tasks!r} then, {self.tasks!r} now, none of which has a result there"]


def changed_tasks(batch: Sequence[Task], digests: Mapping[str, str]) -> list[str]:
    """What to say of tasks that have changed since their results were written, if there are any.

    Args:
      batch: the tasks as they are.
      digests: those of the results, by the keys of tasks.
    """
    known = ((task, digests.get(task.key)) for task in batch)
    changed = [task.id for task, before in known if before is not None and before != task.digest]
    if not changed:
        return []
    named = ", ".join(repr(id) for id in changed[:_MOST_NAMED])
    more = f" and {len(changed) - _MOST_NAMED} more" if len(changed) > _MOST_NAMED else ""
    return [f"tasks that have changed since: {named}{more}"]


def read_provenance(directory: Path) -> Provenance | None:
    """Return what is said of the results in *directory*, None if nothing is.

    Raises:
      ResultsError: the file holds something else.
    """
    path = directory / RUN
    if not path.exists():
        return None
    try:
        with read_from(path) as file:
            found: object = json.load(file)
        data = cast("dict[str, Any]", found)
        before = Provenance(tasks=str(data["tasks"]), settings={**data["settings"]}, more={**data["more"]})
    except OSError as problem:
        raise ResultsError(f"{path} cannot be read: {problem.strerror}") from problem
    except (ValueError, TypeError, LookupError, RecursionError):
        raise ResultsError(
            f"{path} does not say how results were made; move it away or use another --out"
        ) from None
    return before


def directory_for(tasks: Path | None) -> Path:
    """The directory of a task file of which nobody said where its results go: one of its own."""
    name = BUNDLED if tasks is None else Path(tasks.name.removesuffix(".gz")).stem or "tasks"
    if tasks == STDIN:
        name = "stdin"
    first = Path("rollout-results") / name
    try:
        owner = read_provenance(first)
    except ResultsError:
        owner = None
    if owner is None or owner.tasks == _named(tasks):
        return first
    digest = hashlib.sha256(_named(tasks).encode("utf-8", "surrogateescape")).hexdigest()
    return first.with_name(f"{name}-{digest[:8]}")


def source_digest(*things: object) -> str | None:
    """A digest of the files that *things* were imported from, None if there are none."""
    files = {file for thing in things if (file := _file(thing)) is not None}
    if not files:
        return None
    whole = hashlib.sha256()
    for file in sorted(files):
        try:
            whole.update(Path(file).read_bytes())
        except OSError:
            return None
    return whole.hexdigest()


def _file(thing: object) -> str | None:
    while (inside := getattr(thing, "func", None) or getattr(thing, "function", None)) is not None:
        thing = inside  # a partial, or a tool with its definition
    name = getattr(thing, "__module__", None) or type(thing).__module__
    module: ModuleType | None = sys.modules.get(str(name))
    return getattr(module, "__file__", None)


def _named(tasks: Path | None) -> str:
    if tasks == STDIN:
        return "standard input"
    return BUNDLED if tasks is None else str(tasks.resolve())
