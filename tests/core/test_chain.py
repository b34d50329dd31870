"""Whatever becomes of a conversation's connections, the model sees its whole history, once."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import attrs
import pytest
from hypothesis import given, strategies as st

from wspool.core.commands import ConnectionId, LaneId
from wspool.core.encoding import Encoded, read
from wspool.core.frames import encode
from wspool.core.items import Output, encode_fields, encode_items, read_items
from wspool.core.sending.chain import Chain, Item, LaneKey, Plan, WarmUp, as_items
from wspool.core.sending.sendable import LOSSY

BODY = {"model": "m", "instructions": "Be good.", "tools": [{"type": "function", "name": "f"}]}
FIELDS = encode_fields(BODY)

HERE: LaneKey = (ConnectionId(1), LaneId(0))
THERE: LaneKey = (ConnectionId(2), LaneId(0))


def item(number: int) -> Item:
    return {"type": "message", "role": "user", "content": f"{number} \u00e4"}


def items(*numbers: int) -> list[Encoded]:
    return encode_items([item(number) for number in numbers])


def output(*numbers: int) -> Output:
    return Output.of([item(number) for number in numbers])


# -- an honest server -----------------------------------------------------------------------


class ParentMissingError(Exception):
    """The server does not hold the previous response."""


@attrs.define(eq=False)
class Connection:
    """A connection of the server: it holds the context of its latest response, and nothing older.

    Attributes:
        key: what the client calls its lane.
        latest: id of the latest response, as the client knows it.
        warm_up: the response to a warm-up request that no turn has followed.
        count: how many responses it has had.
    """

    key: LaneKey
    cache: dict[str, list[Item]] = attrs.field(factory=dict[str, list[Item]])
    latest: str | None = None
    warm_up: WarmUp | None = None
    count: int = 0


class Server:
    """Resolves previous responses by its own books alone.

    Args:
        counts: it names the responses of each connection by their number, and stores nothing. Another
            gives each a name of its own, and stores what it is asked to: then it knows the input and the
            output of each stored response and puts the contexts together of those that it has stored.
    """

    def __init__(self, *, counts: bool) -> None:
        self._counts = counts
        self._numbers = itertools.count()
        self._stored: dict[str, tuple[str | None, list[Item]]] = {}

    def create(
        self, connection: Connection, parent: str | None, given: Sequence[Item]
    ) -> tuple[str, list[Item]]:
        """Return the id of the new response and the context that its model sees."""
        connection.count += 1
        id = f"resp_{connection.count if self._counts else next(self._numbers) + 1000}"
        if parent is None:
            return id, [*given]
        if parent in connection.cache:
            return id, [*connection.cache[parent], *given]
        if parent not in self._stored:
            raise ParentMissingError(parent)
        context: list[Item] = []
        ancestor: str | None = parent
        while ancestor is not None and ancestor in self._stored:
            ancestor, own = self._stored[ancestor]
            context = [*own, *context]
        return id, [*context, *given]

    def finish(
        self,
        connection: Connection,
        id: str,
        context: list[Item],
        said: Sequence[Item],
        *,
        store: tuple[str | None, Sequence[Item]] | None = None,
    ) -> None:
        """The response ended well: it is all that the connection remembers.

        *store* it with its parent and its input.
        """
        connection.cache = {id: [*context, *said]}
        if store is not None and not self._counts:
            self._stored[id] = (store[0], [*store[1], *said])

    def evict(self, connection: Connection) -> None:
        """Forget what the connection held. What of it was stored in part only is of no use any more."""
        for id in connection.cache:
            ancestor: str | None = id
            while ancestor in self._stored:
                ancestor = self._stored[ancestor][0]
            if ancestor is not None:
                self._stored.pop(id, None)
        connection.cache = {}

    def warm(self, connection: Connection, body: dict[str, Any]) -> None:
        """Answer a warm-up request."""
        id, context = self.create(connection, None, body.get("input", []))
        self.finish(connection, id, context, [])
        connection.latest = id
        connection.warm_up = WarmUp.of({"id": id, "status": "completed", "output": []}, body)


class World:
    """One conversation, some connections, and others who use them too."""

    def __init__(self, *, counts: bool) -> None:
        self.server = Server(counts=counts)
        self.numbers = itertools.count()
        self.connections = [self.connect() for _ in range(3)]
        self.chain = Chain()
        self.truth: list[Item] = []
        self.deltas = 0

    def connect(self) -> Connection:
        return Connection((ConnectionId(next(self.numbers)), LaneId(0)))

    def items(self, count: int) -> list[Item]:
        return [item(next(self.numbers)) for _ in range(count)]

    def turn(self, where: int, inputs: int, outputs: int, fate: str, *, store: bool = False) -> None:
        """Send one turn and let it end by *fate*; the model's context is checked on the way."""
        connection = self.connections[where]
        given, said = self.items(inputs), self.items(outputs)
        new = encode_items(given)

        def create() -> tuple[Plan, str, list[Item]]:
            plan = self.chain.plan(new, connection.key, connection.latest, connection.warm_up, FIELDS)
            id, context = self.server.create(connection, plan.previous_response_id, read_items(plan.input))
            return plan, id, context

        try:
            plan, id, context = create()
        except ParentMissingError:
            connection.latest = connection.warm_up = None
            self.chain.forget_parent(lost_by_server=True)
            plan, id, context = create()
        self.deltas += not plan.full
        connection.warm_up = None

        assert [*self.truth, *given] == context
        assert [*self.chain.items, *given] == context

        kept = (plan.previous_response_id, read_items(plan.input)) if store else None
        match fate:
            case "well" | "well stored":
                self.server.finish(connection, id, context, said, store=kept)
                connection.latest = id
                self.chain.extend(new, Output.of(said), id, connection.key, asked=store, rooted=plan.rooted)
                self.truth += [*given, *said]
            case "failed":  # the server evicts the parent
                connection.cache, connection.latest = {}, None
                self.chain.forget_parent()
            case _:  # lost: the server may have finished it, and nobody will know
                self.server.finish(connection, id, context, said, store=kept)
                self.chain.forget_parent()
                self.connections[where] = self.connect()

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
                self.server.evict(self.connections[where])
            case "reconnect":
                self.connections[where] = self.connect()
            case "fork":
                self.chain = self.chain.fork()
            case "resume":
                self.chain = Chain.resume(self.chain.snapshot())
            case "warm":
                if self.connections[where].latest is None:
                    self.server.warm(self.connections[where], {**BODY, "input": []})
            case "warm other":
                if self.connections[where].latest is None:
                    self.server.warm(self.connections[where], {**BODY, "model": "another"})
            case _:
                self.turn(where, inputs, outputs, kind, store=kind.endswith("stored"))


