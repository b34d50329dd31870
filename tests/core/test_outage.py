"""Outage: when the prober tries, for those who wait and for nobody."""

from __future__ import annotations

import math
import random

import pytest

from tests.core.test_pool import LANE, make
from wspool.core.commands import Command, ConnectionId, Degraded, LeaseId, WaiterId
from wspool.core.failures import DialFailure, FailureKind
from wspool.core.outage import BACKOFF_BASE, BACKOFF_CAP, CUT_SHORT, FORGIVEN, WAITED_FOR_CAP, Outage

HOUR = 3600.0


def failing(phase: str, kind: FailureKind = FailureKind.TRANSIENT) -> DialFailure:
    return DialFailure(kind=kind, message="no", phase=phase)


def attempts(phase: str, down: float, seed: int, *, waited_for: bool = True) -> list[float]:
    """When an endpoint that is down for so long is tried; the last attempt succeeds."""
    chance, outage, now = random.Random(seed), Outage(1e9, 16), 0.0
    tried = [now]
    while now < down:
        outage.dialled(ConnectionId(len(tried)), now)
        outage.failed(outage.episode, now, failing(phase), chance.random())
        now = max(outage.dial_at(waited_for=waited_for), now + 0.001)
        tried.append(now)
    return tried


@pytest.mark.parametrize("down", [0.2, 1.0, 3.0, 5.0, 10.0, 30.0, 60.0, 120.0])
def test_who_waits_is_served_within_a_second(down: float) -> None:
    """Of the return of an endpoint where nobody was, however long that was so."""
    late = sorted(attempts("tcp", down, seed)[-1] - down for seed in range(500))

    assert late[-1] <= WAITED_FOR_CAP
    assert late[250] <= 0.55


@pytest.mark.parametrize("phase", ["tls", "proxy", "upgrade"])
@pytest.mark.parametrize("down", [1.0, 10.0, 50.0])
def test_who_is_told_no_is_served_in_proportion(phase: str, down: float) -> None:
    """Each attempt costs the endpoint a handshake, so they are rarer, never as rare as it is long."""
    late = [attempts(phase, down, seed)[-1] - down for seed in range(200)]

    assert max(late) <= max(WAITED_FOR_CAP, down / 2 + 1)


@pytest.mark.parametrize(
    ("phase", "waited_for", "least", "most"),
    [
        ("tcp", True, 550, 850),
        ("upgrade", True, 180, 320),
        ("resolve", True, 180, 300),
        ("tcp", False, 180, 300),
    ],
)
def test_an_hour_is_bounded(phase: str, waited_for: bool, least: int, most: int) -> None:
    """What the module says that it costs."""
    counts = [len(attempts(phase, HOUR, seed, waited_for=waited_for)) for seed in range(10)]

    assert least <= min(counts) <= max(counts) <= most, counts


@pytest.mark.parametrize("kind", [FailureKind.CREDENTIAL, FailureKind.PERMANENT])
def test_what_ends_no_sooner_is_asked_no_sooner(kind: FailureKind) -> None:
    """A key or an address is not there the sooner for being tried."""
    outage, now = Outage(1e9, 16), 0.0
    for _ in range(10):
        outage.failed(outage.episode, now, failing("tcp", kind), 0.999)
        now = outage.probe_at

    assert outage.probe_at == outage.spare_at
    assert now >= 4 * BACKOFF_CAP


def test_what_was_forgiven_is_forgiven_again_after_a_turn() -> None:
    """Two that end without a turn are nothing, the third counts. A completed turn makes up for them."""
    outage, now, dial = Outage(1e9, 16), 100.0, ConnectionId(0)

    def cut() -> bool:
        nonlocal now, dial
        now, dial = now + 10.0, ConnectionId(dial + 1)
        outage.dialled(dial, now)
        return outage.cut_short(dial, outage.episode, now, 0.5)

    assert [False] * FORGIVEN == [cut() for _ in range(FORGIVEN)]
    outage.answered(outage.episode, now)
    assert [False, True] == [cut() for _ in range(2)]
    assert outage.degraded
    assert not outage.cut_short(dial, outage.episode, now + 0.1, 0.5), "it was under way"
    assert outage.recovered(outage.episode, now + 1.0) is not None
    assert outage.dial_at(waited_for=True) > now + 1.0, "a handshake proves nothing now"
    outage.answered(outage.episode, now + 2.0)
    assert outage.dial_at(waited_for=True) < now


