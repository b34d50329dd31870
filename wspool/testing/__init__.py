"""For tests and reports: contract suites (what passes them may stand behind a pool), chaos, replay, a local
provider in a thread of its own, and cassettes.
"""

from wspool.core.lending.trace import ReplayError, replay
from wspool.testing.cassette import Cassette, CassetteError, Exchange, MismatchError
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
from wspool.testing.local import LocalServer, local_server, refusal
from wspool.testing.tape import Tape, tape_server

__all__ = [
    "Bandwidth",
    "Cassette",
    "CassetteError",
    "ChaosProxy",
    "Exchange",
    "Latency",
    "LimitData",
    "LocalServer",
    "MakeConnector",
    "MakePair",
    "MismatchError",
    "Peer",
    "ReplayError",
    "ResetPeer",
    "Slicer",
    "SlowClose",
    "Tape",
    "Timeout",
    "Toxic",
    "check_bytes",
    "check_wire",
    "local_server",
    "open_chaos_link",
    "open_chaos_proxy",
    "refusal",
    "replay",
    "tape_server",
]