KINDS = [
    *["well", "well", "well", "well stored", "well stored", "failed", "lost", "lost stored", "others"],
    *["evict", "reconnect", "warm", "warm other", "fork", "resume"],
]
# Mostly on one connection, so that there is something to continue from.
STORIES = st.lists(
    st.tuples(st.sampled_from(KINDS), st.sampled_from([0, 0, 0, 1, 2]), st.integers(0, 2), st.integers(0, 2)),
    max_size=20,
)


@given(STORIES, st.booleans())
def test_the_model_always_sees_the_whole_history(
    story: list[tuple[str, int, int, int]], counts: bool
) -> None:
    """Through failures, losses, evictions, moves and warm-ups, context is history plus what is new.

    Also where ids are counted anew on each connection, and where some turns are stored and some are not.
    """
    world = World(counts=counts)
    for step in story:
        world.step(*step)


@given(st.integers(1, 10))
def test_a_conversation_that_stays_sends_only_what_is_new(turns: int) -> None:
    """Every turn after the first is a delta, on a lane that nobody else used."""
    world = World(counts=True)
    for _ in range(turns):
        world.turn(0, 1, 1, "well")

    assert turns - 1 == world.deltas


@given(st.lists(st.integers(0, 2), min_size=1, max_size=10))
def test_a_conversation_that_is_stored_sends_only_what_is_new(places: list[int]) -> None:
    """Wherever its turns go."""
    world = World(counts=False)
    for where in places:
        world.turn(where, 1, 1, "well", store=True)

    assert len(places) - 1 == world.deltas


@pytest.mark.parametrize("trouble", ["failed", "lost", "others", "reconnect", "evict"])
def test_after_trouble_one_turn_is_full_and_the_next_is_not(trouble: str) -> None:
    """The history is sent once more, and from there on only what is new."""
    world = World(counts=False)
    for step in ("well", trouble, "well", "well"):
        world.step(step, 0, 1, 1)

    # The turn that fails or is lost was a delta itself.
    assert 1 + (trouble in ("failed", "lost")) == world.deltas


