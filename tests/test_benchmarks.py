"""The benchmarks run, and the core costs the same at any size."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import (
    __main__ as command_line,
    cancel_churn,
    clients,
    core,
    harness,
    processes,
    report,
    rollout,
    script,
)

#: What a cost per operation may grow by from small to large. It is flat within measurement; what
#: is rescanned per operation would make it a hundred times as large.
FLAT = 4.0


@pytest.mark.parametrize("name", harness.names())
def test_every_benchmark_is_importable_and_says_what_it_measures(name: str) -> None:
    """A listed benchmark has a `run` and a first line."""
    assert callable(harness.load(name).run)
    assert harness.about(name)


def test_the_command_lists_them(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a name there is a list, with a wrong one an error that quotes it."""
    assert 0 == command_line.main([])
    assert harness.names() == [line.split()[0] for line in capsys.readouterr().out.splitlines()]

    assert 2 == command_line.main(["cores"])
    assert "'cores'" in capsys.readouterr().err


def test_parts_are_those_of_the_benchmark(capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong part is an error that says which there are, and so is one of a benchmark that has none."""
    assert 2 == command_line.main(["proxy", "cpus"])
    assert "'cpus'" in (said := capsys.readouterr().err)
    assert "cpu, " in said

    assert 2 == command_line.main(["core", "cpu"])
    assert "it has none" in capsys.readouterr().err


def test_the_core_costs_the_same_at_any_size() -> None:
    """1,000 x 1,000 costs per operation what 10 x 10 does, and 2,000 waiters what 100 do."""
    small, large = core.scaling(rounds=2, times=500, parked=2000)

    for name in small:
        few = min(sample.cpu / sample.operations for sample in small[name])
        many = min(sample.cpu / sample.operations for sample in large[name])
        assert many <= FLAT * few, name


def test_the_outputs_of_a_rollout_answer_the_calls_of_its_script() -> None:
    """A call that is left open is refused before it is sent, and then nothing is measured."""
    end = script.events_of(script.Say(events=20, call=True))[-1]
    calls = [item["call_id"] for item in end["response"]["output"] if item["type"] == "function_call"]

    assert 1 == len(calls)
    for number in (0, 1, rollout.CALLS - 1):
        assert calls == [rollout._output(number)["call_id"]]


def test_no_cancel_loses_a_slot_or_a_waiter() -> None:
    """The churn that finds the leaks of other pools finds none here."""
    damage = cancel_churn.churn("wspool", 300)

    assert damage.cancels >= 300
    assert (0, 0, 0, 0) == (damage.lost, damage.stuck, damage.twice, damage.swallowed)


def test_a_missing_peer_is_null_and_not_zero() -> None:
    """What reads the JSON can tell "not installed" from "took no time"."""
    row = harness.Row(metric="cost", value=1.5, unit="us", peers={"absent": None}, most=2.0)

    (found,) = json.loads(json.dumps(harness.as_json("core", [row])))

    assert not harness.installed("no_such_peer")
    assert {"absent": None} == found["peers"]
    assert ("core", True) == (found["benchmark"], found["met"])
    assert {"processor", "cores", "system"} == set(found["machine"])
    assert "python" in found["versions"]
    assert "absent missing" in harness.table([row])


def test_the_report_fills_its_page_from_the_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables go between the two marks and nowhere else, and each plot is there."""
    monkeypatch.setattr(report, "ROOT", tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "benchmarks.md").write_text(
        f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n", encoding="utf-8"
    )
    peers: dict[str, float | None] = dict.fromkeys(
        ("floor", "picows", "aiohttp", "websockets", "trio-websocket"), 2.0
    )
    rows = [
        *(
            harness.Row(
                metric=f"plain: CPU per event, decoded, {wire}",
                value=4,
                unit="us",
                peers={**peers, "openai": None},
            )
            for wire in ("fast wire", "default wire")
        ),
        harness.Row(metric="a target", value=3, unit="x", most=2),
    ]
    numbers = tmp_path / "out.json"
    numbers.write_text(json.dumps(harness.as_json("events", rows)), encoding="utf-8")

    assert 0 == command_line.main(["report", "--json", str(numbers)])

    text = (tmp_path / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    assert "| plain, decoded | 2 | 4 | 4 | 2 | 2 | 2 | 2 | missing |" in text
    assert "| a target | 3 x | at most 2 x | missed |" in text
    assert (tmp_path / "docs" / "events.svg").read_text(encoding="utf-8").count("<rect") == 8


@pytest.mark.network
@pytest.mark.parametrize("name", ["floor", "wspool, fast wire", "respond, default wire"])
def test_a_client_sees_every_event_of_the_blaster(name: str) -> None:
    """The server of the benchmarks speaks proper turns: all clients count the same events."""
    with processes.open_blaster() as server:
        load = clients.Load(server=server, say=script.Say(events=12), connections=3, turns=2)
        result = clients.play(name, load)
        account = server.process.account()

    assert 3 * 2 * 12 == result.events
    assert 3 * 2 == len(result.latencies)
    assert 3 * 3 == account["turns"]  # one turn each was to warm up


@pytest.mark.parametrize("events", [3, 8, 9, 30])
@pytest.mark.parametrize("gap", [0.0, 0.01])
@pytest.mark.parametrize("think", [0.0, 0.5])
@pytest.mark.parametrize("call", [True, False])
def test_a_paced_turn_is_the_whole_turn_in_order(events: int, gap: float, think: float, call: bool) -> None:
    """However a turn is cut into steps, every event is in it once, numbered, and on time."""
    say = script.Say(events=events, gap=gap, think=think, call=call)
    steps = script.steps_of(say, sse=False)

    frames = [frame for _, part in steps for frame in part]
    bodies = [json.loads(frame[4:] if frame[1] == 126 else frame[2:]) for frame in frames]
    assert [*range(events)] == [body["sequence_number"] for body in bodies]
    assert "response.completed" == bodies[-1]["type"]
    assert sorted(when for when, _ in steps) == [when for when, _ in steps]
    assert think + gap * say.deltas == pytest.approx(steps[-1][0])
