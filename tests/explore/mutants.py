"""Mutants of the shell: mistakes that pools make when two things happen at once, which exploring must find.

A mutant is a few edits; the old text of each must occur in its module exactly once, so that none can rot. It
is explored in an interpreter of its own: all scenes with one deviation, then two, then at random. It must
be found within `SECONDS` of work, and shrunk to at most `FEW` deviations.

`python -m tests.explore.mutants` tries all, and prints the shortest tape of each.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import importlib.machinery
import importlib.util
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import CodeType, ModuleType
from typing import Final

import attrs

__all__ = ["FEW", "MUTANTS", "Mutant", "Verdict", "try_all"]

ROOT: Final = Path(__file__).parents[2]
SECONDS: Final = 60.0
FEW: Final = 3

SHELL, LEASE, LINK, CLOCK = "wspool.pool.shell", "wspool.pool.lease", "wspool.pool.link", "wspool.pool.clock"
CONNECTION, SENDER, ATTEMPT = "wspool.pool.connection", "wspool.pool.sender", "wspool.pool.attempt"
CONTINUITY, DRIVER, ERRANDS = "wspool.pool.continuity", "wspool.pool.driver", "wspool.pool.errands"
UPKEEP, ROUTER = "wspool.pool.upkeep", "wspool.pool.router"


@attrs.frozen
class Mutant:
    """Some mistake.

    Attributes:
        what: what it does wrong, in a few words.
        edits: module, old text, new text.
    """

    what: str
    edits: tuple[tuple[str, str, str], ...]

    def sources(self) -> dict[str, str]:
        """Return the texts of the modules with the mistake in them."""
        sources: dict[str, str] = {}
        for module, old, new in self.edits:
            path = ROOT.joinpath(*module.split(".")).with_suffix(".py")
            source = sources.get(module) or path.read_text(encoding="utf-8")
            if source.count(old) != 1:
                raise ValueError(f"{self.what!r}: {module} has {source.count(old)} times {old!r}")
            sources[module] = source.replace(old, new)
        return sources


def one(what: str, module: str, old: str, new: str) -> Mutant:
    """Return a mutant with one edit."""
    return Mutant(what, ((module, old, new),))


MUTANTS: Final = (
    one(
        "a cancelled waiter is not taken out of line",
        SHELL,
        "        self.step(self.core.abandon, waiter)\n        return Abort",
        "        return Abort",
    ),
    one(
        "a waiter that is cancelled as it is granted keeps the lane",
        SHELL,
        "        return self._noted(lease)\n",
        "        await trio.lowlevel.checkpoint()\n        return self._noted(lease)\n",
    ),
    one(
        "a lane that is granted at once is lost to a cancellation",
        LEASE,
        "        await cancel_shielded_checkpoint()\n        return lease\n",
        "        await trio.lowlevel.checkpoint()\n        return lease\n",
    ),
    one(
        "a lease is kept by a body that is cancelled",
        LEASE,
        "        self._lease.release()\n",
        "        if not error[1] or isinstance(error[1], Exception):\n            self._lease.release()\n",
    ),
    one(
        "the timekeeper misses what falls due while it looks",
        CLOCK,
        "            deadline = self._sleeping_until = self._core.next_deadline()\n",
        "            deadline = self._sleeping_until = self._core.next_deadline()\n"
        "            await trio.lowlevel.checkpoint()\n",
    ),
    one(
        "a reader misses the event that comes as it begins to wait",
        ATTEMPT,
        "        self._parked = trio.lowlevel.current_task()\n",
        "        await trio.lowlevel.checkpoint()\n        self._parked = trio.lowlevel.current_task()\n",
    ),
    one(
        "closing misses the end that comes as it begins to wait",
        SHELL,
        "        self._watchers += 1\n        try:\n",
        "        await trio.lowlevel.checkpoint()\n        self._watchers += 1\n        try:\n",
    ),
    one(
        "the end of a connection is reported a round later",
        CONNECTION,
        "            self.link.note_close(error)\n        finally:\n            self.link.lose()",
        "            self.link.note_close(error)\n        finally:\n            self.link.ending = True\n"
        "            await trio.lowlevel.checkpoint()\n            self.link.lose()",
    ),
    Mutant(
        "a ping on a connection that dies ends the pool",
        (
            (
                CONNECTION,
                "            self.link.note_close(error)\n        finally:\n            self.link.lose()",
                "            self.link.note_close(error)",
            ),
            (
                LINK,
                "        if not self.ending:\n            self.nursery.start",
                "        if True:\n            self.nursery.start",
            ),
            (
                SHELL,
                "        except Exception as error:\n            connection.crash(error)\n",
                "        except ZeroDivisionError as error:\n            connection.crash(error)\n",
            ),
        ),
    ),
    one(
        "a turn hears nothing of the end of its connection",
        LINK,
        "        self.wire = None\n        self.lose_attempts()\n",
        "        self.wire = None\n",
    ),
    one(
        "closing a conversation does not end its wait",
        CONTINUITY,
        '            self._errand.stop("the conversation is closed")\n',
        "            pass\n",
    ),
    one(
        "closing does not end the waits for a hold",
        ERRANDS,
        "        for errand in [*self._waiting]:\n            errand.stop(_POOL_CLOSED)\n",
        "",
    ),
    one(
        "lifting a hold does not wake who waits",
        ERRANDS,
        "        self._lifted.set()\n",
        "",
    ),
    one(
        "a hang-up lets a dial go on",
        CONNECTION,
        "        if not self.link.connected and self.link.nursery is not None:\n",
        "        if False:\n",
    ),
    one(
        "a steer goes out for a response that has ended",
        SENDER,
        "            wanted = not (handed or attempt.ended or attempt.given_up)\n"
        "            begun = wanted and attempt.machine.steer(steer)\n",
        "            begun = attempt.machine.steer(steer) or True\n",
    ),
    one(
        "whoever steers is not woken by the answer",
        ATTEMPT,
        "        if self._news is not None:\n            self._news.set()\n            self._news = None\n",
        "",
    ),
    one(
        "the end of a dial is not told to who waits",
        CONNECTION,
        "            self._owner.on_dial_failed(self.link, failure)\n",
        "            self.link.over = True\n",
    ),
    one(
        "whoever waits for the pool is told before it has changed",
        SHELL,
        "        self._changed.set()\n        self._changed = trio.Event()\n",
        "        self._changed = trio.Event()\n        self._changed.set()\n",
    ),
    one(
        "a connection that is hung up reads on",
        CONNECTION,
        "        self.link.told = self.link.ending = True\n        self._sender.reading.cancel()\n",
        "        self.link.told = self.link.ending = True\n",
    ),
    one(
        "the timekeeper is not woken",
        CLOCK,
        "            self._wake_up.set()\n",
        "            pass\n",
    ),
    one(
        "a sender that is cancelled keeps the wire",
        SENDER,
        "                self._sending.release()\n",
        "                if sent:\n                    self._sending.release()\n",
    ),
    one(
        "a consumer that is cancelled is woken all the same",
        ATTEMPT,
        "        self._parked = None\n        return trio.lowlevel.Abort.SUCCEEDED\n",
        "        return trio.lowlevel.Abort.SUCCEEDED\n",
    ),
)


# -- in the interpreter of one mutant ---------------------------------------------------------------


class _Loader(importlib.machinery.SourceFileLoader):
    """Loads a module with a mistake in it."""

    def __init__(self, name: str, path: str, source: str) -> None:
        super().__init__(name, path)
        self._source = source

    def get_code(self, fullname: str) -> CodeType:
        return compile(self._source, self.path, "exec", dont_inherit=True)


class _Finder:
    """Finds the modules that have one."""

    def __init__(self, mutant: Mutant) -> None:
        self._sources = mutant.sources()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in self._sources:
            return None
        file = str(ROOT.joinpath(*fullname.split(".")).with_suffix(".py"))
        loader = _Loader(fullname, file, self._sources[fullname])
        return importlib.util.spec_from_file_location(fullname, file, loader=loader)


def try_here(mutant: Mutant, *, tell: bool = False) -> dict[str, object] | None:
    """Explore all scenes with *mutant* in this interpreter; return what was found."""
    sys.meta_path.insert(0, _Finder(mutant))

    from tests.explore.scenes import SCENES
    from wspool.testing.explore import Deviations, Priorities, Randomly

    logging.disable(logging.INFO)
    began = time.process_time()
    for schedules in ([Deviations(1)], [Deviations(2)], [Priorities(100), Randomly(100)]):
        for scene in SCENES:
            if time.process_time() - began > SECONDS:
                return None
            report = scene.explore(*schedules)
            if report.failure is not None:
                if tell:
                    print(report)  # noqa: T201 # a command line
                return {
                    "scene": scene.name,
                    "tape": str(report.tape),
                    "deviations": len(report.tape),
                    "failure": f"{report.failure.sort}: {report.failure.message[:100]}",
                    "seconds": time.process_time() - began,
                }
    return None


# -- in the parent ----------------------------------------------------------------------------------


@attrs.frozen
class Verdict:
    """How a mutant fared."""

    mutant: Mutant
    found: dict[str, object] | None

    @property
    def as_it_should(self) -> bool:
        """Whether it was found soon, and shrunk to a few deviations."""
        found = self.found
        return found is not None and found["deviations"] <= FEW and found["seconds"] <= SECONDS  # type: ignore[operator]

    def __str__(self) -> str:
        if self.found is None:
            return f"NOT FOUND  {self.mutant.what}"
        found = "found      " if self.as_it_should else "BUT SO     "
        return f"{found}{self.mutant.what}: {json.dumps(self.found)}"


def try_apart(mutant: Mutant) -> Verdict:
    """Try *mutant* in an interpreter of its own."""
    # What runs there is not the library, so it must not count as covering it.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    done = subprocess.run(
        [sys.executable, "-m", "tests.explore.mutants", "--one", mutant.what],
        cwd=ROOT,
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    if done.returncode:
        raise RuntimeError(f"{mutant.what!r} could not be tried: {done.stderr}")
    return Verdict(mutant, json.loads(done.stdout.splitlines()[-1]))


def try_all(mutants: Sequence[Mutant], at_once: int = 2) -> list[Verdict]:
    """Try *mutants*, a few at a time."""
    with concurrent.futures.ThreadPoolExecutor(at_once) as executor:
        return list(executor.map(try_apart, mutants))


def main() -> int:
    """Try all mutants, or one by its name in this interpreter; print how they fared."""
    parser = argparse.ArgumentParser(prog="python -m tests.explore.mutants", description=__doc__)
    parser.add_argument("--one", metavar="WHAT", help="try this one here, and print what was found as JSON")
    parser.add_argument("--tell", metavar="TEXT", help="try the first that has TEXT in its name, and tell")
    parser.add_argument("--only", metavar="TEXT", default="", help="only those that have TEXT in their name")
    options = parser.parse_args()
    if options.one is not None:
        (mutant,) = [mutant for mutant in MUTANTS if mutant.what == options.one]
        print(json.dumps(try_here(mutant)), flush=True)  # noqa: T201 # a command line
        return 0
    if options.tell is not None:
        try_here(next(mutant for mutant in MUTANTS if options.tell in mutant.what), tell=True)
        return 0
    wrong = tried = 0
    for mutant in MUTANTS:
        if options.only in mutant.what:
            verdict = try_apart(mutant)
            tried, wrong = tried + 1, wrong + (not verdict.as_it_should)
            print(verdict, flush=True)  # noqa: T201 # a command line
    print(f"{tried} mutants, {wrong} not as they should be")  # noqa: T201 # a command line
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main())
