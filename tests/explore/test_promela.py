"""Traces of pools are accepted by a model in another language, which refuses those that are wrong.

It runs where spin is installed. A thousand runs: `python -m tests.explore.promela`.
"""

from __future__ import annotations

import pytest

from tests.explore.promela import MISSING, Line, accepted, feed_of, trace_of

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)

STEP: Line = ("STEP", 0, 0, 0, 0)


def line(name: str, *numbers: int) -> Line:
    """Return a line for the model."""
    a, b, c, d = (*numbers, 0, 0, 0, 0)[:4]
    return name, a, b, c, d


#: One connection with one lane: three use it in turn, one gives up, one is refused at the end.
GOOD = (
    line("NEW", 1, 1),
    line("ACQUIRE", 1), line("DIAL", 1), STEP,
    line("CONNECTED", 1), line("GRANT", 1, 1, 1, 0), STEP,
    line("BEGIN", 1), STEP,
    line("ACQUIRE", 2), STEP,
    line("ACQUIRE", 3), STEP,
    line("ABANDON", 3), STEP,
    line("ACQUIRE", 4), STEP,
    line("FINISHED", 1, 0), STEP,
    line("RELEASE", 1), line("GRANT", 2, 2, 1, 0), STEP,
    line("EXPIRING", 2), STEP,
    line("RELEASE", 2), line("GRANT", 4, 4, 1, 0), line("EXPIRING", 4), STEP,
    line("ACQUIRE", 5), STEP,
    line("CLOSE"), line("REFUSE", 5), STEP,
    line("HANGUP", 1), STEP,
    line("GONE", 1), STEP,
)  # fmt: skip

#: What each planted mistake puts instead of a line, or before it.
PLANTED = {
    "a lane has two holders": (line("BEGIN", 1), [line("ACQUIRE", 9), line("GRANT", 9, 9, 1, 0), STEP]),
    "a waiter is granted that has left": (line("GRANT", 2, 2, 1, 0), [line("GRANT", 3, 2, 1, 0)]),
    "a waiter is overtaken": (line("GRANT", 2, 2, 1, 0), [line("GRANT", 4, 2, 1, 0)]),
    "a wake-up is lost": (line("GRANT", 2, 2, 1, 0), []),
    "nobody dials": (line("DIAL", 1), []),
    "one connection too many": (line("ACQUIRE", 2), [line("ACQUIRE", 2), line("DIAL", 2)]),
    "a turn begins on a turn": (line("BEGIN", 1), [line("BEGIN", 1), STEP, line("BEGIN", 1)]),
    "a turn ends that never began": (line("BEGIN", 1), [line("FINISHED", 1, 0)]),
    "a lane is lent with the rest of a turn on it": (line("FINISHED", 1, 0), []),
    "a lane is granted that dies": (line("FINISHED", 1, 0), [line("HANGUP", 1)]),
    "who gets a retiring lane is not told": (line("EXPIRING", 4), []),
    "a waiter is left behind by the end": (line("REFUSE", 5), []),
    "a connection is gone that is open": (line("EXPIRING", 2), [line("GONE", 1)]),
    "a lease has the number of another": (line("GRANT", 2, 2, 1, 0), [line("GRANT", 2, 1, 1, 0)]),
    "somebody is refused who is not there": (line("REFUSE", 5), [line("REFUSE", 5), line("REFUSE", 6)]),
}


def test_what_pools_do_is_accepted() -> None:
    """A hundred drawn runs of the scenes, one after the other."""
    assert accepted(line for seed in range(100) for line in feed_of(trace_of(seed)))


def test_what_a_pool_may_do_is_accepted() -> None:
    """Written by hand; so it is the mistakes that are refused below."""
    assert accepted(GOOD)


@pytest.mark.parametrize("what", PLANTED)
def test_a_mistake_is_refused(what: str) -> None:
    """Each is one line that is not there, or another."""
    old, new = PLANTED[what]
    at = GOOD.index(old)

    assert not accepted([*GOOD[:at], *new, *GOOD[at + 1 :]])
