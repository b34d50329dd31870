"""Records: what an instrument is told of turns, leases, connections and tools, and `Pool.turns`."""

from __future__ import annotations

import contextvars
import logging
from typing import Any

import attrs
import pytest
import trio

import wspool
from tests.helpers import (
    FakeConnector,
    FakeWire,
    Recorder,
    created,
    echo,
    error_frame,
    fake_pool,
    policy,
    serving,
)
from wspool.server import ModelRequest, ModelTurn, function_call, message
from wspool.wire.wire import ConnectError, WireClosedError


class Everything(Recorder):
    """Keeps all that there is to see, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.pools: list[wspool.PoolRecord] = []
        self.closes: list[wspool.CloseRecord] = []
        self.grants: list[wspool.GrantRecord] = []
        self.tools: list[wspool.ToolRecord] = []
        self.moves: list[wspool.Move] = []

    def pool_opened(self, record: wspool.PoolRecord) -> None:
        self.pools.append(record)

    def connection_closed(self, record: wspool.CloseRecord) -> None:
        self.closes.append(record)

    def lease_granted(self, record: wspool.GrantRecord) -> None:
        self.grants.append(record)

    def tool_ended(self, record: wspool.ToolRecord) -> None:
        self.tools.append(record)

    def conversation_moved(self, move: wspool.Move) -> None:
        self.moves.append(move)


class Caller:
    """Calls the tool that it is told to, then says so."""

    def respond(self, request: ModelRequest) -> ModelTurn:
        last = request.context[-1]
        if last.get("type") == "function_call_output":
            return ModelTurn(output=[message(str(last["output"]))], delay=2.0)
        return ModelTurn(output=[function_call("tool", {})], delay=1.0)


async def test_a_record_says_what_metrics_need(autojump_clock) -> None:
    """Model, tokens, first event, items, finish reason, times; and who called: the caller's context."""
    recorder, name = Everything(), contextvars.ContextVar("name", default="nobody")
    async with serving(Caller()) as world, world.pool(instrument=recorder) as pool:
        name.set("me")
        async with pool.conversation(model="gpt-5.2") as conversation:

            async def tool() -> str:
                await trio.sleep(3)
                raise wspool.ToolError("no")

            await conversation.run("go", tools={"tool": tool})

    first, second = recorder.records
    assert ("gpt-5.2", "gpt-5.2") == (first.model, first.response_model)
    assert (1, 1, True) == (first.items_given, first.items_sent, first.full)
    assert (1, 1, False) == (second.items_given, second.items_sent, second.full)
    assert ("tool_calls", "stop") == (first.finish_reason, second.finish_reason)
    assert (0, 1) == (first.tool_errors, second.tool_errors)
    assert first.first_event is not None
    assert 0 <= first.first_event <= first.duration
    assert first.ended == pytest.approx(first.started + first.waited + first.duration, abs=0.1)
    assert second.started == pytest.approx(first.ended + 3)
    assert (None, None) == (first.error, first.error_code)
    assert first.tokens.input > 0
    assert first.tokens.output > 0
    assert first.context is not None
    assert "me" == first.context[name]
    assert 0 == first.lane
    (called,) = recorder.tools
    assert ("tool", "ToolError", 3.0) == (called.name, called.error, called.duration)
    assert {recorder.pools[0].pool} == {first.pool, second.pool, called.pool, recorder.grants[0].pool}


