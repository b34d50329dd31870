"""For tests and reports: contract suites (whatever passes them may stand behind a pool), and replay."""

from wspool.core.trace import ReplayError, replay
from wspool.testing.check_wire import MakePair, Peer, check_wire

__all__ = ["MakePair", "Peer", "ReplayError", "check_wire", "replay"]
