"""The proxy: CPU and time of an answer, beside LiteLLM's proxy; its clients, its programs, and what it bears.

    python -m benchmarks proxy [PART...] [--quick]

runs its parts, or those that are named.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from benchmarks.harness import Row
from benchmarks.proxied import cpu, crowd, exact, havoc, programs, simulated

__all__ = ["PARTS", "run"]

PARTS: Final[Mapping[str, Callable[..., list[Row]]]] = {
    "cpu": cpu.cost,
    "peers": cpu.peers,
    "accounts": exact.accounts,
    "deltas": exact.deltas,
    "agents": exact.agents,
    "programs": programs.run,
    "crowd": crowd.crowd,
    "endless": crowd.endless,
    "stalled": crowd.stalled,
    "havoc": havoc.run,
    "simulated": simulated.run,
}


def run(*, quick: bool, parts: Sequence[str] = ()) -> list[Row]:
    """Measure all of it, or those parts."""
    return [row for name in parts or PARTS for row in PARTS[name](quick=quick)]
