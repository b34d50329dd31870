"""The timeline: what it shows, and that it is the format it claims to be."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest
import trio

import wspool
from tests.helpers import FakeConnector, FakeWire, completed, created, echo, fake_pool, policy, serving
from tests.rollout.command import place, rollout
from tests.telemetry.trace_format import check_trace
from wspool.server import ModelRequest, ModelTurn, function_call, message
from wspool.timeline import Timeline
from wspool.wire.wire import ConnectError

__all__ = ["place"]  # a fixture


class Caller:
    """Calls a tool three times, then is done."""

    def respond(self, request: ModelRequest) -> ModelTurn:
        done = sum(item.get("type") == "function_call_output" for item in request.context)
        if done < 3:
            return ModelTurn(output=[function_call("look", {"number": done})], delay=1.0)
        return ModelTurn(output=[message("done")], delay=2.0)


def written(timeline: Timeline, path: Path) -> Any:
    """The trace as a viewer reads it, checked."""
    timeline.save(path)
    trace = json.loads(path.read_text(encoding="utf-8"))
    check_trace(trace)
    return trace


def events(trace: Any, cat: str, ph: str) -> list[Any]:
    return [event for event in trace["traceEvents"] if event.get("cat") == cat and event["ph"] == ph]


async def test_a_run_is_shown(autojump_clock, tmp_path: Path) -> None:
    """Ten conversations on three connections: turns on rows, those in line and tools beside them."""
    timeline = Timeline()

    async def look(number: int) -> str:
        await trio.sleep(0.5)
        return str(number)

    async with (
        serving(Caller()) as world,
        world.pool(limits=policy(max_size=3, patience=0), instrument=timeline) as pool,
    ):

        async def work() -> None:
            async with pool.conversation(model="m") as conversation:
                await conversation.run("go", tools={"look": look})

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(work)

    trace = written(timeline, tmp_path / "run.json")
    assert 40 == len(events(trace, "turn", "X"))
    assert pool.statistics().dialed == len(events(trace, "dial", "X"))
    assert 30 == len(events(trace, "tool", "b"))
    assert events(trace, "line", "b"), "seven had to wait"
    assert {"until the first event", "streaming"} <= {event["name"] for event in events(trace, "phase", "X")}
    rows = {
        event["args"]["name"]
        for event in trace["traceEvents"]
        if event["ph"] == "M" and event["name"] == "thread_name"
    }
    assert {f"connection {number}, lane 0" for number in range(1, pool.statistics().dialed + 1)} == rows
    longest = max(event["ts"] + event["dur"] for event in events(trace, "turn", "X"))
    assert longest == pytest.approx(trio.current_time() * 1e6, rel=0.1)
    assert ["run.json"] == os.listdir(tmp_path)


async def test_a_move_is_an_arrow(autojump_clock, tmp_path: Path) -> None:
    """From the last turn there to the next here, with its reason."""
    timeline, connector = Timeline(), FakeConnector(echo)
    async with (
        fake_pool(connector, limits=policy(max_size=1), instrument=timeline) as pool,
        pool.conversation(model="m") as conversation,
    ):
        await conversation.respond("a")
        await trio.sleep(5)
        connector.wire.hang_up()
        await trio.sleep(5)
        await conversation.respond("b")

    trace = written(timeline, tmp_path / "run.json")
    (start,), (end,) = events(trace, "move", "s"), events(trace, "move", "f")
    assert "move: lost" == start["name"]
    assert start["tid"] < end["tid"]
    assert 10e6 == pytest.approx(end["ts"] - start["ts"], rel=0.01)
    assert ["closed: lost", "closed: pool_closed"] == [
        event["name"] for event in events(trace, "connection", "i")
    ]


async def test_a_turn_that_is_held_on_to_covers_no_other(autojump_clock, tmp_path: Path) -> None:
    """Its lane is somebody else's as soon as it is answered, and so is its row."""
    timeline = Timeline()
    async with (
        fake_pool(FakeConnector(echo), limits=policy(max_size=1), instrument=timeline) as pool,
        pool.conversation(model="m") as one,
        pool.conversation(model="m") as other,
        one.turn("x") as turn,
    ):
        await turn.result()
        await trio.sleep(1)
        await other.respond("y")
        await trio.sleep(1)

    trace = written(timeline, tmp_path / "run.json")
    assert 2 == len(events(trace, "turn", "X"))