@pytest.mark.parametrize("kind", ["conversation", "turn"])
async def test_an_outage_has_records(autojump_clock, kind: str) -> None:
    """Each turn asked for has exactly one, though none ever got a lease: why, and how long it waited."""
    recorder = Everything()
    connector = FakeConnector(echo)
    connector.failure = lambda: ConnectError("refused", phase="tcp")
    limits = policy(max_size=2, give_up_after=5)
    errors: list[wspool.WsPoolError] = []
    async with fake_pool(connector, limits=limits, instrument=recorder) as pool:

        async def ask() -> None:
            try:
                if kind == "turn":
                    async with pool.turn({"model": "m", "input": "x"}) as turn:
                        await turn.result()
                else:
                    async with pool.conversation(model="m") as conversation:
                        await conversation.respond("x")
            except wspool.WsPoolError as error:
                errors.append(error)

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(ask)

    assert (10, 10) == (len(errors), len(recorder.records))
    assert {("unsent", "not_sent", "DialFailedError", "m", 0, 0, None)} == {
        (r.status, r.delivery, r.error, r.model, r.requests, r.bytes_sent, r.connection)
        for r in recorder.records
    }
    assert all(0 < r.waited <= 10 for r in recorder.records)
    assert {0.0} == {r.duration for r in recorder.records}


async def test_a_turn_that_may_not_begin_has_one_record(autojump_clock) -> None:
    """Busy, too large, cancelled in line, on a released lease: one record each, and nothing of it counts."""
    recorder = Everything()
    provider = wspool.Provider(name="small", max_request=300)
    async with fake_pool(
        FakeConnector(lambda wire, request: wire.push(created("r"))),
        limits=policy(max_size=1),
        provider=provider,
        instrument=recorder,
    ) as pool:
        async with pool.conversation(model="m") as conversation, conversation.turn("x"):
            with pytest.raises(wspool.TurnInFlightError):
                await conversation.respond("y")
            with trio.move_on_after(2):
                async with pool.conversation(model="m") as other:
                    await other.respond("z")
        async with pool.conversation(model="m") as conversation:
            with pytest.raises(wspool.RequestTooLargeError):
                await conversation.respond("x" * 400)
        async with pool.lease() as lease:
            pass
        with pytest.raises(wspool.PoolClosedError):
            async with lease.create(model="m", input=[{}, {}]):
                pass

    assert [
        ("unsent", "TurnInFlightError", 0, 1),
        ("cancelled", None, 0, 1),
        ("cancelled", None, 1, 1),
        ("unsent", "RequestTooLargeError", 0, 1),
        ("unsent", "PoolClosedError", 0, 2),
    ] == [(r.status, r.error, r.requests, r.items_given) for r in recorder.records]
    assert 2 == recorder.records[1].waited
    assert 1 == conversation.statistics().moves + 1


@pytest.mark.parametrize(
    ("frame", "status", "error", "code"),
    [
        (error_frame("slow_down", 429), "rejected", "RateLimitedError", "slow_down"),
        (error_frame("bad_thing", 400), "rejected", "ResponseFailedError", "bad_thing"),
        (
            {
                "type": "response.failed",
                "response": {
                    "id": "r",
                    "status": "failed",
                    "output": [],
                    "error": {"code": "server_error", "message": "oops"},
                },
            },
            "failed",
            "ResponseFailedError",
            "server_error",
        ),
    ],
)
async def test_a_record_says_which_error(
    autojump_clock, frame: dict[str, Any], status: str, error: str, code: str
) -> None:
    """The class of what the caller is told, and the code of the server."""
    recorder = Everything()

    def answer(wire: FakeWire, request: dict[str, Any]) -> None:
        if status == "failed":
            wire.push(created("r"))
        wire.push(frame)

    async with (
        fake_pool(FakeConnector(answer), limits=policy(max_resends=0), instrument=recorder) as pool,
        pool.lease() as lease,
    ):
        with pytest.raises(wspool.ResponseFailedError):
            async with lease.create(model="m") as turn:
                await turn.result()

    (record,) = recorder.records
    assert (status, error, code, None) == (
        record.status,
        record.error,
        record.error_code,
        record.finish_reason,
    )


