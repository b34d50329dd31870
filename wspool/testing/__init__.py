"""For tests and reports: contract suites (what passes them may stand behind a pool), chaos, and replay."""

from wspool.core.lending.trace import ReplayError, replay
from wspool.testing.chaos import (
    Bandwidth,
    ChaosProxy,
    Latency,
    LimitData,
    ResetPeer,
    Slicer,
    SlowClose,
    Timeout,
    Toxic,
    open_chaos_link,
    open_chaos_proxy,
)
from wspool.testing.check_bytes import MakeConnector, check_bytes
from wspool.testing.check_wire import MakePair, Peer, check_wire

__all__ = [
    "Bandwidth",
    "ChaosProxy",
    "Latency",
    "LimitData",
    "MakeConnector",
    "MakePair",
    "Peer",
    "ReplayError",
    "ResetPeer",
    "Slicer",
    "SlowClose",
    "Timeout",
    "Toxic",
    "check_bytes",
    "check_wire",
    "open_chaos_link",
    "open_chaos_proxy",
    "replay",
]
