"""Planned retirements keep their distance, whatever is booked and freed in whatever order."""

from __future__ import annotations

import itertools
import math
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import pytest
from hypothesis import given, strategies as st

from wspool.core.lending.calendar import Calendar

JITTERS = st.floats(0, 1, exclude_max=True)


@contextmanager
def at_once() -> Iterator[None]:
    """What does not come back within a fifth of a second never does."""

    def give_up(number: int, frame: FrameType | None) -> None:
        raise AssertionError("it never came back")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def apart(times: list[float]) -> float:
    """The smallest distance between two of *times*."""
    ordered = sorted(times)
    return min((later - earlier for earlier, later in itertools.pairwise(ordered)), default=math.inf)


@given(
    st.integers(1, 12),
    st.sampled_from([0.2, 1.0, 60.0, 360.0]),
    st.sampled_from([0.0, 1e3, 1e6]),
    st.lists(st.tuples(st.floats(0, 2), JITTERS, st.integers(0, 100)), max_size=60),
)
def test_bookings_keep_their_distance(
    max_size: int, spread: float, start: float, steps: list[tuple[float, float, int]]
) -> None:
    """Up to a full pool of live bookings, each is in its range and a gap away from every other."""
    calendar = Calendar(spread, max_size)
    live: list[float] = []
    now = start
    rounding = 4 * math.ulp(start + spread * 200)
    for later, jitter, which in steps:
        now += later * spread
        if len(live) == max_size or (which % 3 == 0 and live):
            calendar.free(live.pop(which % len(live)))
        when = calendar.book(now, now + spread, jitter)
        live.append(when)

        assert now <= when <= now + spread
        assert len(live) == len(calendar)
        assert apart(live) >= calendar.gap - rounding


@given(st.integers(2, 40), st.lists(JITTERS, min_size=80, max_size=80))
def test_a_full_pool_opened_at_once_is_spread_out(max_size: int, jitters: list[float]) -> None:
    """Connections born in one moment all get a place, even if some are replaced again and again."""
    calendar = Calendar(100.0, max_size)
    live: list[float] = []
    for jitter in jitters:
        if len(live) == max_size:
            calendar.free(live.pop(0))
        live.append(calendar.book(1000.0, 1100.0, jitter))

    assert 1000.0 <= min(live) <= max(live) <= 1100.0
    assert apart(live) >= calendar.gap - 1e-9


def test_a_free_place_is_taken_as_it_is() -> None:
    """Without neighbours the jitter alone decides."""
    calendar = Calendar(100.0, 10)

    assert 1050.0 == calendar.book(1000.0, 1100.0, 0.5)
    assert 1000.0 == calendar.book(1000.0, 1100.0, 0.0)


def test_a_neighbour_pushes_a_booking_later() -> None:
    """A place that is taken moves the next one by a gap."""
    calendar = Calendar(100.0, 10)

    assert [1050.0, 1055.0, 1060.0] == [calendar.book(1000.0, 1100.0, 0.5) for _ in range(3)]


def test_the_search_goes_on_from_the_beginning() -> None:
    """When nothing is free after the jitter, a place before it is found."""
    calendar = Calendar(100.0, 10)
    calendar.book(1096.0, 1100.0, 0.0)

    assert 1000.0 == calendar.book(1000.0, 1100.0, 0.97)


def test_a_range_that_is_too_full_is_booked_all_the_same() -> None:
    """Under a policy that changed meanwhile a connection still gets a time, its earliest."""
    calendar = Calendar(100.0, 10)

    assert [5.0, 5.0, 5.0] == [calendar.book(5.0, 6.0, 0.25 * bool(count)) for count in range(3)]
    assert 3 == len(calendar)


def test_without_a_spread_all_retire_together() -> None:
    """A policy without a spread asks for no distance."""
    calendar = Calendar(0.0, 10)

    assert [7.0, 7.0] == [calendar.book(7.0, 7.0, 0.5) for _ in range(2)]


def test_a_freed_time_is_free() -> None:
    """The place of a connection that is gone is given to the next."""
    calendar = Calendar(100.0, 10)
    when = calendar.book(1000.0, 1100.0, 0.5)
    calendar.free(when)

    assert 0 == len(calendar)
    assert when == calendar.book(1000.0, 1100.0, 0.5)


def test_equal_times_are_freed_one_by_one() -> None:
    """Freeing one of two equal bookings leaves the other."""
    calendar = Calendar(0.0, 2)
    calendar.book(7.0, 7.0, 0.0)
    calendar.book(7.0, 7.0, 0.0)
    calendar.free(7.0)

    assert 1 == len(calendar)
    calendar.free(7.0)
    assert 0 == len(calendar)


@pytest.mark.parametrize("when", [4.0, 5.5, 6.0])
def test_what_was_never_booked_cannot_be_freed(when: float) -> None:
    """Freeing it is a bug of the caller, and changes nothing."""
    calendar = Calendar(10.0, 1)
    calendar.book(5.0, 5.0, 0.0)

    with pytest.raises(AssertionError, match=f"bug: {when} is not in the calendar"):
        calendar.free(when)
    assert 1 == len(calendar)


@pytest.mark.parametrize("spread", [0.1, 1.6, 12.0, 360.0])
@pytest.mark.parametrize("power", [2.0**13, 2.0**17, 2.0**20, 2.0**24])
def test_a_booking_is_found_wherever_the_clock_is(power: float, spread: float) -> None:
    """Also where the clock's resolution halves, at a power of two, the search comes to an end."""
    for part in range(50):
        calendar = Calendar(spread, 128)
        first = power - part / 49 * calendar.gap
        calendar.book(first, first, 0.0)
        with at_once():
            second = calendar.book(first, first + spread, 0.0)

        assert first < second <= first + spread
        assert second - first >= calendar.gap - 4 * math.ulp(power)
