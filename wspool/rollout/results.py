"""The result file: one JSON line per task, appended as it finishes, and never lost again.

1. A line is written whole and at once, so that a killed run leaves at most a torn last line, and that task
   is owed again.
2. The file holds every id at most once. What must go (a torn line, an error that is to be tried again) goes
   when the run starts, by writing a new file beside the old one and replacing it: at every moment one
   complete file is there.
3. A directory belongs to one run at a time; the lock is gone when its process is, however it ends.
"""

import errno
import json
import os
import sys
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from wspool.core.frames import encode_received
from wspool.rollout.files import append_to, aside, read_from, replace
from wspool.rollout.tally import Tally
from wspool.rollout.tasks import OUTCOMES, Outcome, Task, attempt_key

__all__ = [
    "REDONE",
    "RESULTS",
    "ResultFile",
    "ResultsError",
    "digest_of",
    "key_of",
    "open_results",
    "ours_of",
    "outcome_of_line",
    "parse_line",
    "score_of_line",
]

#: Name of the file in its directory.
RESULTS: Final = "results.jsonl"
#: Name of the file that those are put into which are run again.
REDONE: Final = "redone.jsonl"
#: What a score can be at most.
_LARGEST: Final = sys.float_info.max
#: Name of the file that is locked where a directory cannot be.
LOCK: Final = ".lock"


class ResultsError(Exception):
    """The result file cannot be used; the message says why and what to do."""


