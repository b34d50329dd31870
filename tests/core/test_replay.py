"""What may be sent again by itself: only what provably did not run, unless the policy says more."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, strategies as st

from wspool.core.events.turn import Delivery
from wspool.core.policy import Replay
from wspool.core.sending.replay import FIRST_DELAY, LONGEST_DELAY, Recovery, ResendBudget, Resends
from wspool.core.server_error import ServerError
from wspool.core.waits import MAX_RETRY_AFTER

HERE, ELSEWHERE, LATER, GIVE_UP = Recovery.HERE, Recovery.ELSEWHERE, Recovery.LATER, Recovery.GIVE_UP

MAX_RESENDS = 3

MISSING = ServerError(code="previous_response_not_found", status=400)
MISSING_WITHOUT_CODE = ServerError(message="Invalid previous_response_id.", status=400)
LIMIT = ServerError(code="websocket_connection_limit_reached", status=400)

POLICIES: tuple[Replay, ...] = ("proven", "no_output", "always")
DELIVERIES: tuple[Delivery, ...] = ("not_sent", "ambiguous", "accepted", "terminal")


def make(policy: Replay, budget: ResendBudget | None = None, limit: int = MAX_RESENDS) -> Resends:
    """The resends of one turn, with a full budget unless told otherwise."""
    return Resends(policy, limit, budget or ResendBudget())


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    "error",
    [
        MISSING,
        MISSING_WITHOUT_CODE,
        ServerError(),
        ServerError(status=400),
        ServerError(status=404, message="gone"),
        ServerError(status=410),
        ServerError(status=422, type="missing", param="whatever"),
        ServerError(code="nobody_knows_this"),
        ServerError(status=400, param="input", message="No tool call found for function call output"),
        ServerError(status=400, code="unsupported_parameter", param="previous_response_id"),
    ],
)
def test_a_refusal_of_a_request_with_a_parent_is_answered_once(policy: Replay, error: ServerError) -> None:
    """The whole history is sent on the same connection, once for one turn, whatever the refusal is called."""
    resends = make(policy)

    assert HERE is resends.after_refusal(error, had_parent=True, jitter=0.5)
    assert GIVE_UP is resends.after_refusal(error, had_parent=True, jitter=0.5)


def test_a_missing_parent_that_was_never_sent_is_not_answered() -> None:
    """A request without a parent cannot be mended by leaving it out."""
    assert GIVE_UP is make("always").after_refusal(MISSING, had_parent=False, jitter=0.5)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("had_parent", [True, False])
def test_a_connection_at_its_limit_sends_the_turn_elsewhere(policy: Replay, had_parent: bool) -> None:
    """The refusal proves that nothing ran, so a fresh connection gets it, a few times."""
    resends = make(policy)
    found = [resends.after_refusal(LIMIT, had_parent=had_parent, jitter=0.5) for _ in range(MAX_RESENDS + 2)]

    assert [ELSEWHERE] * MAX_RESENDS + [GIVE_UP] * 2 == found


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    "error",
    [
        ServerError(status=401),
        ServerError(status=402),
        ServerError(status=403),
        ServerError(status=413),
        ServerError(status=451),
        ServerError(status=400, code="invalid_api_key"),
        ServerError(status=404, code="model_not_found"),
        ServerError(status=409, code="concurrent_request"),
        ServerError(status=429, retry_after=3601.0),
        ServerError(code="invalid_prompt"),
        ServerError(status=429, code="insufficient_quota"),
        ServerError(status=429, type="resource_unavailable"),
    ],
)
def test_any_other_refusal_is_for_the_caller(policy: Replay, error: ServerError) -> None:
    """The whole history would be refused as well, and the server has not asked for another try."""
    assert GIVE_UP is make(policy).after_refusal(error, had_parent=True, jitter=0.5)


@pytest.mark.parametrize(
    ("policy", "delivery", "output_seen", "expected"),
    [
        ("proven", "not_sent", False, ELSEWHERE),
        ("proven", "ambiguous", False, GIVE_UP),
        ("proven", "accepted", False, GIVE_UP),
        ("proven", "accepted", True, GIVE_UP),
        ("no_output", "not_sent", False, ELSEWHERE),
        ("no_output", "ambiguous", False, ELSEWHERE),
        ("no_output", "accepted", False, ELSEWHERE),
        ("no_output", "accepted", True, GIVE_UP),
        ("always", "not_sent", False, ELSEWHERE),
        ("always", "ambiguous", False, ELSEWHERE),
        ("always", "accepted", False, ELSEWHERE),
        ("always", "accepted", True, ELSEWHERE),
    ],
)
def test_a_lost_turn_is_sent_again_as_the_policy_allows(
    policy: Replay, delivery: Delivery, output_seen: bool, expected: Recovery
) -> None:
    """Proof suffices for every policy; how much less does, is what the policy says."""
    resends = make(policy)

    assert expected is resends.after_loss(delivery, None, output_seen=output_seen, exposed=False)
    assert GIVE_UP is make(policy).after_loss(delivery, None, output_seen=output_seen, exposed=True)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("delivery", DELIVERIES)
@pytest.mark.parametrize("output_seen", [False, True])
@pytest.mark.parametrize("exposed", [False, True])
def test_a_limit_that_cuts_a_turn_proves_nothing(
    policy: Replay, delivery: Delivery, output_seen: bool, exposed: bool
) -> None:
    """What was begun is paid for, whatever ended it; that it was the limit is only no sign of trouble."""
    budgets = ResendBudget(), ResendBudget()
    cut, lost = (
        make(policy, budget).after_loss(delivery, error, output_seen=output_seen, exposed=exposed)
        for budget, error in zip(budgets, (LIMIT, None), strict=True)
    )

    assert cut is lost
    assert [100.0, 99.0] == [budget._tokens for budget in budgets]


def test_any_other_error_before_a_loss_proves_nothing() -> None:
    """A connection that died after some error frame leaves the request as ambiguous as it was."""
    for error in (MISSING, ServerError(status=500)):
        assert GIVE_UP is make("proven").after_loss("accepted", error, output_seen=False, exposed=False)


@pytest.mark.parametrize(
    "error",
    [
        ServerError(status=429),
        ServerError(code="rate_limit_exceeded"),
        ServerError(status=503, code="server_is_overloaded"),
        ServerError(code="server_error"),
        ServerError(status=500),
    ],
)
def test_a_refusal_that_may_pass_is_tried_again_later(error: ServerError) -> None:
    """It provably did not run, so it costs nothing but time: full jitter under a bound that doubles."""
    resends = make("proven")
    waits = []
    for _ in range(MAX_RESENDS):
        assert LATER is resends.after_refusal(error, had_parent=True, jitter=0.5)
        waits.append(resends.delay)

    assert [0.5 * FIRST_DELAY, 1.0 * FIRST_DELAY, 2.0 * FIRST_DELAY] == waits
    assert GIVE_UP is resends.after_refusal(error, had_parent=True, jitter=0.5)


def test_our_wait_has_a_bound_of_its_own() -> None:
    """What the server asks for is the whole endpoint's; ours spreads resends, within its bound."""
    resends = make("proven", limit=20)
    asked = ServerError(status=429, retry_after=30.0)

    assert LATER is resends.after_refusal(asked, had_parent=False, jitter=0.5)
    assert 0.25 == resends.delay
    for _ in range(10):
        resends.after_refusal(ServerError(status=429), had_parent=False, jitter=1.0 - 2**-53)
    assert LONGEST_DELAY == pytest.approx(resends.delay)