async def test_an_incomplete_response_says_why(autojump_clock) -> None:
    """What it was cut off by is its reason to finish."""
    recorder = Everything()

    def answer(wire: FakeWire, request: dict[str, Any]) -> None:
        response = {
            "id": "r",
            "status": "incomplete",
            "output": [],
            "incomplete_details": {"reason": "max_output_tokens"},
        }
        wire.push(created("r"), {"type": "response.incomplete", "response": response})

    async with (
        fake_pool(FakeConnector(answer), instrument=recorder) as pool,
        pool.lease() as lease,
        lease.create(model="m") as turn,
    ):
        await turn.result()

    assert "max_output_tokens" == recorder.records[0].finish_reason


async def test_what_is_in_flight_can_be_seen(autojump_clock) -> None:
    """As many as the statistics say; what hangs is the one of which nothing came for long."""

    def answer(wire: FakeWire, request: dict[str, Any]) -> None:
        if "hang" in str(request["input"]):
            wire.push(created("r"))

    async with (
        fake_pool(FakeConnector(answer), limits=policy(max_size=2, on_cancel="drain")) as pool,
        pool.lease() as bare,
        pool.conversation(model="m") as conversation,
    ):
        assert [] == pool.turns()
        async with conversation.turn("hang"):
            await trio.sleep(5)
            async with bare.create(model="m", input="silent"):
                await trio.sleep(7)
                hanging, silent = pool.turns()
                assert 2 == pool.statistics().in_flight
                assert "(2 in flight)" in repr(pool)
            assert 1 == len(pool.turns()) == pool.statistics().in_flight, "the rest of it is drained"

    assert (conversation.number, 12, 12, 1, "r", "accepted") == (
        hanging.conversation,
        hanging.since,
        hanging.last_event,
        hanging.events,
        hanging.response_id,
        hanging.delivery,
    )
    assert hanging.received > 0
    assert (None, 7, None, 0, "ambiguous") == (
        silent.conversation,
        silent.since,
        silent.last_event,
        silent.events,
        silent.delivery,
    )


async def test_a_lost_connection_is_lost(autojump_clock) -> None:
    """Whoever sees it first, the reader or who sends: it is not called dirty, and the move has its reason."""
    recorder = Everything()
    connector = FakeConnector(echo)
    async with (
        fake_pool(connector, limits=policy(max_size=1), instrument=recorder) as pool,
        pool.conversation(model="m") as conversation,
    ):
        await conversation.respond("a")

        async def send(message: bytes) -> None:
            await trio.lowlevel.checkpoint()
            raise WireClosedError(1006)

        connector.wire.send = send  # type: ignore[method-assign]
        with pytest.raises(wspool.TurnLostError):
            await conversation.respond("b")
        await conversation.respond("b")
        await trio.sleep(1)

        assert {"lost": 1} == dict(pool.statistics().closed)
    assert ["lost"] == [move.reason for move in recorder.moves]
    assert ["lost", "pool_closed"] == [close.reason for close in recorder.closes]


async def test_a_close_says_how_old_it_was(autojump_clock) -> None:
    """Its age, and the code that it ended with."""
    recorder = Everything()
    connector = FakeConnector(echo)
    async with fake_pool(connector, limits=policy(max_size=1, min_idle=1), instrument=recorder) as pool:
        await pool.wait_ready()
        await trio.sleep(10)
        connector.wire.hang_up(1011)
        await trio.sleep(1)

    close = recorder.closes[0]
    assert (1, 10, 1011, "lost") == (close.connection, close.age, close.close_code, close.reason)
    assert recorder.dials[0].connection == close.connection


async def test_a_grant_says_how_long_it_took(autojump_clock) -> None:
    """Who waited, and who did not; who left the line has none."""
    recorder = Everything()
    async with fake_pool(FakeConnector(echo), limits=policy(max_size=1), instrument=recorder) as pool:
        async with trio.open_nursery() as nursery, pool.lease():

            async def ask() -> None:
                async with pool.lease():
                    pass

            nursery.start_soon(ask)
            with trio.move_on_after(3):
                async with pool.lease():
                    pass
            await trio.sleep(1)
        with pool.lease_nowait():
            pass

    assert [4.0, 0.0] == [grant.waited for grant in recorder.grants[1:]]
    assert 3 == pool.statistics().granted


