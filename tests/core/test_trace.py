"""A trace is replayed by a fresh core, and whatever does not fit is named by its line."""

from __future__ import annotations

import inspect
import json
from typing import Any

import pytest

from tests.helpers import CANARY
from wspool.core.commands import CloseReason, ConnectionId, Expiring, LeaseId, WaiterId
from wspool.core.failures import DialFailure, FailureKind
from wspool.core.lending.pool import PoolCore, Verdict
from wspool.core.lending.trace import INPUTS, ReplayError, replay, trace_core
from wspool.core.policy import OPENAI, PoolPolicy
from wspool.core.states import IllegalInputError

FAILURE = DialFailure(
    kind=FailureKind.TRANSIENT, message=f"no, {CANARY}", phase="tcp", status=503, retry_after=1.5
)


def recorded() -> list[str]:
    """A life with a failed dial, a turn, a refusal, an illegal input and a close."""
    lines: list[str] = []
    core = PoolCore(PoolPolicy(max_size=2, min_idle=1, max_waiting=1), OPENAI, warm_up=True)
    trace_core(core, lines.append, warm_up=True)
    core.start(0.0)
    core.dial_failed(ConnectionId(1), now=0.5, failure=FAILURE, jitter=0.25)
    core.acquire(WaiterId(1), 1.0)
    core.acquire(WaiterId(2), 1.0)
    core.tick(2.5)
    core.connected(ConnectionId(2), 3.0, jitter=0.5)
    assert core.begin(LeaseId(1), 4.0)[0] is Verdict.GO
    with pytest.raises(IllegalInputError):
        core.begin(LeaseId(1), 4.0)
    core.release(LeaseId(1), 5.0)
    core.hang_up(ConnectionId(2), CloseReason.DIRTY, 5.0)
    core.force(6.0)
    return lines


def test_a_trace_is_replayed() -> None:
    """A fresh core gives the same commands to the same inputs."""
    lines = recorded()

    assert 11 == replay(lines) == len(lines) - 1
    assert 11 == replay(iter(f"{line}\n" for line in lines)), "as read from a file"


def test_a_reason_is_replayed_as_what_it_is() -> None:
    """The limit of one connection is that of the other as well."""
    lines: list[str] = []
    core = PoolCore(PoolPolicy(max_size=2, min_idle=0), OPENAI)
    trace_core(core, lines.append, warm_up=False)
    for number in (1, 2):
        core.acquire(WaiterId(number), 0.0)
        core.connected(ConnectionId(number), 0.0, 0.5)
    assert Expiring(LeaseId(1)) in core.hang_up(ConnectionId(2), CloseReason.LIMIT, 1.0)

    assert 5 == replay(lines)


def test_a_line_says_when_what_and_what_followed() -> None:
    """Plain JSON, readable without this library."""
    head, _, failed, *_, begun, illegal, _, _, _ = [json.loads(line) for line in recorded()]

    assert (3, 2, "openai", True) == (
        head["version"],
        head["policy"]["max_size"],
        head["provider"]["name"],
        head["warm_up"],
    )
    failure = {"kind": "transient", "phase": "tcp", "status": 503, "retry_after": 1.5}
    arguments = {"connection": 1, "failure": failure, "jitter": 0.25}
    commands = [{"command": "Degraded", "failure": failure}]
    assert {"now": 0.5, "input": "dial_failed", "arguments": arguments, "commands": commands} == failed
    assert ("begin", "go", []) == (begun["input"], begun["verdict"], begun["commands"])
    assert "IllegalInputError" == illegal["raises"]


def test_what_the_core_asks_itself_is_not_written() -> None:
    """`force` closes and `release` may hang up: one input, one line."""
    names = [json.loads(line).get("input") for line in recorded()]

    assert ["release", "hang_up", "force"] == names[-3:]


def test_no_text_from_outside_is_written() -> None:
    """A message may quote what nobody should see."""
    assert CANARY not in "".join(recorded())


def test_every_input_is_traced() -> None:
    """Whatever takes the time is an input; a question is none."""
    questions = {
        "next_deadline",
        "held_until",
        "statistics",
        "is_live",
        "states",
        "failure",
        "has_lane",
        "away",
        "open",
        "remembers",
    }
    public = {name for name, _ in inspect.getmembers(PoolCore) if not name.startswith("_")}

    assert public - questions == set(INPUTS)


def tampered(number: int, **changes: Any) -> list[str]:
    """The trace with one line changed."""
    lines = recorded()
    lines[number - 1] = json.dumps({**json.loads(lines[number - 1]), **changes})
    return lines


@pytest.mark.parametrize(
    ("lines", "number", "problem"),
    [
        (tampered(3, commands=[]), 3, "it says commands []"),
        (tampered(8, verdict="move"), 8, "it says verdict 'move', and the core says 'go'"),
        (tampered(9, raises="KeyError"), 9, "it says raises 'KeyError'"),
        (tampered(10, arguments={"lease": 7}), 10, "it says commands"),
        (tampered(6, now=1.9), 6, "it says commands"),
        (tampered(3, input="fly"), 3, "it cannot be replayed: KeyError('fly')"),
        (tampered(3, arguments={}), 3, "it cannot be replayed: TypeError"),
        (tampered(1, version=0), 1, "its version is 0, not 3"),
        (recorded()[1:], 1, "it cannot be replayed: KeyError('version')"),
        ([*recorded()[:5], '{"now": 2.'], 6, "it cannot be replayed: JSONDecodeError"),
        ([*recorded()[:5], "7"], 6, "it cannot be replayed: TypeError"),
        ([], 1, "it is empty"),
    ],
)
def test_what_does_not_fit_is_named_by_its_line(lines: list[str], number: int, problem: str) -> None:
    """The first line that differs says what it says and what the core says."""
    with pytest.raises(ReplayError) as caught:
        replay(lines)

    assert number == caught.value.line
    assert f"line {number} of the trace: " in str(caught.value)
    assert problem in str(caught.value)
