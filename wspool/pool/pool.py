"""Pool: what users hold. What is behind it is its `Shell`, with which leases and connections talk."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, Final, cast

import attrs
import trio
from trio.lowlevel import enable_ki_protection

from wspool.core.commands import Refuse, RefuseReason, WaiterId
from wspool.core.frames import Event
from wspool.core.given import check_callable, check_kind, check_number
from wspool.core.items import encode_fields
from wspool.core.matching.index import Index
from wspool.core.sending.brought import BroughtHistory, http_only
from wspool.core.sending.chain import Chain
from wspool.core.statistics import PoolStatistics, TurnInFlight
from wspool.core.usage import Budget
from wspool.errors import PoolClosedError, WsPoolError
from wspool.pool.continuity import OneTurn
from wspool.pool.conversation import Conversation, ConversationBlock
from wspool.pool.driver import ConversationDriver
from wspool.pool.kept import Kept
from wspool.pool.lease import Lease
from wspool.pool.setup import Setup, carried
from wspool.pool.shell import Shell
from wspool.pool.turn import Turn
from wspool.pool.ways import Held

__all__ = ["Pool"]

logger = logging.getLogger("wspool.pool")
#: Memory for the turns that a request which brings its history along may go on from, in bytes: some forty
#: thousand. As for a cache, more saves bytes on the wire and nothing else.
_REMEMBERED: Final = 32 * 2**20
#: How long a turn is of use that nobody goes on from, in seconds: a connection lives no longer (OpenAI's
#: WebSocket mode guide, 60 minutes).
_REMEMBERED_FOR: Final = 3600.0

#: Fields of a body that are said in another way here.
_NOT_SENT: Final = frozenset({"background", "input", "previous_response_id", "stream", "type"})

# A library says nothing to a program that did not ask: errors reach it as exceptions.
logging.getLogger("wspool").addHandler(logging.NullHandler())


class Pool:
    """Owns the connections of one endpoint and one credential identity; made by `open_pool`.

    Attributes:
        policy: the limits, as they were given, except a `max_size` beyond what this process can carry.
        provider: what the endpoint can do.
        known_turns: what turns that bring their history along may go on from (`turn`). Whoever holds two
            pools of one endpoint and credential, which go different ways, gives both the same.
    """

    def __init__(self, shell: Shell, setup: Setup) -> None:
        self.policy = setup.policy
        self.provider = setup.provider
        self._host = setup.endpoint.host
        self._sockets = setup.sockets
        self._shell = shell
        self.known_turns = Index(max_bytes=_REMEMBERED, max_age=_REMEMBERED_FOR)
        #: The lanes that wait for the next of such turns.
        self._kept = Kept(setup.policy.patience, shell.spawn)

    def lease(
        self, *, min_remaining: float = 0.0, prefer: str | None = None
    ) -> AbstractAsyncContextManager[Lease]:
        """Lease one lane for the length of an `async with` block.

        Args:
            min_remaining: seconds that must be left until its connection's planned retirement.
                Of the connections that have enough the oldest is taken; by default, the lane that is of least
                use to others: one that remembers nothing, then one whose conversation is over, then the one
                that was used longest ago.
            prefer: id of the response to go on from. If a free lane still holds it, that is the one that is
                leased, and `Lease.resumed` says so; else any is. An id that two lanes hold proves nothing.

        Waits in line, first come, first served; who finds the lane that it prefers goes first, a bounded
        number of times. A checkpoint; cancelling takes nothing.

        Raises:
            LeaseRefusedError: the line is full, or the endpoint cannot be reached.
            PoolClosedError: the pool is closed.
        """
        return self._shell.lease(min_remaining, prefer)

    def lease_nowait(self) -> AbstractContextManager[Lease]:
        """Lease one lane for the length of a `with` block, if one is free and nobody is in line.

        Never waits, never dials, and takes nothing from a conversation between turns.

        Raises:
            trio.WouldBlock: there is none.
            PoolClosedError: the pool is closed.
        """
        return Held(self.acquire_nowait, Lease.release)

    @enable_ki_protection
    async def acquire(self, *, min_remaining: float = 0.0, prefer: str | None = None) -> Lease:
        """Take a lease; the caller must `release` it. Prefer `lease()`.

        A checkpoint; cancelling takes nothing. Takes and raises what `lease` does.
        """
        return await self._shell.lease(min_remaining, prefer).__aenter__()

    @enable_ki_protection
    def acquire_nowait(self) -> Lease:
        """Take a lease at once or raise; the caller must `release` it. Prefer `lease_nowait()`."""
        return self._shell.acquire_nowait()

    def conversation(
        self,
        *,
        resume: Mapping[str, Any] | None = None,
        previous_response_id: str | None = None,
        budget: Budget | None = None,
        **defaults: Any,
    ) -> AbstractAsyncContextManager[Conversation]:
        """Hold a conversation for the length of an `async with` block.

        Args:
            resume: a snapshot to go on from (`Conversation.snapshot`), of this or another process.
            previous_response_id: a response to go on from that the server has stored. `items` begins with
                what comes next: nobody here has the rest, so it is named again whenever the history has to
                be sent in full.
            budget: what its turns may cost, its branches' included; one budget may be given to many
                conversations.
            **defaults: fields that go with every turn: `model`, `instructions`, `tools`,
                `store`, `reasoning` ... From its second turn on the history is the library's.

        All of it is written down here: what happens to it later changes nothing of what is sent. It takes
        its lease at its first turn and gives it back at the end of the block. A turn raises
        `PreviousResponseNotFoundError` if the server does not know the response that it goes on from.

        Raises:
            TypeError, ValueError: an argument is not usable, or both of the first two are given.
        """
        if budget is not None:
            check_kind("budget", budget, Budget, "a Budget")
        if previous_response_id is None:
            return ConversationBlock(self._shell, defaults, resume, budget)
        if resume is not None:
            raise ValueError("resume= or previous_response_id=: a conversation goes on from one of them")
        return ConversationBlock(self._shell, defaults, Chain.adopt(previous_response_id), budget)

    def turn(
        self,
        body: Mapping[str, Any],
        *,
        session: Iterable[str] = (),
        notice: Callable[[Event], object] | None = None,
        keep: bool = True,
    ) -> Turn:
        """Prepare one turn that brings its whole history along: `async with pool.turn(body) as turn: ...`.

        For who keeps the history and sends all of it each time, as over HTTP. Only what is new goes over the
        wire, where the pool knows the turn that the request goes on from: one whose words it repeats, however
        they were written again (`wspool.core.matching`). In any doubt all of it is sent.

        Args:
            body: the body of a request to `POST /responses`. It goes as it is, but for `stream` and
                `background`. It is written down here: what happens to it later changes nothing.
            session: what else names the conversation, if anything does; of several with the same words the
                one that is named the same is gone on from.
            notice: is called with each event that is about no response (limits, metadata) and comes while the
                turn is in flight. It must not wait, and must not raise.
            keep: False if nobody wants events again that were given out: then `Turn.events`, and those of an
                error, are without them.

        Raises:
            TypeError, ValueError: it cannot be sent (see `http_only`); the text says where.

        Entering waits for a lease, that of the lane which remembers, if it can be had. It raises what
        entering a turn of a conversation raises, and the turn is sent again where that one would be.
        """
        shell = self._shell
        shell.check_use()
        if isinstance(session, str) or not isinstance(cast("object", session), Iterable):
            raise TypeError(f"session={session!r:.60} must be a list of names")
        if notice is not None:
            check_callable("notice", notice)
        if (reason := http_only(body)) is not None:
            raise ValueError(reason)
        history = BroughtHistory(self.known_turns, body, shell.now(), session=session)
        fields = {name: value for name, value in body.items() if name not in _NOT_SENT}
        continuity = OneTurn(shell, history, self._kept)
        driver = ConversationDriver(continuity, (), encode_fields(fields), notice, keep=keep)
        return Turn(driver)

    async def wait_ready(self, lanes: int | None = None) -> None:
        """Wait until that many lanes can be granted at once.

        Args:
            lanes: how many; by default `min_idle`, which is also the most. If that is made smaller
                meanwhile (`resize`), so is the wish; made larger, only that of who named no number.

        A checkpoint; safe to cancel, to call again and to call from several tasks.

        Raises:
            DialFailedError: the last dial failed; the pool goes on trying.
            PoolClosedError: the pool is closed, or was closed meanwhile.
            TypeError, ValueError: no number of lanes, or more than `min_idle`.
        """
        self._shell.check_use()
        core = self._shell.core
        if lanes is not None:
            check_number("lanes", lanes, 0, whole=True)
        if lanes is not None and lanes > (most := core.policy.min_idle):
            raise ValueError(f"lanes={lanes} exceeds min_idle={most}; raise min_idle")
        await trio.lowlevel.checkpoint()
        # All of it is looked at after each wait: what was true before it may be so no more.
        while not (statistics := self.statistics()).closed_pool:
            most = core.policy.min_idle
            if statistics.idle >= (most if lanes is None else min(lanes, most)):
                return
            if (failure := self.failure) is not None:
                raise failure
            await self._shell.change()
        raise PoolClosedError("the pool is closed")

    def pause(self) -> None:
        """Grant nothing until `resume`: waiters queue, leases and their turns go on. Never waits."""
        self._shell.check_use()
        self._shell.step(self._shell.core.pause)

    def resume(self) -> None:
        """Grant again after `pause`. Never waits."""
        self._shell.check_use()
        self._shell.step(self._shell.core.resume)

    def resize(self, *, max_size: int | None = None, min_idle: int | None = None) -> None:
        """Change the size of the pool. Never waits.

        Args:
            max_size: connections at most. Shrinking closes dials and spare at once, and what is
                leased when it is given back. Never more than this process can carry, see `open_pool`.
            min_idle: lanes kept ready ahead of demand.

        Raises:
            TypeError, ValueError: one is no such number, or the two do not go together; nothing was changed.
        """
        self._shell.check_use()
        for name, value, least in (("max_size", max_size, 1), ("min_idle", min_idle, 0)):
            if value is not None:
                check_number(name, value, least, whole=True)
        if max_size is not None and self._sockets:
            max_size, problem = carried(max_size, open=self.statistics().size)
            if problem:
                logger.warning("%s", problem)
        self._shell.step(self._shell.core.resize, max_size=max_size, min_idle=min_idle)

    def drain(self) -> None:
        """Replace every connection, each as soon as its replacement is there. Never waits.

        Conversations move between turns. Dials are limited by `policy.dial_concurrency`.
        """
        self._shell.check_use()
        self._shell.step(self._shell.core.drain)

    def clear(self, *, interrupt: bool = False) -> None:
        """Trust no connection that exists now, as after a change of credentials. Never waits.

        Args:
            interrupt: True to drop what is leased at once; else it goes when it is given back.
        """
        self._shell.check_use()
        self._shell.step(self._shell.core.clear, interrupt=interrupt)

    def retry_now(self) -> None:
        """Go on at once, although a dial failed or the server asked to wait: you know better. Never waits.

        What the endpoint asked to wait (Retry-After), and the pauses before resends, are over. An endpoint
        whose connections were of no use is believed again, until the next that is of none.
        """
        self._shell.check_use()
        self._shell.step(self._shell.core.retry_now)
        self._shell.errands.lift()

    async def aclose(self, *, grace: float = 0.0) -> None:
        """Close: refuse newcomers and waiters at once, let leases finish, then force.

        Args:
            grace: seconds for leases to be released, and for compactions to end.

        Returns within `grace + policy.close_timeout` and a moment, whatever the peers do.
        A checkpoint; cancelling cuts the grace short, never the closing. Idempotent.

        Raises:
            TypeError, ValueError: *grace* is no time; nothing has changed.
        """
        self._shell.check_use()
        check_number("grace", grace, 0)
        self._kept.close()
        await self._shell.close(grace)

    @property
    def open(self) -> int:
        """Connections that are open now. Never waits."""
        return self._shell.core.open

    def statistics(self) -> PoolStatistics:
        """Return a frozen snapshot; taking it changes nothing."""
        trust = self._shell.announcer.trust
        return attrs.evolve(
            self._shell.errands.told(self._shell.core.statistics()),
            lenient=trust.lenient,
            rewritten=trust.rewritten,
        )

    def turns(self) -> list[TurnInFlight]:
        """Return what is in flight now, the oldest first: as many as `statistics().in_flight`. Never waits.

        To find what hangs: a turn of which nothing came for long.
        """
        self._shell.check_use()
        return self._shell.turns()

    def withheld(self) -> set[int]:
        """Return the conversations that wait because the endpoint refuses, by their numbers. Never waits.

        It has refused their turns, or those of others, or asked to wait, or cannot be reached. One with a
        turn in flight is none of them, nor one that waits in line for what others have.
        """
        self._shell.check_use()
        return self._shell.errands.withheld()

    @property
    def number(self) -> int:
        """Its number in this process, as records have it (`PoolRecord.pool`)."""
        return self._shell.announcer.pool

    @property
    def transport(self) -> str:
        """What new connections speak: "websocket", or "http" (see `open_pool(wire=, fallback=)`)."""
        return self._shell.dialer.transport

    @property
    def failure(self) -> WsPoolError | None:
        """Why there is no connection: what the last dial failed with. None if it did not, or one is there."""
        core = self._shell.core
        if core.failure is None:
            return None
        return self._shell.refusal(Refuse(WaiterId(0), RefuseReason.DIAL_FAILED, core.failure))

    def __repr__(self) -> str:
        s = self.statistics()
        state = "closed" if s.closed_pool else "degraded" if s.degraded else "open"
        if self.transport == "http":
            state += " by HTTP"
        return (
            f"<Pool {self._host}, {state}: {s.leased} leased ({s.in_flight} in flight), {s.idle} idle, "
            f"{s.dialing} dialing, {s.waiting} waiting, {s.size} of {s.max_size} connections>"
        )
