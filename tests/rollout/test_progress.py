"""Progress and summary: what people see."""

import io
import itertools
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from wspool.core.statistics import PoolStatistics
from wspool.rollout.progress import PLAIN_INTERVAL, Progress, show_progress
from wspool.rollout.summary import Summary, percentile

POOL = PoolStatistics(
    **{field.name: 0 for field in attrs.fields(PoolStatistics)}  # type: ignore[arg-type]
    | {"idle": 1, "leased": 2, "dialing": 3, "waiting": 4, "closed": {}}
)
PROGRESS = Progress(
    total=9, finished=3, failed=1, in_flight=4, turns=20, seconds=2.0, draining=False, pool=POOL
)


class Terminal(io.StringIO):
    """A text stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_line_of_progress() -> None:
    """Counts, speed, the pool, and the time that is left; then what Ctrl-C does."""
    assert str(PROGRESS) == (
        "3/9 done, 1 failed, 4 in flight, 10 turns/s, pool 1 idle 2 leased 3 dialing 4 waiting, 4 s left"
    )
    assert str(attrs.evolve(PROGRESS, finished=0, seconds=0.0)).endswith("waiting, ? left")
    scored = attrs.evolve(PROGRESS, right=2, wrong=1, score=2 / 3)
    assert "1 failed, 2 right, 1 wrong, mean score 0.667, 4 in flight" in str(scored)
    assert str(attrs.evolve(PROGRESS, draining=True)).endswith("(Ctrl-C again to stop now)")


@pytest.mark.parametrize(
    ("fields", "total", "expected"),
    [
        ({"unclear": 4.9, "suspects": 4}, 9, ""),  # nor of one that fails while others are answered
        (
            {"unclear": 310.4, "suspects": 4},
            9,
            "unclear for 310 s if that is the endpoint's trouble or that of 4 requests "
            "(other tasks are tried meanwhile), ",
        ),
        (
            {"unclear": 60.0, "suspects": 1},
            7,
            "unclear for 60 s if that is the endpoint's trouble or that of 1 request "
            "(no other task is tried), ",
        ),
    ],
)
def test_that_nobody_can_tell_is_told(fields: dict[str, Any], total: int, expected: str) -> None:
    """Beside what is waited for, and also in the moment in which one tries."""
    pool = attrs.evolve(POOL, **fields)
    assert f"4 waiting, {expected}" in str(attrs.evolve(PROGRESS, total=total, pool=pool))
    held = attrs.evolve(pool, held=9.0, held_for="Internal error")
    line = str(attrs.evolve(PROGRESS, total=total, pool=held))
    assert "waiting for Internal error until " in line
    assert f", {expected}" in line.partition(" until ")[2]
    assert ("unclear" in line) is bool(expected)


def test_an_endpoint_that_is_away_is_told() -> None:
    """With the reason, where it is known here."""
    away = attrs.evolve(PROGRESS, pool=attrs.evolve(POOL, degraded=True))
    assert ", waiting for the endpoint: it cannot be reached, 4 s left" in str(away)
    told = attrs.evolve(away, outage="connection refused")
    assert ", waiting for the endpoint: connection refused, 4 s left" in str(told)
    assert "endpoint" not in str(attrs.evolve(told, pool=POOL)), "what was is over"


async def test_plain_progress(autojump_clock: MockClock) -> None:
    """Without a terminal there is a line now and then."""
    file = io.StringIO()
    with trio.move_on_after(3.5 * PLAIN_INTERVAL):
        await show_progress(lambda: PROGRESS, file)

    assert file.getvalue() == f"{PROGRESS}\n" * 3


async def test_live_progress(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal it is drawn again and again, and wiped in the end."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    file, finished = Terminal(), itertools.count()
    with trio.move_on_after(1.1):
        await show_progress(lambda: attrs.evolve(PROGRESS, finished=next(finished)), file)

    assert "4/9 done, 1 failed" in file.getvalue()
    assert file.getvalue().endswith("\x1b[2K")


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [
        ([], 50, None),
        ([3.0], 50, 3.0),
        ([4.0, 1.0, 3.0, 2.0], 50, 2.0),
        ([1.0, 2.0], 95, 2.0),
        ([1.0, 2.0], 0, 1.0),
    ],
)
def test_percentile(values: list[float], percent: float, expected: float | None) -> None:
    """Always one of the values."""
    assert percentile(values, percent) == expected


def test_the_summary_in_words() -> None:
    """Outcomes that nobody had are not mentioned; times have their unit."""
    summary = Summary(tasks=3, done=1, owed=2, max_connections=8, wait_p50=0.25, turn_p95=12.0)
    text = " ".join(str(summary).split())

    assert "tasks 3: 1 done, 2 owed turns" in text
    assert "wait for one p50 250 ms, p95 -" in text
    assert "turn p50 -, p95 12.0 s" in text


class Broken(Terminal):
    """A stream that nobody takes anything from any more."""

    def __init__(self, *, terminal: bool, problem: Exception) -> None:
        super().__init__()
        self._terminal, self._problem = terminal, problem

    def isatty(self) -> bool:
        return self._terminal

    def write(self, text: str) -> int:
        raise self._problem


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("problem", [OSError(5, "Input/output error"), ValueError("closed")])
async def test_f179_what_only_reports_ends_nothing(
    autojump_clock: MockClock, terminal: bool, problem: Exception
) -> None:
    """F179: the terminal of a batch is gone, its pipe is closed, or there was none -> there is no progress,
    and that is all.
    """
    async with trio.open_nursery() as nursery:
        nursery.start_soon(show_progress, lambda: PROGRESS, Broken(terminal=terminal, problem=problem))
        nursery.start_soon(show_progress, lambda: PROGRESS, None)
