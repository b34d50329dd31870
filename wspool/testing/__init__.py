"""Contract suites: whatever passes here may stand behind a pool."""

from wspool.testing.check_wire import MakePair, Peer, check_wire

__all__ = ["MakePair", "Peer", "check_wire"]