def test_spare_that_withers_is_replaced_more_and_more_slowly() -> None:
    """At once the first time; whoever waits does not feel it."""
    outage, now, pauses = Outage(1e9, 16), 100.0, []
    for number in range(1, 25, 2):
        outage.dialled(ConnectionId(number), now)
        outage.dialled(ConnectionId(number + 1), now)
        now += 60.0
        assert not outage.withered(ConnectionId(number), now, 0.999)
        assert not outage.withered(ConnectionId(number + 1), now, 0.999), "those that end together count once"
        pauses.append(max(outage.dial_at(waited_for=False) - now, 0.0))
        assert outage.dial_at(waited_for=True) < now
        now = max(now, outage.dial_at(waited_for=False))

    assert 0.0 == pauses[0]
    assert pauses == sorted(pauses)
    assert 0.9 * BACKOFF_CAP <= pauses[-1] <= BACKOFF_CAP
    outage.answered(outage.episode, now)
    assert outage.dial_at(waited_for=False) < now


def test_the_pauses_of_spare_begin_short_and_double() -> None:
    """And begin anew once a turn was completed."""
    outage, dial = Outage(1e9, 16), 0
    for _ in range(2):
        for pause in (None, BACKOFF_BASE, 2 * BACKOFF_BASE, 4 * BACKOFF_BASE):
            dial += 1
            now = 100.0 * dial
            outage.dialled(ConnectionId(dial), now)
            outage.withered(ConnectionId(dial), now + 60.0, 1.0)
            due = outage.dial_at(waited_for=False)
            assert (-math.inf if pause is None else now + 60.0 + pause) == due
            assert outage.doubtful
        outage.answered(outage.episode, 100.0 * dial + 70.0)
        assert not outage.doubtful


def test_what_was_under_way_when_it_was_noticed_is_no_strike_of_its_own() -> None:
    """The one that was dialled last as well."""
    outage = Outage(1e9, 16)
    for number in (1, 2):
        outage.dialled(ConnectionId(number), 0.0)
    for number in (1, 2):
        outage.cut_short(ConnectionId(number), outage.episode, 10.0, 0.5)
    for number in range(3, FORGIVEN + 3):
        assert not outage.degraded
        outage.dialled(ConnectionId(number), 10.0 * number)
        outage.cut_short(ConnectionId(number), outage.episode, 10.0 * number + 5.0, 0.5)

    assert outage.degraded


@pytest.mark.parametrize("had", [True, False])
def test_what_is_dialled_after_the_count_counts_anew(had: bool) -> None:
    """Also if the clock has not moved since: what was under way is known by the order of dials."""
    outage, now = Outage(1e9, 16), 100.0
    for number in range(1, 12):
        outage.dialled(ConnectionId(number), now)
        if had:
            outage.cut_short(ConnectionId(number), outage.episode, now, 0.999)
        else:
            outage.withered(ConnectionId(number), now, 0.999)

    assert outage.dial_at(waited_for=False) > now + 0.9 * BACKOFF_CAP / 2
    assert had is outage.degraded


def test_a_dial_of_an_episode_that_is_over_says_nothing() -> None:
    """It began before the endpoint was reached, and nothing has failed since."""
    outage = Outage(1e9, 16)
    outage.failed(outage.episode, 0.0, failing("tcp"), 0.5)
    before = outage.episode - 1
    outage.recovered(outage.episode, 1.0)
    outage.answered(outage.episode, 1.0)
    assert not outage.failed(before, 2.0, failing("upgrade"), 0.5)
    assert not outage.degraded
    assert outage.failure is None
    assert outage.dial_at(waited_for=False) <= 2.0


