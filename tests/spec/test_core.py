"""The specification machine on the pure core."""

from __future__ import annotations

from tests.spec.machine import PoolMachine

TestPoolCore = PoolMachine.TestCase