def test_no_resends_means_none() -> None:
    """A limit of zero turns all of it off, but for the one answer to a missing parent."""
    resends = make("always", limit=0)

    assert GIVE_UP is resends.after_refusal(LIMIT, had_parent=True, jitter=0.0)
    assert GIVE_UP is resends.after_loss("not_sent", None, output_seen=False, exposed=False)
    assert HERE is resends.after_refusal(MISSING, had_parent=True, jitter=0.0)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_key_that_went_with_the_request_is_renewed_once(policy: Replay) -> None:
    """If it can be; what was refused for its key did not run. Nothing else is helped by another key."""
    refusal, busy = ServerError(status=401), ServerError(status=400)
    resends = make(policy)
    assert GIVE_UP is resends.after_refusal(refusal, had_parent=False, jitter=0.0)
    assert GIVE_UP is resends.after_refusal(busy, had_parent=False, key_renews=True, jitter=0.0)
    assert ELSEWHERE is resends.after_refusal(refusal, had_parent=False, key_renews=True, jitter=0.0)
    assert GIVE_UP is resends.after_refusal(refusal, had_parent=False, key_renews=True, jitter=0.0)
    none = make(policy, limit=0)
    assert GIVE_UP is none.after_refusal(refusal, had_parent=False, key_renews=True, jitter=0.0)


