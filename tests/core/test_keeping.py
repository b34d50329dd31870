"""How long a lane is kept for its holder: as long as would have cost least, never longer than patience."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, strategies as st

from wspool.core.lending.keeping import LEAST, PER_BYTE, SHARE, Keeping

seconds = st.floats(0, 100, allow_nan=False)


def cost(away: list[float], kept: float, full_send: float) -> float:
    """Seconds of a lane that so many holders would have cost."""
    return sum(after if after <= kept else kept + full_send for after in away)


def known(away: list[float], *, patience: float = 1000.0, turn: float = 4.0, history: int = 0) -> Keeping:
    """One that has seen some turns and returns."""
    keeping = Keeping(patience)
    keeping.took(turn, history)
    for after in away:
        keeping.came_back(after)
    return keeping


def test_what_nothing_is_known_of_is_kept_for_as_long_as_the_policy_says() -> None:
    """No turn has ended: nobody knows what one costs."""
    assert 7.0 == Keeping(7.0).patience()


def test_a_wait_is_at_first_as_long_as_a_full_send_takes() -> None:
    """It costs a share of a turn, and more the longer the history is; never nothing, never over patience."""
    assert SHARE * 4.0 == known([]).patience()
    assert SHARE * 4.0 + PER_BYTE * 10**6 == known([], history=10**6).patience()
    assert LEAST == known([], turn=0.0).patience()
    assert 0.1 == known([], patience=0.1).patience()


@pytest.mark.parametrize(
    ("away", "least", "most"),
    [
        pytest.param([0.05] * 32, 1.0, 1.0, id="short"),
        pytest.param([1.9] * 32, 0.0, 0.0, id="long"),
        pytest.param([0.05] * 20 + [60.0] * 12, 0.05, 0.1, id="most are short"),
        pytest.param([0.9] * 3 + [60.0] * 29, 0.0, 0.0, id="few are short"),
        pytest.param([1.9] * 32 + [0.05] * 32, 1.0, 1.0, id="short now"),
    ],
)
def test_what_holders_did_lately_is_what_is_expected(away: list[float], least: float, most: float) -> None:
    """Turns of four seconds: a full send costs one. Tools that take longer are not waited for.

    Where nearly all come back soon, one that does not is waited for as if nothing were known of it.
    """
    assert least <= known(away).patience() <= most


def test_a_full_send_costs_what_is_typical_of_turns() -> None:
    """The first turn is typical, each later one changes that by a tenth."""
    keeping = known([], turn=0.0, history=10**6)

    keeping.took(10.0, 2 * 10**6)
    keeping.took(11.0, 1_100_000)
    assert math.isclose(SHARE * 2.0 + PER_BYTE * 1_100_000, keeping.full_send)


def test_three_returns_say_nothing() -> None:
    """The fourth is believed: whoever takes that long is not waited for."""
    assert 1.0 == known([1.9] * 3).patience()
    assert 0.0 == known([1.9] * 4).patience()


@pytest.mark.parametrize(
    ("away", "kept"),
    [
        pytest.param([1.98] * 32, 1.98 * 1.25, id="a little less"),
        pytest.param([2.0] * 32, 0.0, id="as long"),
        pytest.param([2.1] * 32, 0.0, id="longer"),
    ],
)
def test_who_is_back_sooner_than_a_full_send_takes_is_waited_for(away: list[float], kept: float) -> None:
    """A full send takes two seconds: it need not be much sooner, and may be a little late."""
    assert kept == known(away, turn=8.0).patience()


def test_one_in_eight_that_is_late_says_nothing_of_the_next() -> None:
    """Who is not back with the others is waited for as if nothing were known; with more of them it is not."""
    assert 1.0 == known([0.04] * 28 + [60.0] * 4).patience()
    assert 0.05 == known([0.04] * 27 + [60.0] * 5).patience()


@given(st.lists(seconds, min_size=4, max_size=32), seconds)
def test_no_other_wait_would_have_cost_half(away: list[float], other: float) -> None:
    """With the returns that are remembered."""
    keeping = known(away)
    kept = keeping.patience()

    best = min(cost(away, each, keeping.full_send) for each in [0.0, other, *away])
    assert cost(away, kept, keeping.full_send) <= 2 * best + 1e-6


@given(st.lists(st.tuples(seconds, st.integers(0, 10**8))), st.lists(seconds), seconds)
def test_a_wait_is_finite_and_bounded(turns: list[tuple[float, int]], away: list[float], most: float) -> None:
    """Whatever happens."""
    keeping = Keeping(most)
    for took, history in turns:
        keeping.took(took, history)
    for after in away:
        keeping.came_back(after)

    assert 0.0 <= keeping.patience() <= most
    assert math.isfinite(keeping.full_send)
