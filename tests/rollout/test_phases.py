"""Where the time of a task went, and how many connections there were."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from tests.rollout.command import Saying, place, rollout, write
from tests.rollout.test_progress import PROGRESS
from wspool.core.commands import CloseReason
from wspool.core.statistics import CloseRecord, DialRecord, ToolRecord, TurnRecord
from wspool.rollout import samples as module
from wspool.rollout.phases import PHASES, Phases
from wspool.rollout.progress import Progress
from wspool.rollout.results import open_results
from wspool.rollout.samples import AT_ONE_PACE, SAMPLES, Samples, take_samples
from wspool.testing import local_server

__all__ = ["place"]  # a fixture


def turn(conversation: int | None, connection: int | None, **more: Any) -> TurnRecord:
    fields: dict[str, Any] = {
        "response_id": None, "full": True, "status": "completed", "delivery": "terminal", "waited": 0.0,
        "duration": 0.0, "requests": 1, "bytes_sent": 0, "bytes_saved": 0, "events": 0,
    }  # fmt: skip
    return TurnRecord(conversation=conversation, connection=connection, **{**fields, **more})


def dial(connection: int, started: float, duration: float, failure: str | None = None) -> DialRecord:
    return DialRecord(phases={}, duration=duration, failure=failure, connection=connection, started=started)


def tool(conversation: int | None, started: float, duration: float) -> ToolRecord:
    return ToolRecord(
        pool=1,
        conversation=conversation,
        name="t",
        call_id="c",
        started=started,
        duration=duration,
        error=None,
    )


def test_a_wait_is_for_a_dial_as_long_as_it_runs() -> None:
    """Of the connection that came of it, and for the first who has it; the rest is the line."""
    phases = Phases()
    for number in (0, 1):
        phases.begin(number)
    phases.dialed(dial(0, 9.0, 5.0, failure="refused"))
    phases.dialed(dial(0, 13.0, 2.0))
    phases.turned(turn(0, 0, started=10.0, waited=6.0, duration=3.0, ended=19.0, first_event=1.0))
    phases.turned(turn(1, 0, started=13.0, waited=6.0, duration=3.0, ended=22.0))
    phases.turned(turn(None, None, waited=9.0))

    assert dict(zip(PHASES, (0, 4.0, 2.0, 1.0, 2.0, 0), strict=True)) == phases.take(0)
    assert dict(zip(PHASES, (0, 6.0, 0, 3.0, 0, 0), strict=True)) == phases.take(1)


def test_who_is_held_is_not_yet_in_line() -> None:
    """A dial that ended by then was for others."""
    phases = Phases()
    phases.begin(0)
    phases.dialed(dial(0, 13.0, 2.0))
    phases.turned(turn(0, 0, started=10.0, waited=6.0, duration=3.0, ended=24.0, first_event=1.0))

    assert dict(zip(PHASES, (5.0, 6.0, 0, 1.0, 2.0, 0), strict=True)) == phases.take(0)


def test_a_dial_of_which_nothing_came_is_forgotten() -> None:
    """Its connection is gone before anybody had it."""
    phases = Phases()
    phases.begin(3)
    phases.dialed(dial(7, 0.0, 2.0))
    phases.closed(CloseRecord(pool=1, connection=7, reason=CloseReason.LOST, age=1.0, closed=3.0))
    phases.turned(turn(3, 7, started=0.0, waited=2.0, ended=2.0))

    assert 2.0 == phases.take(3)["line"]


def test_tools_that_run_together_are_counted_once() -> None:
    """Also if one of them outlasts several others; those of other conversations are not counted."""
    phases = Phases()
    phases.begin(1)
    for started, duration in ((1.0, 1.0), (3.0, 1.0), (0.0, 5.0), (7.0, 1.0)):
        phases.called(tool(1, started, duration))
    phases.called(tool(2, 0.0, 100.0))
    phases.called(tool(None, 0.0, 100.0))

    assert 6.0 == phases.take(1)["tools"]


def progress(seconds: float) -> Progress:
    return attrs.evolve(PROGRESS, seconds=seconds)


async def test_samples_of_a_day_are_few(tmp_path: Path, autojump_clock: object) -> None:
    """They come from the beginning on, and seldomer and seldomer; the end is one of them."""
    samples = Samples(tmp_path)
    began = trio.current_time()
    with trio.move_on_after(24 * 3600):
        await take_samples(lambda: progress(trio.current_time() - began), samples)
    samples.close()
    lines = [json.loads(line) for line in (tmp_path / SAMPLES).read_text().splitlines()]

    assert 10 * AT_ONE_PACE < len(lines) < 12 * AT_ONE_PACE
    assert (0.0, 0.25, 86400.0) == (lines[0]["seconds"], lines[1]["seconds"], lines[-1]["seconds"])
    assert 0o600 == (tmp_path / SAMPLES).stat().st_mode & 0o777


def test_samples_that_cannot_be_written_end_nothing(tmp_path: Path) -> None:
    """Here somebody has planted a link."""
    (tmp_path / SAMPLES).symlink_to(tmp_path / "elsewhere")
    samples = Samples(tmp_path)
    samples.add(progress(0))
    samples.close()

    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.network
def test_a_result_says_how_it_was_sent(place: Path) -> None:
    """Requests and phases, also of a Batch line; and who starts over puts the samples aside."""
    write("tasks.jsonl", {"id": "a", "input": "x"})
    write("batch.jsonl", {"custom_id": "a", "method": "POST", "url": "/v1/responses", "body": {"input": "x"}})
    with local_server(model=Saying()) as server:
        where = ("--url", server.url, "--model", "m")
        (plain,) = rollout("tasks.jsonl", *where).results
        first = Path("out", SAMPLES).read_bytes()
        rollout("tasks.jsonl", *where, "--no-resume")
        (batch,) = rollout("batch.jsonl", *where, "--no-resume").results
    with open_results(Path("out")) as results:
        assert {"a"} == results.earlier.keys()
    for line in (plain, batch["wspool"]):
        assert (0, 1) == (line["requests"]["delta"], line["requests"]["full"])
        assert 0 < line["requests"]["bytes_sent"]
        assert PHASES == tuple(line["phases"])
        assert 0 < sum(line["phases"].values()) <= line["seconds"] + 0.01
    assert first == Path("out", f"{SAMPLES}.old").read_bytes()
    assert module.INTERVAL < 1
