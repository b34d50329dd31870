"""Turns that bring their history along: the model sees what a plain full request shows it, in fewer bytes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given, strategies as st

import wspool
from tests.helpers import (
    FakeConnector,
    FakeWire,
    Recorder,
    World,
    assert_conserved,
    created,
    echo,
    error_frame,
    fake_pool,
    policy,
    serving,
)
from tests.searching import examples
from wspool.server import OPENAI, EchoModel, ModelRequest, ModelTurn, context_digest

Item = dict[str, Any]


def ask(text: str) -> Item:
    return {"role": "user", "content": text}


async def take(pool: wspool.Pool, items: Sequence[Item] | str, **body: Any) -> wspool.Response:
    """One turn to its end."""
    async with pool.turn({"model": "m", "input": items, **body}) as turn:
        return await turn.result()


def assert_as_in_full(world: World, *inputs: Sequence[Item]) -> None:
    """Assert that the model was shown each of *inputs*, in this order."""
    assert [context_digest(items) for items in inputs] == [
        turn["context_sha256"] for turn in world.model_turns
    ]


async def test_a_history_that_comes_again_is_sent_once(autojump_clock) -> None:
    """Each turn after the first sends what is new, and the model sees all of it."""
    recorder = Recorder()
    async with (
        serving(EchoModel()) as world,
        world.pool(limits=policy(max_size=1), instrument=recorder) as pool,
    ):
        items = [ask("one")]
        inputs = []
        for text in ("two", "three", "four"):
            inputs.append(list(items))
            items += (await take(pool, items, store=False)).output
            items.append(ask(text))
        assert_as_in_full(world, *inputs)
        assert 0 == pool.statistics().leased
        assert_conserved(pool.statistics())

    ids = [turn["response_id"] for turn in world.model_turns]
    assert [None, *ids[:-1]] == [turn["previous_response_id"] for turn in world.model_turns]
    assert [1, 1, 1] == [turn["input_items"] for turn in world.model_turns]
    assert [(None, True), (None, False), (None, False)] == [
        (r.conversation, r.full) for r in recorder.records
    ]
    assert (
        0
        == recorder.records[0].bytes_saved
        < recorder.records[1].bytes_saved
        < recorder.records[2].bytes_saved
    )


async def test_a_turn_that_did_not_end_is_not_gone_on_from(autojump_clock) -> None:
    """Left early it leaves nothing, and its lane is not kept."""
    async with serving(EchoModel(), delay_per_token=1) as world, world.pool() as pool:
        async with pool.turn({"model": "m", "input": "one two three"}) as turn:
            async for event in turn:
                if event.type == "response.output_text.delta":
                    break
        answer: Item = {"role": "assistant", "content": "one two three"}
        await take(pool, [ask("one two three"), answer, ask("four")])
        assert_as_in_full(world, [ask("one two three")], [ask("one two three"), answer, ask("four")])
        assert 0 == pool.statistics().leased
        with trio.move_on_after(1):
            await take(pool, "one two three")
        assert 0 == pool.statistics().leased

    assert {None} == {turn["previous_response_id"] for turn in world.model_turns}


async def test_the_body_goes_as_it_is(autojump_clock) -> None:
    """Nothing is added, and nothing is left out but what the transport says itself."""
    connector = FakeConnector(echo)
    body = {
        "model": "m",
        "store": False,
        "stream": True,
        "background": False,
        "tools": [{"type": "function", "name": "f", "parameters": {"maximum": 2**70, "default": None}}],
        "input": [{"role": "user", "content": "é", "odd": [None, 1.5]}],
        "stream_options": {"include_obfuscation": False},
        "prompt_cache_key": "k",
    }
    async with fake_pool(connector) as pool, pool.turn(body) as turn:
        await turn.result()

    sent = {name: value for name, value in body.items() if name not in ("stream", "background")}
    assert [{"type": "response.create", **sent}] == connector.wire.requests


async def test_what_goes_by_http_only_is_refused_before_anything_happens(autojump_clock) -> None:
    """With what to do instead."""
    connector = FakeConnector(echo)
    async with fake_pool(connector) as pool:
        with pytest.raises(ValueError, match=r"background.*use HTTP"):
            pool.turn({"model": "m", "input": "hi", "background": True})

    assert 0 == connector.dials


async def test_a_parent_that_the_server_forgot_costs_one_request(autojump_clock) -> None:
    """Refused, it is sent in full on the same connection; the turn after that goes on from there."""
    refused = False

    def forget_once(wire: FakeWire, request: dict[str, Any]) -> None:
        nonlocal refused
        if request.get("previous_response_id") and not refused:
            refused = True
            wire.push(error_frame("previous_response_not_found"))
        else:
            echo(wire, request)

    connector = FakeConnector(forget_once)
    async with fake_pool(connector) as pool:
        items = [ask("one")]
        for text in ("two", "three"):
            items += [*(await take(pool, items)).output, ask(text)]
        await take(pool, items)

    lengths = [(len(r["input"]), "previous_response_id" in r) for r in connector.wire.requests]
    assert [(1, False), (1, True), (3, False), (1, True)] == lengths


async def test_an_endpoint_that_takes_no_parents_is_asked_no_more(autojump_clock) -> None:
    """As with conversations: it is remembered for the pool."""

    def refuse(wire: FakeWire, request: dict[str, Any]) -> None:
        if request.get("previous_response_id"):
            wire.push(error_frame("unsupported_parameter", param="previous_response_id"))
        else:
            echo(wire, request)

    connector = FakeConnector(refuse)
    async with fake_pool(connector) as pool:
        items = [ask("one")]
        for text in ("two", "three", "four"):
            items += [*(await take(pool, items)).output, ask(text)]

    assert [1, 1, 3, 5] == [len(request["input"]) for request in connector.wire.requests]


async def test_a_parent_that_the_caller_names_is_the_callers(autojump_clock) -> None:
    """Its refusal is told, for nobody here has the rest."""
    connector = FakeConnector(lambda wire, _: wire.push(error_frame("previous_response_not_found")))
    async with fake_pool(connector) as pool:
        with pytest.raises(wspool.PreviousResponseNotFoundError):
            await take(pool, "hi", previous_response_id="resp_0")

    assert ["resp_0"] == [request["previous_response_id"] for request in connector.wire.requests]


async def test_a_chain_of_named_parents_is_one_of_deltas(autojump_clock) -> None:
    """As it was; and the whole history may come at any time."""
    async with serving(EchoModel()) as world, world.pool(limits=policy(max_size=1)) as pool:
        first = await take(pool, "one", store=False)
        second = await take(pool, [ask("two")], previous_response_id=first.id, store=False)
        items = [ask("one"), *first.output, ask("two"), *second.output, ask("three")]
        await take(pool, items, store=False)
        assert_as_in_full(world, [ask("one")], items[:3], items)

    assert [1, 1, 1] == [turn["input_items"] for turn in world.model_turns]


async def test_what_provably_did_not_run_is_sent_again(autojump_clock) -> None:
    """As for conversations: on another connection, in full, and told as one turn."""
    tries = 0

    def answer(wire: FakeWire, request: dict[str, Any]) -> None:
        nonlocal tries
        tries += 1
        if tries == 2:
            wire.push(error_frame("websocket_connection_limit_reached"))
            wire.hang_up(1000)
        else:
            echo(wire, request)

    connector = FakeConnector(answer)
    async with fake_pool(connector) as pool:
        items = [ask("one"), *(await take(pool, [ask("one")])).output, ask("two")]
        await take(pool, items)
        assert 0 == pool.statistics().leased

    assert [[1, 1], [3]] == [[len(request["input"]) for request in wire.requests] for wire in connector.wires]


async def test_what_may_have_run_is_told(autojump_clock) -> None:
    """With what is known of it."""

    def die(wire: FakeWire, _: Item) -> None:
        wire.push(created("resp_1"))
        wire.hang_up(1006)

    connector = FakeConnector(die)
    async with fake_pool(connector) as pool:
        with pytest.raises(wspool.TurnLostError) as lost:
            await take(pool, "hi")

    assert "accepted" == lost.value.delivery


async def test_a_response_that_was_stored_is_gone_on_from_on_any_connection(autojump_clock) -> None:
    """Where the server was asked to, as it is by default."""
    async with serving(EchoModel(), profile=OPENAI) as world, world.pool(provider=wspool.OPENAI) as pool:
        items = [ask("one"), *(await take(pool, "one")).output, ask("two")]
        await world.cut()
        await trio.sleep(1)
        await take(pool, items)
        assert_as_in_full(world, [ask("one")], items)

    assert [1, 1] == [turn["input_items"] for turn in world.model_turns]
    assert [1, 2] == [turn["connection"] for turn in world.model_turns]


async def test_a_closed_pool_says_so(autojump_clock) -> None:
    """When the turn is entered, and nothing was sent."""
    connector = FakeConnector(echo)
    async with fake_pool(connector) as pool:
        await pool.aclose()
        turn = pool.turn({"model": "m", "input": "hi"})
        with pytest.raises(wspool.PoolClosedError):
            async with turn:
                pass


# -- the property ----------------------------------------------------------------------------------


class Host:
    """Who keeps a history, does to it what hosts do, and sends all of it each time."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.items: list[Item] = [ask(rng.choice("ab"))]

    def fork(self) -> Host:
        other = Host(self._rng)
        other.items = list(self.items)
        return other

    def sent(self) -> list[Item]:
        """The history as this host sends it: without what a digest does not hold, and some ids changed."""
        return [self._rewritten(item) for item in self.items]

    def _rewritten(self, item: Item) -> Item:
        way = self._rng.randrange(4)
        item = dict(self._rng.sample(list(item.items()), len(item)))
        if way == 0:
            item = {name: value for name, value in item.items() if name not in ("id", "status")}
        elif way == 1 and isinstance(item["content"], list):
            item["content"] = "".join(part["text"] for part in item["content"])
        elif way == 2 and isinstance(item["content"], list):
            item["content"] = [{"type": part["type"], "text": part["text"]} for part in item["content"]]
        return item

    def edit(self) -> None:
        """Change, cut or shorten the history."""
        place = self._rng.randrange(len(self.items))
        match self._rng.randrange(3):
            case 0:
                self.items[place] = {**self.items[place], "content": self._rng.choice("abc")}
            case 1:
                del self.items[place + 1 :]
            case _:
                self.items = self.items[place:]
        self.items.append(ask(self._rng.choice("ab")))


