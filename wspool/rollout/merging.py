"""Merging: the results of shards, which are parts of one run, in one directory.

1. What is merged is read only, and stays where it is.
2. Every attempt at a task is there once. Of two results the one that went well is kept, else that of the
   first directory; both are named, unless they are the same.
3. Results that were made otherwise are refused, as in a run that goes on.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

import attrs

from wspool.rollout.files import read_from
from wspool.rollout.provenance import RUN, Provenance, read_provenance
from wspool.rollout.results import (
    RESULTS,
    ResultFile,
    ResultsError,
    digest_of,
    key_of,
    outcome_of_line,
    parse_line,
)
from wspool.rollout.selection import parse_shard
from wspool.rollout.tasks import WELL

__all__ = ["Merged", "merge"]

#: The options that say which tasks of a file are run.
_WHICH: Final = ("select", "shuffle", "seed", "limit", "shard", "samples")


@attrs.frozen(kw_only=True)
class Merged:
    """What a merge came to.

    Attributes:
      outcomes: how the attempts ended, with their counts.
      duplicates: attempts with results that differ, one text each.
      same: attempts whose result was there several times.
      owed: attempts that have no result, None if nobody knows. Those of shards that are missing do not count.
      missing: shards of the run that are not there, such as "3/4".
    """

    outcomes: Mapping[str, int]
    duplicates: Sequence[str]
    same: int
    owed: int | None
    missing: Sequence[str] = ()


@attrs.frozen
class _Kept:
    place: int
    number: int
    went_well: bool
    content: bytes
    task: str | None


def merge(sources: Sequence[Path], results: ResultFile, *, allow_mixed: bool) -> Merged:
    """Put the results of the directories *sources* into *results*, which must be empty.

    Raises:
      ResultsError: they are other than expected, or cannot be merged; nothing is written then.
      OSError: they cannot be written.
    """
    runs = [read_provenance(source) for source in sources]
    if not allow_mixed:
        _refuse_others(sources, runs)
    kept: dict[str, _Kept] = {}
    duplicates: list[str] = []
    same = 0
    for place, source in enumerate(sources):
        for number, raw, line in _lines(source):
            key = key_of(line)
            content = hashlib.sha256(raw.rstrip()).digest()
            now = _Kept(place, number, outcome_of_line(line) in WELL, content, digest_of(line))
            before = kept.setdefault(key, now)
            if before is now:
                continue
            if before.content == content:
                same += 1
                continue
            better = now if now.went_well and not before.went_well else before
            kept[key] = better
            other = ", of another text" if before.task != now.task else ""
            duplicates.append(
                f"{key.replace(chr(0), ' attempt ')!r} is in {sources[before.place]} and {source}{other}; "
                f"that of {sources[better.place]} is kept"
            )
    counts: Counter[str] = Counter()
    results.begin()
    for place, source in enumerate(sources):
        for number, _, line in _lines(source):
            winner = kept[key_of(line)]
            if (winner.place, winner.number) == (place, number):
                results.append(line)
                counts[outcome_of_line(line)] += 1
    total = _total(runs)
    _write_run(sources, runs, results.path.parent, total)
    return Merged(
        outcomes=counts,
        duplicates=duplicates,
        same=same,
        owed=max(0, total - len(kept)) if total is not None else None,
        missing=_missing(runs),
    )


def _total(runs: Sequence[Provenance | None]) -> int | None:
    """How many attempts *runs* had before them; what was the same part of the same tasks counts once."""
    parts: dict[str, int] = {}
    for run in runs:
        count = run.more.get("task_count") if run is not None else None
        if run is None or not isinstance(count, int):
            return None
        options = _options(run)
        which = [run.more.get("tasks_digest"), run.more.get("merged"), *(options.get(n) for n in _WHICH)]
        parts[json.dumps(which)] = count
    return sum(parts.values())


def _missing(runs: Sequence[Provenance | None]) -> Sequence[str]:
    """The shards that are not there, if all *runs* are shards of the same number."""
    shards: set[tuple[int, int]] = set()
    for run in runs:
        shard = _options(run).get("shard") if run is not None and "merged" not in run.more else None
        try:
            shards.add(parse_shard(str(shard)))
        except ValueError:
            return ()
    counts = {count for _, count in shards}
    if len(counts) != 1:
        return ()
    (count,) = counts
    return [f"{part}/{count}" for part in range(1, count + 1) if (part, count) not in shards]


def _options(run: Provenance) -> Mapping[str, Any]:
    options: object = run.more.get("options")
    return cast("Mapping[str, Any]", options) if isinstance(options, dict) else {}


def _lines(source: Path) -> Iterator[tuple[int, bytes, Mapping[str, Any]]]:
    """The results of a directory, with their lines' numbers; a torn last line is none."""
    path = source / RESULTS
    try:
        with read_from(path) as lines:
            for number, raw in enumerate(lines, 1):
                if not raw.strip():
                    continue
                line = parse_line(raw)
                if line is None and raw.endswith(b"\n"):
                    raise ResultsError(f"{path}:{number}: not a result")
                if line is not None:
                    yield number, raw, line
    except OSError as problem:
        raise ResultsError(f"{path} cannot be read: {problem.strerror}") from problem


def _refuse_others(sources: Sequence[Path], runs: Sequence[Provenance | None]) -> None:
    first = next((run for run in runs if run is not None), None)
    if first is None:
        return
    for source, run in zip(sources, runs, strict=True):
        if run is not None and (differences := run.differences(first)):
            named = "\n".join(f"  {each}" for each in differences)
            raise ResultsError(
                f"the results in {source} were made otherwise than those before\n{named}\nmerge them all the "
                "same with --allow-mixed"
            )


def _write_run(
    sources: Sequence[Path], runs: Sequence[Provenance | None], out: Path, total: int | None
) -> None:
    first = next((run for run in runs if run is not None), None)
    if first is not None:
        merged = {"merged": [str(source) for source in sources], "task_count": total}
        attrs.evolve(first, more={**first.more, **merged}).write(out)
    elif (out / RUN).exists():
        (out / RUN).unlink()
