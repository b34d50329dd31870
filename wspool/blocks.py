"""Blocks: what is entered in the runtime for a caller of `wspool.aio` or `wspool.blocking`.

Rules of this module:

* What is entered is a claim (`wspool.runtime`), of its block and of what the block gives.
* Whatever is made from something holds that: a pool that nobody names any more lives as long as its turns.
* It is left without waiting.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Generic, Protocol, TypeVar

from wspool.pool.lease import Lease
from wspool.runtime import Claim, Runtime

__all__ = ["Block", "Given", "claimed", "give_back", "taken", "taken_now"]


class Given(Protocol):
    """What a block gives.

    Attributes:
        claim: what it is held by.
        origin: what it was made from, which it holds.
    """

    claim: Claim[Any] | None
    origin: object


_C = TypeVar("_C", bound=Given)


def claimed(
    facade: Callable[[Any, Runtime], _C], claim: Claim[Any], runtime: Runtime, origin: object = None
) -> _C:
    """Return the facade of what *claim* holds, made from *origin*; with the last of the two it is left."""
    made = facade(claim.value, runtime)
    made.claim, made.origin = claim, origin
    return made


class Block(Generic[_C]):
    """A block of something that is entered in the runtime and left without waiting; a world adds how.

    Args:
        native: the native block.
        runtime: where it is entered.
        facade: makes what the block gives.
        end: leaves what was entered. In the runtime.

    Attributes:
        origin: what it was made from, which it holds.
    """

    def __init__(
        self,
        native: Any,
        runtime: Runtime,
        facade: Callable[[Any, Runtime], _C],
        end: Callable[[Any], object],
    ) -> None:
        self.native = native
        self.runtime = runtime
        self._facade = facade
        self._end = end
        self._claim: Claim[Any] | None = None
        self.origin: object = None

    async def enter(self) -> Claim[Any]:
        """Enter it. In the runtime."""
        return Claim(self.runtime, await self.native.__aenter__(), self._end)

    def entered(self, claim: Claim[Any]) -> _C:
        """Return what the block gives."""
        self._claim = claim
        return claimed(self._facade, claim, self.runtime, self.origin)

    def left(self) -> None:
        """The block has ended."""
        if self._claim is not None:
            self._claim.leave()


async def taken(runtime: Runtime, take: Callable[[], Awaitable[Lease]]) -> Claim[Lease]:
    """Return a lease once there is one. In the runtime."""
    return Claim(runtime, await take(), Lease.release)


def taken_now(
    runtime: Runtime, take: Callable[[], Lease], facade: Callable[[Any, Runtime], _C], origin: object
) -> _C:
    """Return a lease of *origin* that is there at once."""
    claim = runtime.run_sync(lambda: Claim(runtime, take(), Lease.release))
    return claimed(facade, claim, runtime, origin)


def give_back(given: Given) -> None:
    """The caller gives back what was *given*. Never waits."""
    if given.claim is not None:
        given.claim.leave()
