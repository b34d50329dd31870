"""World: many conversations on one pool, the reference server, and everything that goes wrong between them.

One seed is one world and one run. Its generator decides the policy, what the network does to each link, when
the server turns dials down, what each conversation says and how long its tools take, who is cancelled when,
and what is done to the pool meanwhile; trio's scheduler is seeded as well. So the same seed gives the same
run, event by event, and a failing seed is a complete bug report.

When all conversations are over the trouble ends, and the pool has to prove that it is whole: every lane can
be leased at once, and a conversation is answered. Then it is closed, and nothing may be left. In the end each
conversation goes on elsewhere, on a server that knows nothing of it and takes nothing that is not in order.

One world in three is odd (`tests.simulation.odd`), and in one in eight the server announces the end of each
connection as soon as it is there. Both are drawn apart, and all else is as it would be.
"""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any, Final

import attrs
import trio
import trio.testing

from tests.helpers import CANARY, Recorder, assert_conserved, assert_empty, serving
from tests.simulation.fairness import Fairness
from tests.simulation.journal import Journal, TappedWire
from tests.simulation.model import Mishaps, WorldModel
from tests.simulation.network import Network
from tests.simulation.odd import closed, open_calls, shown, uncompacted
from tests.simulation.talk import Talk, as_given
from tests.simulation.trouble import Trouble
from wspool import (
    LeaseRefusedError,
    Pool,
    PoolPolicy,
    WsPoolError,
    open_pool,
)
from wspool.core.policy import Provider
from wspool.core.sending.sendable import NO_OUTPUT
from wspool.core.statistics import TurnRecord
from wspool.server import (
    LITELLM,
    LOCALAI,
    OPENAI,
    VERCEL,
    Entry,
    Item,
    LimitMode,
    ModelRequest,
    ModelTurn,
    Rejection,
    Server,
    ServerProfile,
    open_server,
)
from wspool.wire.trio_websocket import TrioWebSocketConnector
from wspool.wire.wire import Endpoint

__all__ = ["LARGE", "SMALL", "Size", "deterministic", "simulate"]

#: Seconds (virtual ones) that no world needs.
_LONG: Final = 200_000.0

#: Seconds beyond `grace` and `close_timeout` that the end of a pool may take.
_A_MOMENT: Final = 2.0

#: The link that the running task of the server serves. Tasks inherit it from whoever serves the stream.
_LINK: Final[ContextVar[int]] = ContextVar("link")

_LIMIT_MODES: Final[tuple[LimitMode, ...]] = ("on_next_create", "while_idle", "mid_turn", "silent_close")


@attrs.frozen
class Size:
    """How large a world is."""

    name: str
    conversations: int
    connections: int
    turns: int


SMALL: Final = Size("small", conversations=12, connections=4, turns=3)
LARGE: Final = Size("large", conversations=200, connections=32, turns=6)


@contextlib.contextmanager
def deterministic(seed: int) -> Generator[None, None, None]:
    """Make trio's scheduler a function of *seed* for the length of a block."""
    # Private names; `test_simulation` says so when they are gone.
    run: Any = trio._core._run
    before, state = run._ALLOW_DETERMINISTIC_SCHEDULING, run._r.getstate()
    run._ALLOW_DETERMINISTIC_SCHEDULING = True
    run._r.seed(seed)
    try:
        yield
    finally:
        run._ALLOW_DETERMINISTIC_SCHEDULING = before
        run._r.setstate(state)


def simulate(seed: int, size: Size = SMALL) -> Journal:
    """Run the world of *seed* and check it.

    Raises:
        AssertionError: a rule is broken; the text says which.
        Exception: whatever came out of the pool that should not.
    """
    world = World(seed, size)

    async def main() -> None:
        living = trio.lowlevel.current_statistics().tasks_living
        await world.run()
        await trio.testing.wait_all_tasks_blocked()
        assert living == trio.lowlevel.current_statistics().tasks_living

    with deterministic(seed):
        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    return world.journal


