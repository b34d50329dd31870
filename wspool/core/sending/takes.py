"""Takes: what an endpoint does not take, as far as the turns of its pool have found out.

Each turn would else be refused for it, for ever. Rules of this module:

* A refusal is no proof by itself: the same request without what it blames must have gone well.
* What was found out counts for all turns of the pool, and is said once.
* Only that is left out without which the same can be said: a parent where the whole history goes along, the
  wish for encrypted reasoning. Calls whose ids are too long are answered in full, where they get other ones.
* A size that was found too large, by HTTP's word for it or by a close, is remembered for five minutes: to try
  costs a connection. Limits change when a gateway does, and one that had no room once is no limit, so whoever
  comes after that tries. Kept are the smallest of them, and until when. What is smaller than all known limits
  was refused for another reason.

What is not taken is remembered by what the refusal blames. A parent also by what an endpoint does: there are
those that take none, and have many words for it.
"""

from __future__ import annotations

import math
from typing import Final, Literal, TypeAlias

from wspool.core.encoding import Encoded
from wspool.core.server_error import ServerError

__all__ = ["NotTaken", "Takes"]

#: What is said once, of what is not taken.
NotTaken: TypeAlias = Literal["parents", "reasoning"]

_NONE: Final = Encoded(b"null")
#: Seconds for which a size that was too large is not tried again.
_REMEMBERED: Final = 300.0

#: Bytes below which no size is remembered: some say 413 of tokens in a minute, and to send so little again
#: costs little. Chosen: half of the smallest limit for a message that is known of a gateway (AWS, 128 KiB).
_NEVER_TOO_LARGE: Final = 65_536

#: Models that are remembered at most. Who asks for more of them is refused once for each again.
_MODELS: Final = 100


class Takes:
    """What the endpoint of one pool takes.

    Attributes:
        parents: False once nobody shall name a parent any more.
        long_ids: False once nobody shall answer a call by an id that is longer than those of the API.
        too_large: the smallest size that was, in bytes; infinite if none is known. See `forget_size`.
        plain: the models of which no encrypted reasoning shall be asked, each as in the body of a request.
    """

    __slots__ = ("_strikes", "_taken", "_until", "long_ids", "parents", "plain", "too_large")

    #: Parents that were refused and never taken, after which an endpoint counts as one that takes none,
    #: whatever it says. One alone may have forgotten.
    STRIKES: Final = 2

    def __init__(self) -> None:
        self.parents = self.long_ids = True
        self.plain: set[Encoded] = set()
        self._taken = False
        self._strikes = 0
        self.too_large: float = math.inf
        #: When that is forgotten.
        self._until = -math.inf

    def found_too_large(self, size: int, now: float) -> None:
        """A request of so many bytes was refused for its size; *now* in seconds."""
        if size >= _NEVER_TOO_LARGE:
            self.forget_size(now)
            self.too_large, self._until = min(size, self.too_large), now + _REMEMBERED

    def forget_size(self, now: float) -> None:
        """Forget which size was too large, if it is time to."""
        if now >= self._until:
            self.too_large = math.inf

    def parent_taken(self) -> None:
        """A request that named a parent went well."""
        self._taken = True

    def cured(self, error: ServerError, *, held: bool) -> bool:
        """A request that *error* had refused with its parent went well without it.

        Return True if this says that the endpoint takes none, the first time it does.

        Args:
            error: the refusal.
            held: True if the parent was the latest response of the lane, so that there was nothing to forget.
        """
        if error.blames_call_id:
            self.long_ids = False  # which says nothing about the parent
            return False
        self._strikes += held
        known = self.parents
        self.parents = known and not (
            error.refuses_parents or (self._strikes >= self.STRIKES and not self._taken)
        )
        return known and not self.parents

    def asks_reasoning(self, model: Encoded | None) -> bool:
        """Return whether encrypted reasoning may be asked of *model*."""
        return (model or _NONE) not in self.plain

    def went_plain(self, model: Encoded | None) -> bool:
        """A request that was refused for asking *model* for encrypted reasoning went well without.

        Return True the first time.
        """
        known = not self.asks_reasoning(model)
        if len(self.plain) < _MODELS:
            self.plain.add(model or _NONE)
        return not known
