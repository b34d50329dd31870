"""Blame: what an endpoint stumbles over is given up, what meets a bad day of the endpoint is waited for."""

from __future__ import annotations

import itertools
import random

from wspool.core.sending.blame import MOST, Suspicion


def test_a_turn_that_is_refused_while_others_are_taken_is_given_up() -> None:
    poison, numbers, latest = Suspicion(), itertools.count(1), 0
    told: list[bool] = []
    for _ in range(MOST + 1):
        told.append(poison.refused(next(numbers), latest))
        latest = next(numbers)
    assert told == [False] * MOST + [True], "each time but the first somebody who began later was taken"


def test_who_began_before_says_nothing() -> None:
    """One that was taken late may have met the endpoint before its trouble."""
    turn = Suspicion()
    assert not any(turn.refused(number, number - 1) for number in range(7, 10 * MOST))
    assert not any(turn.refused(number, 7) for number in range(10 * MOST, 20 * MOST))
    assert 0 == turn.times


def test_one_that_is_taken_counts_once() -> None:
    turn = Suspicion()
    turn.refused(5, 0)
    assert not any(turn.refused(number, 9) for number in range(10, 10 * MOST))
    assert 1 == turn.times


def test_one_request_in_ten_that_fails_spoils_no_turn() -> None:
    """Chance refuses no turn so often."""
    chance, number, latest = random.Random(11), 0, 0
    turns = [Suspicion() for _ in range(50)]
    for _ in range(5_000):
        for place in range(len(turns)):
            number += 1
            if chance.random() < 0.1:
                assert not turns[place].refused(number, latest)
            else:
                latest = number
                turns[place] = Suspicion()
