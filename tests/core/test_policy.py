"""Limits check themselves where they are written, and their schedule always makes sense."""

from __future__ import annotations

import re
from typing import Any

import attrs
import pytest
from hypothesis import given, strategies as st

from wspool.core.policy import AZURE, LITELLM, OPENAI, PROVIDERS, VERCEL, XAI, PoolPolicy, Provider

DAY = 86400.0
MIB = 1024 * 1024
NAN = float("nan")

WHOLE_FROM_ONE = (
    *("max_size", "dial_concurrency", "lanes", "max_message_size"),
    *("max_buffered", "max_turn_events", "max_turn_bytes", "max_pool_bytes", "max_tool_calls"),
)
MARGINS = ("retire_margin", "retire_spread", "turn_reserve")
DURATIONS = (
    "max_idle",
    "connect_timeout",
    "close_timeout",
    "give_up_after",
    "max_lifetime",
    "ping_interval",
    "ping_timeout",
    "send_timeout",
    "drain_timeout",
    "first_event_timeout",
    "silence_timeout",
)
OPTIONAL = (
    "max_waiting",
    "max_lifetime",
    "ping_interval",
    "leak_after",
    "first_event_timeout",
    "silence_timeout",
    "refusal_patience",
)
CHOICES = ("on_cancel", "replay", "count_closing")


def policy(**fields: Any) -> PoolPolicy:
    """A policy as a caller without a type checker may write it."""
    return PoolPolicy(**fields)


def test_the_defaults_are_those_that_are_documented() -> None:
    """Changing a default is a decision, not an accident."""
    assert {
        "max_size": 128,
        "min_idle": 2,
        "max_idle": 300.0,
        "dial_concurrency": 16,
        "lanes": 1,
        "max_waiting": None,
        "connect_timeout": 15.0,
        "close_timeout": 2.0,
        "give_up_after": 120.0,
        "count_closing": False,
        "patience": 2.0,
        "leak_after": None,
        "max_lifetime": None,
        "retire_margin": 60.0,
        "retire_spread": 360.0,
        "turn_reserve": 300.0,
        "ping_interval": 20.0,
        "ping_timeout": 60.0,
        "send_timeout": 60.0,
        "max_message_size": 64 * MIB,
        "max_buffered": 16 * MIB,
        "max_turn_events": 1_000_000,
        "max_turn_bytes": 256 * MIB,
        "max_pool_bytes": 1024 * MIB,
        "max_tool_calls": 256,
        "on_cancel": "hang_up",
        "drain_timeout": 30.0,
        "max_resends": 3,
        "first_event_timeout": None,
        "silence_timeout": None,
        "refusal_patience": None,
        "replay": "proven",
    } == attrs.asdict(PoolPolicy())


def test_the_providers_are_those_that_are_documented() -> None:
    """Each endpoint has the lifetime and the sizes that its documentation gives."""
    named = {"openai": OPENAI, "azure": AZURE, "xai": XAI, "vercel": VERCEL, "litellm": LITELLM}
    assert named == PROVIDERS
    assert {"litellm": "lenient"} == {
        name: each.trust for name, each in named.items() if each.trust != "exact"
    }
    assert [3600.0, 3600.0, 1500.0, 780.0] == [each.max_lifetime for each in (OPENAI, AZURE, XAI, VERCEL)]
    assert [16 * MIB] * 3 + [4 * MIB] == [each.max_request for each in (OPENAI, AZURE, XAI, VERCEL)]
    assert [False, False, False, True] == [each.closes_after_error for each in (OPENAI, AZURE, XAI, VERCEL)]
    assert [16, 1, 1, 1] == [each.lanes for each in (OPENAI, AZURE, XAI, VERCEL)]
    assert [True, False, False, False] == [each.steering for each in (OPENAI, AZURE, XAI, VERCEL)]


