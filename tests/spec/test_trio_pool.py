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
    def come_back(self) -> None:
        """A turn does, not a lease: see `tests/pool/test_errands.py`."""

    @rule()
    def oversleep(self) -> None:
        """A real timekeeper ticks in time."""


TestTrioPool = TrioPoolMachine.TestCase
