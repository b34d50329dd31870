"""Pace: what an endpoint takes is found out with few refusals, used, and followed when it changes."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given, strategies as st

from wspool.core.sending.allowance import HOLDS, Stated
from wspool.core.sending.pace import CALM, FIRST, SHRINK, TROUBLE, Pace, Ticket


class World:
    """Turns without end on an endpoint that refuses by some rule, in virtual time."""

    def __init__(
        self,
        takes: Callable[[float, int], tuple[bool, bool, float]],
        *,
        workers: int = 128,
        seconds: Callable[[random.Random], float] = lambda r: 0.5 + r.random(),
    ) -> None:
        self.pace = Pace(workers)
        self.takes = takes
        self.seconds = seconds
        self.random = random.Random(7)
        self.now = 0.0
        self.answered = self.refused = self.done = 0
        self.busy = 0.0  # seconds of turns that were answered
        self.running = 0
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def later(self, seconds: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._due, (self.now + seconds, next(self._order), act))

    def run(self, until: float) -> None:
        """Begin whatever may begin, until then."""
        while True:
            while (wait := self.pace.wait(self.now)) == 0:
                self.begin()
            if wait < math.inf:
                self.later(wait, lambda: None)
            if not self._due or self._due[0][0] > until:
                self.now = until
                return
            self.now, _, act = heapq.heappop(self._due)
            act()

    def begin(self) -> None:
        ticket = self.pace.begin(self.now)
        self.later(0.05, lambda: self.arrive(ticket))

    def arrive(self, ticket: Ticket) -> None:
        good, rate, wait = self.takes(self.now, self.running)
        if not good:
            self.refused += 1
            self.pace.refused(ticket, self.now, rate=rate, wait=wait, jitter=self.random.random())
            return
        self.answered += 1
        self.running += 1
        took = self.seconds(self.random)
        self.pace.answered(ticket)
        self.later(took, lambda: self.end(ticket, took))

    def end(self, ticket: Ticket, took: float) -> None:
        self.running -= 1
        self.done += 1
        self.busy += took
        self.pace.ended(ticket)


def at_most(*limits: tuple[float, int]) -> Callable[[float, int], tuple[bool, bool, float]]:
    """An endpoint with a hidden limit of turns at once, which changes at these times."""

    def takes(now: float, running: int) -> tuple[bool, bool, float]:
        limit = [limit for since, limit in limits if since <= now][-1]
        return running < limit, True, 0.0

    return takes


@pytest.mark.parametrize(
    "limits", [((0, 40), (120, 15), (240, 70)), ((0, 20), (120, 60), (240, 30)), ((0, 100),)]
)
def test_a_hidden_limit_is_used_and_seldom_hit(limits: tuple[tuple[float, int], ...]) -> None:
    world = World(at_most(*limits))
    world.run(360)
    ends = [*(since for since, _ in limits[1:]), 360]
    most = sum((end - since) * limit for (since, limit), end in zip(limits, ends, strict=True))
    assert world.busy >= 0.9 * most
    assert world.refused <= 0.02 * (world.answered + world.refused)


@pytest.mark.parametrize("workers", [1, 4, 128])
def test_where_nothing_is_refused_all_are_at_work_soon(workers: int) -> None:
    world = World(lambda now, running: (True, False, 0.0), workers=workers)
    world.run(5)
    assert world.running >= 0.9 * workers
    assert world.refused == 0


def test_the_first_are_few() -> None:
    world = World(lambda now, running: (True, False, 0.0))
    world.run(0.01)
    assert world.pace.at_work == FIRST


def bucket(
    per_second: float, burst: int, *, wait: float = 0.0
) -> Callable[[float, int], tuple[bool, bool, float]]:
    """An endpoint with a hidden limit of turns in time."""
    state = [float(burst), 0.0]

    def takes(now: float, running: int) -> tuple[bool, bool, float]:
        state[0] = min(burst, state[0] + (now - state[1]) * per_second)
        state[1] = now
        if state[0] < 1:
            return False, True, wait
        state[0] -= 1
        return True, True, 0.0

    return takes


def test_a_hidden_rate_is_used_and_seldom_hit() -> None:
    world = World(bucket(20, 20))
    world.run(600)
    assert world.done >= 0.85 * 20 * 600
    assert world.refused <= 0.05 * (world.answered + world.refused)


def by_the_minute(
    *rates: tuple[float, float], told: bool
) -> Callable[[float, int], tuple[bool, bool, float]]:
    """An endpoint that takes so many turns a second, counted by the minute, which changes at these times."""
    minute, used = 0, 0

    def takes(now: float, running: int) -> tuple[bool, bool, float]:
        nonlocal minute, used
        if now // 60 != minute:
            minute, used = int(now // 60), 0
        if used >= 60 * [rate for since, rate in rates if since <= now][-1]:
            return False, True, (60 * (minute + 1) - now) * told
        used += 1
        return True, True, 0.0

    return takes


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("length", [1.0, 10.0])
def test_what_a_minute_has_is_used_in_each(length: float, told: bool) -> None:
    """When it is used up all are refused, whatever is at work: the next begins with no fewer for that."""
    rates = (0, 3), (240, 6), (480, 2)
    world = World(by_the_minute(*rates, told=told), seconds=lambda r: length * (0.5 + r.random()))
    world.run(720)
    assert world.answered >= 0.9 * 240 * (3 + 6 + 2)


@pytest.mark.parametrize("length", [1.0, 3.0, 10.0])
def test_what_is_said_to_be_used_up_is_no_limit_at_once(length: float) -> None:
    """Only refusals say it: who is alone then, or has few beside it, is told of the minute."""
    rates = (0, 4), (180, 8), (300, 4)
    plain = by_the_minute(*rates, told=True)

    def takes(now: float, running: int) -> tuple[bool, bool, float]:
        good, rate, wait = plain(now, running)
        if not good:
            world.pace.told([Stated("requests", 60 * 4.0, 0.0, wait)], now, answering=False)
        return good, rate, wait

    world = World(takes, seconds=lambda r: length * (0.5 + r.random()))
    world.run(480)
    assert world.answered >= 0.9 * 60 * 4 * 8  # of eight a second four are known of
    assert world.refused <= 0.03 * world.answered


@pytest.mark.parametrize("tells", ["nothing", "the wait", "what is left, with refusals", "what is left"])
@pytest.mark.parametrize(("rate", "burst"), [(67, 67), (20, 20), (8, 8)])
def test_however_a_rate_is_told_it_is_seldom_hit(rate: float, burst: int, tells: str) -> None:
    """What is said to be there again in a moment is one turn, and not all: nine in ten were refused."""
    plain = bucket(rate, burst)

    def takes(now: float, running: int) -> tuple[bool, bool, float]:
        good, is_rate, _ = plain(now, running)
        wait = 0.0 if tells == "nothing" else 1 / rate
        if tells == "what is left" or (tells == "what is left, with refusals" and not good):
            world.pace.told([Stated("requests", burst, 0.0, wait)], now, answering=good)
        return good, is_rate, 0.0 if good else wait

    world = World(takes)
    world.run(180)
    assert world.answered >= 0.75 * rate * 180
    assert world.refused <= 0.06 * (world.answered + world.refused)


def test_who_is_alone_says_nothing_of_how_many() -> None:
    """Its refusal is of the time, or everything is refused."""
    pace = Pace()
    pace.refused(pace.begin(0.0), 0.0, rate=True, wait=5.0, jitter=0.0)
    assert (FIRST, 5.0) == (pace.room, pace.wait(0.0))


def outage(
    since: float, until: float, *, wait: float = 0.0, rate: bool = False
) -> Callable[..., tuple[bool, bool, float]]:
    def takes(now: float, running: int) -> tuple[bool, bool, float]:
        return not since <= now < until, rate, wait

    return takes


@pytest.mark.parametrize("lasts", [0.3, 1, 8, 60, 3600])
@pytest.mark.parametrize("rate", [True, False])
def test_an_outage_costs_few_requests_and_is_over_soon_after(lasts: float, rate: bool) -> None:
    world = World(outage(10, 10 + lasts, rate=rate), workers=64)
    world.run(10)
    before = world.refused
    world.run(10 + lasts + 31)
    assert world.running >= 1
    assert world.refused - before <= 64 + 15 + lasts / 10
    world.run(10 + lasts + 90)
    assert world.running >= 55


def test_a_wait_that_is_asked_for_is_waited_for() -> None:
    world = World(outage(5, 60, wait=20, rate=True), workers=8)
    world.run(6.5)
    asked = world.refused
    world.run(20)
    assert asked
    assert world.refused == asked
    world.run(120)
    assert world.running >= 1


def test_a_short_wait_is_waited_for_as_well() -> None:
    """It is what the endpoint asked for."""
    pace = Pace()
    pace.refused(pace.begin(0.0), 0.0, rate=True, wait=0.5, jitter=0.0)
    assert 0.5 == pace.wait(0.0)


def test_trouble_now_and_then_holds_nobody_up() -> None:
    errors = random.Random(3)
    world = World(lambda now, running: (errors.random() > 0.1, False, 0.0), workers=32)
    world.run(100)
    assert world.done >= 0.8 * 32 * 100
    assert world.refused <= 0.13 * world.answered


def test_one_at_a_time_tries_in_trouble() -> None:
    pace = Pace()
    late, *tickets = [pace.begin(0.0) for _ in range(6)]
    for ticket in tickets:
        pace.refused(ticket, 0.0, rate=False, wait=0.0, jitter=0.5)
    assert pace.troubled
    assert 0 < pace.wait(0.0) < 1
    trial = pace.begin(0.0)
    assert pace.wait(100.0) == math.inf
    pace.refused(late, 1.0, rate=False, wait=0.0, jitter=0.5)  # which had begun before
    assert pace.wait(100.0) == math.inf
    pace.ended(trial)  # it left without an answer: another may try
    assert pace.wait(100.0) == 0
    trial = pace.begin(0.0)
    pace.answered(trial)
    pace.answered(trial)
    assert (pace.troubled, pace.wait(100.0)) == (False, 0)


def test_who_knows_better_lifts_what_holds() -> None:
    pace = Pace()
    pace.refused(pace.begin(0.0), 0.0, rate=True, wait=90.0, jitter=0.0)
    assert 80 < pace.wait(1.0) <= 90
    pace.lift()
    assert 0 == pace.wait(1.0)


def test_how_long_it_is_unclear_whose_trouble_refusals_are() -> None:
    """From the first on, until one is answered, or the endpoint says, or cannot be asked at all."""
    pace = Pace()

    def refused(now: float, *, rate: bool = False, own: bool = False) -> None:
        pace.refused(pace.begin(now), now, rate=rate, own=own, wait=0.0, jitter=0.0)

    assert pace.unclear(5.0) == 0
    for clears in (
        lambda: pace.answered(pace.begin(20.0)),
        lambda: refused(20.0, own=True),
        lambda: refused(20.0, rate=True),
        pace.away,
    ):
        refused(10.0)
        refused(15.0)
        assert pace.unclear(20.0) == 10
        clears()
        assert pace.unclear(20.0) == 0


def test_what_has_ended_is_refused_no_more() -> None:
    pace = Pace()
    ticket = pace.begin(0.0)
    pace.ended(ticket)
    pace.refused(ticket, 0.0, rate=True, wait=9.0, jitter=0.0)
    pace.answered(ticket)
    assert pace.wait(0.0) == 0
    assert pace.unanswered == []


def test_the_numbers_are_as_documented() -> None:
    assert (FIRST, SHRINK, CALM, TROUBLE) == (16, 0.9, 100, 3)


@given(st.lists(st.tuples(st.sampled_from("banrtw"), st.floats(0, 50)), max_size=80), st.integers(1, 40))
def test_nobody_waits_for_ever_and_never_too_many_are_at_work(
    steps: list[tuple[str, float]], most: int
) -> None:
    pace, now = Pace(most), 0.0
    at_work: list[Ticket] = []
    for step, seconds in steps:
        now += seconds
        if step == "b" and pace.wait(now) == 0:
            at_work.append(pace.begin(now))
        elif step == "a" and at_work:
            pace.answered(at_work[-1])
        elif step == "n" and at_work:
            pace.ended(at_work.pop(0))
        elif step in "rt" and at_work:
            pace.refused(at_work.pop(), now, rate=step == "r", wait=seconds, jitter=0.5)
        assert 1 <= pace.room <= most
        assert pace.at_work == len(at_work) <= most
        if not at_work:  # somebody may begin, soon
            assert pace.wait(max(now, pace.held_until)) == 0


def test_a_limit_that_falls_is_met_by_ever_larger_steps() -> None:
    """Who is refused although less is at work than was answered before takes a tenth more off each time."""
    pace = Pace()
    tickets = [pace.begin(0.0) for _ in range(10)]
    for ticket in tickets[:-1]:
        pace.answered(ticket)
    pace.refused(tickets.pop(), 0.0, rate=True, wait=0.0, jitter=0.5)
    assert 9.0 == pace.room

    for shrunk, left in enumerate((8, 6), 1):
        while len(tickets) > left:
            pace.ended(tickets.pop())
        pace.answered(tickets[0])
        pace.refused(pace.begin(0.0), 0.0, rate=True, wait=0.0, jitter=0.5)

        assert left * SHRINK**shrunk == pytest.approx(pace.room)


def hold(pace: Pace, now: float) -> float:
    """Let what the endpoint says hold those who wait, until one may try; return when."""
    for _ in range(HOLDS):
        pace.told([Stated("requests", 5, 0, 10)], now, answering=False)
        assert pace.wait(now) == 10
        now += 10
        assert pace.wait(now) == 0
    pace.told([Stated("requests", 5, 0, 10)], now, answering=False)
    return now


@pytest.mark.parametrize(("answers", "room"), [(7, 6 * SHRINK), (8, 6.0)])
def test_after_a_round_of_answers_a_fall_is_another(answers: int, room: float) -> None:
    """What it takes has fallen anew, not once more."""
    pace = Pace(8)
    *others, last = [pace.begin(0.0) for _ in range(8)]
    pace.refused(last, 0.0, rate=True, wait=0.0, jitter=0.0)
    assert 7 == pace.room
    pace.ended(others.pop())
    for _ in range(answers):
        ticket = pace.begin(1.0)
        pace.answered(ticket)
        pace.ended(ticket)
    pace.refused(pace.begin(2.0), 2.0, rate=True, wait=0.0, jitter=0.0)
    assert room == pace.room


@pytest.mark.parametrize("refused", [False, True])
def test_one_at_a_time_tries_what_is_said_to_be_spent(refused: bool) -> None:
    """The next does once it has ended without an answer, and only then; told twice is told once."""
    pace = Pace()
    usual = pace.begin(0.0)
    now = hold(pace, 0.0)
    first = pace.begin(now)
    assert (False, True) == (usual.tries, first.tries)
    assert pace.wait(now) > 0
    pace.ended(usual)
    assert pace.wait(now) > 0
    if refused:  # for another reason than what it has tried
        pace.refused(first, now, rate=False, wait=0.0, jitter=0.0)
    else:
        pace.ended(first)
    assert pace.wait(now) == 0
    second = pace.begin(now)
    assert second.tries
    pace.ended(first)
    assert pace.wait(now) > 0


def test_an_answer_ends_the_count_of_refusals() -> None:
    """Trouble is that many one after another. Who was answered is not waited for."""
    pace = Pace()
    good = pace.begin(0.0)
    pace.answered(good)
    assert (pace.unanswered, pace.latest) == ([], good.number)
    for number in range(1, TROUBLE + 1):
        assert not pace.troubled
        pace.refused(pace.begin(0.0), 0.0, rate=False, wait=0.0, jitter=0.5)
        if number == 1:
            pace.answered(good)  # told twice is told once
    assert pace.troubled


def test_tries_in_trouble_are_twice_as_far_apart_each_time() -> None:
    pace, now = Pace(), 0.0
    for _ in range(TROUBLE):
        pace.refused(pace.begin(now), now, rate=False, wait=0.0, jitter=1.0)
    for pause in (0.5, 1.0, 2.0, 4.0):
        assert pace.wait(now) == pause
        now += pause
        pace.refused(pace.begin(now), now, rate=False, wait=0.0, jitter=1.0)


def test_room_doubles_in_a_round_and_no_more() -> None:
    """Also where all are seen to be answered before another begins; who has few at work wins none."""
    pace = Pace()
    tickets = [pace.begin(0.0) for _ in range(FIRST)]
    for ticket in tickets:
        pace.answered(ticket)
    assert 2 * FIRST == pace.room
    for ticket in tickets:
        pace.ended(ticket)
    for _ in range(3 * FIRST):
        alone = pace.begin(0.0)
        pace.answered(alone)
        pace.ended(alone)
    assert 2 * FIRST == pace.room


def test_after_trouble_room_comes_back_one_by_one() -> None:
    """With each answer, and where as many are at work as may be."""
    pace, now = Pace(100), 0.0
    assert pace.latest == 0
    for _ in range(TROUBLE):
        pace.refused(pace.begin(now), now, rate=False, wait=0.0, jitter=0.0)
    now += pace.wait(now)
    for room in (2, 3, 4):
        pace.answered(pace.begin(now))
        assert (pace.room, pace.wait(now)) == (room, 0.0)


def test_a_limit_of_one_is_kept() -> None:
    pace = Pace()
    good, bad = pace.begin(0.0), pace.begin(0.0)
    pace.answered(good)
    pace.refused(bad, 0.0, rate=True, wait=0.0, jitter=0.0)
    assert (pace.room, pace.wait(0.0)) == (1.0, math.inf)


@pytest.mark.parametrize(("most", "room"), [(10, 11.0), (9, 10.0)])
def test_turns_that_end_together_are_as_calm_as_others(most: int, room: float) -> None:
    """As many as there may be are at work once in a round; who never has as many is told nothing."""
    pace = Pace()
    good = [pace.begin(0.0) for _ in range(10)]
    bad = pace.begin(0.0)
    for ticket in good:
        pace.answered(ticket)
    pace.refused(bad, 0.0, rate=True, wait=0.0, jitter=0.0)
    assert 10.0 == pace.room
    for _ in range(CALM // 10 + 2):
        for ticket in good:
            pace.ended(ticket)
        good = []
        for _ in range(most):
            good.append(pace.begin(0.0))
            pace.answered(good[-1])

    assert room == pace.room


def test_one_more_is_tried_after_it_was_used() -> None:
    """What was answered before there was more room says nothing of it."""
    pace = Pace()
    good = [pace.begin(0.0) for _ in range(10)]
    bad = pace.begin(0.0)
    pace.refused(bad, 0.0, rate=True, wait=0.0, jitter=0.0)
    for _ in range(3 * CALM):
        pace.answered(good[-1])
        pace.ended(good.pop())
        good.append(pace.begin(0.0))

    assert 11.0 == pace.room
