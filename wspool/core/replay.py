"""What may be sent again by itself, decided per turn.

Exactly-once does not exist on this protocol; at-most-once does, and it is the default: only
what provably did not run is sent again. Proof is one of two things. The request was never
handed to the network, or an error frame refused it before `response.created`.

Rules: a missing parent is answered once, in full, on the same connection; a connection at
its lifetime limit sends the turn to a fresh one; output that the caller has seen is never
followed by a second answer.
"""

from __future__ import annotations

import enum
from typing import Final

from wspool.core.frames import ServerError
from wspool.core.policy import Replay
from wspool.core.turn import Delivery

__all__ = ["MESSAGE_TOO_BIG", "Recovery", "Retries"]

#: RFC 6455 section 7.4.1. The same message will be too big for the next connection as well.
MESSAGE_TOO_BIG: Final = 1009

#: Resends of one turn at most, beyond the first send. A fresh connection that fails at once may
#: be bad luck; a fourth one is not.
MAX_RESENDS: Final = 3


class Recovery(enum.Enum):
    """How a turn goes on after its request failed."""

    #: It does not: the caller is told.
    GIVE_UP = "give up"
    #: The whole history is sent again on the same connection.
    HERE = "here"
    #: It is sent again on another connection.
    ELSEWHERE = "elsewhere"


class Retries:
    """The resends of one turn."""

    __slots__ = ("_policy", "_resends", "_was_full")

    def __init__(self, policy: Replay) -> None:
        self._policy: Replay = policy
        self._resends = 0
        self._was_full = False

    def after_refusal(self, error: ServerError, *, had_parent: bool) -> Recovery:
        """An error frame refused the request before anything was created."""
        if error.is_parent_missing and had_parent and not self._was_full:
            self._was_full = True
            return Recovery.HERE
        if error.is_connection_limit:
            return self._elsewhere()
        return Recovery.GIVE_UP

    def after_loss(
        self,
        delivery: Delivery,
        error: ServerError | None,
        *,
        close_code: int | None = None,
        output_seen: bool,
        exposed: bool,
    ) -> Recovery:
        """The connection died under the turn.

        Args:
            delivery: what is known about the request.
            close_code: the code it closed with, if it did.
            error: the error frame that ended the connection, if there was one.
            output_seen: True if any output was received.
            exposed: True if the caller has seen output.
        """
        if exposed or close_code == MESSAGE_TOO_BIG:
            return Recovery.GIVE_UP
        allowed = (
            delivery == "not_sent"
            # The frame says why the turn was not carried out: there is nothing to pay twice.
            or (error is not None and error.is_connection_limit and not output_seen)
            or self._policy == "always"
            or (self._policy == "no_output" and not output_seen)
        )
        return self._elsewhere() if allowed else Recovery.GIVE_UP

    def _elsewhere(self) -> Recovery:
        if self._resends >= MAX_RESENDS:
            return Recovery.GIVE_UP
        self._resends += 1
        return Recovery.ELSEWHERE
