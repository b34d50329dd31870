"""What a process is that has an actor: it is told by calls that block, from whatever has begun it."""

import os
import pickle
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, suppress

from wspool.rollout.team.exchange import Exchange, Orders, Report
from wspool.runtime import Residence, Runtime

__all__ = ["Process"]


class Process:
    """An actor, in a process of its own.

    Args:
      directory: where it works, if there is such a place here.
      paths: where modules are found, beside those of this process.
      job: makes the block that the actor is, see `open_part`; pickled.
    """

    def __init__(self, directory: str, paths: Sequence[str], job: bytes) -> None:
        self._directory, self._paths, self._job = directory, paths, job
        self._block: Residence[Exchange] = Residence(self._open)
        self._exchange: Exchange | None = None

    def exchange(self, orders: Orders) -> Report | None:
        """See `open_part`, which is done first. It blocks."""
        runtime = Runtime.shared()
        if self._exchange is None:
            self._exchange = runtime.run(self._block.enter)
        report = runtime.run(self._exchange, orders)
        if report is None:
            runtime.run(self._block.leave)
        return report

    def _open(self) -> AbstractAsyncContextManager[Exchange]:
        with suppress(OSError):  # it need not be there
            os.chdir(self._directory)
        sys.path += [path for path in self._paths if path not in sys.path]
        job: Callable[[], AbstractAsyncContextManager[Exchange]]
        job = pickle.loads(self._job)  # now that its modules are found
        return job()