def test_each_failure_is_a_count_of_its_own() -> None:
    """What began before the second is not a third, nor a fourth."""
    outage = Outage(1e9, 16)
    outage.failed(outage.episode, 0.0, failing("resolve"), 1.0)
    began = outage.episode
    for now in (10.0, 11.0, 12.0):
        outage.failed(began, now, failing("resolve"), 1.0)

    assert outage.probe_at == 10.0 + 2 * BACKOFF_BASE


def test_what_is_well_waits_for_nothing() -> None:
    """Nor does a dial put off the next, one of spare that has withered neither."""
    outage = Outage(60.0, 16)
    assert (math.inf, math.inf) == (outage.since, outage.give_up_at)
    outage.dialled(ConnectionId(1), 10.0)
    outage.withered(ConnectionId(1), 20.0, 1.0)
    outage.dialled(ConnectionId(2), 30.0)

    assert (-math.inf, -math.inf) == (outage.spare_at, outage.probe_at)


def test_spare_that_withered_twice_is_dialled_no_faster_than_that() -> None:
    """Whatever the dice said of the first pause."""
    outage = Outage(1e9, 16)
    for number in (1, 2):
        outage.dialled(ConnectionId(number), 0.0)
        outage.withered(ConnectionId(number), 0.0, 0.0)
    outage.dialled(ConnectionId(3), 0.0)

    assert outage.dial_at(waited_for=False) == BACKOFF_BASE


def test_dials_of_what_is_of_no_use_are_as_far_apart_as_in_an_outage() -> None:
    """Each counts as one more failure, for who waits in proportion to the time since the first."""
    outage = Outage(1e9, 16)
    outage.relapsed(outage.episode, 0.0, CUT_SHORT, 0.0)
    outage.dialled(ConnectionId(1), 1.0)
    assert 0.0 == outage.probe_at == outage.spare_at, "what becomes of it says when to try next"
    outage.recovered(outage.episode, 1.0)
    for number, now, waited_for, spare in ((2, 2.0, 1.0, 2.0), (3, 10.0, 4.0, 4.0), (4, 20.0, 8.0, 8.0)):
        outage.dialled(ConnectionId(number), now)
        assert (now + waited_for, now + spare) == (outage.probe_at, outage.spare_at)


@pytest.mark.parametrize("kind", [FailureKind.TRANSIENT, FailureKind.PERMANENT])
def test_what_was_refused_for_good_is_over_with_a_handshake(kind: FailureKind) -> None:
    """Though connections were of no use before. After anything else they still may be."""
    outage = Outage(1e9, 16)
    outage.relapsed(outage.episode, 0.0, CUT_SHORT, 0.5)
    outage.failed(outage.episode, 10.0, failing("upgrade", kind), 0.5)
    outage.recovered(outage.episode, 20.0)

    assert outage.down is (kind is FailureKind.TRANSIENT)


def test_a_turn_makes_up_for_one_that_was_lost() -> None:
    """So there is doubt after two until two were completed."""
    outage = Outage(1e9, 16)
    for number in (1, 2):
        outage.dialled(ConnectionId(number), 0.0)
        outage.cut_short(ConnectionId(number), outage.episode, 0.0, 0.5)
    for doubtful in (True, False):
        outage.answered(outage.episode, 1.0)
        assert outage.doubtful is doubtful


def test_who_knows_better_is_believed_of_spare_too() -> None:
    """The next that withers is the first, and replaced at once."""
    outage = Outage(1e9, 16)
    for number in (1, 2, 3):
        outage.dialled(ConnectionId(number), 0.0)
        if number == 3:
            outage.retry_now(0.0)
        outage.withered(ConnectionId(number), 0.0, 1.0)

    assert outage.dial_at(waited_for=False) == -math.inf