def test_another_conversation_has_a_response_of_the_same_name() -> None:
    """Where ids are counted on each connection, an id alone says nothing."""
    world = World(counts=True)
    world.turn(0, 1, 1, "well")
    world.others(1)
    world.turn(1, 1, 1, "well")

    assert 0 == world.deltas


@pytest.mark.parametrize(
    ("before", "elsewhere"),
    [
        (["well"], False),
        (["well stored"], True),
        (["well", "well stored"], False),
        (["well stored", "well", "well stored"], False),
        (["well stored", "well stored"], True),
        (["well", "reconnect", "well stored"], True),  # sent in full, and so stored in full
        (["warm", "well stored"], False),
    ],
)
def test_stored_is_what_has_only_stored_ancestors(before: list[str], elsewhere: bool) -> None:
    """Elsewhere the server can put together only what it was asked to store."""
    world = World(counts=False)
    for kind in before:
        world.step(kind, 0, 1, 1)
    deltas = world.deltas
    world.turn(1, 1, 1, "well")

    assert elsewhere == (world.deltas > deltas)


# -- plans ----------------------------------------------------------------------------------


def chain_of(*numbers: int, id: str = "resp_1") -> Chain:
    chain = Chain()
    chain.extend(items(*numbers), Output(), id, HERE)
    return chain


def full(*numbers: int, previous_response_id: str | None = None, rooted: bool = True) -> Plan:
    return Plan(
        input=items(*numbers), previous_response_id=previous_response_id, full=True, saved=0, rooted=rooted
    )


def test_a_first_turn_is_full() -> None:
    """Without a history all of it is what is new; nobody asks how many items that are, or why."""
    plan = Chain().plan(items(1), HERE, None, None, FIELDS)
    assert full(1) == plan
    assert (None, None) == (plan.counted, plan.why)


def test_a_first_turn_never_continues_from_a_strangers_response() -> None:
    """What the lane did last for others is no parent."""
    assert Chain().plan(items(1), HERE, "resp_other", None, FIELDS).previous_response_id is None


def test_a_forgotten_parent_is_not_found_on_a_lane_without_one() -> None:
    """No parent and no latest response are not the same response."""
    chain = chain_of(1)
    chain.forget_parent()

    assert chain.parent is None
    assert full(1, 2) == chain.plan(items(2), HERE, None, None, FIELDS)


@pytest.mark.parametrize(
    "lane", [(ConnectionId(1), LaneId(1)), (ConnectionId(2), LaneId(0)), (ConnectionId(0), LaneId(1))]
)
def test_a_parent_is_where_it_was_made(lane: LaneKey) -> None:
    """Another lane of the connection, or the same of another, may call something else by its name."""
    assert full(1, 2) == chain_of(1).plan(items(2), lane, "resp_1", None, FIELDS)
    assert chain_of(1).fork().plan(items(2), HERE, "resp_1", None, FIELDS).previous_response_id == "resp_1"


@given(st.lists(st.integers(), max_size=5), st.lists(st.integers(), min_size=1, max_size=5))
def test_what_a_delta_saves_is_what_it_leaves_out(old: list[int], new: list[int]) -> None:
    """The bytes saved are exactly the bytes by which the full request's input is longer."""
    chain = chain_of(*old)
    whole = chain.plan(items(*new), HERE, None, None, FIELDS)
    delta = chain.plan(items(*new), HERE, "resp_1", None, FIELDS)

    assert not delta.full
    parent = len(b',"previous_response_id":"resp_1"')
    assert delta.saved == len(whole.request(FIELDS, None)) - len(delta.request(FIELDS, None)) + parent


def test_what_a_delta_saves_grows_with_each_turn() -> None:
    """By its input and its output."""
    chain = chain_of(1)
    assert (None, "resp_1") == (Chain().parent, chain.parent)
    chain.extend(items(2, 3), output(4), "resp_2", HERE)

    delta = chain.plan(items(5), HERE, "resp_2", None, FIELDS)
    assert delta.saved == sum(len(each) + 1 for each in chain.encoded)


