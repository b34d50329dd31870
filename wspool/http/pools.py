"""The pools of a door: one for each endpoint and identity, opened at its first use.

Rules of this module:

* It lives in one trio run. A pool is a task of that run, or of a nursery there, and no request's.
* A pool that nobody has used for long is closed; there are never more than `MOST`: then the one that was
  used longest ago, of those that are idle, makes room.
* An endpoint that answers HTTP and offers no WebSocket is not asked again for a while.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, Self, TypeAlias
from weakref import WeakValueDictionary

import trio

from wspool.core.matching.index import Index
from wspool.errors import LeaseRefusedError, PoolClosedError, WebSocketNotOfferedError
from wspool.http.identity import Asked, Identity
from wspool.pool.exchange import Entry, Limits, Outlet, Writer, exchange
from wspool.pool.open import open_pool
from wspool.pool.pool import Pool
from wspool.pool.upgrade import GivenHeaders, pairs_of

__all__ = ["KnownTurns", "Pools", "Slot"]

#: The turns of each identity that requests may go on from, for as long as a pool of it is open.
KnownTurns: TypeAlias = WeakValueDictionary[Identity, Index]

#: Pools at once: each may hold connections to another endpoint, or for another key.
MOST: Final = 64
#: Seconds after which a pool is closed that nobody uses. Its connections have a warm context for longer, but
#: whoever comes back after that long has other things to wait for.
IDLE: Final = 600.0
#: Seconds for which an endpoint is not asked again that offered no WebSocket.
NOT_OFFERED: Final = 300.0


class Slot:
    """One pool, from before it is open until it is closed. Its block uses it.

    Attributes:
        pool: the pool, while it is open.
        users: how many use it now.
    """

    def __init__(self) -> None:
        self.pool: Pool | None = None
        self.error: Exception | None = None
        self.ready = trio.Event()
        self.over = trio.Event()
        self.users = 0
        self.idle_since = math.inf

    async def opened(self) -> Pool:
        """Return the pool once it is open. A checkpoint if it is not; raises what opening it has raised."""
        if self.ready.is_set():
            await trio.lowlevel.checkpoint_if_cancelled()  # others run while what follows sends, or waits
        else:
            await self.ready.wait()
        if self.pool is None:
            raise self.error or PoolClosedError("the pool is closed; nothing was sent")
        return self.pool

    def __enter__(self) -> Self:
        self.users += 1
        return self

    def __exit__(self, *error: object) -> None:
        self.users -= 1
        self.idle_since = trio.current_time()


class Pools:
    """All pools of one door. Used in one trio run only.

    Args:
        options: what all of them are opened with, see `open_pool`.
        nursery: where pools are tasks; by default they are the run's own.
        most: pools at once.
        known: the turns of each identity, shared with pools that go another way.
    """

    def __init__(
        self,
        options: Mapping[str, Any],
        *,
        nursery: trio.Nursery | None = None,
        most: int = MOST,
        known: KnownTurns | None = None,
    ) -> None:
        self._options = options
        self._nursery = nursery
        self._most = most
        self._known = KnownTurns() if known is None else known
        self._slots: OrderedDict[Identity, Slot] = OrderedDict()
        #: Until when an endpoint is not asked.
        self._refused: dict[str, float] = {}
        self._closed = False

    async def perform(
        self,
        asked: Asked,
        outlet: Outlet,
        limits: Limits,
        *,
        write: Writer | None = None,
        enter: Entry | None = None,
    ) -> None:
        """Have one exchange, see there, in the pool that it is for. Raises no `Exception`."""
        identity = asked.identity
        try:
            self._check_offer(identity)
            with self.using(identity) as slot:
                await exchange(
                    slot.opened,
                    asked.body,
                    outlet,
                    limits=limits,
                    session=asked.session,
                    write=write,
                    enter=enter,
                )
        except Exception as error:
            outlet.end(error)
        self._learn(identity, outlet.error)

    @asynccontextmanager
    async def pool(self, identity: Identity) -> AsyncGenerator[Pool]:
        """Use the pool of *identity* while the body runs, once it is open. A checkpoint.

        Raises:
            WebSocketNotOfferedError: its endpoint offered no WebSocket a while ago.
            PoolClosedError, LeaseRefusedError: now is no time for that; or what opening it has raised.
        """
        self._check_offer(identity)
        with self.using(identity) as slot:
            try:
                yield await slot.opened()
            except WebSocketNotOfferedError as error:
                self._learn(identity, error)
                raise

    def is_refused(self, identity: Identity) -> bool:
        """Whether its endpoint offered no WebSocket a while ago, and is not asked again yet."""
        until = self._refused.get(identity.url)
        return until is not None and trio.current_time() < until

    def _check_offer(self, identity: Identity) -> None:
        if self.is_refused(identity):
            raise WebSocketNotOfferedError(
                "the endpoint offered no WebSocket a while ago", phase="upgrade", permanent=True
            )

    def _learn(self, identity: Identity, error: Exception | None) -> None:
        # What was not asked says nothing new.
        if isinstance(error, WebSocketNotOfferedError) and not self.is_refused(identity):
            self._refused[identity.url] = trio.current_time() + NOT_OFFERED

    def using(self, identity: Identity) -> Slot:
        """Return the slot of *identity*, to be used in its block; its pool is opened if there is none.

        Raises:
            PoolClosedError, LeaseRefusedError: now is no time for that.
        """
        slot = self._slots.get(identity)
        if slot is None:
            if self._closed:
                raise PoolClosedError("the client is closed; nothing was sent")
            self._make_room()
            slot = self._slots[identity] = Slot()
            start = trio.lowlevel.spawn_system_task if self._nursery is None else self._nursery.start_soon
            start(self._keep, identity, slot, name="wspool pool")
        self._slots.move_to_end(identity)
        return slot

    async def _keep(self, identity: Identity, slot: Slot) -> None:
        """Open a pool, keep it while it is used, and close it."""
        try:
            options: dict[str, Any] = {**self._options, "headers": self._headers(identity)}
            manager = open_pool(identity.url, api_key=identity.key, **options)
            async with manager as pool:
                pool.known_turns = self._known.setdefault(identity, pool.known_turns)
                slot.pool = pool
                slot.ready.set()
                while not slot.over.is_set() and (slot.users or trio.current_time() < slot.idle_since + IDLE):
                    wait = IDLE if slot.users else slot.idle_since + IDLE - trio.current_time()
                    with trio.move_on_after(max(wait, 0.0)):
                        await slot.over.wait()
                self._drop(identity, slot)
        except Exception as error:
            slot.error = error
        finally:
            slot.pool = None
            slot.ready.set()
            self._drop(identity, slot)

    def _headers(self, identity: Identity) -> GivenHeaders:
        """Return what goes with each upgrade, but for what this identity says otherwise."""
        said = {name for name, _ in identity.headers}
        always = pairs_of(self._options.get("headers", ()))
        return [*[row for row in always if row[0].lower() not in said], *identity.headers]

    def _make_room(self) -> None:
        if len(self._slots) < self._most:
            return
        for identity, slot in self._slots.items():
            if not slot.users:
                slot.over.set()
                self._drop(identity, slot)
                return
        raise LeaseRefusedError(f"{self._most} endpoints or keys are in use at once; nothing was sent")

    def _drop(self, identity: Identity, slot: Slot) -> None:
        if self._slots.get(identity) is slot:
            del self._slots[identity]

    @property
    def open(self) -> Mapping[Identity, Pool]:
        """The pools that are open now."""
        return {who: slot.pool for who, slot in self._slots.items() if slot.pool is not None}

    def close(self) -> None:
        """Refuse newcomers, and close all pools at once. Never waits."""
        self._closed = True
        for slot in self._slots.values():
            slot.over.set()

    def __repr__(self) -> str:
        return f"<Pools, {len(self._slots)} of at most {self._most}>"
