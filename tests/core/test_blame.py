"""Blame: what an endpoint stumbles over is given up, what meets a bad day of the endpoint is waited for."""

from __future__ import annotations

import itertools
import random

import pytest

from wspool.core.sending.blame import ALONE, MOST, Blame, Suspicion


def test_a_turn_that_is_refused_while_others_are_taken_is_given_up() -> None:
    blame, poison, numbers = Blame(), Suspicion(), itertools.count()
    blame.begun(poison)
    told: list[bool] = []
    for second in range(MOST + 1):
        number = next(numbers)
        blame.taken(next(numbers))
        blame.begun(poison)  # again
        told.append(blame.refused(poison, number, float(second)))
    assert told == [False] * MOST + [True], "each time but the first somebody who began later was taken"


def test_who_began_before_says_nothing() -> None:
    """One that was taken late may have met the endpoint before its trouble."""
    blame, turn = Blame(), Suspicion()
    blame.taken(0)
    blame.begun(turn)
    assert not any(blame.refused(turn, number, 0.0) for number in range(1, 10 * MOST))
    assert 0 == turn.times


def test_one_that_began_early_and_is_taken_late_takes_nothing_back() -> None:
    blame, turn = Blame(), Suspicion()
    blame.begun(turn)
    blame.refused(turn, 5, 0.0)
    blame.taken(9)
    blame.taken(3)
    blame.refused(turn, 10, 0.0)
    assert 1 == turn.times


def test_an_outage_is_waited_for_however_long() -> None:
    """Whoever comes to it is refused as well."""
    blame, now = Blame(), 0.0
    old = Suspicion()
    blame.begun(old)
    blame.taken(0)
    number = 1
    for _ in range(200):
        now += ALONE
        fresh = Suspicion()
        blame.begun(fresh)
        assert not blame.refused(fresh, number, now)
        assert not blame.refused(old, number + 1, now)
        number += 2


@pytest.mark.parametrize("seconds", [0.0, 0.5 * ALONE, 0.99 * ALONE, ALONE])
def test_the_last_there_are_wait_so_long(seconds: float) -> None:
    """Nobody is left to be taken: what others were in their time is all that is known."""
    blame, last = Blame(), [Suspicion(), Suspicion()]
    for turn in last:
        blame.begun(turn)
    blame.taken(0)
    assert not blame.refused(last[0], 1, 1000.0)
    assert blame.refused(last[1], 2, 1000.0 + seconds) is (seconds >= ALONE)


def test_one_that_is_taken_ends_the_wait() -> None:
    blame, turn = Blame(), Suspicion()
    blame.begun(turn)
    blame.taken(0)
    assert not blame.refused(turn, 1, 0.0)
    blame.taken(2)
    assert not blame.refused(turn, 3, ALONE + 1.0)
    assert blame.refused(turn, 4, 2 * ALONE + 1.0)


def test_one_request_in_ten_that_fails_spoils_no_turn() -> None:
    """Chance refuses no turn so often."""
    blame, chance, number = Blame(), random.Random(11), 0
    turns = [Suspicion() for _ in range(50)]
    for turn in turns:
        blame.begun(turn)
    for _ in range(5_000):
        for place, turn in enumerate(turns):
            number += 1
            if chance.random() < 0.1:
                assert not blame.refused(turn, number, number / 100.0)
            else:
                blame.taken(number)
                turns[place] = Suspicion()
                blame.begun(turns[place])
