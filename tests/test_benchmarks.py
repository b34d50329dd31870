"""The benchmarks run, and the core costs the same at any size."""

from __future__ import annotations

import json

import pytest

from benchmarks import __main__ as command_line
from benchmarks import cancel_churn, core, harness

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


def test_the_core_costs_the_same_at_any_size() -> None:
    """1,000 x 1,000 costs per operation what 10 x 10 does, and 2,000 waiters what 100 do."""
    small, large = core.scaling(rounds=2, times=500, parked=2000)

    for name in small:
        few = min(sample.cpu / sample.operations for sample in small[name])
        many = min(sample.cpu / sample.operations for sample in large[name])
        assert many <= FLAT * few, name


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
