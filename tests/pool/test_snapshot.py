"""Snapshots: any JSON value in the place of one is refused in a sentence, or works."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given, strategies as st

import wspool
from tests.helpers import URL, FakeConnector, echo, fake_pool, policy
from wspool.pool.tools import open_calls
from wspool.wire.url import parse_url

SOUND: dict[str, Any] = {
    "version": 1,
    "endpoint": parse_url(URL, connect_timeout=1, close_timeout=1, max_message_size=1).digest,
    "defaults": {
        "model": "m",
        "store": False,
        "include": ["x"],
        "tools": [{"type": "function", "name": "f"}],
    },
    "items": [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "one"}]},
        {"type": "compaction", "encrypted_content": "x"},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
    ],
    "replay_from": 1,
    "parent": "resp_1",
    "parent_stored": True,
}

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=()), max_size=5)
    | st.sampled_from([0, 1, 2, 3, 4, 2**70, "resp_2", "store", {}, []]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


def places(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Where all values in *value* are, its own place first."""
    yield path
    if isinstance(value, (dict, list)):
        for step, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(inner, (*path, step))


PLACES = list(places(SOUND))


def changed(place: tuple[str | int, ...], how: str, other: Any) -> Any:
    """The sound snapshot, with what is at *place* replaced, deleted or nested."""
    whole = [copy.deepcopy(SOUND)]
    *way, last = (0, *place)
    holder: Any = whole
    for step in way:
        holder = holder[step]
    match how:
        case "delete":
            del holder[last]
        case "nest":
            holder[last] = [holder[last]]
        case "nest in object":
            holder[last] = {"x": holder[last]}
        case _:
            holder[last] = other
    return whole[0] if whole else None


HOWS = st.sampled_from(["delete", "nest", "nest in object", "replace", "replace"])


async def go_on(conversation: wspool.Conversation) -> None:
    """Take a turn, with outputs for the calls that are open."""
    try:
        await conversation.respond("two")
    except wspool.OpenCallsError as error:
        calls = error.calls
    else:
        return
    kind = "function_call_output"
    outputs = [{"type": kind, "call_id": call.get("call_id"), "output": "done"} for call in calls]
    await conversation.respond(outputs)


@pytest.mark.odd_requests
@given(st.sampled_from(PLACES), HOWS, JSON)
def test_any_other_value_is_refused_in_a_sentence_or_works(
    place: tuple[str | int, ...], how: str, other: Any
) -> None:
    """Nothing else comes out than ValueError, and what is taken can be gone on with."""
    snapshot = changed(place, how, other)
    connector = FakeConnector(echo)
    refusals: list[str] = []

    async def main() -> None:
        async with fake_pool(connector, limits=policy(max_resends=0)) as pool:
            before = copy.deepcopy(snapshot)
            try:
                resumed = pool.conversation(resume=snapshot)
                conversation = await resumed.__aenter__()
            except ValueError as error:
                refusals.append(str(error))
                return
            try:
                open_calls(conversation.items)
                again = json.loads(json.dumps(conversation.snapshot()))
                await go_on(conversation)
                assert again["items"] == conversation.items[: len(again["items"])]
                async with pool.conversation(resume=again) as other:
                    assert again["items"] == other.items
            finally:
                await resumed.__aexit__(None, None, None)
            assert repr(before) == repr(snapshot)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert all("snapshot" in refusal and connector.dials == 0 for refusal in refusals)


@pytest.mark.parametrize("wrong", [[], "x", 7, True, [SOUND]])
async def test_what_is_no_mapping_is_no_snapshot(wrong, autojump_clock) -> None:
    """The text says what it takes."""
    async with fake_pool(FakeConnector(echo)) as pool:
        with pytest.raises(ValueError, match="resume= takes a snapshot of a conversation, not"):
            async with pool.conversation(resume=wrong):
                raise AssertionError("not reached")


async def test_a_checkpoint_is_a_snapshot_in_two_parts(autojump_clock) -> None:
    """What stays in the history is the same object each time, so that what is new is found at once."""
    async with fake_pool(FakeConnector(echo)) as pool, pool.conversation(model="m") as conversation:
        await conversation.respond("one")
        state, items = conversation.checkpoint()
        assert {**state, "items": [json.loads(item) for item in items]} == conversation.snapshot()
        await conversation.respond("two")
        _, more = conversation.checkpoint()

        assert 4 == len(more)
        assert all(one is other for one, other in zip(items, more, strict=False))


@pytest.mark.parametrize(
    "url",
    [
        "ws://localhost/v1/responses?key=other",
        "ws://localhost/v2/responses",
        "ws://localhost:81/v1/responses",
    ],
)
async def test_elsewhere_all_of_it_is_sent(url: str, autojump_clock) -> None:
    """What was stored is there. One of an earlier version does not say where; a query is no other place."""
    async with (
        fake_pool(FakeConnector(echo)) as pool,
        pool.conversation(model="m", store=True) as conversation,
    ):
        await conversation.respond("one")
        snapshot = conversation.snapshot()
    assert "localhost" not in json.dumps(snapshot)

    connector = FakeConnector(echo)
    async with wspool.open_pool(url, wire=connector, api_key="none", policy=policy()) as pool:
        for taken in (snapshot, {name: value for name, value in snapshot.items() if name != "endpoint"}):
            async with pool.conversation(resume=taken) as conversation:
                await conversation.respond("two")
    known, older = [request for wire in connector.wires for request in wire.requests]
    assert ("previous_response_id" in known) is ("key" in url)
    assert "previous_response_id" in older