async def test_several_may_watch(autojump_clock) -> None:
    """Each is told; what one raises is its own."""

    class Broken(wspool.Instrument):
        def turn_ended(self, record: wspool.TurnRecord) -> None:
            raise RuntimeError("mine")

    one, other = Everything(), Everything()
    async with (
        fake_pool(FakeConnector(echo), instrument=[one, Broken(), other]) as pool,
        pool.conversation(model="m") as conversation,
    ):
        await conversation.respond("x")

    assert one.records == other.records
    assert 1 == len(one.records)


def test_what_is_no_instrument_is_refused() -> None:
    """At once, and not when the first turn ends."""
    with pytest.raises(TypeError, match="Instrument"):
        wspool.open_pool("ws://localhost/", api_key="none", instrument=[object()])  # type: ignore[list-item]


async def test_the_log_has_the_same_lines_at_debug(autojump_clock, caplog: pytest.LogCaptureFixture) -> None:
    """Dials, turns, moves, closed connections; and `LoggingInstrument` writes them where one likes."""
    caplog.set_level(logging.DEBUG, logger="wspool.pool")
    caplog.set_level(logging.DEBUG, logger="mine")
    watcher = wspool.LoggingInstrument(logging.getLogger("mine"))
    connector = FakeConnector(echo)
    async with (
        fake_pool(connector, limits=policy(max_size=1), instrument=watcher) as pool,
        pool.conversation(model="m") as conversation,
    ):
        await conversation.respond("x")
        connector.wire.hang_up(1006)
        await trio.sleep(1)
        await conversation.respond("y")

    theirs = [each.getMessage() for each in caplog.records if each.name == "mine"]
    ours = [each.getMessage() for each in caplog.records if each.name == "wspool.pool"]
    assert theirs == ours
    kinds = [line.split()[0] for line in theirs]
    assert {"dial", "conversation", "connection"} == set(kinds)
    assert any("moved from connection 1 to 2: lost" in line for line in theirs)
    assert any("turn completed (terminal), model m, connection 1" in line for line in theirs)


async def test_only_what_is_slow_is_written(autojump_clock, caplog: pytest.LogCaptureFixture) -> None:
    """With `slow`: what took long, and what went wrong."""
    caplog.set_level(logging.INFO, logger="wspool.events")
    async with (
        serving(Caller()) as world,
        world.pool(instrument=wspool.LoggingInstrument(slow=1.5)) as pool,
        pool.conversation(model="m") as conversation,
    ):

        async def tool() -> str:
            return "x"

        await conversation.run("go", tools={"tool": tool})

    turns = [each.getMessage() for each in caplog.records if ", turn " in each.getMessage()]
    assert 1 == len(turns)


async def test_what_an_instrument_sets_holds_where_the_pool_calls(autojump_clock) -> None:
    """In `on_event` of its turn and in its tool, and nowhere else; the records have the same context."""
    doing = contextvars.ContextVar("doing", default="nothing")
    seen: list[tuple[str, str]] = []

    class Setter(Everything):
        def __init__(self) -> None:
            super().__init__()
            self.begun: list[wspool.TurnBegun | wspool.ToolBegun] = []

        def turn_begun(self, record: wspool.TurnBegun) -> None:
            self.begun.append(record)
            record.context.run(doing.set, f"turn {len(self.begun)}")

        def tool_begun(self, record: wspool.ToolBegun) -> None:
            self.begun.append(record)
            record.context.run(doing.set, record.name)

    async def tool() -> str:
        seen.append(("tool", doing.get()))
        doing.set("the tool's own")
        return "done"

    async def on_event(event: wspool.Event) -> None:
        await trio.sleep(0.1)
        if event.type.endswith(("created", "completed")):
            seen.append((event.type, doing.get()))

    setter = Setter()
    async with (
        serving(Caller()) as world,
        world.pool(instrument=setter) as pool,
        pool.conversation(model="m") as conversation,
    ):
        await conversation.run("go", tools={"tool": tool}, on_event=on_event)
        assert "nothing" == doing.get()

    first, call, second = setter.begun
    assert seen == [
        ("response.created", "turn 1"),
        ("response.completed", "turn 1"),
        ("tool", "tool"),
        ("response.created", "turn 3"),
        ("response.completed", "turn 3"),
    ]
    ended: list[Any] = [setter.records[0], setter.tools[0], setter.records[1]]
    assert [one.context for one in (first, call, second)] == [one.context for one in ended]
    assert [one.started for one in (first, call, second)] == [one.started for one in ended]
    assert isinstance(second, wspool.TurnBegun)
    assert ("m", conversation.number) == (second.model, second.conversation)