def test_a_stored_parent_is_named_on_its_own_connection() -> None:
    """Its other lanes as well: that there is a response of that name is no news there."""
    chain = Chain()
    chain.extend(items(1), output(2), "resp_1", (ConnectionId(7), LaneId(0)), asked=True)
    lane = (ConnectionId(7), LaneId(1))
    plan = chain.plan(items(3), lane, None, None, FIELDS, carried=lambda _: True)

    assert ("resp_1", False) == (plan.previous_response_id, plan.full)


def test_a_request_is_what_was_planned() -> None:
    """Its type first, its input last, and between them the body and what the plan says."""
    plan = chain_of(1).plan(items(2), HERE, "resp_1", None, FIELDS)

    expected = {"type": "response.create", **BODY}
    assert encode({**expected, "previous_response_id": "resp_1", "input": [item(2)]}) == plan.request(
        FIELDS, None
    )
    plan = chain_of(1).plan(items(2), HERE, None, None, FIELDS)
    assert encode({**expected, "stream_id": "a", "input": [item(1), item(2)]}) == plan.request(FIELDS, "a")


def test_the_history_is_handed_out_as_a_copy() -> None:
    """Who changes the list of items, or one of them, does not change what is sent next."""
    chain = chain_of(1)
    chain.items[0]["role"] = "system"
    chain.items.clear()
    chain.encoded.clear()
    chain.snapshot()["items"][0].clear()

    assert [item(1)] == chain.items
    assert 1 == len(chain)
    assert "resp_1" == chain.parent
    assert chain.encoded[0] is chain.encoded[0], "but what is encoded is the same object"


# -- what a turn leaves ---------------------------------------------------------------------


def test_a_response_that_could_not_be_kept_whole_is_no_parent() -> None:
    """Its server may know more than the history; so the next turn says all that the history does."""
    chain = chain_of(1)
    chain.extend(items(2), Output.of([None, item(3), {"no": "type"}]), "resp_2", HERE, asked=True)

    assert [item(1), item(2), item(3)] == chain.items
    assert chain.parent is None
    assert full(1, 2, 3, 4) == chain.plan(items(4), HERE, "resp_2", None, FIELDS)


def test_what_json_cannot_say_is_noted() -> None:
    """Once it was left out, for good: nothing else is."""
    chain = chain_of(1)
    assert set() == chain.notes
    chain.extend(items(2), Output.of([{"type": "odd", "number": float("nan")}]), "resp_2", HERE)

    assert {LOSSY} == chain.notes


def test_calls_are_owed_until_they_are_answered() -> None:
    """With the next input, if not before; those of async tools may stay open."""
    call: Item = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    later = {**call, "call_id": "d", "name": "slow"}
    answer = {"type": "function_call_output", "call_id": "c", "output": "x"}
    fields = encode_fields({**BODY, "tools": [{"type": "function", "name": "slow", "async": True}]})
    chain = chain_of(1)
    assert [] == chain.owed([], FIELDS)
    chain.extend(items(2), Output.of([call, later]), "resp_2", HERE)

    assert [call, later] == chain.owed(items(3), FIELDS)
    assert [later] == chain.owed(encode_items([answer]), FIELDS)
    assert [call] == chain.owed(items(3), fields)
    assert [] == chain.owed(encode_items([answer]), fields)


def test_the_items_of_a_turn_are_counted_as_given_and_as_sent() -> None:
    """Before it was planned none was sent."""
    chain = chain_of(1, 2)
    plan = chain.plan(items(3), THERE, None, None, FIELDS)

    assert [(1, 3), (1, 0)] == [chain.counts(items(3), each) for each in (plan, None)]


def test_after_a_compaction_a_full_send_begins_there() -> None:
    """The last one stands for everything before it, and is not counted twice."""
    packed: Item = {"type": "compaction", "encrypted_content": "opaque"}
    chain = chain_of(1)
    chain.extend(items(2), Output.of([packed, item(3), packed, item(4)]), "resp_2", HERE)

    assert [packed, item(4)] == read_items(chain.replay())
    assert 6 == len(chain)
    assert chain.plan([], HERE, "resp_2", None, FIELDS).saved == sum(len(each) + 1 for each in chain.replay())
    assert chain.replay() == Chain.resume(chain.snapshot()).replay()


