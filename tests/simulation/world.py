"""World: many conversations on one pool, the reference server, and everything that goes wrong between them.

One seed is one world and one run. Its generator decides the policy, what the network does to each link, when
the server turns dials down, what each conversation says and how long its tools take, who is cancelled when,
and what is done to the pool meanwhile; trio's scheduler is seeded as well. So the same seed gives the same
run, event by event, and a failing seed is a complete bug report.

When all conversations are over the trouble ends, and the pool has to prove that it is whole: every lane can
be leased at once, and a conversation is answered. Then it is closed, and nothing may be left.
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

from tests.helpers import CANARY, Recorder, assert_conserved, assert_empty
from tests.simulation.journal import Journal, TappedWire, Turn
from tests.simulation.network import Network
from wspool import (
    LeaseRefusedError,
    Pool,
    PoolClosedError,
    PoolPolicy,
    ResponseFailedError,
    TurnLostError,
    open_pool,
)
from wspool.core.policy import Provider
from wspool.pool.conversation import Conversation
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
    TurnError,
    function_call,
    message,
    open_server,
)
from wspool.server.models import text_of
from wspool.wire.trio_websocket import TrioWebSocketConnector
from wspool.wire.wire import Endpoint

__all__ = ["LARGE", "SMALL", "Size", "deterministic", "simulate"]

#: Seconds (virtual ones) that no world needs.
_LONG: Final = 200_000.0

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


class WorldModel:
    """Does what the last item asks for: `<verb> <seconds> <words>`; anything else is echoed."""

    def respond(self, request: ModelRequest) -> ModelTurn:
        """Answer; a function of the request alone."""
        last: Item = request.context[-1] if request.context else {}
        if last.get("type") == "function_call_output":
            return ModelTurn(output=[message(str(last["output"]))])
        verb, _, rest = text_of(last).partition(" ")
        seconds, _, words = rest.partition(" ")
        delay = float(seconds or 0)
        match verb:
            case "call":
                return ModelTurn(output=[function_call("work", {"word": words})], delay=delay)
            case "fail":
                return ModelTurn(output=[message(words)], status="failed", delay=delay)
            case "reject":
                error = TurnError(message="No.", code="rate_limit_exceeded", status=429)
                return ModelTurn(status="rejected", error=error, delay=delay)
            case "stop":
                return ModelTurn(output=[message(words)], status="incomplete", delay=delay)
            case _:
                return ModelTurn(output=[message(words)], delay=delay)


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
        self._warm_up = {"model": "m"} if choice.random() < 0.3 else None
        schedule = self._policy.schedule(self._provider)
        self.journal = Journal(self._policy, schedule.last_start)
        self._recorder = Recorder()
        self._scopes: list[trio.CancelScope] = []
        self._pool: Pool
        self._server: Server
        self._nursery: trio.Nursery

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
                    shell._random = random.Random(self._choice.getrandbits(64))
                    shell._clock._suspended = lambda: 0.0
                    self._pool = pool
                    await self._live()
                assert_empty(pool.statistics())
                assert (0, 0, 0) == (len(shell._connections), len(shell._leases), len(shell._parked))
                left = [link.number for link in self._network.links if not link.closed]
                assert [] == left, f"links {left} are still open"
            assert 0 == self._server.statistics().failures
        self.journal.check()
        sent = {request.word for requests in self.journal.requests.values() for request in requests}
        # A turn that was begun has one record; one that was cancelled on its way to the wire too.
        assert len(sent - {None}) <= len(self._recorder.records) <= len(self.journal.turns)
        statistics = pool.statistics()
        assert sum(record.requests for record in self._recorder.records) == statistics.turns, statistics

    @asynccontextmanager
    async def _serving(self) -> AsyncGenerator[None, None]:
        async with open_server(
            WorldModel(),
            profile=self._profile,
            port=None,
            ledger=self._write_line,
            delay_per_token=self._choice.choice((0.0, 0.01)),
            lifetime=self._lifetime,
            limit_mode=self._limit_mode,
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
            await trio.lowlevel.checkpoint()
            return link.near

        async def serve() -> None:
            _LINK.set(link.number)
            await self._server.serve(link.far)

        self.journal.note("dial", link.number)
        connector = TrioWebSocketConnector(open_stream=open_stream)
        return TappedWire(await connector.connect(nursery, endpoint, headers), self.journal, link.number)

    # -- the life -----------------------------------------------------------------------------

    async def _live(self) -> None:
        async with trio.open_nursery() as trouble:
            trouble.start_soon(self._meddle)
            trouble.start_soon(self._cancel_some)
            async with trio.open_nursery() as nursery:
                for number in range(self._size.conversations):
                    generator = random.Random(self._choice.getrandbits(64))
                    nursery.start_soon(self._converse, number, generator)
            trouble.cancel_scope.cancel()
        statistics = self._pool.statistics()
        assert (0, 0, 0) == (statistics.leased, statistics.waiting, statistics.in_flight), statistics
        assert_conserved(statistics)
        await self._prove_whole()

    async def _converse(self, number: int, choice: random.Random) -> None:
        """Hold one conversation, perhaps until it is cancelled."""
        await trio.sleep(choice.random() * choice.choice((0.0, 1.0, 30.0)))
        with trio.CancelScope() as scope:
            if choice.random() < 0.15:
                scope.deadline = trio.current_time() + choice.expovariate(1 / 20)
            self._scopes.append(scope)
            # What is stored goes along to any connection, so only half of the journal's rules hold for
            # it; `tests/pool/test_continuity.py` has its own.
            async with self._pool.conversation(model="m", store=False) as conversation:
                for count in range(self._size.turns):
                    await self._speak(conversation, f"w{number}x{count}", number, choice)
                    await trio.sleep(choice.random() * choice.choice((0.0, 1.0, 10.0, 60.0)))
        if not scope.cancelled_caught:
            self._scopes.remove(scope)

    async def _speak(self, conversation: Conversation, word: str, number: int, choice: random.Random) -> None:
        """Say something; if the model calls for a tool, work and say what came out."""
        verb = choice.choices(("say", "call", "fail", "reject", "stop"), (70, 20, 3, 4, 3))[0]
        delay = round(choice.random() * choice.choice((0.0, 0.1, 5.0, 100.0)), 3)
        words = " ".join([word] * choice.choice((1, 1, 3, 20)))
        scope = trio.CancelScope()
        if choice.random() < 0.15:
            scope.deadline = trio.current_time() + choice.expovariate(1 / 5)
        with scope:
            await self._take(conversation, f"{verb} {delay} {words}", words, word, number, choice)
        last = conversation.items[-1:]
        if last and last[0].get("type") == "function_call":
            await trio.sleep(choice.random() * choice.choice((1.0, 60.0)))
            output = {"type": "function_call_output", "call_id": last[0]["call_id"], "output": f"{word} tool"}
            await self._take(conversation, [output], f"{word} tool", f"{word}t", number, choice)

    async def _take(
        self,
        conversation: Conversation,
        given: str | list[Item],
        answer: str,
        word: str,
        number: int,
        choice: random.Random,
    ) -> None:
        """Take one turn and note what came of it."""
        turn = self.journal.turns[word] = Turn(word=word, conversation=number, answer=answer)
        before = conversation.items
        scope = trio.CancelScope()
        self._scopes.append(scope)
        self.journal.note("take", word)
        with scope:
            try:
                asked = conversation.turn(given, metadata={"turn": word})
                try:
                    async with asked as streaming:
                        await self._read(turn, streaming, choice)
                        response = await streaming.result()
                        turn.response_id = response.id
                    turn.end(response.status, asked.delivery)
                except trio.Cancelled:
                    turn.response_id = None
                    turn.end("cancelled", asked.delivery)
                    raise
                except ResponseFailedError as error:
                    turn.response_id = error.response_id
                    turn.end("failed" if error.response_id else "rejected", error.delivery)
                except (TurnLostError, LeaseRefusedError, PoolClosedError) as error:
                    turn.end(type(error).__name__, error.delivery)
            finally:
                self._scopes.remove(scope)
                self.journal.note("end", word, turn.outcome, turn.delivery)
        items = conversation.items
        if turn.outcome == "cancelled":
            return  # one that had ended just before that is history all the same
        if turn.outcome not in ("completed", "incomplete"):
            if items != before:
                self.journal.violate(f"{word} ended as {turn.outcome} and changed the history")
            return
        new = as_given(given)
        if items != [*before, *new, *response.output]:
            self.journal.violate(f"{word}: the history is not what was said")
        turn.context = before + new
        said = response.output[0]
        text = text_of(said) if said["type"] == "message" else f'"{answer}"'
        if answer not in text or len(text) > len(answer) + 2:
            self.journal.violate(f"{word}: answered with {text!r}")

    async def _read(self, turn: Turn, streaming: Any, choice: random.Random) -> None:
        """Read the events of a turn, perhaps slowly, and look whose they are."""
        slow = choice.random() < 0.1
        said = ""
        async for event in streaming:
            named = event.data.get("response", {}).get("id", streaming.response_id)
            if named != streaming.response_id:
                self.journal.violate(f"{turn.word} got an event of {named}")
            if event.type == "response.output_text.delta":
                said += event.data["delta"]
                if not turn.answer.startswith(said):
                    self.journal.violate(f"{turn.word} heard {said!r}")
            if slow:
                await trio.sleep(choice.random())

    # -- the trouble --------------------------------------------------------------------------

    async def _cancel_some(self) -> None:
        """Cancel turns and conversations, now and then, at any step."""
        choice = random.Random(self._choice.getrandbits(64))
        mean = choice.choice((3.0, 30.0, math.inf))
        while mean < math.inf:
            await trio.sleep(choice.expovariate(1 / mean))
            for _ in range(choice.randrange(40)):
                await trio.lowlevel.checkpoint()
            if self._scopes:
                self.journal.note("cancel")
                choice.choice(self._scopes).cancel()

    async def _meddle(self) -> None:
        """Do things to the pool and its links, now and then."""
        choice, pool, size = random.Random(self._choice.getrandbits(64)), self._pool, self._size
        mean = choice.choice((5.0, 40.0, math.inf))
        while mean < math.inf:
            await trio.sleep(choice.expovariate(1 / mean))
            for _ in range(choice.randrange(10)):
                await trio.lowlevel.checkpoint()
            what = choice.choice(("resize", "resize", "drain", "clear", "interrupt", "pause", "retry", "cut"))
            self.journal.note(what)
            match what:
                case "resize":
                    max_size = choice.randint(1, size.connections)
                    pool.resize(max_size=max_size, min_idle=choice.randint(0, min(2, max_size)))
                case "drain":
                    pool.drain()
                case "clear":
                    pool.clear()
                case "interrupt":
                    pool.clear(interrupt=True)
                case "pause":
                    pool.pause()
                    with trio.CancelScope(shield=True):
                        await trio.sleep(choice.random() * 10)
                    pool.resume()
                case "retry":
                    pool.retry_now()
                case _:
                    if self._network.trouble and self._network.links:
                        choice.choice(self._network.links[-size.connections :]).cut()

    async def _prove_whole(self) -> None:
        """The trouble is over: every lane can be leased at once, and a conversation is answered."""
        self._network.calm = True
        pool, most = self._pool, self._size.connections
        pool.resize(max_size=most)
        pool.retry_now()
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
                    await self._take(conversation, f"say 0 {word}", word, word, -1, self._choice)
                if self.journal.turns[word].outcome == "completed":
                    return
        raise AssertionError("the pool does not come back to life")


def as_given(given: str | list[Item]) -> list[Item]:
    """The items that an input becomes."""
    if isinstance(given, list):
        return given
    return [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": given}]}]
