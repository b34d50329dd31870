"""What may be sent again by itself, decided per turn.

Exactly-once does not exist on this protocol; at-most-once does, and it is the default: only
what provably did not run is sent again. Proof is one of two things. The request was never
handed to the network, or an error frame refused it before `response.created`. Where a pool has patience there
is a third: its response failed with nothing in it, nothing paid, and an error that would have met any other.

Where a pool has patience (`PoolPolicy.refusal_patience`), a refusal that may pass is waited out, in the
common pace of its turns (`wspool.core.sending.pace`), unless it is the trouble of this request alone
(`wspool.core.sending.blame`).

A refusal that may pass (too many requests, overload, a server error) is tried again after a
wait of full jitter, and not before the server lets anybody send (`PoolCore.hold`). All of it
within the resend budget of the endpoint, unless the pool has patience.

Rules: a request that named a parent and was refused is sent once in full, on the same connection, whatever
words the endpoint has for "I do not know that parent", unless its code or status says that the whole history
would be refused as well; so is one with a lane that the endpoint does not want named, without the name, and
one that asks for encrypted reasoning where there is none, without asking; a request that a connection at its
lifetime limit refuses goes to a fresh one, and a response that this limit cuts is lost like any other, output
or not; output that the caller has seen is never followed by a second answer; a wait that is longer than
`MAX_RETRY_AFTER` is for the caller.

What an endpoint does not take at all is remembered for all turns of its pool (`wspool.core.sending.takes`).

A resend is the same request again, by itself. A retry is a turn that the caller has taken again.
"""

from __future__ import annotations

import enum
from typing import Final

from wspool.core.events.turn import Delivery
from wspool.core.policy import Replay
from wspool.core.server_error import ServerError
from wspool.core.waits import MAX_RETRY_AFTER

__all__ = ["MESSAGE_TOO_BIG", "Recovery", "ResendBudget", "Resends"]

#: RFC 6455 section 7.4.1. The same message will be too big for the next connection as well.
MESSAGE_TOO_BIG: Final = 1009

#: First upper bound of the wait before a refused request is sent again, in seconds; doubled by
#: each further one. The openai SDK waits the same.
FIRST_DELAY: Final = 0.5
#: Largest upper bound of that wait, in seconds.
LONGEST_DELAY: Final = 8.0


class Recovery(enum.Enum):
    """How a turn goes on after its request failed."""

    #: It does not: the caller is told.
    GIVE_UP = "give up"
    #: The whole history is sent again on the same connection.
    HERE = "here"
    #: It is sent again on another connection.
    ELSEWHERE = "elsewhere"
    #: It is sent again after a wait (`Resends.delay`).
    LATER = "later"


class ResendBudget:
    """How much of what an endpoint does may be second tries, over all conversations.

    gRPC's shape (proposal A6): every loss takes a token, every success gives a tenth back, and
    nothing is sent again while half of them or more are gone. So resends cannot become a storm.
    """

    __slots__ = ("_tokens",)

    TOKENS: Final = 100.0
    REFUND: Final = 0.1

    def __init__(self) -> None:
        self._tokens = self.TOKENS

    @property
    def allows(self) -> bool:
        """Whether a resend is within the budget."""
        return self._tokens > self.TOKENS / 2

    def failed(self) -> None:
        """A request failed in a way that a resend may mend."""
        self._tokens = max(self._tokens - 1.0, 0.0)

    def succeeded(self) -> None:
        """A request ended well."""
        if self._tokens < self.TOKENS:
            self._tokens = min(self._tokens + self.REFUND, self.TOKENS)