def test_a_history_that_was_compacted_begins_anew() -> None:
    """It is sent whole, and shares nothing with the answer that it came from."""
    chain = chain_of(1)
    answer: list[Item] = [{"role": "user", "content": "x"}, {"type": "compaction", "odd": float("nan")}]
    chain.restart(answer)
    answer[0].clear()

    assert [{"role": "user", "content": "x"}, {"type": "compaction", "odd": None}] == chain.items
    assert chain.parent is None
    assert chain.replay() == chain.encoded


# -- warm-ups -------------------------------------------------------------------------------


def warm_up(body: dict[str, Any], **response: Any) -> WarmUp | None:
    return WarmUp.of({"id": "resp_w", "status": "completed", "output": [], **response}, body)


def test_a_first_turn_continues_from_a_fitting_warm_up() -> None:
    """The prepared context is used, and nothing is left out of the input."""
    fields = encode_fields({**BODY, "store": False})

    for store in (False, True):
        warm = warm_up({**BODY, "store": store, "input": []}, usage={"output_tokens": 0})
        assert full(1, previous_response_id="resp_w", rooted=store) == Chain().plan(
            items(1), HERE, "resp_w", warm, fields
        )


@pytest.mark.parametrize(
    "change",
    [
        {"model": "n"},
        {"instructions": None},
        {"tools": []},
        {"instructions": "Be bad."},
        {"prompt": {"id": "pmpt_1"}},
    ],
)
def test_a_warm_up_of_another_context_is_not_used(change: dict[str, Any]) -> None:
    """Another model, other instructions, another prompt or other tools make another context."""
    warm, fields = warm_up(BODY), encode_fields({**BODY, **change})

    assert warm is not None
    assert Chain().plan(items(1), HERE, "resp_w", warm, fields).previous_response_id is None
    assert not warm.fits(fields)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"model": "m"}, {"model": "m", "instructions": None}),
        ({"tools": ({"a": 1, "b": 2},)}, {"tools": [{"b": 2, "a": 1}]}),
    ],
)
def test_the_same_context_may_be_written_in_two_ways(one: dict[str, Any], other: dict[str, Any]) -> None:
    """No instructions are no instructions, and the order of keys says nothing."""
    for warm, fields in ((warm_up(one), other), (warm_up(other), one)):
        assert warm is not None
        assert warm.fits(encode_fields(fields))


def test_a_warm_up_that_is_not_the_latest_is_not_used() -> None:
    """Once something else ran on the lane its server has forgotten the warm-up."""
    for latest in (None, "resp_2"):
        plan = Chain().plan(items(1), HERE, latest, warm_up(BODY), FIELDS)

        assert plan.previous_response_id is None


def test_a_conversation_with_a_history_never_continues_from_a_warm_up() -> None:
    """The warm-up does not hold that history."""
    chain = chain_of(1)
    chain.forget_parent()

    assert full(1, 2) == chain.plan(items(2), HERE, "resp_w", warm_up(BODY), FIELDS)


@pytest.mark.parametrize(
    "response",
    [
        {"output": [{"type": "message", "role": "assistant", "content": []}]},
        {"output": "odd"},
        {"usage": {"output_tokens": 3}},
        {"status": "incomplete"},
        {"status": "in_progress"},
        {"status": None},
        {"id": None},
        {"id": ""},
        {"id": 7},
    ],
)
def test_a_warm_up_that_generated_is_no_parent(response: dict[str, Any]) -> None:
    """Nor one that did not end plainly well: the model may have seen what the history does not hold."""
    assert warm_up(BODY, usage="odd") is not None
    assert warm_up(BODY, **response) is None


def test_output_on_the_way_counts_too() -> None:
    """A server may say something and leave it out of its last event."""
    response = {"id": "resp_w", "status": "completed", "output": []}

    assert WarmUp.of(response, BODY, output_seen=False) is not None
    assert WarmUp.of(response, BODY, output_seen=True) is None
    assert WarmUp.of(None, BODY) is None


@pytest.mark.parametrize(
    "field", [{"input": [item(-1)]}, {"previous_response_id": "resp_0"}, {"conversation": "conv_1"}]
)
def test_a_warm_up_with_a_context_of_its_own_is_not_a_parent(field: dict[str, Any]) -> None:
    """What the model has seen and the history does not hold would be gone after the next move."""
    assert warm_up({**BODY, **field}) is None