class Witness:
    """A model that echoes, and notes what it was shown for which request."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, str]] = []

    def respond(self, request: ModelRequest) -> ModelTurn:
        self.seen.append((int(request.body["metadata"]["request"]), context_digest(request.context)))
        return EchoModel().respond(request)


async def run_program(seed: int) -> tuple[int, int]:
    """Many hosts, few connections, everything goes wrong; return requests that were deltas, and all."""
    rng = random.Random(seed)
    given: list[str] = []
    model = Witness()
    async with serving(model, delay_per_token=rng.choice([0, 0.1])) as world:
        limits = policy(max_size=rng.choice([1, 2, 3]))
        async with world.pool(limits=limits) as pool, trio.open_nursery() as nursery:

            async def live(host: Host) -> None:
                for _ in range(rng.randrange(1, 6)):
                    items = host.sent()
                    about = {"request": str(len(given))}
                    given.append(context_digest(items))
                    try:
                        with trio.move_on_after(rng.choice([0.05, 10, 10, 10])):
                            response = await take(
                                pool, items, store=rng.choice([False, True]), metadata=about
                            )
                            host.items += [*response.output, ask(rng.choice("ab"))]
                    except wspool.WsPoolError:
                        pass
                    match rng.randrange(8):
                        case 0:
                            host.edit()
                        case 1:
                            nursery.start_soon(live, host.fork())
                        case 2:
                            await world.cut(rng.randrange(len(world.far_ends)))
                        case _:
                            await trio.sleep(rng.random())

            for _ in range(rng.randrange(2, 6)):
                nursery.start_soon(live, Host(rng))
        assert_conserved(pool.statistics())
        turns = world.model_turns
    assert [] == [number for number, digest in model.seen if digest != given[number]]
    assert {turn["context_sha256"] for turn in turns} <= set(given)
    return sum(turn["previous_response_id"] is not None for turn in turns), len(turns)


@examples(30)
@given(st.integers(0, 2**32))
def test_the_model_sees_what_a_plain_full_request_shows_it(seed: int) -> None:
    """Over random programs of conversations with the same few words, forks, edits, cancels and losses."""
    trio.run(run_program, seed, clock=trio.testing.MockClock(autojump_threshold=0))


def test_the_programs_have_deltas_to_be_wrong_about() -> None:
    """Else the property above would be content with full sends."""
    clock = trio.testing.MockClock
    counts = [trio.run(run_program, seed, clock=clock(autojump_threshold=0)) for seed in range(20)]
    deltas, turns = (sum(column) for column in zip(*counts, strict=True))

    assert turns / 10 < deltas < turns
