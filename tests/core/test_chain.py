"""Whatever becomes of a conversation's connections, the model sees its whole history, once."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import attrs
import pytest
from hypothesis import given, strategies as st

from wspool.core.frames import encode
from wspool.core.sending.chain import Chain, Item, Plan, WarmUp, as_items

BODY = {"model": "m", "instructions": "Be good.", "tools": [{"type": "function", "name": "f"}]}


def item(number: int) -> Item:
    return {"type": "message", "role": "user", "content": f"{number} \u00e4"}


# -- an honest server -----------------------------------------------------------------------


class ParentMissingError(Exception):
    """The server does not hold the previous response."""


@attrs.define(eq=False)
class Connection:
    """A connection of the server: it holds the context of its latest response, and nothing older.

    Attributes:
        latest: id of the latest response, as the client knows it.
        warm_up: the response to a warm-up request that no turn has followed.
    """

    cache: dict[str, list[Item]] = attrs.field(factory=dict[str, list[Item]])
    latest: str | None = None
    warm_up: WarmUp | None = None


class Server:
    """Resolves previous responses by its own books alone."""

    def __init__(self) -> None:
        self._ids = (f"resp_{number}" for number in itertools.count())

    def create(
        self, connection: Connection, parent: str | None, given: Sequence[Item]
    ) -> tuple[str, list[Item]]:
        """Return the id of the new response and the context that its model sees."""
        if parent is not None and parent not in connection.cache:
            raise ParentMissingError(parent)
        context = [*(connection.cache[parent] if parent is not None else []), *given]
        return next(self._ids), context

    def finish(self, connection: Connection, id: str, context: list[Item], output: Sequence[Item]) -> None:
        """The response ended well: it is all that the connection remembers."""
        connection.cache = {id: [*context, *output]}

    def warm(self, connection: Connection, body: dict[str, Any]) -> None:
        """Answer a warm-up request."""
        id, context = self.create(connection, None, body.get("input", []))
        self.finish(connection, id, context, [])
        connection.latest, connection.warm_up = id, WarmUp(id, body)


class World:
    """One conversation, some connections, and others who use them too."""

    def __init__(self) -> None:
        self.server = Server()
        self.connections = [Connection() for _ in range(3)]
        self.chain = Chain()
        self.truth: list[Item] = []
        self.numbers = itertools.count()
        self.deltas = 0

    def items(self, count: int) -> list[Item]:
        return [item(next(self.numbers)) for _ in range(count)]

    def turn(self, where: int, inputs: int, outputs: int, fate: str) -> None:
        """Send one turn and let it end by *fate*; the model's context is checked on the way."""
        connection = self.connections[where]
        new, output = self.items(inputs), self.items(outputs)
        plan = self.chain.plan(new, connection.latest, connection.warm_up, BODY)
        try:
            id, context = self.server.create(connection, plan.previous_response_id, plan.input)
        except ParentMissingError:
            connection.latest = connection.warm_up = None
            self.chain.forget_parent()
            plan = self.chain.plan(new, connection.latest, connection.warm_up, BODY)
            id, context = self.server.create(connection, plan.previous_response_id, plan.input)
        self.deltas += not plan.full
        connection.warm_up = None

        assert [*self.truth, *new] == context
        assert [*self.chain.items, *new] == context

        match fate:
            case "well":
                self.server.finish(connection, id, context, output)
                connection.latest = id
                self.chain.extend(new, output, id)
                self.truth += [*new, *output]
            case "failed":  # the server evicts the parent
                connection.cache, connection.latest = {}, None
                self.chain.forget_parent()
            case _:  # lost: the server may have finished it, and nobody will know
                self.server.finish(connection, id, context, output)
                self.chain.forget_parent()
                self.connections[where] = Connection()

        assert self.truth == self.chain.items

    def others(self, where: int) -> None:
        """Another conversation has a turn on the connection."""
        connection = self.connections[where]
        id, context = self.server.create(connection, None, self.items(1))
        self.server.finish(connection, id, context, self.items(1))
        connection.latest, connection.warm_up = id, None

    def step(self, kind: str, where: int, inputs: int, outputs: int) -> None:
        """Perform one step of a story."""
        match kind:
            case "others":
                self.others(where)
            case "evict":  # silently: the client learns of it when it asks
                self.connections[where].cache = {}
            case "reconnect":
                self.connections[where] = Connection()
            case "warm":
                if self.connections[where].latest is None:
                    self.server.warm(self.connections[where], {**BODY, "input": []})
            case "warm other":
                if self.connections[where].latest is None:
                    self.server.warm(self.connections[where], {**BODY, "model": "another"})
            case _:
                self.turn(where, inputs, outputs, kind)