def test_a_warm_up_shares_nothing_with_its_body() -> None:
    """Who changes the body that the pool was given has not warmed anything else up."""
    body = {"model": "m", "tools": [{"name": "f"}]}
    warm = warm_up(body)
    body["tools"] = [{"name": "g"}]

    assert warm is not None
    assert warm.fits(encode_fields({"model": "m", "tools": [{"name": "f"}]}))
    assert not warm.fits(encode_fields(body))


# -- input ----------------------------------------------------------------------------------


@given(st.text())
def test_a_text_is_one_message_of_the_user(text: str) -> None:
    """The short form means what the long form says."""
    assert [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}
    ] == as_items(text)


def test_items_are_copied() -> None:
    """The caller's dicts stay the caller's, however deep."""
    given: list[Item] = [{"type": "a", "content": [{"text": "b"}]}, {"type": "b"}]
    items = as_items(given)
    given[0]["content"][0]["text"] = "c"

    assert [{"type": "a", "content": [{"text": "b"}]}, {"type": "b"}] == items
    assert [{"type": "b"}] == as_items((given[1],))
    assert [] == as_items([])


@pytest.mark.parametrize("wrong", [[7], ["text"], [{"type": "a"}, None], {"type": "a"}, b"text", 7, None])
def test_what_is_no_input_is_refused(wrong: Any) -> None:
    """Neither a text nor a list of items: a type error, before anything is sent."""
    with pytest.raises(TypeError):
        as_items(wrong)


def test_the_item_that_is_none_is_named() -> None:
    """The error says what it found, and where; not what that says, for errors are written down."""
    wrong: Any = ["x" * 1000]

    with pytest.raises(TypeError) as caught:
        as_items(wrong)

    assert str(caught.value) == "input must be a str or a list of item dicts, not a list with str at [0]"


def test_the_item_that_cannot_be_sent_is_named() -> None:
    """Which one, and where in it."""
    with pytest.raises(ValueError, match=r"^input\[1\]\.content\[0\]\.x is nan"):
        as_items([{"type": "a"}, {"content": [{"x": float("nan")}]}])


def test_the_items_of_an_iterator_are_not_lost() -> None:
    """An iterator is taken as the list it is, or refused; it is never an empty input."""
    once: Any = iter([{"type": "a"}])
    try:
        items = as_items(once)
    except TypeError:
        return

    assert [{"type": "a"}] == items


def test_what_is_encoded_stays_as_it_is() -> None:
    """Nothing is encoded twice, neither items nor fields."""
    one = items(1)[0]

    assert encode_items([one])[0] is one
    assert encode_fields({"a": one})["a"] is one


# -- output ---------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
ITEMS = st.builds(
    lambda kind, more: {**more, "type": kind}, JSON, st.dictionaries(st.text(), JSON, max_size=2)
)


@given(JSON | st.lists(JSON | ITEMS, max_size=4))
def test_whatever_a_server_calls_output_what_is_an_item_can_be_sent(given: Any) -> None:
    """And whether that is all of it is known."""
    kept = Output.of(given)
    could = [each for each in given if isinstance(each, dict)] if isinstance(given, list) else []
    could = [each for each in could if isinstance(each.get("type"), str)]

    assert len(kept.items) == len(could)
    assert kept.whole is (len(could) == len(given) if isinstance(given, list) else not given)
    assert all(read(each) == read(encode(read(each))) for each in kept.items)
    for sent, received in zip(kept.items, could, strict=True):
        assert set(read(sent)) == {
            name.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for name in received
        }


def test_an_item_that_is_too_deep_is_left_out() -> None:
    """No event is that deep; a machine that is handed one all the same does not fail."""
    deep: Any = "x"
    for _ in range(100_000):
        deep = [deep]

    assert Output((), whole=False) == attrs.evolve(Output.of([{"type": "a", "x": deep}]), items=())


# -- snapshots ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"items": None}, "^the snapshot has no list of items$"),
        ({"items": [7]}, "items are no items: input must be"),
        ({"items": [{"a": float("inf")}]}, r"items are no items: input\[0\].a is inf"),
        ({"replay_from": True}, "replay_from=True is no index"),
        ({"replay_from": 2}, "replay_from=2 is no index"),
        ({"parent": ["x"]}, r"parent=\['x'\] is no id"),
        ({"parent": ""}, "parent='' is no id"),
        ({"root": ""}, "root='' is no id"),
        ({"parent_stored": 1}, "parent_stored=1 is neither"),
    ],
)
def test_what_is_no_snapshot_is_refused(change: dict[str, Any], text: str) -> None:
    """The error says what is wrong with it."""
    with pytest.raises(ValueError, match=text):
        Chain.resume({**chain_of(1).snapshot(), **change})