# -- bad values -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "bad", "least"),
    [
        *((name, bad, 1) for name in WHOLE_FROM_ONE for bad in (0, -1)),
        *((name, -1, 0) for name in ("min_idle", "max_waiting")),
        *((name, bad, 0) for name in MARGINS for bad in (-1, -0.5, NAN)),
        *((name, bad, 0.001) for name in DURATIONS for bad in (0, 0.0, -1.0, 0.0009, NAN)),
    ],
)
def test_a_value_too_small_is_quoted(name: str, bad: float, least: float) -> None:
    """The error names the field, shows the value and says what the least is."""
    with pytest.raises(ValueError, match=f"^{re.escape(f'{name}={bad!r} is below {least}')}$"):
        policy(**{name: bad})


@pytest.mark.parametrize(
    ("name", "bad", "wanted"),
    [
        *((name, bad, "an int") for name in (*WHOLE_FROM_ONE, "min_idle") for bad in (1.0, "1", True)),
        *((name, bad, "a number") for name in (*MARGINS, *DURATIONS) for bad in ("1", True, 1j)),
    ],
)
def test_a_value_of_another_type_is_quoted(name: str, bad: object, wanted: str) -> None:
    """The error names the field, shows the value and says what it should be."""
    with pytest.raises(TypeError, match=f"^{re.escape(f'{name}={bad!r} is not {wanted}')}$"):
        policy(**{name: bad})


@pytest.mark.parametrize("name", ["on_cancel", "replay"])
@pytest.mark.parametrize("bad", ["", "HANG_UP", "never", None, 7, []])
def test_a_choice_that_is_none_is_quoted(name: str, bad: object) -> None:
    """The error shows the value and the choices."""
    choices = {"on_cancel": "hang_up, drain", "replay": "proven, no_output, always"}[name]

    with pytest.raises(ValueError, match=f"^{re.escape(f'{name}={bad!r} is none of {choices}')}$"):
        policy(**{name: bad})


def test_more_spare_than_there_may_be_is_refused() -> None:
    """`min_idle` can be as large as the pool, and no larger."""
    assert 3 == policy(min_idle=3, max_size=3).min_idle
    with pytest.raises(ValueError, match=r"^min_idle=4 exceeds max_size=3$"):
        policy(min_idle=4, max_size=3)


@pytest.mark.parametrize("name", OPTIONAL)
def test_none_is_a_value_where_it_means_something(name: str) -> None:
    """No limit, the provider's limit, never."""
    assert getattr(policy(**{name: None}), name) is None


@pytest.mark.parametrize(
    "name",
    sorted({field.name for field in attrs.fields(PoolPolicy)} - {*OPTIONAL, *CHOICES}),
)
def test_none_is_refused_where_it_means_nothing(name: str) -> None:
    """A limit that always holds cannot be left out, and the error names it."""
    with pytest.raises(TypeError, match=f"{name}=None"):
        policy(**{name: None})


@pytest.mark.parametrize("name", ["max_lifetime", "lanes", "max_request"])
def test_a_provider_cannot_be_without_limits(name: str) -> None:
    """None is no lifetime, no number of lanes and no size."""
    fields: dict[str, Any] = {name: None}

    with pytest.raises(TypeError, match=f"{name}=None"):
        Provider(name="mine", **fields)


@pytest.mark.parametrize(
    ("fields", "error", "text"),
    [
        ({"max_lifetime": 0}, ValueError, "max_lifetime=0 is below 0.001"),
        ({"max_lifetime": "3600"}, TypeError, "max_lifetime='3600' is not a number"),
        ({"lanes": 0}, ValueError, "lanes=0 is below 1"),
        ({"lanes": 1.5}, TypeError, "lanes=1.5 is not an int"),
        ({"max_request": -1}, ValueError, "max_request=-1 is below 1"),
    ],
)
def test_a_bad_provider_is_quoted(fields: dict[str, Any], error: type[Exception], text: str) -> None:
    """A profile checks itself as a policy does."""
    with pytest.raises(error, match=f"^{re.escape(text)}$"):
        Provider(name="mine", **fields)