class Resends:
    """The resends of one turn.

    Args:
        policy: what may be sent again by itself.
        limit: resends at most, beyond the first send.
        budget: the endpoint's, shared by all turns.
        patience: seconds for which a refusal that may pass is waited out, without a limit of resends: the
            pace of the pool sees to it that they are few. None where that is not asked for.

    Attributes:
        delay: seconds to wait before the resend at least, after `Recovery.LATER`.
        parent_refused: what refused the request with its parent, if it was sent in full for that.
        plain: True once it was refused for asking for encrypted reasoning: it asks no more.
    """

    __slots__ = (
        "_budget",
        "_limit",
        "_patience",
        "_policy",
        "_refused_since",
        "_resends",
        "_was_renewed",
        "_was_unnamed",
        "delay",
        "parent_refused",
        "plain",
    )

    def __init__(
        self, policy: Replay, limit: int, budget: ResendBudget, patience: float | None = None
    ) -> None:
        self._policy: Replay = policy
        self._limit = limit
        self._budget = budget
        self._patience = patience
        self._refused_since: float | None = None
        self._resends = 0
        self._was_renewed = self._was_unnamed = False
        self.parent_refused: ServerError | None = None
        self.plain = False
        self.delay = 0.0

    def after_refusal(
        self,
        error: ServerError,
        *,
        had_parent: bool,
        had_lane: bool = False,
        asked_reasoning: bool = False,
        put_off: bool = False,
        key_renews: bool = False,
        jitter: float,
        now: float = 0.0,
        suspected: int = 0,
        is_to_blame: bool = False,
    ) -> Recovery:
        """An error frame refused the request before anything was created, or its response was put off.

        Args:
            error: the frame, or what the response failed with.
            had_parent: True if the request named a previous response.
            had_lane: True if the request named a lane.
            asked_reasoning: True if it asked for encrypted reasoning.
            put_off: True if a response was created, and failed before there was anything of it.
            key_renews: True if the credential went with the request, and may be another when asked for anew.
            jitter: a random number in [0, 1), to spread resends.
            now: the time, in seconds on any clock; only differences count.
            suspected: how often it was refused although others were taken.
            is_to_blame: True if it is the trouble of this request, and not of the endpoint.
        """
        if put_off and self._patience is None:
            return Recovery.GIVE_UP
        if key_renews and error.refuses_key and not self._was_renewed:
            self._was_renewed = True  # as after a handshake: once
            return self._again(Recovery.ELSEWHERE)
        if error.blames_lane and had_lane and not self._was_unnamed:
            self._was_unnamed = True
            return Recovery.HERE
        if error.blames_reasoning and asked_reasoning and not self.plain:
            self.plain = True
            return Recovery.HERE
        if had_parent and error.full_may_cure and self.parent_refused is None:
            self.parent_refused = error
            return Recovery.HERE
        if error.is_connection_limit:
            # Normal, and no sign of trouble: the budget has no part in it.
            return self._again(Recovery.ELSEWHERE)
        if error.may_pass and self._patience is not None:
            if is_to_blame:
                return Recovery.GIVE_UP
            return self._bear(error, self._patience, now, jitter, suspected)
        if not error.may_pass or (error.retry_after or 0.0) > MAX_RETRY_AFTER:
            return Recovery.GIVE_UP
        self._budget.failed()
        if not self._budget.allows:
            return Recovery.GIVE_UP
        bound = min(LONGEST_DELAY, FIRST_DELAY * 2.0**self._resends)
        self.delay = jitter * bound
        return self._again(Recovery.LATER)

    def _bear(
        self, error: ServerError, patience: float, now: float, jitter: float, suspected: int
    ) -> Recovery:
        if self._refused_since is None:
            self._refused_since = now
        if now + (error.retry_after or 0.0) > self._refused_since + patience:
            return Recovery.GIVE_UP
        # Of too many requests at once the pace knows when there is room again; any other trouble is mine.
        bound = min(LONGEST_DELAY, FIRST_DELAY * 2.0**suspected)
        self.delay = 0.0 if error.is_rate_limit else jitter * bound
        return Recovery.LATER

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
        # Normal, and no sign of trouble; but what was begun is paid for, whatever ended it.
        at_limit = error is not None and error.is_connection_limit
        if not at_limit:
            self._budget.failed()
        if exposed or close_code == MESSAGE_TOO_BIG:
            return Recovery.GIVE_UP
        allowed = (
            delivery == "not_sent"
            or self._policy == "always"
            or (self._policy == "no_output" and not output_seen)
        )
        # Who has patience is bounded by its own few: a server that starts anew loses all that run at once.
        if not allowed or not (at_limit or self._patience is not None or self._budget.allows):
            return Recovery.GIVE_UP
        return self._again(Recovery.ELSEWHERE)

    def _again(self, how: Recovery) -> Recovery:
        if self._resends >= self._limit:
            return Recovery.GIVE_UP
        self._resends += 1
        return how
