"""The same machine on the real trio pool, in step with a shadow core."""

from __future__ import annotations

import attrs
from hypothesis.stateful import rule

from tests.spec.machine import Driver, PoolMachine
from tests.spec.trio_driver import TrioDriver
from wspool.core.policy import PoolPolicy, Provider


class TrioPoolMachine(PoolMachine):
    """The rules are the same; what is driven is the real thing."""

    def adapt(self, policy: PoolPolicy, provider: Provider) -> tuple[PoolPolicy, Provider]:
        # The shell answers a ping itself when the peer was heard lately, and bounds a warm-up, so both
        # have tests of their own.
        return attrs.evolve(policy, ping_interval=None, connect_timeout=1e9), provider

    def make_driver(self) -> Driver:
        policy, provider, warm_up = self.setup
        return TrioDriver(policy, provider, warm_up=warm_up)

    @rule()
    def oversleep(self) -> None:
        """A real timekeeper ticks in time."""


TestTrioPool = TrioPoolMachine.TestCase


def test_what_was_put_off_is_not_done() -> None:
    """The timekeeper sleeps on until a deadline that has been put off since; then nothing is due."""
    state = TrioPoolMachine()
    state.open(
        policy=PoolPolicy(
            max_size=4, min_idle=1, max_idle=500.0, dial_concurrency=3, patience=0.0, ping_interval=None
        ),
        provider=Provider(name="spec", max_lifetime=100.0),
        warm_up=False,
        turns=2,
        parked=1,
        named="all",
    )
    state.release(pick=1, race=False)
    state.turn_ends(pick=0)
    state.acquire_a_young_one()
    state.acquire(remaining=0.0)
    state.dial_succeeds(jitter=0.0, pick=0)
    state.acquire_a_young_one()
    state.teardown()
