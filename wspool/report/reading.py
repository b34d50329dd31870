"""Reading a directory of results: line by line, and what cannot be had is a note.

A line is found again by its place in the file, so that nobody has to keep it.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import attrs

from wspool.rollout.files import read_from
from wspool.rollout.provenance import Provenance, read_provenance
from wspool.rollout.results import (
    RESULTS,
    ResultsError,
    digest_of,
    key_of,
    ours_of,
    outcome_of_line,
    parse_line,
)
from wspool.rollout.samples import SAMPLES
from wspool.rollout.tasks import Outcome

__all__ = ["Line", "NoResultsError", "Reading", "number", "part"]

#: Bytes of a line; a longer one is left out. A history of the largest request that providers take has 16 MiB.
LONGEST: Final = 64 * 1024 * 1024
#: Numbers that are counted with: their squares are numbers as well, and so are sums of as many as there are.
_LARGEST: Final = 1e100
#: Samples of connections that are kept of a run, however many there are.
MOST_SAMPLES: Final = 400


class NoResultsError(Exception):
    """There is nothing to report on; the message says why."""


@attrs.frozen
class Line:
    """One result.

    Attributes:
      place: where it stands in the file.
      key: of the attempt (`Task.key`).
      outcome: how it ended.
      fields: the line, and
      ours: what of it is not the answer itself; the same, but for Batch lines.
    """

    place: int
    key: str
    outcome: Outcome
    fields: Mapping[str, Any]
    ours: Mapping[str, Any]

    @property
    def id(self) -> str:
        """The id of its task."""
        return str(self.fields.get("custom_id", self.fields.get("id")))

    @property
    def score(self) -> float | None:
        """How good the answer is, None if nobody said."""
        return number(self.ours.get("score"))

    @property
    def seconds(self) -> float | None:
        """How long it took."""
        return number(self.ours.get("seconds"))

    @property
    def tokens(self) -> float | None:
        """Tokens of input and output, None if nobody said."""
        return number(part(self.ours, "usage").get("total_tokens"))

    @property
    def digest(self) -> str | None:
        """Of what the task says."""
        return digest_of(self.fields)

    @property
    def error(self) -> Mapping[str, Any]:
        """Why there is no answer; empty if there is one."""
        return part(self.fields, "error")

    @property
    def answer(self) -> object:
        """The answer, as JSON."""
        if "custom_id" not in self.fields:
            return self.fields.get("answer")
        body = part(part(self.fields, "response"), "body")
        for name in ("answer", "choices", "output"):
            if name in body:
                return body[name]
        return None


class Reading:
    """The directory of one run.

    Attributes:
      directory: that.
      notes: what is to be known of what is here and what is not; grows while lines are read.
      run: how the results were made, None if nobody says.

    Raises:
      NoResultsError: it has none.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.notes: list[str] = []
        self.run: Provenance | None = None
        self._path = directory / RESULTS
        if not directory.is_dir():
            raise NoResultsError(f"there is no directory {directory}")
        if not self._path.exists():
            raise NoResultsError(f"there is no {RESULTS} in {directory}")
        try:
            with self._open():
                pass
        except OSError as problem:
            raise NoResultsError(f"{self._path} cannot be read: {problem.strerror}") from problem
        try:
            self.run = read_provenance(directory)
        except ResultsError as problem:
            self.notes.append(f"How the results were made cannot be said: {problem}.")

    def _open(self) -> BinaryIO:
        return read_from(self._path)

    def lines(self) -> Iterator[Line]:
        """Read the results, each attempt once.

        Raises:
          NoResultsError: they cannot be read any more.
        """
        seen: set[str] = set()
        damaged: list[int] = []
        twice = 0
        try:
            with self._open() as file:
                for count, place, raw in _raw_lines(file):
                    fields = None if raw is None else parse_line(raw)
                    if fields is None:
                        damaged.append(count)
                        continue
                    key = key_of(fields)
                    if key in seen:
                        twice += 1
                        continue
                    seen.add(key)
                    yield Line(place, key, outcome_of_line(fields), fields, ours_of(fields))
        except OSError as problem:
            raise NoResultsError(f"{self._path} cannot be read: {problem.strerror}") from problem
        if damaged:
            self.notes.append(
                f"{len(damaged)} lines are no results and are left out; the first is line {damaged[0]}. A "
                "last line that is torn is of a run that was killed, and its task is owed."
            )
        if twice:
            self.notes.append(f"{twice} results were there twice; the first of each counts.")

    def again(self, place: int) -> Line | None:
        """Return the line at *place*, None if it is not there any more."""
        try:
            with self._open() as file:
                file.seek(place)
                fields = parse_line(file.readline(LONGEST))
        except OSError:
            return None
        if fields is None:
            return None
        return Line(place, key_of(fields), outcome_of_line(fields), fields, ours_of(fields))

    def samples(self) -> list[Mapping[str, float]]:
        """Return samples of connections, `seconds` counted through over all runs; few, however many there
        are."""
        kept: list[Mapping[str, float]] = []
        every, count = 1, 0
        before = shift = last = 0.0
        try:
            with read_from(self.directory / SAMPLES) as file:
                for _, _, raw in _raw_lines(file):
                    sample = _sample(raw)
                    if sample is None:
                        continue
                    if sample["run"] != before:
                        before, shift = sample["run"], last
                    last = shift + sample["seconds"]
                    if count % every == 0:
                        kept.append({**sample, "seconds": last})
                    count += 1
                    if len(kept) >= 2 * MOST_SAMPLES:
                        kept, every = kept[::2], every * 2
        except OSError:
            return []
        return kept


def _raw_lines(file: BinaryIO) -> Iterator[tuple[int, int, bytes | None]]:
    """Lines that are not blank, with their numbers and places; None for one that is too long."""
    count = place = 0
    while raw := file.readline(LONGEST):
        count += 1
        size = len(raw)
        whole = len(raw) < LONGEST or raw.endswith(b"\n")
        while not whole:
            rest = file.readline(LONGEST)
            size += len(rest)
            whole = not rest or rest.endswith(b"\n")
            raw = b""
        if not raw:
            yield count, place, None
        elif raw.strip():
            yield count, place, raw
        place += size


def _sample(raw: bytes | None) -> Mapping[str, float] | None:
    try:
        found: object = json.loads(raw or b"")
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    numbers = {name: number(value) for name, value in cast("dict[str, Any]", found).items()}
    sample = {name: value for name, value in numbers.items() if value is not None}
    return sample if {"run", "seconds"} <= sample.keys() else None


def number(value: object) -> float | None:
    """Return *value* as a number that can be counted with, None if it is none; what is next to zero is 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _LARGEST:
        return None
    return float(value) if abs(value) > 1 / _LARGEST else 0.0


def part(fields: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return the object in a field, an empty one if there is none."""
    value: object = fields.get(name)
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}
