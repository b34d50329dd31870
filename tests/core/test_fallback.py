"""When HTTP is taken, and when a WebSocket is tried again."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from wspool.core.failures import DialFailure, FailureKind
from wspool.core.fallback import OUTAGE_BUDGET, PROBE_FIRST, PROBE_MOST, Fallback, Transport

WEBSOCKET, HTTP = Transport.WEBSOCKET, Transport.HTTP


def failure(
    kind: FailureKind = FailureKind.TRANSIENT, phase: str = "upgrade", status: int | None = None
) -> DialFailure:
    return DialFailure(kind=kind, message="no", phase=phase, status=status)


NOT_OFFERED = failure(FailureKind.NOT_OFFERED, status=426)


@pytest.mark.parametrize("said", [NOT_OFFERED, failure(FailureKind.PERMANENT, status=400)])
def test_what_is_not_offered_is_given_up_at_once(said: DialFailure) -> None:
    fallback = Fallback()
    assert fallback.choose(0.0) is WEBSOCKET
    assert fallback.failed(said, 0.0)
    assert fallback.transport is HTTP
    assert fallback.choose(PROBE_FIRST - 1) is HTTP


def test_a_close_for_policy_says_the_same() -> None:
    fallback = Fallback()
    fallback.closed(1008, 0.0)
    assert fallback.transport is HTTP


def test_one_dial_looks_again_and_more_rarely_each_time() -> None:
    fallback, now, pauses = Fallback(), 0.0, []
    fallback.failed(NOT_OFFERED, now)
    for _ in range(8):
        assert fallback.until is not None
        pauses.append(fallback.until - now)
        now = fallback.until
        assert fallback.choose(now) is WEBSOCKET
        assert fallback.choose(now) is HTTP  # while that one looks
        assert fallback.failed(failure(), now)
    assert pauses[:4] == [PROBE_FIRST, 2 * PROBE_FIRST, 4 * PROBE_FIRST, 8 * PROBE_FIRST]
    assert pauses[-1] == PROBE_MOST


def test_a_probe_that_is_dropped_is_made_again() -> None:
    fallback = Fallback()
    fallback.failed(NOT_OFFERED, 0.0)
    assert fallback.choose(PROBE_FIRST) is WEBSOCKET
    fallback.dropped()
    assert fallback.choose(PROBE_FIRST) is WEBSOCKET


def test_a_turn_on_a_websocket_ends_it() -> None:
    fallback = Fallback()
    fallback.failed(NOT_OFFERED, 0.0)
    fallback.failed(NOT_OFFERED, PROBE_FIRST)
    fallback.proved()
    assert fallback.transport is WEBSOCKET
    fallback.failed(NOT_OFFERED, 1000.0)
    assert fallback.until == 1000.0 + PROBE_FIRST  # as if it had never been


def test_an_outage_of_the_upgrade_is_borne_for_a_while() -> None:
    fallback = Fallback()
    assert not fallback.failed(failure(status=503), 0.0)
    assert not fallback.failed(failure(status=503), OUTAGE_BUDGET - 1)
    assert fallback.transport is WEBSOCKET
    assert fallback.failed(failure(status=503), OUTAGE_BUDGET)
    assert fallback.transport is HTTP


def test_so_is_a_server_that_accepts_and_hangs_up() -> None:
    fallback = Fallback()
    for second in range(int(OUTAGE_BUDGET)):
        fallback.closed(1006, float(second))
    assert fallback.transport is WEBSOCKET
    fallback.closed(None, OUTAGE_BUDGET)
    assert fallback.transport is HTTP


def test_trouble_now_and_then_is_no_outage() -> None:
    fallback = Fallback()
    for hour in range(10):
        assert not fallback.failed(failure(), hour * 3600.0)


@pytest.mark.parametrize(
    "said",
    [
        failure(phase="tcp"),
        failure(phase="proxy", status=503),
        failure(FailureKind.LOCAL),
        failure(FailureKind.CREDENTIAL, status=401),
        failure(FailureKind.PERMANENT, status=451),
    ],
)
def test_what_http_would_meet_as_well_is_no_reason(said: DialFailure) -> None:
    fallback = Fallback()
    for second in range(100):
        assert not fallback.failed(said, float(second))
    assert fallback.transport is WEBSOCKET
    fallback.failed(NOT_OFFERED, 100.0)
    assert fallback.choose(100.0 + PROBE_FIRST) is WEBSOCKET
    fallback.failed(said, 100.0 + PROBE_FIRST)
    assert fallback.transport is HTTP
    if said.kind is not FailureKind.PERMANENT:  # that would be met by HTTP as well, whenever
        assert fallback.choose(99.0 + 2 * PROBE_FIRST) is HTTP
    assert fallback.choose(100.0 + 2 * PROBE_FIRST) is WEBSOCKET  # and it is looked at again


STEPS = st.sampled_from(["choose", "refused", "trouble", "unreachable", "closed", "dropped", "proved"])


@given(st.lists(st.tuples(STEPS, st.floats(0, 2000)), max_size=60))
def test_it_is_never_for_ever_and_never_two_at_a_time(steps: list[tuple[str, float]]) -> None:
    fallback, now, looking = Fallback(), 0.0, False
    for step, later in steps:
        now += later
        match step:
            case "choose":
                was = fallback.transport
                way = fallback.choose(now)
                assert way is was or not looking
                looking = looking or (was is HTTP and way is WEBSOCKET)
            case "refused":
                assert fallback.failed(NOT_OFFERED, now)
                looking = False
            case "trouble":
                fallback.failed(failure(), now)
                looking = False
            case "unreachable":
                assert not fallback.failed(failure(phase="tcp"), now)
                looking = False
            case "closed":
                fallback.closed(1011, now)
                looking = False
            case "dropped":
                fallback.dropped()
                looking = False
            case _:
                fallback.proved()
                looking = False
                assert fallback.transport is WEBSOCKET
        assert fallback.until is None or fallback.until <= now + PROBE_MOST
        if fallback.until is not None and not looking:
            assert Fallback.choose(fallback, fallback.until) is WEBSOCKET
            fallback.dropped()
