"""A day with a hundred connections that were all opened in the same second."""

from __future__ import annotations

import itertools

import pytest

from tests.simulation.day import Day
from wspool.core.commands import Command
from wspool.core.policy import OPENAI, PoolPolicy

_DAY = 24 * 3600.0


def gap(policy: PoolPolicy) -> float:
    """The distance that the calendar promises."""
    schedule = policy.schedule(OPENAI)
    return (schedule.retire_to - schedule.retire_from) / (2 * policy.max_size)


def assert_apart(retired: list[float], least: float) -> None:
    """Assert that any window of w seconds has at most 1 + floor(w / least) of *retired*.

    That is so exactly if neighbours are *least* apart; rounding of sums takes a little off.
    """
    bunched = [pair for pair in itertools.pairwise(sorted(retired)) if pair[1] - pair[0] < least - 1e-6]

    assert [] == bunched


@pytest.mark.parametrize("seed", range(2))
def test_a_day_of_spare_connections(seed: int) -> None:
    """Retirements never bunch, and spare never falls below `min_idle` on their account."""
    policy = PoolPolicy(
        max_size=104, min_idle=100, dial_concurrency=100, ping_interval=None, max_idle=2 * _DAY
    )
    day = Day(policy, seed)
    day.run(1.0)

    assert (100, 100) == (day.core.statistics().idle, len(day.dialed))

    day.watch = True
    day.run(_DAY)

    assert_apart(day.retired, gap(policy))
    assert 100 <= day.least_idle
    # A connection lives at least 50 minutes: nobody is replaced more often than the limit asks for.
    assert 24 * 100 <= len(day.retired) <= 24 * 100 * 60 / 45
    assert len(day.dialed) == 100 + len(day.retired)
    assert 104 >= day.core.statistics().size


@pytest.mark.parametrize("seed", range(2))
def test_a_day_of_work(seed: int) -> None:
    """With leases that come and go as well, retirements keep apart, and everybody is served at once."""
    policy = PoolPolicy(max_size=120, min_idle=10, dial_concurrency=120, ping_interval=None)
    day = Day(policy, seed)
    longest_line = 0

    def work() -> list[Command]:
        nonlocal longest_line
        commands = day.acquire()
        day.after(day.choice.expovariate(1 / 600.0), rest)
        longest_line = max(longest_line, day.core.statistics().waiting)
        return commands

    def rest() -> list[Command]:
        commands: list[Command] = []
        if day.leases:
            lease = day.leases.pop(day.choice.randrange(len(day.leases)))
            commands = day.core.release(lease, day.now)
        day.after(day.choice.expovariate(1 / 60.0), work)
        return commands

    for _ in range(100):
        day.after(day.choice.random(), work)
    day.run(_DAY)

    assert_apart(day.retired, gap(policy))
    assert len(day.retired) > 500  # most spare is closed for want of work before it is old
    # The first second needs its dials; after that nobody waits long enough to make a crowd.
    assert 0 == day.core.statistics().waiting
    assert 100 >= longest_line


def test_a_day_at_an_endpoint_that_announces_every_end() -> None:
    """Spare is never complete: it is dialled as in an outage, what it replaces goes, and lanes are there."""
    policy = PoolPolicy(min_idle=2, max_idle=300.0, ping_interval=None)
    day = Day(policy, 1, notice=0.1)
    day.run(60.0)
    day.watch = True
    day.run(_DAY)

    assert 2 <= day.least_idle
    # Each may be looked at once before it is surplus, and there is one in 30 s; before that they come faster.
    assert day.largest <= 2 * policy.max_idle / 30 + 8
    assert len(day.dialed) <= _DAY / 30 + 12