async def test_content_is_kept_for_who_asks(autojump_clock) -> None:
    """What was given, what came of it and the instructions; shown by no `repr`."""

    class Reader(Recorder):
        wants_content = True

    reader, other = Reader(), Recorder()
    async with fake_pool(FakeConnector(echo), instrument=[reader, other]) as pool:
        async with pool.conversation(model="m", instructions="secretly") as conversation:
            await conversation.respond("a secret")
        async with pool.lease() as lease, lease.create(model="m", input="a secret") as turn:
            await turn.result()
    async with (
        fake_pool(FakeConnector(echo), instrument=other) as pool,
        pool.lease() as lease,
        lease.create(model="m", input="a secret") as turn,
        pool.conversation(model="m") as conversation,
    ):
        await turn.result()
        await conversation.respond("a secret")

    contents = [record.content for record in reader.records]
    assert [content and content.instructions for content in contents] == ["secretly", None]
    for content in contents:
        assert content is not None
        (item,) = content.input
        assert ("user", True) == (item["role"], "a secret" in str(item["content"]))
        assert "ok" in str(content.output)
    assert [None, None] == [record.content for record in other.records[2:]]
    assert "secret" not in repr(reader.records)
    assert ["TurnContent()"] * 2 == [repr(content) for content in contents]


async def test_a_lease_ends_once(autojump_clock) -> None:
    """When it is given back, when it is taken, or when its connection is gone and it is given back."""

    class Leases(Everything):
        def __init__(self) -> None:
            super().__init__()
            self.ends: list[wspool.LeaseRecord] = []

        def lease_ended(self, record: wspool.LeaseRecord) -> None:
            self.ends.append(record)

    seen = Leases()
    connector = FakeConnector(echo)
    limits = policy(max_size=1, patience=1.0)
    async with fake_pool(connector, limits=limits, instrument=seen) as pool:
        async with pool.lease() as parked:
            parked.park()
            async with pool.lease():
                await trio.sleep(2)
        async with pool.lease():
            await trio.sleep(3)
            connector.wires[-1].hang_up()
            await trio.sleep(1)
        with pytest.raises(trio.WouldBlock):
            pool.acquire_nowait()
        assert not pool._shell.announcer._lent

    assert [grant.lease for grant in seen.grants] == [one.lease for one in seen.ends]
    assert [1, 2, 4] == pytest.approx([one.held for one in seen.ends], abs=0.01)


async def test_nobody_pays_who_does_not_look(autojump_clock) -> None:
    """Without an instrument no record is made."""
    async with fake_pool(FakeConnector(echo)) as pool, pool.conversation(model="m") as conversation:
        await conversation.respond("x")
        assert not pool._shell.announcer.sees_turns
        assert not pool._shell.announcer._sees_grants


def test_records_are_values() -> None:
    """Two that say the same are equal, whoever took the turn."""
    one = wspool.ToolRecord(
        pool=1, conversation=1, name="t", call_id="c", started=0, duration=1, error=None, context=None
    )
    assert one == attrs.evolve(one, context=contextvars.copy_context())