def test_limits_do_not_change() -> None:
    """Nobody can alter a policy or a provider under a running pool."""
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        PoolPolicy().max_size = 7  # type: ignore[misc] # that is the point
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        OPENAI.lanes = 16  # type: ignore[misc] # that is the point


# -- schedules ------------------------------------------------------------------------------


def check(policy: PoolPolicy, provider: Provider) -> None:
    plan = policy.schedule(provider)

    assert 0 < plan.retire_from <= plan.retire_to <= plan.last_start <= plan.lifetime
    assert plan.lifetime <= provider.max_lifetime


SECONDS = st.floats(0.5, DAY)
MARGIN = st.floats(0, 2 * DAY)


@pytest.mark.parametrize("provider", PROVIDERS.values(), ids=PROVIDERS)
@given(SECONDS)
def test_a_schedule_is_in_order_for_any_lifetime(provider: Provider, lifetime: float) -> None:
    """A connection retires after it was born and before its last start, which is before its end."""
    check(PoolPolicy(), provider)
    check(PoolPolicy(max_lifetime=lifetime), provider)
    check(PoolPolicy(), attrs.evolve(provider, max_lifetime=lifetime))


@given(SECONDS, MARGIN, MARGIN, MARGIN, st.floats(0.001, DAY))
def test_a_schedule_is_in_order_for_any_margins(
    lifetime: float, margin: float, spread: float, reserve: float, dial: float
) -> None:
    """Margins far too large or zero still leave a connection half its life, and time for a dial."""
    policy = PoolPolicy(
        retire_margin=margin, retire_spread=spread, turn_reserve=reserve, connect_timeout=dial
    )
    provider = attrs.evolve(OPENAI, max_lifetime=lifetime)
    check(policy, provider)
    plan = policy.schedule(provider)

    assert plan.retire_from >= lifetime / 2 * (1 - 1e-9)
    assert plan.last_start - plan.retire_to >= min(dial, lifetime / 20) - 1e-9 * lifetime
    assert plan.lifetime - plan.last_start <= lifetime / 4 * (1 + 1e-9)
    assert plan.retire_to - plan.retire_from <= min(spread, lifetime / 5) + 1e-9 * lifetime


def test_a_schedule_of_an_hour_has_the_documented_margins() -> None:
    """No turn starts in the last five minutes; retirements lie in the six before a last dial."""
    plan = PoolPolicy().schedule(OPENAI)

    assert (3600.0, 3300.0) == (plan.lifetime, plan.last_start)
    assert (2925.0, 3285.0) == (plan.retire_from, plan.retire_to)


def test_a_large_margin_counts_where_no_turn_is_reserved_for() -> None:
    """Without a reserve the retirement margin decides when the plan ends."""
    plan = PoolPolicy(turn_reserve=0, retire_margin=200).schedule(OPENAI)

    assert (3600.0, 3400.0, 3040.0) == (plan.last_start, plan.retire_to, plan.retire_from)


def test_the_shorter_lifetime_counts() -> None:
    """A policy can shorten what a provider allows, never lengthen it."""
    assert 600.0 == PoolPolicy(max_lifetime=600.0).schedule(OPENAI).lifetime
    assert 780.0 == PoolPolicy(max_lifetime=3600.0).schedule(VERCEL).lifetime
    assert 780.0 == PoolPolicy().schedule(VERCEL).lifetime


def test_a_provider_is_trusted_in_one_of_two_ways() -> None:
    """Another word is told with the right ones."""
    with pytest.raises(ValueError, match="trust='some' is none of exact, lenient"):
        Provider(name="x", trust="some")  # type: ignore[arg-type] # which is the point


def test_no_more_is_kept_ready_than_there_may_be() -> None:
    """Two lanes where nobody says it, one in a pool of one."""
    assert [1, 2, 2] == [PoolPolicy(max_size=size).min_idle for size in (1, 2, 3)]