KINDS = ["well", "well", "well", "failed", "lost", "others", "evict", "reconnect", "warm", "warm other"]
# Mostly on one connection, so that there is something to continue from.
STORIES = st.lists(
    st.tuples(st.sampled_from(KINDS), st.sampled_from([0, 0, 0, 1, 2]), st.integers(0, 2), st.integers(0, 2)),
    max_size=20,
)


@given(STORIES)
def test_the_model_always_sees_the_whole_history(story: list[tuple[str, int, int, int]]) -> None:
    """Through failures, losses, evictions, moves and warm-ups, context is history plus what is new."""
    world = World()
    for step in story:
        world.step(*step)


@given(st.integers(1, 10))
def test_a_conversation_that_stays_sends_only_what_is_new(turns: int) -> None:
    """Every turn after the first is a delta, on a lane that nobody else used."""
    world = World()
    for _ in range(turns):
        world.turn(0, 1, 1, "well")

    assert turns - 1 == world.deltas


@pytest.mark.parametrize("trouble", ["failed", "lost", "others", "reconnect", "evict"])
def test_after_trouble_one_turn_is_full_and_the_next_is_not(trouble: str) -> None:
    """The history is sent once more, and from there on only what is new."""
    world = World()
    for step in ("well", trouble, "well", "well"):
        world.step(step, 0, 1, 1)

    # The turn that fails or is lost was a delta itself.
    assert 1 + (trouble in ("failed", "lost")) == world.deltas


# -- plans ----------------------------------------------------------------------------------


def chain_of(*items: Item, id: str = "resp_1") -> Chain:
    chain = Chain()
    chain.extend(items, [], id)
    return chain


def test_a_first_turn_is_full() -> None:
    """Without a history all of it is what is new."""
    assert Plan(input=[item(1)], previous_response_id=None, full=True, saved=0) == Chain().plan(
        [item(1)], None, None, BODY
    )


def test_a_first_turn_never_continues_from_a_strangers_response() -> None:
    """What the lane did last for others is no parent."""
    assert Chain().plan([item(1)], "resp_other", None, BODY).previous_response_id is None


def test_a_forgotten_parent_is_not_found_on_a_lane_without_one() -> None:
    """No parent and no latest response are not the same response."""
    chain = chain_of(item(1))
    chain.forget_parent()

    assert chain.parent is None
    assert Plan(input=[item(1), item(2)], previous_response_id=None, full=True, saved=0) == chain.plan(
        [item(2)], None, None, BODY
    )


@given(st.lists(st.integers(), max_size=5), st.lists(st.integers(), min_size=1, max_size=5))
def test_what_a_delta_saves_is_what_it_leaves_out(old: list[int], new: list[int]) -> None:
    """The bytes saved are exactly the bytes by which the full input is longer."""
    chain = chain_of(*map(item, old))
    full = chain.plan([item(number) for number in new], None, None, BODY)
    delta = chain.plan([item(number) for number in new], "resp_1", None, BODY)

    assert not delta.full
    assert delta.saved == len(encode({"input": full.input})) - len(encode({"input": delta.input}))


def test_a_plan_does_not_hold_the_callers_list() -> None:
    """What is added to a list after it was planned is not sent."""
    new = [item(1)]
    plans = [Chain().plan(new, None, None, BODY), chain_of(item(0)).plan(new, "resp_1", None, BODY)]
    new.append(item(2))

    assert [[item(1)], [item(1)]] == [plan.input for plan in plans]


def test_the_history_is_handed_out_as_a_copy() -> None:
    """Who changes the list of items does not change what is sent next."""
    chain = chain_of(item(1))
    chain.items.clear()

    assert [item(1)] == chain.items
    assert 1 == len(chain)
    assert "resp_1" == chain.parent


# -- warm-ups -------------------------------------------------------------------------------


def test_a_first_turn_continues_from_a_fitting_warm_up() -> None:
    """The prepared context is used, and nothing is left out of the input."""
    assert Plan(input=[item(1)], previous_response_id="resp_w", full=True, saved=0) == Chain().plan(
        [item(1)], "resp_w", WarmUp("resp_w", BODY), {**BODY, "store": False}
    )


@pytest.mark.parametrize(
    "change", [{"model": "n"}, {"instructions": None}, {"tools": []}, {"instructions": "Be bad."}]
)
def test_a_warm_up_of_another_context_is_not_used(change: dict[str, Any]) -> None:
    """Another model, other instructions or other tools make another context."""
    warm_up = WarmUp("resp_w", BODY)

    assert Chain().plan([item(1)], "resp_w", warm_up, {**BODY, **change}).previous_response_id is None
    assert not warm_up.fits({**BODY, **change})


