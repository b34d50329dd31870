"""Allowance: what an endpoint says that it takes is kept before it refuses, and believed within bounds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, strategies as st

from tests.core.test_pace import World
from wspool.core.sending.allowance import HOLDS, LONGEST_HOLD, MINUTE, Allowance, Stated, stated_in
from wspool.core.sending.pace import Pace, Ticket


def headers(kind: str, limit: object, remaining: object, reset: object) -> list[tuple[str, Any]]:
    return [
        ("content-type", "text/event-stream"),
        (f"X-RateLimit-Limit-{kind}", limit),
        (f"x-ratelimit-remaining-{kind}", remaining),
        (f"x-ratelimit-reset-{kind}", reset),
    ]


SPENT = dict(headers("tokens", 9, 0, "7s"))


def event(type: str, said: list[tuple[str, Any]]) -> dict[str, Any]:
    return {"type": type, "headers": dict(said)}


def codex(**limits: Any) -> dict[str, Any]:
    return {"type": "codex.rate_limits", "rate_limits": limits}


@pytest.mark.parametrize(
    ("said", "stated"),
    [
        (headers("requests", "60", "59", "1s"), [Stated("requests", 60, 59, 1)]),
        (headers("requests", "14400", "14370", "2m59.56s"), [Stated("requests", 14400, 14370, 179.56)]),
        (headers("tokens", "150000", "149984", "6m0s"), [Stated("tokens", 150000, 149984, 360)]),
        (headers("tokens", "100", "0", "20ms"), [Stated("tokens", 100, 0, 0.02)]),
        (headers("requests", 10, 3, 7), [Stated("requests", 10, 3, 7)]),
        (headers("requests", 10, 3, "Thu, 01 Jan 1970 00:16:47 GMT"), [Stated("requests", 10, 3, 7)]),
        ([("x-ratelimit-limit-requests", "60")], [Stated("requests", 60, None, MINUTE)]),
        ([("x-ratelimit-remaining-tokens", "0")], [Stated("tokens", math.inf, 0, MINUTE)]),
        ([("x-ratelimit-limit-requests", "0")], []),
        (headers("requests", "many", "-1", "soon"), []),
        (headers("requests", "nan", "inf", "inf"), []),
        (headers("requests", None, True, []), []),
        ([(b"x-ratelimit-limit-requests", "60"), ("x-ratelimit-limit-requests" + "x" * 99, "1")], []),
        (event("response.metadata", headers("requests", 9, 8, "7s")), [Stated("requests", 9, 8, 7)]),
        (
            event("response.metadata", headers("requests", 9, 8, "Thu, 01 Jan 1970 00:16:45 GMT")),
            [Stated("requests", 9, 8, 5)],
        ),
        ({"type": "error", "error": {"headers": SPENT}}, [Stated("tokens", 9, 0, 7)]),
        ({"type": "error", "error": "no"}, []),
        ({"type": "response.metadata", "headers": ["x-ratelimit-limit-requests"]}, []),
        (codex(allowed=True), [Stated("plan", math.inf, math.inf, 60)]),
        (
            codex(
                allowed=False,
                limit_reached=True,
                primary={"used_percent": 100, "window_minutes": 300, "reset_at": 1030},
                secondary={"used_percent": 40, "reset_at": 9999},
            ),
            [Stated("plan", math.inf, 0, 30)],
        ),
        (codex(limit_reached=True, primary=7), [Stated("plan", math.inf, 0, 60)]),
        (codex(allowed=False, limit_reached=False), [Stated("plan", math.inf, 0, 60)]),
        (
            codex(limit_reached=True, primary={"used_percent": 100, "reset_at": 990}),
            [Stated("plan", math.inf, 0, 0)],
        ),
        (
            codex(
                limit_reached=True,
                primary={"used_percent": 100, "reset_at": 1030},
                secondary={"used_percent": 100, "reset_at": 1050},
            ),
            [Stated("plan", math.inf, 0, 50)],
        ),
        ({"type": "codex.rate_limits", "rate_limits": None}, []),
    ],
)
def test_what_is_said_is_read(said: Any, stated: list[Stated]) -> None:
    assert stated_in(said, 1000.0) == stated


class Telling(World):
    """A world whose endpoint says with each answer what it takes."""

    def __init__(self, rule: Rule, **kwargs: Any) -> None:
        super().__init__(self.hear, **kwargs)
        self.rule = rule
        self.tell()  # with the 101

    def hear(self, now: float, running: int) -> tuple[bool, bool, float]:
        took = self.rule.takes(now)
        self.tell()
        return took, True, 0.0

    def tell(self) -> None:
        self.pace.told(stated_in(self.rule.says(self.now), 0.0), self.now, answering=True)


class Rule:
    """An endpoint with a limit a minute, as a bucket that fills up or as a window that ends.

    Attributes:
        lies: what it says instead of the truth, if anything.
    """

    def __init__(self, limit: float, *, bucket: bool, kind: str = "requests", cost: float = 1.0) -> None:
        self.limit, self.bucket, self.kind, self.cost = limit, bucket, kind, cost
        self.left, self.at = limit, 0.0
        self.lies: Callable[[float], list[tuple[str, Any]]] | None = None

    def _pass(self, now: float) -> None:
        if self.bucket:
            self.left = min(self.limit, self.left + (now - self.at) * self.limit / 60)
        elif now // 60 > self.at // 60:
            self.left = self.limit
        self.at = now

    def takes(self, now: float) -> bool:
        self._pass(now)
        took = self.left >= self.cost
        self.left -= self.cost if took else 0.0
        return took

    def says(self, now: float) -> list[tuple[str, Any]]:
        if self.lies is not None:
            return self.lies(now)
        self._pass(now)
        reset = (self.limit - self.left) * 60 / self.limit if self.bucket else 60 - now % 60
        return headers(self.kind, str(int(self.limit)), str(int(self.left)), f"{reset:.3f}s")


@pytest.mark.parametrize("limit", [3, 30, 300])
@pytest.mark.parametrize("bucket", [True, False], ids=["bucket", "window"])
def test_a_known_limit_is_kept_before_it_refuses(limit: int, *, bucket: bool) -> None:
    world = Telling(Rule(limit, bucket=bucket), workers=64)
    world.run(60 * HOLDS - 1)
    assert world.refused == 0
    world.run(1200)
    assert world.done >= 0.85 * limit * 20
    assert world.refused <= max(0.02 * world.answered, 5)


def test_tokens_are_a_limit_too() -> None:
    """What a turn takes is learnt from those that have ended."""
    rule = Rule(100_000, bucket=False, kind="tokens", cost=2000)

    class Counting(Telling):
        def end(self, ticket: Ticket, took: float) -> None:
            self.pace.used(2000)
            super().end(ticket, took)

    world = Counting(rule, workers=64)
    world.run(1200)
    assert world.done >= 0.9 * 50 * 20
    assert world.refused <= 0.02 * world.answered + 5


LIES: dict[str, Callable[[float], list[tuple[str, Any]]]] = {
    "none is ever left": lambda now: headers("requests", "10000", "0", "60s"),
    "nor comes back": lambda now: headers("requests", "10000", "0", "999999d"),
    "no tokens": lambda now: headers("tokens", "10000", "0", "1h"),
    "one an hour": lambda now: headers("requests", "1", "0", "1h"),
    "one each minute": lambda now: headers("requests", "1", "0", "1m"),
    "in milliseconds": lambda now: headers("requests", "500", "0", "60000"),
    "no number": lambda now: headers("requests", "nan", "-inf", "1e999"),
    "huge": lambda now: headers("requests", "9" * 60, "0", "9" * 60),
    "nothing": lambda now: [("x-ratelimit-remaining-requests", "0")],
}


@pytest.mark.parametrize("lie", LIES)
def test_a_wrong_word_holds_the_pool_up_for_a_few_minutes_at_most(lie: str) -> None:
    rule = Rule(math.inf, bucket=False)
    rule.lies = LIES[lie]
    world = Telling(rule, workers=32)
    world.run(LONGEST_HOLD * (HOLDS + 2))
    before = world.done
    world.run(LONGEST_HOLD * (HOLDS + 2) + 120)
    assert world.done - before >= 0.8 * 32 * 120
    assert world.refused == 0


def test_each_word_of_several_counts() -> None:
    """Also what stands behind one that was said before; and who must wait for both waits for the later."""
    allowance = Allowance()
    assert allowance.held_until == -math.inf
    allowance.told([Stated("requests", 5, None, 10)], 0.0, 0)
    allowance.told([Stated("requests", 5, None, 10), Stated("tokens", 9, 0, 20)], 0.0, 0)
    assert allowance.wait(0.0) == 20
    allowance.told([Stated("requests", 5, 0, 30)], 0.0, 0)
    assert (allowance.wait(0.0), allowance.held_until) == (30, 30.0)


@pytest.mark.parametrize(("left", "wait"), [(299, 60), (300, 0)])
def test_those_on_their_way_take_tokens_as_well(left: int, wait: float) -> None:
    """As many as a turn takes, each."""
    allowance = Allowance()
    allowance.used(100)
    allowance.told([Stated("tokens", 1000, left, 60)], 0.0, 2)
    assert allowance.wait(0.0) == wait


def test_a_turn_that_takes_nothing_lowers_the_mean() -> None:
    """It is known to have taken none."""
    allowance = Allowance()
    allowance.used(100)
    allowance.used(0)
    allowance.told([Stated("tokens", 1000, 95, 60)], 0.0, 0)
    assert allowance.wait(0.0) == 0


def held(allowance: Allowance, stated: list[Stated], now: float, *, on_their_way: int = 0) -> bool:
    """Whether the next turn must wait for what is said now; it waits that out."""
    allowance.told(stated, now, on_their_way)
    wait = allowance.wait(now)
    return wait > 0 and allowance.wait(now + wait) == 0


@pytest.mark.parametrize(
    ("stated", "on_their_way", "tries"),
    [
        ([Stated("requests", 5, 0, 10)], 0, True),
        ([Stated("requests", 5, 1, 10)], 1, False),
        ([Stated("tokens", 500, 50, 10)], 0, True),
        ([Stated("tokens", 500, 100, 10)], 1, False),
        ([Stated("requests", 5, 1, 10), Stated("tokens", 500, 0, 10)], 1, True),
    ],
)
def test_one_turn_tries_where_too_little_is_said_to_be_left(
    stated: list[Stated], on_their_way: int, *, tries: bool
) -> None:
    """Not where only those on their way have used it up: it is known that they have."""
    allowance = Allowance()
    allowance.used(100)
    for now in (0.0, 10.0, 20.0, 30.0):
        held(allowance, stated, now, on_their_way=on_their_way)

    assert held(allowance, stated, 40.0, on_their_way=on_their_way) is not tries


def test_a_limit_of_which_nobody_felt_anything_is_not_tried() -> None:
    """It was there again each time before somebody had to wait."""
    allowance = Allowance()
    for now in (0.0, 10.0, 20.0, 30.0):
        allowance.told([Stated("requests", 5, 3, 10)], now, 0)
        assert allowance.wait(now) == allowance.wait(now + 10.0) == 0

    for now in (40.0, 50.0):
        assert held(allowance, [Stated("requests", 5, 0, 10)], now)
    assert not held(allowance, [Stated("requests", 5, 0, 10)], 60.0)


def test_a_limit_that_was_not_used_is_no_hold() -> None:
    """Though its minute is over when that of another is."""
    allowance = Allowance()
    allowance.told([Stated("tokens", 9, None, 60)], 0.0, 0)
    for now in (0.0, 60.0):
        assert held(allowance, [Stated("requests", 5, 0, 60)], now)
    assert not held(allowance, [Stated("requests", 5, 0, 60)], 120.0)


def test_a_refusal_of_who_did_not_try_is_no_reason_to_try_less() -> None:
    """Nor does it end the try of another turn, and while that one tries nobody else does."""
    allowance = Allowance()
    for now in (0.0, 10.0):
        assert held(allowance, [Stated("requests", 5, 0, 10)], now)
    assert not held(allowance, [Stated("requests", 5, 0, 10)], 20.0)
    assert allowance.begin(20.0), "it tries"
    allowance.refused(tried=False)
    for now in (30.0, 40.0, 50.0):
        assert held(allowance, [Stated("requests", 5, 0, 10)], now), "one tries already"
    allowance.ended()
    assert not held(allowance, [Stated("requests", 5, 0, 10)], 60.0)
    allowance.begin(60.0)
    allowance.answered()
    allowance.refused(tried=False)
    for now in (70.0, 80.0, 90.0, 100.0):
        assert held(allowance, [Stated("requests", 5, 0, 10)], now), "the word was wrong once, and is not now"
    assert not held(allowance, [Stated("requests", 5, 0, 10)], 110.0)


def test_a_word_that_was_wrong_counts_again_after_a_refusal() -> None:
    rule = Rule(math.inf, bucket=False)
    rule.lies = LIES["none is ever left"]
    world = Telling(rule, workers=32)
    world.run(400)
    rule.limit, rule.left, rule.at, rule.lies = 60, 60, 400, None
    world.run(520)
    refused, done = world.refused, world.done
    assert 0 < refused <= 40
    world.run(1120)
    assert world.refused - refused <= 10
    assert world.done - done >= 0.85 * 60 * 10


def test_a_word_holds_nobody_for_long() -> None:
    allowance = Allowance()
    allowance.told([Stated("requests", 5, 0, 1e9)], 10.0, 0)
    assert allowance.wait(10.0) == LONGEST_HOLD
    allowance.told([Stated("requests", 5, 0, 1e9)], 50.0, 0)  # said again is no longer
    assert allowance.wait(50.0) == LONGEST_HOLD - 40
    assert (allowance.held_until, allowance.wait(100.0)) == (100.0, 0)
    assert allowance.begin(100.0)
    assert allowance.wait(100.0) == LONGEST_HOLD
    allowance.lift()
    assert allowance.held_until == -math.inf
    assert (allowance.wait(100.0), allowance.held_until) == (0, -math.inf)


def test_those_on_their_way_are_taken_off() -> None:
    pace = Pace()
    tickets = [pace.begin(0.0) for _ in range(4)]
    pace.told([Stated("requests", 10, 3, 30)], 0.0, answering=True)  # with the answer to the first
    assert pace.wait(0.0) == 30
    pace.answered(tickets[0])
    pace.answered(tickets[1])
    pace.told([Stated("requests", 10, 3, 30)], 1.0, answering=True)
    assert pace.wait(1.0) == 0


said = st.lists(
    st.builds(
        Stated,
        st.sampled_from(("requests", "tokens", "plan")),
        st.one_of(st.integers(1, 100).map(float), st.just(math.inf)),
        st.one_of(st.none(), st.floats(0, 1e15)),
        st.floats(0, 1e9),
    ),
    max_size=3,
)


@given(st.lists(st.tuples(st.sampled_from("btanru"), said, st.floats(0, 50)), max_size=60))
def test_whatever_is_said_somebody_may_begin_soon(
    steps: list[tuple[str, list[Stated], float]],
) -> None:
    pace, now = Pace(), 0.0
    at_work: list[Ticket] = []
    for step, stated, seconds in steps:
        now += seconds
        if step == "b" and pace.wait(now) == 0:
            at_work.append(pace.begin(now))
        elif step == "t":
            pace.told(stated, now, answering=True)
        elif step == "a" and at_work:
            pace.answered(at_work[-1])
        elif step == "n" and at_work:
            pace.ended(at_work.pop(0))
        elif step == "r" and at_work:
            pace.refused(at_work.pop(), now, rate=bool(stated), wait=0.0, jitter=0.5)
        elif step == "u":
            pace.used(seconds * 1e6)
        if not at_work:
            free = max(now, pace.held_until)
            if (wait := pace.wait(free)) > 0:
                assert wait <= LONGEST_HOLD + 1e-6
                assert pace.wait(free + wait + 1e-6) == 0


def test_a_plan_that_is_spent_holds_until_it_is_said_to_be_over() -> None:
    allowance = Allowance()
    allowance.told([Stated("plan", math.inf, 0, 40)], 0.0, 5)
    assert allowance.wait(0.0) == 40
    allowance.told([Stated("plan", math.inf, math.inf, 60)], 5.0, 5)
    assert allowance.wait(5.0) == 0


@pytest.mark.parametrize("tokens", [-1e9, math.inf, math.nan])
@pytest.mark.parametrize("left", [50, 150])
def test_usage_that_cannot_be_is_not_learnt(tokens: float, left: int) -> None:
    """A turn still takes a hundred."""
    allowance = Allowance()
    allowance.used(100)
    allowance.told([Stated("tokens", 1000, left, 60)], 0.0, 0)
    allowance.used(tokens)
    assert (left < 100) is (allowance.wait(0.0) > 0)


def test_the_same_limit_said_again_gives_nothing_back() -> None:
    """A handshake may say the limit only; each connection has one."""
    allowance = Allowance()
    for _ in itertools.repeat(None, 3):
        allowance.told([Stated("requests", 3, None, 60)], 0.0, 0)
        assert allowance.wait(0.0) == 0
        allowance.begin(0.0)
    assert allowance.wait(0.0) == 60
    assert allowance.wait(60.0) == 0


@pytest.mark.parametrize(("left", "waits"), [(109, True), (111, False)])
def test_what_turns_take_is_a_mean(left: int, waits: bool) -> None:
    """The first is all that is known, each later one changes that by a tenth."""
    allowance = Allowance()
    allowance.used(100)
    allowance.used(200)
    allowance.told([Stated("tokens", 1000, left, 60)], 0.0, 0)
    assert waits is (allowance.wait(0.0) > 0)


def test_a_turn_of_which_nothing_is_known_takes_a_token() -> None:
    allowance = Allowance()
    allowance.told([Stated("tokens", 10, 1, 60)], 0.0, 0)
    assert allowance.wait(0.0) == 0


def test_holds_are_waited_out_twice_as_often_each_time_that_the_limit_is_there() -> None:
    allowance, now = Allowance(), 0.0
    for holds in (HOLDS, 2 * HOLDS, 4 * HOLDS):
        for _ in range(holds):
            allowance.told([Stated("requests", 5, 0, 10)], now, 0)
            assert allowance.wait(now) == 10
            now += 10.0
            assert allowance.wait(now) == 0, "it is over"
        allowance.told([Stated("requests", 5, 0, 10)], now, 0)
        assert allowance.wait(now) == 0
        assert allowance.begin(now), "it tries"
        allowance.refused(tried=True)


@pytest.mark.parametrize(
    ("stated", "after", "wait"),
    [
        (Stated("requests", 3, None, 10), 0.0, MINUTE),
        (Stated("requests", 30, 29, 1), 1.0, 30),
        (Stated("requests", 30, 0, 10), 10.0, 10),
        (Stated("requests", 30, 29, 20), 20.0, MINUTE),
    ],
    ids=["not said", "a bucket", "a window", "slow"],
)
def test_a_limit_that_is_there_again_counts_for_as_long_as_all_of_it_takes(
    stated: Stated, after: float, wait: float
) -> None:
    """A minute where that was not said, or is longer."""
    allowance = Allowance()
    allowance.told([stated], 0.0, 0)
    assert allowance.wait(after) == 0
    for _ in range(int(stated.limit)):
        allowance.begin(after)
    assert allowance.wait(after) == wait
