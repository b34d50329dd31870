"""Visit: one request of a client, with all that whoever answers it needs."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeAlias

import attrs
import h11
import trio

from wspool.core.frames import Event
from wspool.core.sending.brought import WrittenBody
from wspool.http.identity import Identity
from wspool.http.pools import Pools
from wspool.listening.answers import Answers
from wspool.listening.errors import RequestError, TurnError
from wspool.listening.intake import Intake
from wspool.pool.exchange import Entry
from wspool.proxy.access.account import Account
from wspool.proxy.access.gate import Caller
from wspool.proxy.access.turnstile import Turnstile
from wspool.proxy.entrance.watched import Watched
from wspool.proxy.headers import credentials, header
from wspool.proxy.reading import forget
from wspool.proxy.records.record import Door, Record, Records
from wspool.proxy.settings import KeepaliveStyle, Settings
from wspool.proxy.sockets.orphans import Orphans
from wspool.proxy.target import Target, Upstream
from wspool.proxy.turns.posting import Post
from wspool.proxy.turns.repeats import Repeats

__all__ = ["Handler", "Services", "Visit", "header"]


class Passing(Protocol):
    """The way to the provider over HTTP."""

    async def pass_on(self, visit: Visit, record: Record) -> None: ...
    def post(self, visit: Visit, body: bytes) -> Post: ...


class Recorder(Protocol):
    """Takes turns down, as they were asked and answered."""

    def take(
        self,
        name: str,
        body: Mapping[str, Any],
        events: Sequence[Event],
        error: Exception | None,
        secrets: Iterable[str],
        size: int,
    ) -> None:
        """Take a turn down that is over. Never waits, never raises.

        Args:
            name: of its session, or of its client.
            body: of its request, which nobody changes any more.
            events: all that came of it.
            error: what ended it, if that was not the end of its response.
            secrets: what must not be written down.
            size: bytes of its body, about.
        """
        ...


@attrs.frozen(kw_only=True)
class Services:
    """What all requests of one proxy share.

    Attributes:
        recorder: takes turns down, if that is wanted.
        pools_by_http: for turns of WebSocket clients that cannot go that way; requests of any size.
    """

    upstream: Upstream
    settings: Settings
    pools: Pools
    pools_by_http: Pools
    records: Records
    passage: Passing
    turnstile: Turnstile
    account: Account
    repeats: Repeats
    orphans: Orphans
    recorder: Recorder | None


@attrs.define(kw_only=True, eq=False)
class Visit:
    """One request.

    Attributes:
        stream: its connection.
        intake: what comes on it.
        answers: what goes out on it.
        request: its head.
        target: what it asks for.
        caller: who asks.
        since: when it came, on trio's clock.
        began: when it came, in seconds since the epoch.
    """

    services: Services
    stream: Watched
    intake: Intake
    answers: Answers
    request: h11.Request
    target: Target
    caller: Caller
    since: float
    began: float

    def record(self, door: Door, **fields: Any) -> Record:
        """Return its record, which begins now."""
        session = self.target.session or next(iter(self.caller.session), None)
        token = self.caller.token
        return self.services.records.begin(
            door,
            token="" if token is None else token.name,
            client=self.caller.name,
            agent=self.caller.agent,
            session=session,
            method=self.request.method.decode("ascii"),
            path=self.target.path[:200],
            began=self.began,
            **fields,
        )

    @property
    def session(self) -> tuple[str, ...]:
        """All that names its conversation."""
        named = self.target.session
        return self.caller.session if named is None else (named, *self.caller.session)

    @property
    def identity(self) -> Identity | None:
        """As whom the provider is asked over WebSocket; None if it cannot be."""
        return self.caller.identity

    def check_budget(self) -> None:
        """Raise RequestError if its token has used what it may use today."""
        token, account = self.caller.token, self.services.account
        if token is not None and token.budget is not None and account.used(token.name) >= token.budget:
            raise RequestError(
                TurnError(
                    type="insufficient_quota",
                    code="insufficient_quota",
                    message=f"The budget of {token.name} is spent: {token.budget} tokens a day.",
                    status=429,
                    headers={"Retry-After": str(math.ceil(account.left_today())), "x-should-retry": "false"},
                )
            )

    def take_down(
        self, body: Mapping[str, Any], events: Sequence[Event], error: Exception | None, size: int
    ) -> None:
        """Have a turn taken down that was sent and is over, if that is wanted. Never waits.

        Args:
            size: bytes of its body as it came.
        """
        if (recorder := self.services.recorder) is not None:
            identity, token = self.identity, self.caller.token
            secrets = credentials(self.request.headers) + ([] if token is None else [token.text])
            if identity is not None:
                secrets += [value for _, value in identity.headers]
                secrets += [] if identity.key is None else [identity.key]
            name = next(iter(self.session), self.caller.name)
            if isinstance(body, WrittenBody):
                size = sum(len(piece) for piece in body.row)
            elif header(self.request, b"content-encoding"):  # nobody knows any more what it unpacked to
                size = self.services.settings.max_body
            recorder.take(name, body, events, error, secrets, size)

    def forget(self, body: Mapping[str, Any]) -> None:
        """Nobody needs *body* any more, but for who takes it down, and then does the same. Never waits."""
        if self.services.recorder is None:
            forget(body)

    def turn(self, pool: Hashable) -> AbstractContextManager[Entry]:
        """Let a turn ask for a place among those of all clients in the body. See `Turnstile.turn`.

        Args:
            pool: as whom the provider is asked, or whatever else has a line of its own.
        """
        token, most = self.caller.token, self.services.settings.max_turns_per_client
        return self.services.turnstile.turn(
            pool,
            self.caller.name,
            weight=1.0 if token is None else token.weight,
            limit=most if token is None or token.limit is None else min(most, token.limit),
        )

    @property
    def whose(self) -> Hashable:
        """What tells this client's requests from those of others, for `Repeats`."""
        return self.caller.identity, self.caller.name, self.target.session, self.target.path

    @property
    def keepalive_style(self) -> KeepaliveStyle:
        """How silence is broken towards this client."""
        token = self.caller.token
        own = None if token is None else token.keepalive
        return self.services.settings.keepalive_style if own is None else own

    @property
    def silent_until(self) -> float:
        """When the silence towards the client has lasted for too long, on trio's clock."""
        return max(self.since, self.answers.sent_at) + self.services.settings.keepalive

    async def while_here(self, work: Callable[[], Awaitable[None]]) -> bool:
        """Do *work* for as long as the client is there; return whether it was done. A checkpoint.

        Once it has hung up, *work* is cancelled; what is done by then is done, for to leave at the end is to
        have had all. Raises what *work* raises of a client that is there.
        """
        with trio.CancelScope() as scope:
            self.stream.watch(scope.cancel)
            try:
                await work()
                return True
            except Exception:
                if not scope.cancel_called:
                    raise
            finally:
                self.stream.watch(None)
        return False


#: Answers a request whose body was not read yet.
Handler: TypeAlias = Callable[[Visit], Awaitable[None]]