class ResultFile:
    """The results of one directory. Made by `open_results`.

    Attributes:
      path: the file.
      earlier: how the attempts ended whose results were there already, by their keys (`Task.key`).
      digests: of those tasks, where their results say them.
      scores: of those that have one.
      unlocked: why nobody is kept from using the directory at the same time; empty if they are.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.earlier: dict[str, Outcome] = {}
        self.digests: dict[str, str] = {}
        self.scores: dict[str, float] = {}
        self.unlocked = ""
        self._file: BinaryIO | None = None
        #: Whether the system counts the names of a file at all.
        self._has_names = False

    def start_over(self, *beside: Path, begun: bool = False) -> None:
        """Put what is there aside, as `results.jsonl.old`, and what belongs to it.

        Args:
          beside: the files that belong to it.
          begun: True if there is something in those, though there may be no result yet.
        """
        if self.earlier or begun:
            aside(self.path, *beside)
            self.earlier.clear()
            self.digests.clear()
            self.scores.clear()

    def drop(self, keys: Collection[str]) -> None:
        """Take the results with these keys out of the file; they are kept, in `redone.jsonl`."""
        if any(key in self.earlier for key in keys):
            with read_from(self.path) as lines, append_to(self.path.with_name(REDONE)) as redone:
                for raw in lines:
                    if (line := parse_line(raw)) is not None and key_of(line) in keys:
                        redone.write(raw.rstrip(b"\r\n") + b"\n")
            self._rewrite(lambda line: key_of(line) not in keys)
            for key in keys:
                self.earlier.pop(key, None)
                self.digests.pop(key, None)
                self.scores.pop(key, None)

    def left(self, batch: Sequence[Task]) -> tuple[list[Task], Tally]:
        """Return what of *batch* has no result yet, and the tally of what has one."""
        tally = Tally()
        for task in batch:
            if (score := self.scores.get(task.key)) is not None:
                tally.add(task.id, score, right=self.earlier[task.key] == "right")
        return [task for task in batch if task.key not in self.earlier], tally

    def begin(self) -> None:
        """Open the file for what will be added, before there are connections that might take the last place.

        Raises:
          OSError: it cannot be opened.
        """
        if self._file is None:
            self._file = append_to(self.path)
            self._has_names = os.fstat(self._file.fileno()).st_nlink > 0

    def append(self, line: Mapping[str, Any]) -> None:
        """Add a result. It is in the hands of the system when this returns.

        Raises:
          OSError: it could not be written; the file is as it was before.
        """
        self.begin()
        if self._file is None:
            raise AssertionError("bug: the results are closed")
        try:
            data = json.dumps(line, allow_nan=False).encode() + b"\n"
        except ValueError:  # a number of the server's that is none in JSON: others must be able to read it
            data = encode_received(dict(line)) + b"\n"
        if self._has_names and not os.fstat(self._file.fileno()).st_nlink:
            raise FileNotFoundError(errno.ENOENT, "it was deleted", str(self.path))
        before = self._file.seek(0, os.SEEK_END)
        try:
            written = self._file.write(data)
            if written != len(data):
                raise OSError(
                    f"only {written} of {len(data)} bytes of a result could be written to {self.path}"
                )
        except OSError:
            self._file.truncate(before)
            raise

    def close(self) -> None:
        """Bring everything to the disk."""
        if self._file is not None:
            os.fsync(self._file.fileno())
            self._file.close()
            self._file = None

    def _load(self) -> None:
        """Read what is there, and mend it.

        Raises:
          ResultsError: there is something that no run can have left behind.
        """
        if not self.path.exists():
            return
        clean = True
        with read_from(self.path) as lines:
            for number, raw in enumerate(lines, 1):
                if not raw.strip():
                    clean = False
                    continue
                line = parse_line(raw)
                if line is None:
                    if raw.endswith(b"\n"):
                        raise ResultsError(
                            f"{self.path}:{number}: not a result; move the file away or use another --out"
                        )
                    clean = False  # torn: the run was killed while it wrote
                    continue
                key = key_of(line)
                clean = clean and raw.endswith(b"\n") and key not in self.earlier
                if key in self.earlier:
                    continue
                self.earlier[key] = outcome_of_line(line)
                if (digest := digest_of(line)) is not None:
                    self.digests[key] = digest
                if (score := score_of_line(line)) is not None:
                    self.scores[key] = score
        if not clean:
            seen: set[str] = set()

            def is_first(line: Mapping[str, Any]) -> bool:
                first = key_of(line) not in seen
                seen.add(key_of(line))
                return first

            self._rewrite(is_first)

    def _rewrite(self, keep: Callable[[Mapping[str, Any]], bool]) -> None:
        with read_from(self.path) as old:
            replace(
                self.path,
                (
                    raw.rstrip(b"\r\n") + b"\n"
                    for raw in old
                    if (line := parse_line(raw)) is not None and keep(line)
                ),
            )


@contextmanager
def open_results(directory: Path) -> Generator[ResultFile, None, None]:
    """Take *directory* (made if it is not there), read what it holds, and close it in the end.

    Raises:
      ResultsError: another run is using it, it cannot be written, or it holds something else.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if not os.access(directory, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as problem:
        raise ResultsError(
            f"cannot write results to {directory}: {problem.strerror}; use another --out"
        ) from problem
    with _locked(directory) as unlocked:
        results = ResultFile(directory / RESULTS)
        results.unlocked = unlocked
        try:
            results._load()  # pyright: ignore[reportPrivateUsage]  # only here: read under its lock
        except OSError as problem:
            raise ResultsError(
                f"{results.path} cannot be read or mended: {problem.strerror}; make room or use another --out"
            ) from problem
        try:
            yield results
        finally:
            results.close()


if sys.platform == "win32":  # pragma: no cover  # lines are counted on Linux

    @contextmanager
    def _locked(directory: Path) -> Generator[str, None, None]:
        """Say that there are no locks on directories."""
        yield "this system has no file locks"

else:
    import fcntl

    @contextmanager
    def _locked(directory: Path) -> Generator[str, None, None]:
        """Lock *directory*; the value says why that is not possible here, or is empty."""
        with ExitStack() as opened:

            def lock(path: Path, flags: int) -> None:
                descriptor = os.open(path, flags, 0o600)
                opened.callback(os.close, descriptor)
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

            unlocked = ""
            try:
                try:
                    # The directory itself: no file to be left behind, nor can it be replaced as results are.
                    lock(directory, os.O_RDONLY)
                except OSError as problem:
                    if problem.errno != errno.EBADF:
                        raise
                    # NFS locks only what is open for writing, which no directory is (flock(2)).
                    lock(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW)
            except BlockingIOError as problem:
                raise ResultsError(
                    f"another run is writing its results to {directory}; wait for it or use another --out"
                ) from problem
            except OSError as problem:  # no lock daemon, or a file system without locks
                unlocked = problem.strerror or type(problem).__name__
            yield unlocked


def parse_line(raw: bytes) -> Mapping[str, Any] | None:
    """Return the result that a line is, None if it is none."""
    try:
        line: object = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    if not isinstance(line, dict):
        return None
    fields = cast("dict[str, Any]", line)
    is_result = _is_id(fields.get("custom_id")) or (
        _is_id(fields.get("id")) and fields.get("outcome") in OUTCOMES
    )
    return fields if is_result else None


def _is_id(value: object) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool)


def key_of(line: Mapping[str, Any]) -> str:
    """The key of the attempt that a result line is of (`Task.key`)."""
    # The `id` of a Batch line is the line's own.
    attempt = ours_of(line).get("attempt")
    return attempt_key(str(line.get("custom_id", line.get("id"))), attempt if isinstance(attempt, int) else 1)


def ours_of(line: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a line says beside the answer; a Batch line has a place for that."""
    if "custom_id" not in line:
        return line
    ours: object = line.get("wspool")
    return cast("dict[str, Any]", ours) if isinstance(ours, dict) else {}


def score_of_line(line: Mapping[str, Any]) -> float | None:
    """The score of a result line, None if it has none."""
    score = ours_of(line).get("score")
    # Of what somebody else wrote there: neither NaN nor what no float holds.
    return float(score) if isinstance(score, int | float) and abs(score) <= _LARGEST else None


def digest_of(line: Mapping[str, Any]) -> str | None:
    """The digest of the task that a result line is of, None if it does not say it."""
    digest = ours_of(line).get("digest")
    return digest if isinstance(digest, str) else None


def outcome_of_line(line: Mapping[str, Any]) -> Outcome:
    """How the task of a result line ended."""
    outcome = ours_of(line).get("outcome")
    for known in OUTCOMES:
        if known == outcome:
            return known
    return "failed" if line.get("error") else "done"  # the provider's own file
