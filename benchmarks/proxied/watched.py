"""The proxy as `wspool proxy` runs it, with a clock in its loop: a process that says how it was held up.

    python -m benchmarks.proxied.watched URL CONNECTIONS

prints its port, then for each line on its standard input one line of JSON about itself, until the input
ends. How long a round of the loop takes is told in CPU time, which does not count what other programs do.
"""

from __future__ import annotations

import json
import sys
import time

import trio

from benchmarks.processes import resident
from wspool import PoolPolicy
from wspool.proxy import Proxy, Where, open_proxy
from wspool.proxy.collecting import collected_in_quiet
from wspool.proxy.records.record import Records

__all__ = ["main"]


class _Clock(trio.abc.Instrument):
    """Takes the time of each round of the loop, but for those after which nobody waits for an answer.

    Attributes:
        longest: of all rounds since it was last asked, in seconds of CPU.
        records: those of the proxy, once it is open.
    """

    def __init__(self) -> None:
        self.longest = 0.0
        self.records: Records | None = None
        self._since: float | None = None

    def after_io_wait(self, timeout: float) -> None:
        self._since = time.thread_time()

    def before_io_wait(self, timeout: float) -> None:
        if self._since is not None and self.records is not None and self.records.running:
            self.longest = max(self.longest, time.thread_time() - self._since)


async def _main(url: str, size: int) -> None:
    clock = _Clock()
    trio.lowlevel.add_instrument(clock)
    policy = PoolPolicy(max_size=size, min_idle=0)
    async with open_proxy(url, where=Where(port=0), policy=policy) as proxy:
        clock.records = proxy.records
        with collected_in_quiet(proxy.records):
            print(proxy.base_url.rpartition(":")[2].partition("/")[0], flush=True)
            while await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
                print(json.dumps(_account(proxy, clock)), flush=True)


def _account(proxy: Proxy, clock: _Clock) -> dict[str, float]:
    account = {
        "cpu": time.process_time(),
        "wall": time.monotonic(),
        "stall": clock.longest,
        "requests": proxy.records.count,
        "running": len(proxy.records.running),
        "open": proxy.front.open,
        "failures": proxy.front.failures,
        "memory": resident(),
    }
    clock.longest = 0.0
    return account


def main(arguments: list[str]) -> None:
    """Serve."""
    trio.run(_main, arguments[0], int(arguments[1]))


if __name__ == "__main__":
    main(sys.argv[1:])
