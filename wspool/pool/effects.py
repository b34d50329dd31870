"""The effect ledger: which calls were begun, and what came of them, kept where a crash does not reach it.

Rules of this module:

* A ledger is only added to. A line is written whole, and in the hands of the system, before the tool runs:
  it outlives this process, whatever ends it.
* Before a call runs whose tool is not repeatable, it is on the disk: it outlives the power as well. An output
  is not waited for: should it be lost, the outcome of its call is unknown.
* A last line that is torn was never acted upon, so it is cut off.
* What cannot be noted is not made.
* Whether a call is made again is decided in `wspool.core.effects`.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, cast, get_args

from wspool.core.effects import UNKNOWN, Effect, UnknownEffects, key_of, verdict
from wspool.core.given import check_callable
from wspool.core.items import Item
from wspool.core.sending.chain import Chain
from wspool.errors import UnknownEffectsError
from wspool.pool.calling import is_repeatable
from wspool.pool.durable import Durable
from wspool.pool.job import Job
from wspool.pool.toolbox import Tool

__all__ = ["EffectLedger", "Effects", "FileLedger", "effects_of"]

#: A ledger holds what tools were called with: it is its owner's alone.
_PRIVATE: Final = 0o600
# No link is followed, and opening a pipe would wait for its other end. Windows has neither, but writes the
# ends of lines in its own way unless it is told not to.
_SAFE: Final = sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"))


class EffectLedger(Protocol):
    """Where the calls of one conversation are noted; see `FileLedger` for one in a file.

    Its methods are called in the event loop and must not wait for long. What they raise ends the tool loop.
    """

    def past(self, key: str) -> Effect | None:
        """Return what is noted under *key*, the last of it; None if nothing is."""
        ...

    def begin(self, key: str, call: Mapping[str, Any]) -> None:
        """Note that *call* is about to be made. It is not made if this raises."""
        ...

    async def secure(self) -> None:
        """Wait until what was begun is where no crash and no power cut reaches it.

        Waited for before a call is made whose tool is not repeatable; it is not made if this raises.
        """
        ...

    def end(self, key: str, output: str | list[dict[str, Any]]) -> None:
        """Note that a call has ended, and what it is answered with."""
        ...


class FileLedger:
    """An effect ledger of many conversations in one file of JSON lines, to be used by one process at a time.

    A context manager. It is only added to, with mode 0600 if it is new. Each line is handed to the system
    before its call is made, and is there whatever ends this process. That of a call that is not repeatable is
    on the disk before, and outlives a power cut: some milliseconds, shared by all who wait.

    Args:
        path: the file; made if it is not there.

    Raises:
        OSError: it cannot be opened, or is no regular file.
        ValueError: it holds something else; the text says in which line.
    """

    def __init__(self, path: Path | str) -> None:
        self._path = Path(path)
        self._noted: dict[str, dict[str, Effect]] = {}
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | _SAFE
        self._file: int | None = os.open(self._path, flags, _PRIVATE)
        try:
            if not stat.S_ISREG(os.fstat(self._file).st_mode):
                raise OSError(f"{self._path} is no regular file")
            self._load(self._file)
            self.durable = Durable(self._file)
        except BaseException:
            self.close()
            raise

    def of(self, conversation: str) -> EffectLedger:
        """Return the part of the *conversation* with this name, as `Conversation.run` takes it."""
        return _Part(self, conversation)

    def forget(self, conversation: str) -> None:
        """The *conversation* is over, and nobody goes on with it: what is noted of it counts no more.

        Raises:
            OSError: that could not be written.
        """
        if self._noted.pop(conversation, None) is not None:
            self.write({"conversation": conversation, "over": True})

    def close(self) -> None:
        """Close the file. Idempotent."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __enter__(self) -> FileLedger:
        """Return it."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self.close()

    def noted(self, conversation: str) -> dict[str, Effect]:
        """Return what is noted of the *conversation*, by the keys of its calls."""
        return self._noted.setdefault(conversation, {})

    def write(self, line: Mapping[str, Any]) -> None:
        """Add one *line*, whole or not at all.

        Raises:
            OSError: it could not be written.
        """
        if self._file is None:
            raise OSError(f"the ledger {self._path} is closed")
        data = json.dumps(line).encode() + b"\n"
        written = os.write(self._file, data)
        if written != len(data):
            os.ftruncate(self._file, os.fstat(self._file).st_size - written)
            raise OSError(f"a call could not be noted in {self._path}: no room")

    def _load(self, file: int) -> None:
        whole = 0
        with os.fdopen(os.dup(file), "rb") as lines:
            for number, raw in enumerate(lines, 1):
                if not raw.endswith(b"\n"):
                    os.ftruncate(file, whole)  # torn: this process was ended while it wrote
                    return
                whole += len(raw)
                try:
                    self._fold(json.loads(raw))
                except (ValueError, TypeError, LookupError) as problem:
                    raise ValueError(f"{self._path}:{number}: no line of an effect ledger") from problem

    def _fold(self, line: dict[str, Any]) -> None:
        conversation = str(line["conversation"])
        if "over" in line:
            self._noted.pop(conversation, None)
            return
        output: object = line.get("output")
        if not isinstance(output, str | list | None):
            raise TypeError("the output of a call is a text or a list")
        self.noted(conversation)[str(line["key"])] = Effect(cast("str | list[Item] | None", output))


class _Part:
    """What a `FileLedger` has of one conversation."""

    def __init__(self, ledger: FileLedger, conversation: str) -> None:
        self._ledger = ledger
        self._conversation = conversation

    def past(self, key: str) -> Effect | None:
        return self._ledger.noted(self._conversation).get(key)

    def begin(self, key: str, call: Mapping[str, Any]) -> None:
        self._ledger.write({"conversation": self._conversation, "key": key, "call": dict(call)})
        self._ledger.noted(self._conversation)[key] = Effect()

    async def secure(self) -> None:
        await self._ledger.durable.secure()

    def end(self, key: str, output: str | list[dict[str, Any]]) -> None:
        self._ledger.write({"conversation": self._conversation, "key": key, "output": output})
        self._ledger.noted(self._conversation)[key] = Effect(output)


class Effects:
    """What one tool loop tells its ledger, and asks it.

    Args:
        ledger: the ledger of its conversation.
        unknown: what becomes of calls whose outcome nobody knows.
        chain: the history.

    What the ledger is given, and what it gives, is copied: it may keep it, and do with it what it likes.
    """

    def __init__(self, ledger: EffectLedger, unknown: UnknownEffects, chain: Chain) -> None:
        self._ledger = ledger
        self._unknown: UnknownEffects = unknown
        self._chain = chain

    def recall(self, jobs: Sequence[Job], tools: Mapping[str, Tool], *, make: bool) -> None:
        """Give those of *jobs* their outputs that are not made again.

        Args:
            jobs: of the open calls of the history.
            tools: what to call, by name.
            make: True if the rest is made now, False if it is closed.

        Raises:
            UnknownEffectsError: a person has to look; nothing was made.
        """
        unknown: list[Item] = []
        for job in jobs:
            if job.state != "new":
                continue
            if job.oversized:
                job.settle(job.answer["output"])  # it has run; nobody can be sent what it said
                continue
            effect = self._ledger.past(self._key(job.call))
            again = make and is_repeatable(job.call, tools)
            what = verdict(effect, repeatable=again, unknown=self._unknown if make else "tell")
            if what == "answer" and effect is not None and effect.output is not None:
                job.settle(deepcopy(effect.output))
            elif what == "tell":
                job.settle(UNKNOWN)
            elif what == "stop":
                unknown.append(job.call)
        if unknown:
            raise UnknownEffectsError(unknown)

    def begin(self, job: Job) -> None:
        """The call of *job* is about to be made."""
        self._ledger.begin(self._key(job.call), deepcopy(job.call))

    async def secure(self, job: Job, tools: Mapping[str, Tool]) -> None:
        """Wait until it is safe to make the call of *job*. A checkpoint, unless it is repeatable."""
        if not is_repeatable(job.call, tools):
            await self._ledger.secure()

    def end(self, job: Job) -> None:
        """The call of *job* has ended; without an output its outcome stays unknown."""
        if job.output is not None:
            self._ledger.end(self._key(job.call), deepcopy(job.output))

    def _key(self, call: Item) -> str:
        return key_of(call, self._chain.encoded)


def effects_of(
    ledger: EffectLedger | None, unknown_effects: UnknownEffects, chain: Chain, *, eager: bool
) -> Effects | None:
    """Look at some arguments of `Conversation.run`; return what asks the *ledger*, if there is one.

    Raises:
        ValueError: they are not usable; the text says what to write.
    """
    if unknown_effects not in get_args(UnknownEffects):
        raise ValueError(f"unknown_effects={unknown_effects!r:.60} must be 'tell' or 'stop'")
    if ledger is None:
        return None
    check_callable("ledger", ledger, "past", "begin", "secure", "end")
    if eager:
        raise ValueError(
            "ledger= and eager=True do not go together: a call of a response that is lost could not be found "
            "again; leave one of them out"
        )
    return Effects(ledger, unknown_effects, chain)
