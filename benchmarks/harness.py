"""Harness: contestants take turns, medians count, and a peer that is not installed is missing, not zero.

A benchmark is a module of this package with a function `run(*, quick) -> list[Row]`; the first
line of its docstring says what it measures. Contestants are run in turn (A B A B), so that what
else the machine does hits all of them alike, and compared by the median of the ratios of
samples that were taken next to each other.
"""

from __future__ import annotations

import ast
import gc
import importlib
import importlib.metadata
import math
import os
import pkgutil
import platform
import statistics
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

import attrs

__all__ = [
    "Benchmark",
    "Row",
    "Sample",
    "Stopwatch",
    "about",
    "as_json",
    "in_turn",
    "installed",
    "load",
    "machine",
    "median",
    "names",
    "ratio",
    "table",
]

#: Modules of this package that measure nothing.
_NOT_BENCHMARKS: Final = frozenset(
    {"__main__", "blaster", "clients", "fakes", "harness", "link", "processes", "proxied", "report", "script"}
)
#: What a number depends on, as far as it is installed.
_PACKAGES: Final = (
    *("wspool", "trio", "attrs", "trio-websocket", "websockets", "orjson", "openai", "httpx"),
    *("aiohttp", "picows", "psycopg_pool", "asyncpg", "httpcore"),
)


@attrs.frozen(kw_only=True)
class Row:
    """One number, with what it is compared to.

    Attributes:
        metric: what was measured.
        value: wspool's number.
        unit: of the value and of the peers.
        peers: theirs, measured in the same run; None for a peer that is not installed.
        most: the target: the largest value that is good enough, None without one.
        least: the target where more is better: the smallest value that is good enough.
        note: what a reader must know to judge the number.
    """

    metric: str
    value: float
    unit: str
    peers: Mapping[str, float | None] = attrs.field(factory=dict)
    most: float | None = None
    least: float | None = None
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the target was met, None without one."""
        if self.least is not None:
            return self.value >= self.least
        return None if self.most is None else self.value <= self.most


@attrs.frozen
class Sample:
    """What a number of equal operations took, in seconds."""

    operations: int
    wall: float
    cpu: float

    @property
    def micros(self) -> float:
        """Microseconds of CPU per operation."""
        return self.cpu / self.operations * 1e6

    @property
    def wall_micros(self) -> float:
        """Microseconds of wall time per operation."""
        return self.wall / self.operations * 1e6


class Stopwatch:
    """Times a block; `sample` is there once the block was left."""

    def __init__(self) -> None:
        self.sample = Sample(1, math.nan, math.nan)

    @contextmanager
    def over(self, operations: int) -> Generator[None, None, None]:
        """Time this block, which makes that many operations."""
        gc.collect()
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        self.sample = Sample(operations, wall, cpu)


class Benchmark(Protocol):
    """A module with a benchmark. One with `PARTS`, a mapping by name, takes names of it as `parts`."""

    def run(self, *, quick: bool) -> list[Row]:
        """Measure."""
        ...


# -- finding them ---------------------------------------------------------------------------------


def names() -> list[str]:
    """The benchmarks there are."""
    folder = str(Path(__file__).parent)
    return sorted(
        module.name for module in pkgutil.iter_modules([folder]) if module.name not in _NOT_BENCHMARKS
    )


def about(name: str) -> str:
    """The first line of a benchmark's docstring; reading it imports nothing."""
    text = (Path(__file__).parent / f"{name}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]


def load(name: str) -> Benchmark:
    """Import a benchmark."""
    module: Any = importlib.import_module(f"benchmarks.{name}")
    benchmark: Benchmark = module
    return benchmark


def installed(package: str) -> bool:
    """Whether a peer can be measured here."""
    try:
        importlib.import_module(package)
    except ImportError:
        return False
    return True


# -- measuring ------------------------------------------------------------------------------------


def in_turn(contestants: Mapping[str, Callable[[], Sample]], rounds: int) -> dict[str, list[Sample]]:
    """Let each contestant give one sample per round, in turn, after a round that does not count."""
    samples: dict[str, list[Sample]] = {name: [] for name in contestants}
    for number in range(rounds + 1):
        for name, contestant in contestants.items():
            sample = contestant()
            if number:
                samples[name].append(sample)
    return samples


def median(samples: Sequence[Sample]) -> float:
    """The middle of the samples, in microseconds of CPU per operation."""
    return statistics.median(sample.micros for sample in samples)


def ratio(samples: Sequence[Sample], floor: Sequence[Sample]) -> float:
    """The middle of the ratios of samples that were taken in the same round."""
    return statistics.median(one.micros / other.micros for one, other in zip(samples, floor, strict=True))


# -- reporting ------------------------------------------------------------------------------------


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(
            (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model
        )
    except OSError:
        pass  # not Linux
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"processor": model, "cores": cores, "system": platform.system()}


def versions() -> dict[str, str | None]:
    """The versions of what took part; None for what is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def as_json(name: str, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows with the machine and the versions beside each, so that a row can be read alone."""
    where = {"machine": machine(), "versions": versions()}
    return [{"benchmark": name, **attrs.asdict(row), "met": row.met, **where} for row in rows]


def table(rows: Sequence[Row]) -> str:
    """The rows for people."""
    width = max(len(row.metric) for row in rows)
    lines = []
    for row in rows:
        bound = row.most if row.least is None else row.least
        side = "at most" if row.least is None else "at least"
        target = "" if bound is None else f"  ({side} {bound:g}: {'met' if row.met else 'MISSED'})"
        lines.append(f"{row.metric:{width}} {_shown(row.value):>9} {row.unit}{target}")
        if row.peers:
            theirs = ", ".join(f"{name} {_shown(value)}" for name, value in row.peers.items())
            lines.append(f"{'':{width}}           {theirs}")
        if row.note:
            lines.append(f"{'':{width}}           {row.note}")
    facts = machine()
    found = ", ".join(f"{name} {version or 'missing'}" for name, version in versions().items())
    return "\n".join([*lines, "", f"{facts['processor']}, {facts['cores']} cores; {found}"])


def _shown(value: float | None) -> str:
    if value is None:
        return "missing"
    return f"{value:,.0f}" if value == int(value) else f"{value:.4g}"
