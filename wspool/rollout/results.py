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
from collections.abc import Callable, Collection, Generator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from wspool.core.frames import encode_received
from wspool.rollout.files import append_to, aside, read_from, replace
from wspool.rollout.tasks import OUTCOMES, Outcome

__all__ = ["RESULTS", "ResultFile", "ResultsError", "open_results"]

#: Name of the file in its directory.
RESULTS: Final = "results.jsonl"
#: Name of the file that is locked where a directory cannot be.
LOCK: Final = ".lock"


class ResultsError(Exception):
    """The result file cannot be used; the message says why and what to do."""


class ResultFile:
    """The results of one directory. Made by `open_results`.

    Attributes:
      path: the file.
      earlier: how the tasks ended whose results were there already, by id.
      digests: of those tasks, where their results say them.
      unlocked: why nobody is kept from using the directory at the same time; empty if they are.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.earlier: dict[str, Outcome] = {}
        self.digests: dict[str, str] = {}
        self.unlocked = ""
        self._file: BinaryIO | None = None

    def start_over(self, *beside: Path) -> None:
        """Put what is there aside, as `results.jsonl.old`, and what belongs to it."""
        if self.earlier:
            aside(self.path, *beside)
            self.earlier.clear()
            self.digests.clear()

    def drop(self, ids: Collection[str]) -> None:
        """Take the results of these tasks out of the file."""
        if any(id in self.earlier for id in ids):
            self._rewrite(lambda line: _id(line) not in ids)
            for id in ids:
                self.earlier.pop(id, None)

    def begin(self) -> None:
        """Open the file for what will be added, before there are connections that might take the last place.

        Raises:
          OSError: it cannot be opened.
        """
        if self._file is None:
            self._file = append_to(self.path)

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
                line = _parse(raw)
                if line is None:
                    if raw.endswith(b"\n"):
                        raise ResultsError(
                            f"{self.path}:{number}: not a result; move the file away or use another --out"
                        )
                    clean = False  # torn: the run was killed while it wrote
                    continue
                clean = clean and raw.endswith(b"\n") and _id(line) not in self.earlier
                self.earlier.setdefault(_id(line), _outcome(line))
                if (digest := _digest(line)) is not None:
                    self.digests.setdefault(_id(line), digest)
        if not clean:
            seen: set[str] = set()

            def is_first(line: Mapping[str, Any]) -> bool:
                first = _id(line) not in seen
                seen.add(_id(line))
                return first

            self._rewrite(is_first)

    def _rewrite(self, keep: Callable[[Mapping[str, Any]], bool]) -> None:
        with read_from(self.path) as old:
            replace(
                self.path,
                (
                    raw.rstrip(b"\r\n") + b"\n"
                    for raw in old
                    if (line := _parse(raw)) is not None and keep(line)
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


@contextmanager
def _locked(directory: Path) -> Generator[str, None, None]:
    """Lock *directory*; the value says why that is not possible here, or is empty."""
    try:
        import fcntl
    except ImportError:  # pragma: no cover  # Windows
        yield "this system has no file locks"
        return
    with ExitStack() as opened:

        def lock(path: Path, flags: int) -> None:
            descriptor = os.open(path, flags, 0o600)
            opened.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

        unlocked = ""
        try:
            try:
                # The directory itself: no file to be left behind, and it cannot be replaced as results are.
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


def _parse(raw: bytes) -> Mapping[str, Any] | None:
    try:
        line: object = json.loads(raw)
    except ValueError:
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


def _id(line: Mapping[str, Any]) -> str:
    # The `id` of a Batch line is the line's own.
    return str(line.get("custom_id", line.get("id")))


def _ours(line: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a line says beside the answer; a Batch line has a place for that."""
    if "custom_id" not in line:
        return line
    ours: object = line.get("wspool")
    return cast("dict[str, Any]", ours) if isinstance(ours, dict) else {}


def _digest(line: Mapping[str, Any]) -> str | None:
    digest = _ours(line).get("digest")
    return digest if isinstance(digest, str) else None


def _outcome(line: Mapping[str, Any]) -> Outcome:
    outcome = _ours(line).get("outcome")
    for known in OUTCOMES:
        if known == outcome:
            return known
    return "failed" if line.get("error") else "done"  # the provider's own file
