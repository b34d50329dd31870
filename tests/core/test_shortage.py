"""What this process lacks itself: waited for like an outage, and none of the endpoint."""

from __future__ import annotations

import attrs
import pytest

from tests.core.test_pool import DOWN, LANE, ONE, THREE, TWO, make, of, opened, run_to
from wspool.core.commands import (
    CloseReason,
    ConnectionId,
    Degraded,
    Dial,
    Grant,
    HangUp,
    LeaseId,
    Recovered,
    Refuse,
    RefuseReason,
    WaiterId,
)
from wspool.core.failures import FailureKind, classify_dial
from wspool.core.outage import BACKOFF_BASE

SHORT = classify_dial("no TCP connection to h:1 (Too many open files)", phase="tcp", shortage=True)


@pytest.mark.parametrize("facts", [{}, {"phase": "proxy"}, {"phase": "resolve"}])
def test_a_shortage_says_what_to_do_here(facts: dict[str, str]) -> None:
    """It is not about the address, the firewall or the proxy, and may pass."""
    failure = classify_dial("no", **{"phase": "tcp", **facts}, shortage=True)  # type: ignore[arg-type] # as given

    assert (FailureKind.LOCAL, False) == (failure.kind, failure.permanent)
    assert "no; raise this process's limit of open files (ulimit -n), or lower max_size" == failure.message


def test_a_shortage_is_no_outage() -> None:
    """Nobody is told that the endpoint is down, and nobody that it is back."""
    core = make()
    core.acquire(WaiterId(1), 0.0)

    assert [] == core.dial_failed(ONE, 1.0, SHORT, 0.5)
    assert (False, 1) == (core.statistics().degraded, core.statistics().dial_failures)
    assert SHORT is core.failure, "whoever asks why nothing is ready is told"
    assert [Dial(TWO)] == core.tick(core.next_deadline())
    assert [Grant(WaiterId(1), LeaseId(1), TWO, LANE)] == core.connected(TWO, 2.0, 0.5)
    assert core.failure is None


def test_spare_is_tried_again_though_nobody_waits() -> None:
    """After a pause, as in an outage."""
    core = make(min_idle=1)
    core.start(0.0)
    core.dial_failed(ONE, 1.0, SHORT, 0.5)

    assert 1.0 + BACKOFF_BASE / 2 == core.next_deadline()
    assert [Dial(TWO)] == core.tick(core.next_deadline())


def test_while_lanes_live_they_are_waited_for() -> None:
    """However long it lasts; dials are tried one at a time, at most a second apart: that costs nobody."""
    core = make(max_size=8, give_up_after=5.0)
    opened(core, waiters=2)
    dials = [dial for number in range(3, 8) for dial in of(core.acquire(WaiterId(number), 0.1), Dial)]
    assert len(dials) > 1, "several at once, as long as all is well"
    for command in dials:
        assert isinstance(command, Dial)
        assert [] == core.dial_failed(command.connection, 0.2, SHORT, 0.5)
    tries = 0
    while (now := core.next_deadline()) < 600.0:
        for command in core.tick(now):
            assert isinstance(command, Dial)
            tries += 1
            assert [] == core.dial_failed(command.connection, now, SHORT, 0.5)

    assert 600 <= tries < 600 / 0.7
    assert [Grant(WaiterId(3), LeaseId(3), ONE, LANE)] == of(core.release(LeaseId(1), 601.0), Grant)


def test_a_parked_lane_is_taken_rather_than_nothing() -> None:
    """Nothing can be dialled: those who wait starve as in a full pool."""
    core = make(max_size=8, patience=2.0)
    opened(core)
    core.park(LeaseId(1), 1.0)
    core.acquire(WaiterId(2), 1.0)
    core.dial_failed(TWO, 1.1, attrs.evolve(SHORT, retry_after=100.0), 0.0)

    assert [Grant(WaiterId(2), LeaseId(2), ONE, LANE)] == of(run_to(core, 3.0), Grant)


def test_with_nothing_at_all_those_who_wait_are_told() -> None:
    """After `give_up_after`: what they wait for may never come back."""
    core = make(give_up_after=5.0)
    core.acquire(WaiterId(1), 0.0)
    core.dial_failed(ONE, 1.0, attrs.evolve(SHORT, retry_after=100.0), 0.0)

    refused = of(run_to(core, 6.0), Refuse)
    assert [(RefuseReason.DIAL_FAILED, FailureKind.LOCAL)] == [
        (command.reason, command.failure and command.failure.kind)
        for command in refused
        if isinstance(command, Refuse)
    ]