@pytest.mark.parametrize("stored", [[1], [1, 3], [3]])
def test_what_was_stored_is_in_a_snapshot_by_item(stored: list[int]) -> None:
    """Each place where that changes. One behind the end says nothing, also of what follows."""
    chain = Chain.resume({**chain_of(1, 2, 3).snapshot(), "stored": stored})
    chain.extend(items(4), output(5), "resp_2", HERE)

    assert chain.state()["stored"] == [place for place in (1, 3) if 1 in stored]
    assert chain.state()["length"] == 5


@pytest.mark.parametrize("stored", [False, True])
def test_who_resumes_goes_on_from_a_parent_that_was_stored(stored: bool) -> None:
    """Anywhere, and from no other; what was not stored is sent again."""
    chain = Chain()
    chain.extend(items(1), output(2), "resp_1", HERE, asked=stored)
    chain = Chain.resume(chain.snapshot())

    plan = chain.plan(items(3), THERE, None, None, FIELDS)
    assert ("resp_1" if stored else None) == plan.previous_response_id
    assert items(3) if stored else items(1, 2, 3) == plan.input


def test_a_snapshot_that_does_not_say_that_its_parent_was_stored_is_sent_in_full() -> None:
    """Nobody can say that it was."""
    snapshot = chain_of(1).snapshot()
    del snapshot["parent_stored"]
    plan = Chain.resume(snapshot).plan(items(2), THERE, None, None, FIELDS)

    assert (items(1, 2), True) == (plan.input, plan.full)


@pytest.mark.parametrize("before", [[], ["forget"], ["forget", "forget"]])
def test_a_server_that_lost_what_it_was_not_asked_to_keep_keeps_the_rest(before: list[str]) -> None:
    """Only a stored parent that is not found says that it stores nothing."""
    chain = Chain()
    for _ in before:
        chain.forget_parent()
    chain.forget_parent(lost_by_server=True)
    chain.extend(items(1), output(2), "resp_1", HERE, asked=True)

    assert "resp_1" == chain.plan(items(3), THERE, None, None, FIELDS).previous_response_id


# -- input that the lane holds --------------------------------------------------------------


def queued(*, stored: bool = False) -> Chain:
    """A chain of one turn, after which its lane holds an item for the next."""
    chain = Chain()
    chain.extend(items(1), output(2), "one", HERE, asked=stored)
    chain.queue(items(3))
    return chain


def test_what_the_lane_holds_is_not_sent_there() -> None:
    """It is history, in its place, and sent wherever the lane is another, stored or not."""
    for stored in (False, True):
        chain = queued(stored=stored)
        here = chain.plan(items(4), HERE, "one", None, FIELDS)
        elsewhere = chain.plan(items(4), THERE, None, None, FIELDS)

        assert items(1, 2, 3) == chain.encoded
        assert (items(4), "one") == (here.input, here.previous_response_id)
        assert (items(1, 2, 3, 4), None) == (elsewhere.input, elsewhere.previous_response_id)
        assert here.saved == len(encode_all(chain.items))
        assert chain.state()["stored"] == ([0, 2] if stored else [])


def test_the_next_turn_has_taken_it() -> None:
    """From then on the chain is like any other."""
    chain = queued(stored=True)
    chain.extend(items(4), output(5), "two", HERE, asked=True)

    plan = chain.plan(items(6), THERE, None, None, FIELDS)
    assert (items(6), "two") == (plan.input, plan.previous_response_id)
    chain.queue([])
    assert "two" == chain.plan(items(6), THERE, None, None, FIELDS).previous_response_id


def test_only_one_of_two_is_given_what_the_lane_holds() -> None:
    """A branch and a snapshot send everything."""
    chain = queued(stored=True)

    for other in (chain.fork(), Chain.resume(chain.snapshot())):
        assert chain.items == other.items
        assert other.parent is None
    assert "one" == chain.parent
    chain.forget_parent()
    assert 4 == len(chain.plan(items(4), HERE, "one", None, FIELDS).input)


def encode_all(given: Sequence[Item]) -> bytes:
    """The items as a request has them, each with its comma."""
    return b"".join(encode(each) + b"," for each in given)