async def test_trouble_is_shown(autojump_clock, tmp_path: Path) -> None:
    """Dials that failed, turns that were cancelled, lost or never sent, an outage."""
    timeline = Timeline()
    connector = FakeConnector(lambda wire, request: wire.push(created("r")))
    async with fake_pool(
        connector, limits=policy(max_size=1, min_idle=0, give_up_after=5), instrument=timeline
    ) as pool:
        with trio.move_on_after(3):
            async with pool.conversation(model="m") as conversation:
                await conversation.respond("x")
        async with pool.conversation(model="m") as conversation, conversation.turn("x") as turn:
            await trio.sleep(1)
            connector.wire.hang_up()
            with pytest.raises(wspool.TurnLostError):
                await turn.result()
        connector.failure = lambda: ConnectError("refused", phase="tcp")
        async with pool.conversation(model="m") as conversation:
            with pytest.raises(wspool.DialFailedError):
                await conversation.respond("x")

    trace = written(timeline, tmp_path / "run.json")
    assert {"dial", "dial failed"} == {event["name"] for event in events(trace, "dial", "X")}
    assert {"cancelled", "lost"} == {event["args"]["status"] for event in events(trace, "turn", "X")}
    assert ["unsent"] == [event["args"]["status"] for event in events(trace, "line", "b")]
    assert ["the endpoint is down"] == [event["name"] for event in events(trace, "pool", "i")]


def test_an_empty_one_is_a_trace(tmp_path: Path) -> None:
    """Nothing has happened, and that can be looked at as well."""
    assert [] == written(Timeline(), tmp_path / "run.json")["traceEvents"]


async def test_what_is_too_much_is_counted(
    autojump_clock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A run of days fills no memory: what came first is shown, and how much is not."""
    monkeypatch.setattr("wspool.timeline.MOST", 5)
    timeline = Timeline()
    async with (
        fake_pool(FakeConnector(echo), limits=policy(max_size=1), instrument=timeline) as pool,
        pool.conversation(model="m") as conversation,
    ):
        for _ in range(10):
            await conversation.respond("x")

    assert timeline.dropped == written(timeline, tmp_path / "run.json")["otherData"]["dropped"] > 0


BROKEN = [
    lambda events: events[0].pop("pid"),
    lambda events: turn(events).update(dur=-1),
    lambda events: turn(events).update(ts="0"),
    lambda events: turn(events).update(dur=turn(events)["dur"] + 5e5),
    lambda events: events.remove(next(event for event in events if event["ph"] == "e")),
    lambda events: next(event for event in events if event["ph"] == "f").update(ts=1e12),
    lambda events: next(event for event in events if event["ph"] == "f").update(tid=9),
    lambda events: turn(events).update(color="red"),
]


def turn(events: list[Any]) -> Any:
    return next(event for event in events if event.get("cat") == "turn")


async def test_the_check_sees_what_is_wrong(autojump_clock) -> None:
    """Each rule, broken by hand, is noticed."""
    timeline, number = Timeline(), 0

    def begin(wire: FakeWire, request: dict[str, Any]) -> None:
        nonlocal number
        number += 1
        wire.push(created(f"r{number}"))

    connector = FakeConnector(begin)
    async with (
        fake_pool(connector, limits=policy(max_size=1), instrument=timeline) as pool,
        pool.conversation(model="m") as conversation,
    ):

        async def take() -> None:
            async with conversation.turn("a") as turn:
                await trio.sleep(1)
                connector.wire.push(completed(f"r{number}"))
                await turn.result()

        await take()
        await take()
        connector.hold()
        connector.wire.hang_up()
        await trio.sleep(1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(take)
            await trio.sleep(2)
            connector.release()
    trace = timeline.trace()
    check_trace(trace)
    for index, damage in enumerate(BROKEN):
        broken = copy.deepcopy(trace)
        damage(broken["traceEvents"])
        try:
            check_trace(broken)
        except (AssertionError, KeyError, ValueError, TypeError):
            continue
        pytest.fail(f"damage {index} was not seen")


@pytest.mark.usefixtures("place")
def test_the_command_writes_one() -> None:
    """`wspool rollout --timeline`: every turn of the run is in it; a place that is none is wrong usage."""
    ended = rollout("--limit", "3", "--timeline", "run.json")
    trace = json.loads(Path("run.json").read_text(encoding="utf-8"))
    check_trace(trace)

    assert 0 == ended.code
    assert ended.summary["turns"] == len(events(trace, "turn", "X"))
    assert ended.summary["tool_calls"] == len(events(trace, "tool", "b"))
    ended = rollout("--limit", "3", "--timeline", "nowhere/run.json")
    assert 2 == ended.code
    assert "--timeline" in ended.err
