"""Tokens are summed, whatever a server says of them, and a budget ends when it is spent."""

from typing import Any

import pytest

from wspool.core.statistics import TurnRecord
from wspool.core.usage import Budget, Usage, copied

SAID = {
    "input_tokens": 1000,
    "input_tokens_details": {"cached_tokens": 900},
    "output_tokens": 100,
    "output_tokens_details": {"reasoning_tokens": 50},
    "total_tokens": 1100,
}


#: As chat completions count.
CHAT = {
    "prompt_tokens": 3,
    "completion_tokens": 2,
    "prompt_tokens_details": {"cached_tokens": 1},
    "completion_tokens_details": {"reasoning_tokens": 1},
}


def test_usage_is_read_summed_and_written() -> None:
    """Under the names of the API, and back."""
    usage = Usage.of(SAID)

    assert usage == Usage(1000, 900, 100, 50)
    assert usage + usage == Usage(2000, 1800, 200, 100)
    assert usage.as_json() == SAID
    assert usage.cost((10.0, 1.0, 100.0)) == pytest.approx((100 * 10 + 900 + 100 * 100) / 1e6)


@pytest.mark.parametrize(
    ("said", "usage"),
    [
        (CHAT, (3, 1, 2, 1)),
        ({"prompt_tokens": None, "total_tokens": "7"}, (0, 0, 0, 0)),
        ({"input_tokens": -1, "output_tokens": True, "input_tokens_details": [1]}, (0, 0, 0, 0)),
        ({"input_tokens": 10**400, "output_tokens": 2**63 - 1}, (0, 0, 2**63 - 1, 0)),
        (None, (0, 0, 0, 0)),
        ("7", (0, 0, 0, 0)),
    ],
)  # fmt: skip
def test_usage_of_another_shape(said: object, usage: tuple[int, ...]) -> None:
    """What makes no sense counts as none, and what is left can be counted with."""
    found = Usage.of(said)
    assert Usage(*usage) == found
    assert found.cost((1.0, 1.0, 1.0)) >= 0


@pytest.mark.parametrize("said", [{**SAID, "input_tokens_details": {"cached_tokens": 900}}, None, "7", [1]])
def test_what_is_to_be_read_later_is_copied(said: Any) -> None:
    """Whatever becomes of what it was copied from, to as deep as there are numbers."""
    found = copied(said)
    assert said == found

    if isinstance(said, dict):
        said["input_tokens_details"]["cached_tokens"] = 0
        said["output_tokens"] = 0
        assert Usage.of(SAID) == Usage.of(found)


@pytest.mark.parametrize(
    ("limits", "turns", "problem"),
    [
        ({"max_tokens": 2201}, 3, "the budget is spent: tokens 3300 of 2201"),
        ({"max_tokens": 2200}, 2, "the budget is spent: tokens 2200 of 2200"),
        ({"max_turns": 4, "name": "the run's"}, 4, "the run's is spent: turns 4 of 4"),
        ({"max_cost": 0.01, "price": (1, 1, 100)}, 1, "the budget is spent: cost 0.011 of 0.01"),
        ({"max_turns": 0}, 0, "the budget is spent: turns 0 of 0"),
    ],
)
def test_a_budget_ends(limits: dict[str, Any], turns: int, problem: str) -> None:
    """In the turn that goes over it, and not before."""
    budget = Budget(**limits)
    for _ in range(turns):
        assert budget.problem is None
        budget.begin()
        budget.spend(SAID)

    assert budget.problem == problem

    budget.begin(-turns)  # which were not sent after all
    assert budget.turns == 0


def test_a_budget_within_another() -> None:
    """Both are spent from; whichever ends first ends it."""
    run = Budget(max_tokens=2000, name="the run")
    one, two = Budget(max_turns=1, within=run), Budget(within=run)
    one.begin()
    one.spend(SAID)

    assert (one.problem, two.problem) == ("the budget is spent: turns 1 of 1", None)
    assert (run.turns, run.spent.total, two.spent.total, run.cost) == (1, 1100, 0, None)
    two.spend(SAID)
    assert two.problem == "the run is spent: tokens 2200 of 2000"


@pytest.mark.parametrize(
    "limits",
    [
        {"max_cost": 1},
        {"max_tokens": -1},
        {"max_turns": float("nan")},
        {"price": (1, 2)},
        {"price": (1, 2, -1)},
    ],
)
def test_a_budget_that_is_none(limits: dict[str, Any]) -> None:
    """It is refused where it is written."""
    with pytest.raises(ValueError, match=r"price|below 0"):
        Budget(**limits)


def test_what_was_cached_costs_what_that_costs() -> None:
    """A price is of a million tokens: of input that is new, of input that was cached, and of output."""
    assert 2 * 1.0 + 3 * 0.25 + 4 * 8.0 == Usage(input=5_000_000, cached=3_000_000, output=4_000_000).cost(
        (1.0, 0.25, 8.0)
    )


@pytest.mark.parametrize(("said", "tokens"), [(SAID, Usage(1000, 900, 100, 50)), (None, Usage())])
def test_a_record_of_a_turn_tells_its_tokens(said: dict[str, Any] | None, tokens: Usage) -> None:
    """None where the server said nothing of them."""
    record = TurnRecord(
        conversation=None,
        connection=None,
        response_id=None,
        full=True,
        status="completed",
        delivery="terminal",
        waited=0,
        duration=0,
        requests=1,
        bytes_sent=0,
        bytes_saved=0,
        events=0,
        usage=said,
    )
    assert tokens == record.tokens