@pytest.mark.parametrize("how", ["gone", "lost"])
def test_a_connection_that_goes_makes_room(how: str) -> None:
    """Its descriptor can be had again: the next dial does not wait for the pause."""
    core = make(max_size=8)
    opened(core, waiters=2)
    core.acquire(WaiterId(3), 1.0)
    core.dial_failed(THREE, 1.1, attrs.evolve(SHORT, retry_after=100.0), 0.5)
    if how == "gone":
        core.hang_up(TWO, CloseReason.DIRTY, 7.0)
        assert [Dial(ConnectionId(4))] == core.gone(TWO, 7.5)
    else:
        assert [Dial(ConnectionId(4))] == core.lost(TWO, 7.5, 0.5)


def test_an_outage_waits_for_nothing_of_that_kind() -> None:
    """A connection that goes says nothing about an endpoint that is down."""
    core = make(max_size=8)
    opened(core, waiters=2)
    core.acquire(WaiterId(3), 1.0)
    core.dial_failed(THREE, 1.1, attrs.evolve(DOWN, retry_after=100.0), 0.5)
    core.hang_up(TWO, CloseReason.DIRTY, 7.0)

    assert [] == core.gone(TWO, 7.5)


def test_an_outage_may_follow_a_shortage() -> None:
    """Then it begins: its time and its pauses are its own."""
    core = make(give_up_after=1000.0)
    core.acquire(WaiterId(1), 0.0)
    number, now = ONE, 0.0
    for _ in range(6):
        assert [] == core.dial_failed(number, now, SHORT, 0.5)
        now = core.next_deadline()
        (command,) = core.tick(now)
        assert isinstance(command, Dial)
        number = command.connection

    assert [Degraded(DOWN)] == core.dial_failed(number, now, DOWN, 1.0)
    assert now + BACKOFF_BASE == core.next_deadline()
    assert core.statistics().degraded
    (command,) = core.tick(core.next_deadline())
    assert isinstance(command, Dial)
    assert [Recovered(2.0)] == of(core.connected(command.connection, now + 2.0, 0.5), Recovered)


def test_a_shortage_in_an_outage_ends_nothing() -> None:
    """The endpoint is as far away as before, and its return is told."""
    core = make(give_up_after=1000.0)
    core.acquire(WaiterId(1), 0.0)
    assert [Degraded(DOWN)] == core.dial_failed(ONE, 1.0, DOWN, 0.5)
    core.tick(core.next_deadline())
    assert [] == core.dial_failed(TWO, 1.3, SHORT, 0.5)
    assert core.statistics().degraded
    core.tick(core.next_deadline())

    assert [Recovered(9.0)] == of(core.connected(THREE, 10.0, 0.5), Recovered)


def test_a_server_that_hangs_up_at_once_is_still_one_after_a_shortage() -> None:
    """The count of its failures goes on where it was."""
    core = make(max_size=4)
    core.acquire(WaiterId(1), 0.0)
    core.abandon(WaiterId(1), 0.0)
    core.connected(ONE, 0.1, 0.5)
    assert [Degraded] == [type(command) for command in core.lost(ONE, 0.2, 0.5)]
    core.acquire(WaiterId(2), 0.3)
    assert [Dial(TWO)] == core.tick(core.next_deadline())
    core.dial_failed(TWO, 0.5, SHORT, 0.5)

    assert core.statistics().degraded
    assert 0.5 + BACKOFF_BASE == core.next_deadline(), "half of the second bound"


def test_a_leaver_stays_while_it_cannot_be_replaced() -> None:
    """What lives is worth more than what may not come."""
    core = make(max_size=4, min_idle=1)
    core.start(0.0)
    core.connected(ONE, 0.0, 0.5)
    assert [Dial(TWO)] == core.retire(ONE, 1.0)

    assert [] == of(core.dial_failed(TWO, 1.1, SHORT, 0.5), HangUp)
    assert [Grant(WaiterId(1), LeaseId(1), ONE, LANE)] == of(core.acquire(WaiterId(1), 1.2), Grant)