def test_a_field_left_out_fits_one_of_null() -> None:
    """No instructions are no instructions, however that is written."""
    assert WarmUp("resp_w", {"model": "m"}).fits({"model": "m", "instructions": None})


def test_a_warm_up_that_is_not_the_latest_is_not_used() -> None:
    """Once something else ran on the lane its server has forgotten the warm-up."""
    for latest in (None, "resp_2"):
        plan = Chain().plan([item(1)], latest, WarmUp("resp_w", BODY), BODY)

        assert plan.previous_response_id is None


def test_a_conversation_with_a_history_never_continues_from_a_warm_up() -> None:
    """The warm-up does not hold that history."""
    chain = chain_of(item(1))
    chain.forget_parent()
    plan = chain.plan([item(2)], "resp_w", WarmUp("resp_w", BODY), BODY)

    assert (None, [item(1), item(2)]) == (plan.previous_response_id, plan.input)


def test_a_warm_up_with_items_of_its_own_is_not_a_parent() -> None:
    """What the model has seen and the history does not hold would be gone after the next move."""
    world = World()
    world.server.warm(world.connections[0], {**BODY, "input": [item(-1)]})
    world.turn(0, 1, 1, "well")
    world.turn(1, 1, 1, "well")


# -- input ----------------------------------------------------------------------------------


@given(st.text())
def test_a_text_is_one_message_of_the_user(text: str) -> None:
    """The short form means what the long form says."""
    assert [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}
    ] == as_items(text)


def test_items_are_copied() -> None:
    """The caller's dicts stay the caller's."""
    given: list[Item] = [{"type": "a"}, {"type": "b"}]
    items = as_items(given)
    given[0]["type"] = "c"

    assert [{"type": "a"}, {"type": "b"}] == items
    assert [{"type": "b"}] == as_items((given[1],))
    assert [] == as_items([])


@pytest.mark.parametrize("wrong", [[7], ["text"], [{"type": "a"}, None], {"type": "a"}, b"text", 7, None])
def test_what_is_no_input_is_refused(wrong: Any) -> None:
    """Neither a text nor a list of items: a type error, before anything is sent."""
    with pytest.raises(TypeError):
        as_items(wrong)


def test_the_item_that_is_none_is_shown() -> None:
    """The error quotes what it found, and not all of it."""
    wrong: Any = ["x" * 1000]

    with pytest.raises(TypeError, match=r"^input must be a str or a list of item dicts; it holds 'x{59}$"):
        as_items(wrong)


def test_the_items_of_an_iterator_are_not_lost() -> None:
    """An iterator is taken as the list it is, or refused; it is never an empty input."""
    once: Any = iter([{"type": "a"}])
    try:
        items = as_items(once)
    except TypeError:
        return

    assert [{"type": "a"}] == items


# -- input that the lane holds --------------------------------------------------------------


def queued(*, stored: bool = False) -> Chain:
    """A chain of one turn, after which its lane holds an item for the next."""
    chain = Chain()
    chain.extend([item(1)], [item(2)], "one", stored=stored)
    chain.queue([item(3)])
    return chain


def test_what_the_lane_holds_is_not_sent_there() -> None:
    """It is history, in its place, and sent wherever the lane is another, stored or not."""
    for stored in (False, True):
        chain = queued(stored=stored)
        here, elsewhere = (chain.plan([item(4)], latest, None, BODY) for latest in ("one", None))

        assert [item(1), item(2), item(3)] == chain.items
        assert ([item(4)], "one") == (here.input, here.previous_response_id)
        assert ([item(1), item(2), item(3), item(4)], None) == (
            elsewhere.input,
            elsewhere.previous_response_id,
        )
        assert here.saved == len(encode_all(chain.items))


def test_the_next_turn_has_taken_it() -> None:
    """From then on the chain is like any other."""
    chain = queued(stored=True)
    chain.extend([item(4)], [item(5)], "two", stored=True)

    assert ([item(6)], "two") == (
        (plan := chain.plan([item(6)], None, None, BODY)).input,
        plan.previous_response_id,
    )
    chain.queue([])
    assert "two" == chain.plan([item(6)], None, None, BODY).previous_response_id


def test_only_one_of_two_is_given_what_the_lane_holds() -> None:
    """A branch and a snapshot send everything."""
    chain = queued(stored=True)

    for other in (chain.fork(), Chain.resume(chain.snapshot())):
        assert chain.items == other.items
        assert other.parent is None
    assert "one" == chain.parent
    chain.forget_parent()
    assert 4 == len(chain.plan([item(4)], "one", None, BODY).input)


def encode_all(items: Sequence[Item]) -> bytes:
    """The items as a request has them, each with its comma."""
    return b"".join(encode(each) + b"," for each in items)