def test_a_message_too_big_is_never_sent_again() -> None:
    """The next connection would refuse it as well."""
    assert GIVE_UP is make("always").after_loss(
        "not_sent", None, close_code=1009, output_seen=False, exposed=False
    )


def test_resends_have_a_budget_that_all_turns_share() -> None:
    """Half of it spent, nothing is tried again until successes have refilled it; limits are no failure."""
    budget = ResendBudget()
    spent = 0
    while (
        make("proven", budget).after_refusal(ServerError(status=500), had_parent=False, jitter=0.0) is LATER
    ):
        spent += 1

    assert 49 == spent
    assert GIVE_UP is make("always", budget).after_loss("accepted", None, output_seen=False, exposed=False)
    assert ELSEWHERE is make("proven", budget).after_refusal(LIMIT, had_parent=False, jitter=0.0)
    assert ELSEWHERE is make("proven", budget).after_loss("not_sent", LIMIT, output_seen=False, exposed=False)
    assert ELSEWHERE is make("always", budget).after_loss("accepted", LIMIT, output_seen=True, exposed=False)
    for _ in range(30):
        budget.succeeded()
    assert LATER is make("proven", budget).after_refusal(
        ServerError(status=500), had_parent=False, jitter=0.0
    )
    for _ in range(2000):
        budget.succeeded()
    assert budget.allows


def test_who_has_patience_loses_any_number_at_once() -> None:
    """A server that starts anew loses all that it had; each goes elsewhere, as often as one alone may."""
    budget = ResendBudget()
    for _ in range(300):
        resends = Resends("always", 2, budget, math.inf)
        assert ELSEWHERE is resends.after_loss("accepted", None, output_seen=True, exposed=False)
    assert not budget.allows
    assert ELSEWHERE is resends.after_loss("not_sent", None, output_seen=False, exposed=False)
    assert GIVE_UP is resends.after_loss("not_sent", None, output_seen=False, exposed=False)


ERRORS = st.sampled_from([MISSING, LIMIT, ServerError()])
REFUSALS = st.tuples(ERRORS, st.booleans())
LOSSES = st.tuples(st.sampled_from(DELIVERIES), st.none() | ERRORS, st.booleans(), st.booleans())


@given(st.sampled_from(POLICIES), st.lists(REFUSALS | LOSSES, max_size=20))
def test_resends_are_bounded_whatever_happens(policy: Replay, steps: list[tuple[Any, ...]]) -> None:
    """One turn is sent in full here once and elsewhere three times at most, and never past seen output."""
    resends = make(policy)
    found = []
    for step in steps:
        if len(step) == 2:
            error, had_parent = step
            found.append(resends.after_refusal(error, had_parent=had_parent, jitter=0.5))
            continue
        delivery, error, output_seen, exposed = step
        found.append(resends.after_loss(delivery, error, output_seen=output_seen, exposed=exposed))

        assert HERE is not found[-1]
        if exposed or (policy == "proven" and delivery != "not_sent"):
            assert GIVE_UP is found[-1]

    assert found.count(HERE) <= 1
    assert found.count(ELSEWHERE) <= MAX_RESENDS


UNNAMED = ServerError(code="unknown_parameter", param="stream_id", status=400)


def test_a_refused_lane_is_left_out_once() -> None:
    """On the same connection, and only if it was there; it is no sign of trouble."""
    for policy in POLICIES:
        budget = ResendBudget()
        resends = make(policy, budget, limit=0)

        assert GIVE_UP is resends.after_refusal(UNNAMED, had_parent=False, jitter=0.5)
        assert HERE is resends.after_refusal(UNNAMED, had_parent=False, had_lane=True, jitter=0.5)
        assert GIVE_UP is resends.after_refusal(UNNAMED, had_parent=False, had_lane=True, jitter=0.5)
        assert budget.allows


def test_what_gives_no_encrypted_reasoning_is_asked_once() -> None:
    """The same request goes without asking, on the same connection; it is no sign of trouble."""
    refused = ServerError(code=None, param="include", status=400)
    for policy in POLICIES:
        budget = ResendBudget()
        resends = make(policy, budget, limit=0)

        assert GIVE_UP is resends.after_refusal(refused, had_parent=False, jitter=0.5)
        assert not resends.plain
        assert HERE is resends.after_refusal(refused, had_parent=True, asked_reasoning=True, jitter=0.5)
        assert (True, None) == (resends.plain, resends.parent_refused)
        assert HERE is resends.after_refusal(refused, had_parent=True, jitter=0.5), "and once in full"
        assert GIVE_UP is resends.after_refusal(refused, had_parent=True, jitter=0.5)
        assert budget.allows


