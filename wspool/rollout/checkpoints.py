"""The turns of conversations that have not ended: what a killed run leaves to the next one.

1. One line per finished turn, with what is new since the line before, appended at once and whole: a killed
   run loses no finished turn, and a long conversation costs no more than its length.
2. It is read once, at the start of a run. Then the file is written anew with what can still be gone on with,
   by tasks of this run or of another: what was chosen now is no reason to forget what others have done.
3. Beside it is the effect ledger: which calls of tools were begun, and what came of them. The last turn of a
   conversation is not written: should its result be lost, it is taken again, and no call is made again.
4. What outlives a crash has an order, and what is to outlive a power cut is on the disk in that order: a turn
   before the calls that it asks for are made, a result before what its conversation has left is given up.
5. A task that failed goes on where it was when it is run again, and repeats no effect; one that was answered
   begins anew.
6. A conversation is found again by its task's id, if the task still says the same.
"""

import json
import os
from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import attrs

from wspool.core.effects import Effect
from wspool.pool.durable import Durable
from wspool.pool.effects import EffectLedger, FileLedger
from wspool.rollout.files import append_to, read_from, replace, sync_directory
from wspool.rollout.results import RESULTS, ResultsError
from wspool.rollout.tasks import Task

__all__ = ["EFFECTS", "TURNS", "Checkpoint", "Checkpoints", "begun_before", "open_checkpoints"]

#: Name of the file in the directory of the results.
TURNS: Final = "turns.jsonl"
#: And that of the effect ledger.
EFFECTS: Final = "effects.jsonl"


@attrs.frozen
class Checkpoint:
    """A conversation as it was after its last finished turn.

    Attributes:
      turns: how many turns that took.
      snapshot: what `pool.conversation(resume=...)` goes on from.
      line: its place in the file, as JSON.
    """

    turns: int
    snapshot: Mapping[str, Any]
    line: Mapping[str, Any] = attrs.field(repr=False)


class Checkpoints:
    """The file of one directory. Made by `open_checkpoints`.

    Attributes:
      owed: the conversations that can be gone on with, by the keys of tasks.
    """

    def __init__(
        self, path: Path, tasks: Sequence[Task], effects: FileLedger, answered: Collection[str] = ()
    ) -> None:
        self.owed: dict[str, Checkpoint] = {}
        self._answered = answered
        self._path = path
        self._effects = effects
        self._digests = {task.key: task.digest for task in tasks}
        self._last: dict[str, tuple[int, Sequence[bytes]]] = {}
        self._file: BinaryIO | None = None
        self._turns: Durable | None = None
        self._results: tuple[int, Durable] | None = None

    def append(self, id: str, state: Mapping[str, Any], items: Sequence[bytes]) -> None:
        """Note that a turn of task *id* has finished. It is in the hands of the system when this returns.

        Args:
          id: the task's.
          state: its conversation without the items, and
          items: those (`Conversation.checkpoint`).

        Raises:
          OSError: it could not be written.
        """
        turns, before = self._last.get(id, (0, []))
        kept = len(before) if _begins_with(items, before) else 0
        line = _line(id, self._digests[id], turns + 1, kept, state)
        self._last[id] = (turns + 1, items)
        # The items are JSON already: only what is new is looked at.
        self._write(json.dumps(line).encode()[:-1] + b', "items": [' + b", ".join(items[kept:]) + b"]}\n")

    def _write(self, data: bytes) -> None:
        if self._file is None:
            raise AssertionError("bug: the checkpoints are closed")
        if self._file.write(data) != len(data):
            raise OSError(f"a finished turn could not be written whole to {self._path}")

    def ledger(self, id: str) -> EffectLedger:
        """The effect ledger of task *id*."""
        if self._turns is None:
            raise AssertionError("bug: the checkpoints are closed")
        return _Ledger(self._effects.of(self._effects_of(id)), self._turns)

    async def ended(self, id: str) -> None:
        """Task *id* was answered: nothing goes on with its conversation. A checkpoint.

        Raises:
          OSError: that could not be written.
        """
        results = self._path.with_name(RESULTS)
        if self._results is None and results.exists():  # who keeps results elsewhere sees to that
            descriptor = os.open(results, os.O_RDWR)
            self._results = descriptor, Durable(descriptor)
        if self._results is not None:
            await self._results[1].secure()
        if self._last.pop(id, None) is not None:
            self._write(json.dumps({"id": id, "over": True}).encode() + b"\n")
        self._effects.forget(self._effects_of(id))

    def _effects_of(self, id: str) -> str:
        return json.dumps([id, self._digests[id]])  # of the same task, as long as it says the same

    def _load(self) -> None:
        if self._path.exists():
            with read_from(self._path) as lines:
                for number, raw in enumerate(lines, 1):
                    try:
                        self._fold(json.loads(raw))
                    except (ValueError, TypeError, LookupError) as problem:
                        if raw.endswith(b"\n"):
                            raise ResultsError(
                                f"{self._path}:{number}: not a checkpoint; move the file away or use "
                                "another --out"
                            ) from problem
                        # torn: the run was killed while it wrote
        # Of tasks that are not of this run, such as those that were not chosen, or have failed.
        others = [
            checkpoint
            for id, checkpoint in self.owed.items()
            if id not in self._digests and id not in self._answered
        ]
        self.owed = {
            id: checkpoint
            for id, checkpoint in self.owed.items()
            if checkpoint.line["task"] == self._digests.get(id)
        }
        for id in self._digests.keys() - self.owed.keys():
            self._effects.forget(self._effects_of(id))  # it begins anew, and so do its effects
        replace(
            self._path,
            (json.dumps(each.line).encode() + b"\n" for each in [*others, *self.owed.values()]),
        )
        self._file = append_to(self._path)
        self._turns = Durable(self._file.fileno())
        sync_directory(self._path.parent)

    def _fold(self, line: dict[str, Any]) -> None:
        if "over" in line:
            self.owed.pop(str(line["id"]), None)
            return
        id, turns, kept, new = str(line["id"]), int(line["turns"]), int(line["kept"]), _list(line["items"])
        before: Mapping[str, Any] = self.owed[id].snapshot if kept else {}
        items = [*_list(before.get("items", []))[:kept], *new]
        if len(items) != kept + len(new):
            raise ValueError("it does not follow what is before it")
        snapshot: dict[str, Any] = {**before, **line["state"], "items": items}
        self._last[id] = (turns, ())
        whole = {**_line(id, line["task"], turns, 0, snapshot), "items": items}
        self.owed[id] = Checkpoint(turns, snapshot, whole)

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._results is not None:
            os.close(self._results[0])
            self._results = None