def test_nobody_is_told_to_give_up_when_a_probe_is_due() -> None:
    """It may succeed."""
    outage = Outage(5.0, 16)
    outage.failed(outage.episode, 0.0, failing("resolve"), 1.0)
    outage.failed(outage.episode, 10.0, failing("resolve"), 1.0)

    assert [True, False] == [outage.is_hopeless(now) for now in (10.0, outage.probe_at)]


def test_who_knows_better_is_believed_once() -> None:
    """`retry_now`: the endpoint is of use again, and dials go on as they may. If not, so does the wait."""
    outage, now = Outage(1e9, 16), 100.0
    outage.dialled(ConnectionId(1), now)
    for number in range(1, FORGIVEN + 6):
        now += 60.0
        outage.cut_short(ConnectionId(number), outage.episode, now, 0.999)
        outage.withered(ConnectionId(number), now, 0.999)
        outage.recovered(outage.episode, now)
        outage.dialled(ConnectionId(number + 1), now)
    assert outage.dial_at(waited_for=True) > now + WAITED_FOR_CAP, "it is in doubt"
    outage.retry_now(now)
    for waited_for in (False, True):
        assert outage.dial_at(waited_for=waited_for) <= now
    outage.dialled(ConnectionId(FORGIVEN + 7), now)
    assert outage.recovered(outage.episode, now) is None
    for waited_for in (False, True):
        assert outage.dial_at(waited_for=waited_for) <= now, "a handshake is believed again"
    outage.relapsed(outage.episode, now, CUT_SHORT, 0.999)
    assert outage.dial_at(waited_for=False) > now + 8, "what had failed before is not forgotten"


def test_who_knows_better_has_not_to_wait() -> None:
    """Neither for those who wait nor for spare."""
    outage = Outage(1e9, 16)
    for _ in range(3):
        outage.failed(outage.episode, 10.0, failing("tcp"), 0.9)
    assert 10.0 < outage.dial_at(waited_for=True) < outage.dial_at(waited_for=False)
    outage.retry_now(10.0)

    assert [10.0, 10.0] == [outage.dial_at(waited_for=waited_for) for waited_for in (True, False)]


@pytest.mark.parametrize("how", ["refused", "announced", "left", "unheard", "heard", "answered", "completed"])
def test_what_counts_is_whether_a_turn_was_completed(how: str) -> None:
    """A refusal, an announced end, a turn of which nothing was heard: each is of no use, and one too many
    counts. A turn that its caller gave up while the server was at work says nothing; nor does the end of
    what is for answers alone, and has given one.
    """
    core = make(max_size=9, min_idle=0, on_cancel="drain", drain_timeout=500.0)
    said: list[Command] = []
    for number in range(1, 2 * FORGIVEN + 4):  # a replacement that is under way counts with what it replaces
        if any(isinstance(command, Degraded) for command in said):
            break
        now, connection, lease = 100.0 * number, ConnectionId(number), LeaseId(number)
        core.acquire(WaiterId(number), now)
        core.connected(connection, now, 0.5)
        core.begin(lease, now)
        if how in ("left", "unheard", "heard"):
            said += [] if how == "left" else core.give_up(lease, now + 20.0, heard=how == "heard")
            said += core.release(lease, now + 20.0)
        else:
            completed, answered = how == "completed", how == "answered"
            said += core.finished(connection, LANE, now + 20.0, completed=completed, answered=answered)
            said += core.retire(connection, now + 20.0) if how == "announced" else []
            said += core.release(lease, now + 20.0) + core.tick(now + 20.0)
            if how != "announced":
                said += core.lost(connection, now + 21.0, 0.5)

    degraded = [] if how in ("heard", "answered", "completed") else [Degraded(CUT_SHORT)]
    assert degraded == [command for command in said if isinstance(command, Degraded)]