class _Looking(Recorder):
    """Looks at what is in flight whenever a turn has ended."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def turn_ended(self, record: TurnRecord) -> None:
        super().turn_ended(record)
        self._world.look()


class World:
    """One seed."""

    def __init__(self, seed: int, size: Size) -> None:
        choice = self._choice = random.Random(f"{size.name} {seed}")
        self._seed = seed
        self._size = size
        self._network = Network(random.Random(choice.getrandbits(64)), choice.choice((0.0, 0.2, 0.5, 1.0)))
        # How often a dial is turned down.
        self._rejecting = choice.choice((0.0, 0.0, 0.1, 0.4))
        self._lifetime = choice.choice((math.inf, math.inf, 40.0, 150.0, 600.0))
        self._limit_mode: LimitMode = choice.choice(_LIMIT_MODES)
        self._profile: ServerProfile = choice.choice((OPENAI, OPENAI, OPENAI, LITELLM, LOCALAI, VERCEL))
        known = self._lifetime < math.inf and choice.random() < 0.6
        self._provider = Provider(
            name="simulated",
            max_lifetime=self._lifetime if known else 3600.0,
            warm_up=self._profile.warm_up,
            closes_after_error=self._profile.close_after_error is not None and choice.random() < 0.5,
            lanes=16,
        )
        self._policy = PoolPolicy(
            max_size=choice.randint(max(1, size.connections // 2), size.connections),
            min_idle=choice.choice((0, 0, 1)),
            max_idle=choice.choice((5.0, 300.0)),
            dial_concurrency=choice.choice((1, 2, 16)),
            lanes=choice.choice((1, 1, 2, 4)),
            max_waiting=choice.choice((None, None, None, size.conversations // 3)),
            give_up_after=choice.choice((10.0, 120.0)),
            count_closing=choice.random() < 0.3,
            patience=choice.choice((0.0, 2.0, 30.0)),
            leak_after=choice.choice((None, 20.0)),
            on_cancel=choice.choice(("hang_up", "drain")),
            drain_timeout=choice.choice((0.5, 30.0)),
            replay=choice.choice(("proven", "proven", "proven", "no_output", "always")),
            max_buffered=choice.choice((2_000, 16 * 1024 * 1024)),
        )
        if random.Random(f"going {seed}").random() < 1 / 8:
            self._lifetime = min(self._lifetime, 1e6)
            self._profile = attrs.evolve(self._profile, expiring_notice=self._lifetime)
            self._policy = attrs.evolve(self._policy, min_idle=2)
        self._warm_up = {"model": "m"} if choice.random() < 0.3 else None
        schedule = self._policy.schedule(self._provider)
        self.journal = Journal(self._policy, schedule.last_start)
        self._recorder = _Looking(self)
        #: When the pool is closed under all of them, in seconds, if it is.
        self._ends_at = choice.expovariate(1 / 60) if choice.random() < 0.25 else None
        #: What the ids of a connection begin with: None are unique, 0 are counted by each for itself, and
        #: with more the count begins anew after so many.
        self._counted = choice.choice((None, None, 0, 0, choice.randint(2, 8)))
        mishaps = choice.choice((0.0, 0.0, 0.05, 0.3)), choice.random() < 0.3, choice.getrandbits(64)
        self._mishaps = Mishaps(*mishaps, lambda: self._network.calm)
        self._odd = random.Random(f"odd {seed}").random() < 1 / 3
        self._talk: Talk
        self._pool: Pool
        self._server: Server
        self._nursery: trio.Nursery

    def look(self) -> None:
        """What is said to be in flight is what the core knows of."""
        turns, statistics = self._pool.turns(), self._pool.statistics()
        if len(turns) != statistics.in_flight:
            self.journal.violate(f"{len(turns)} turns are shown, {statistics.in_flight} are in flight")

    # -- the parts ----------------------------------------------------------------------------

    async def run(self) -> None:
        """Live, and check."""
        with trio.fail_after(_LONG):
            async with self._serving():
                manager = open_pool(
                    self._server.url,
                    api_key=CANARY,
                    provider=self._provider,
                    policy=self._policy,
                    wire=self,
                    warm_up=self._warm_up,
                    instrument=self._recorder,
                )
                async with manager as pool:
                    # Nothing has used either yet: no dial can have ended.
                    shell = pool._shell
                    shell.jitter = random.Random(self._choice.getrandbits(64)).random
                    shell._timekeeper._clock._suspended = lambda: 0.0
                    Fairness(shell.core, self.journal)
                    self._pool = pool
                    self._talk = Talk(pool, self.journal, self._size.turns, odd=self._odd)
                    await self._live()
                assert_empty(pool.statistics())
                assert (0, 0, 0) == (len(shell._connections), len(shell._leases), len(shell._parked))
                left = [link.number for link in self._network.links if not link.closed]
                assert [] == left, f"links {left} are still open"
            assert 0 == self._server.statistics().failures
            await self._prove_histories()
        self.journal.check()
        sent = {request.word for requests in self.journal.requests.values() for request in requests}
        # A turn that was entered has one record, and counts what has left.
        assert len(sent - {None}) <= len(self._recorder.records) == len(self.journal.turns)
        statistics = pool.statistics()
        assert sum(record.requests for record in self._recorder.records) <= statistics.turns, statistics

    @asynccontextmanager
    async def _serving(self) -> AsyncGenerator[None, None]:
        async with open_server(
            WorldModel(odd=self._odd),
            profile=self._profile,
            lenient=self._odd,
            port=None,
            ledger=self._write_line,
            delay_per_token=self._choice.choice((0.0, 0.01)),
            lifetime=self._lifetime,
            limit_mode=self._limit_mode,
            faults=self._mishaps,
            seed=self._seed + 1,
        ) as self._server:
            problem: BaseException | None = None
            async with trio.open_nursery() as self._nursery:
                try:
                    yield
                except BaseException as error:
                    problem = error
                self._nursery.cancel_scope.cancel()
        if problem is not None:
            raise problem

    def _write_line(self, entry: Entry) -> None:
        link = _LINK.get()
        self.journal.note("ledger", link, entry["sequence"], entry["response_id"], entry["outcome"])
        self.journal.ledger[link].append(entry)

    async def connect(
        self, nursery: trio.Nursery, endpoint: Endpoint, headers: Sequence[tuple[str, str]]
    ) -> TappedWire:
        """Dial, as a connector does; perhaps the server is told to turn it down."""
        link = self._network.link()
        self.journal.dialed_at[link.number] = trio.current_time()
        choice = self._choice
        if not self._network.calm and choice.random() < self._rejecting:
            rejection = choice.choice(
                (
                    Rejection(status=429, headers={"Retry-After": str(choice.randint(1, 20))}),
                    Rejection(status=503, headers={"Retry-After": "5"}, delay=1.0),
                    Rejection(status=503, delay=choice.random() * 3),
                    Rejection(status=None),
                    Rejection(status=101, close_code=choice.choice((1008, 1013))),
                )
            )
            self.journal.note("reject", rejection.status)
            self._server.reject_handshakes(rejection)

        async def open_stream(_: Endpoint) -> trio.abc.Stream:
            self._nursery.start_soon(serve)
            try:
                await trio.lowlevel.checkpoint()
            except trio.Cancelled:
                await trio.aclose_forcefully(link.near)  # nobody has it yet who could
                raise
            return link.near

        async def serve() -> None:
            _LINK.set(link.number)
            await self._server.serve(link.far)

        self.journal.note("dial", link.number)
        connector = TrioWebSocketConnector(open_stream=open_stream)
        wire = await connector.connect(nursery, endpoint, headers)
        counted = 0 if self._network.calm and self._counted else self._counted
        return TappedWire(wire, self.journal, link.number, counted, odd=self._odd)

    # -- the life -----------------------------------------------------------------------------

    async def _live(self) -> None:
        trouble = Trouble(self._pool, self._talk, self.journal, self._network, self._size.connections)
        async with trio.open_nursery() as others:
            trouble.begin(others, self._choice)
            if self._ends_at is not None:
                grace = self._choice.choice((0.0, 5.0, 100.0))
                within = self._policy.close_timeout + _A_MOMENT
                others.start_soon(trouble.end_pool, self._ends_at, grace, within)
            async with trio.open_nursery() as nursery:
                for number in range(self._size.conversations):
                    generator = random.Random(self._choice.getrandbits(64))
                    nursery.start_soon(self._talk.converse, number, generator)
            others.cancel_scope.cancel()
        statistics = self._pool.statistics()
        assert (0, 0, 0) == (statistics.leased, statistics.waiting, statistics.in_flight), statistics
        assert_conserved(statistics)
        if not statistics.closed_pool:
            await self._prove_whole()

    async def _prove_whole(self) -> None:
        """The trouble is over: every lane can be leased at once, and a conversation is answered."""
        self._network.calm = True
        pool, most = self._pool, self._size.connections
        pool.resize(max_size=most)
        pool.retry_now()
        self.journal.lift()
        for attempt in range(20):
            await trio.sleep(60)  # what is stalled for ever is found by its ping meanwhile
            word = f"last{attempt}"
            with trio.fail_after(600):
                try:
                    async with contextlib.AsyncExitStack() as leases:
                        for _ in range(most):
                            await leases.enter_async_context(pool.lease())
                except LeaseRefusedError as error:
                    self.journal.note("not whole yet", str(error))
                    continue
                async with pool.conversation(model="m") as conversation:
                    await self._talk.take(conversation, [], f"say 0 {word}", word, word, -1, self._choice)
                if self.journal.turns[word].outcome == "completed":
                    return
        raise AssertionError("the pool does not come back to life")

    async def _prove_histories(self) -> None:
        """Each conversation goes on on a strict server that knows nothing, and its model sees all of it."""
        model = Witness()
        async with serving(model, profile=OPENAI) as strict, strict.pool() as pool:
            for number, (snapshot, told) in self._talk.stories.items():
                model.seen = []
                new: list[Item] = [closed(call, "done") for call in open_calls(told)]
                new += as_given("say 0 the end")
                async with pool.conversation(resume=snapshot) as conversation:
                    try:
                        await conversation.respond(new)
                    except WsPoolError as error:
                        self.journal.violate(f"the history of {number} is not taken: {error!r}; it is {told}")
                        continue
                wanted, seen = shown(uncompacted([*told, *new])), shown(model.seen)
                # What has no output is given one that says so.
                said = [each for each in seen if each[1] != NO_OUTPUT]
                if said != wanted:
                    self.journal.violate(f"the history of {number}: {wanted} is shown as {seen}")


class Witness(WorldModel):
    """Keeps what it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Sequence[Item] = []

    def respond(self, request: ModelRequest) -> ModelTurn:
        """Answer."""
        self.seen = request.context
        return super().respond(request)