# -- with patience -------------------------------------------------------------------------


BUSY = ServerError(status=503, code="server_is_overloaded")
TOO_MANY = ServerError(status=429, code="rate_limit_exceeded")


def patient(patience: float, budget: ResendBudget | None = None) -> Resends:
    """The resends of a turn that waits refusals out, and may not resend anything else."""
    return Resends("proven", 0, budget or ResendBudget(), patience)


@pytest.mark.parametrize("began", [0.0, 1000.0])
def test_with_patience_refusals_are_waited_out_for_so_long(began: float) -> None:
    """From the first one on, to the second; however many there are, and whatever else was resent."""
    resends = patient(100.0)
    for since in (0.0, 1.0, 50.0, 100.0):
        assert LATER is resends.after_refusal(BUSY, had_parent=False, jitter=0.5, now=began + since)
    assert GIVE_UP is resends.after_refusal(BUSY, had_parent=False, jitter=0.5, now=began + 100.5)


def test_a_wait_that_patience_does_not_reach_is_not_begun() -> None:
    """The server says how long it is; the end of it counts."""
    for asked, found in ((100.0, LATER), (100.5, GIVE_UP)):
        error = ServerError(status=503, retry_after=asked)
        assert found is patient(100.0).after_refusal(error, had_parent=False, jitter=0.5, now=7.0)


@pytest.mark.parametrize(
    ("error", "suspected", "delay"),
    [(BUSY, 0, 0.5), (BUSY, 1, 1.0), (BUSY, 3, 4.0), (TOO_MANY, 0, 0.0), (TOO_MANY, 3, 0.0)],
)
def test_with_patience_a_wait_grows_with_the_doubt(error: ServerError, suspected: int, delay: float) -> None:
    """Others are answered, so it may be this request. Of too many the pace knows when there is room."""
    for jitter in (0.5, 1.0):
        resends = patient(100.0)
        resends.delay = 9.0
        counted: dict[str, Any] = {} if not suspected else {"suspected": suspected}
        assert LATER is resends.after_refusal(error, had_parent=False, jitter=jitter, **counted)
        assert delay * jitter * FIRST_DELAY / 0.5 == resends.delay


def test_with_patience_the_trouble_of_one_request_is_told_at_once() -> None:
    """And neither it nor what is waited out spends the budget of others."""
    budget = ResendBudget()
    for _ in range(200):
        blamed = patient(100.0, budget).after_refusal(BUSY, had_parent=False, jitter=0.5, is_to_blame=True)
        assert GIVE_UP is blamed
        assert LATER is patient(100.0, budget).after_refusal(BUSY, had_parent=False, jitter=0.5)
    assert budget.allows


@pytest.mark.parametrize("error", [BUSY, TOO_MANY, UNNAMED])
def test_a_response_that_was_put_off_is_sent_again_with_patience_only(error: ServerError) -> None:
    """It was created: else that is the answer, whatever it failed for, and costs others nothing."""
    budget = ResendBudget()
    given_up = make("always", budget).after_refusal(
        error, had_parent=True, had_lane=True, put_off=True, jitter=0.5
    )
    assert (GIVE_UP, ResendBudget.TOKENS) == (given_up, budget._tokens)

    again = patient(100.0).after_refusal(error, had_parent=False, put_off=True, jitter=0.5)
    assert (LATER if error.may_pass else GIVE_UP) is again


def test_before_anything_was_refused_nothing_is_waited_for() -> None:
    """And a request asks for what it is told to."""
    resends = make("proven")
    assert (0.0, False, None) == (resends.delay, resends.plain, resends.parent_refused)


def test_the_longest_wait_is_waited() -> None:
    """What is longer is for the caller."""
    for more, found in ((0.0, LATER), (0.5, GIVE_UP)):
        error = ServerError(status=429, retry_after=MAX_RETRY_AFTER + more)
        assert found is make("proven").after_refusal(error, had_parent=False, jitter=0.5)


def test_a_budget_that_is_spent_is_not_spent_further() -> None:
    """From nothing on, half of it is back after as many successes as the tenths say, and one more."""
    budget = ResendBudget()
    for _ in range(3 * int(ResendBudget.TOKENS)):
        budget.failed()
    successes = 0
    while not budget.allows:
        budget.succeeded()
        successes += 1
    assert successes == pytest.approx(ResendBudget.TOKENS / 2 / ResendBudget.REFUND, abs=1)