@attrs.frozen
class _Ledger:
    """The effect ledger of one task; a turn is on the disk before what its calls do."""

    ledger: EffectLedger
    turns: Durable

    def past(self, key: str) -> Effect | None:
        return self.ledger.past(key)

    def begin(self, key: str, call: Mapping[str, Any]) -> None:
        self.ledger.begin(key, call)

    async def secure(self) -> None:
        await self.turns.secure()
        await self.ledger.secure()

    def end(self, key: str, output: str | list[dict[str, Any]]) -> None:
        self.ledger.end(key, output)


@contextmanager
def open_checkpoints(
    directory: Path, tasks: Sequence[Task], answered: Collection[str] = ()
) -> Generator[Checkpoints, None, None]:
    """Read what *directory* holds about *tasks*, the ones that are owed, and go on with it.

    The directory must be locked, as by `open_results`.

    Args:
      directory: that of the results.
      tasks: those that are run now.
      answered: the keys of others, with whose conversations nothing goes on.

    Raises:
      ResultsError: the file holds something else, or cannot be used.
    """
    try:
        effects = FileLedger(directory / EFFECTS)
    except ValueError as problem:
        raise ResultsError(f"{problem}; move the file away or use another --out") from problem
    except OSError as problem:
        why = problem.strerror or problem
        raise ResultsError(
            f"{directory / EFFECTS} cannot be used: {why}; make room or use another --out"
        ) from problem
    with closing(effects):
        yield from _opened(Checkpoints(directory / TURNS, tasks, effects, answered), directory)


def begun_before(directory: Path, tasks: Sequence[Task]) -> list[str]:
    """Return the ids of those of *tasks* that a run with checkpoints has left in the middle.

    What is no line of one counts for nothing.

    Raises:
      OSError: the file cannot be read.
    """
    begun: dict[str, object] = {}
    if (path := directory / TURNS).exists():
        with read_from(path) as lines:
            for raw in lines:
                with suppress(ValueError, TypeError, LookupError):
                    line = json.loads(raw)
                    if "over" in line:
                        begun.pop(line["id"], None)
                    else:
                        begun[line["id"]] = line["task"]
    return [task.id for task in tasks if begun.get(task.key) == task.digest]


def _opened(checkpoints: Checkpoints, directory: Path) -> Generator[Checkpoints, None, None]:
    try:
        checkpoints._load()  # pyright: ignore[reportPrivateUsage]  # only here: a file is read under its lock
    except OSError as problem:
        raise ResultsError(
            f"{directory / TURNS} cannot be used: {problem.strerror}; make room or use another --out"
        ) from problem
    try:
        yield checkpoints
    finally:
        checkpoints._close()  # pyright: ignore[reportPrivateUsage]


def _line(id: str, task: str, turns: int, kept: int, snapshot: Mapping[str, Any]) -> dict[str, Any]:
    state = {name: value for name, value in snapshot.items() if name != "items"}
    if kept:
        del state["defaults"]  # they stay what they were
    return {"id": id, "task": task, "turns": turns, "kept": kept, "state": state}


def _begins_with(items: Sequence[bytes], before: Sequence[bytes]) -> bool:
    # A history only grows, until a compaction replaces it.
    return len(before) <= len(items) and all(one is other for one, other in zip(items, before, strict=False))


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError("not a list")
    return [*cast("Sequence[Any]", value)]
