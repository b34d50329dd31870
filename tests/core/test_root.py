"""What the server alone knows, and what is known of what it has stored: roots, fragments, edits."""

from __future__ import annotations

from typing import Any

import pytest

from tests.core.test_chain import BODY, FIELDS, HERE, THERE, chain_of, item, items, output
from wspool.core.commands import LaneId
from wspool.core.items import Item, Output, encode_fields, encode_items, read_items
from wspool.core.sending.chain import Chain, LaneKey, Plan, WarmUp


def full(chain: Chain, lane: LaneKey = THERE, **body: Any) -> Plan:
    """What is sent in full on a lane that has nothing."""
    return chain.plan(items(9), lane, None, None, encode_fields({**BODY, **body}))


def test_a_full_send_names_the_root() -> None:
    """Only the server has what is before the items: first, after a loss, in a branch and elsewhere."""
    chain = Chain.adopt("resp_root")
    first = full(chain)
    assert ("resp_root", True, True) == (first.previous_response_id, first.full, first.last_resort)
    assert items(9) == first.input

    chain.extend(items(1), output(2), "resp_1", HERE)
    delta = chain.plan(items(9), HERE, "resp_1", None, FIELDS)
    assert ("resp_1", False, False) == (delta.previous_response_id, delta.full, delta.last_resort)
    chain.forget_parent()
    for each in (chain, chain.fork(), Chain.resume(chain.snapshot())):
        again = full(each)
        assert ("resp_root", True) == (again.previous_response_id, again.last_resort)
        assert items(1, 2, 9) == again.input
        assert "resp_root" == each.root


def test_a_warm_up_is_no_parent_of_what_has_a_root() -> None:
    """It knows nothing of it."""
    warm = WarmUp("resp_w", FIELDS)
    assert "resp_root" == Chain.adopt("resp_root").plan((), HERE, "resp_w", warm, FIELDS).previous_response_id
    assert "resp_w" == Chain().plan((), HERE, "resp_w", warm, FIELDS).previous_response_id


def test_a_compaction_stands_for_the_root_as_well() -> None:
    """In a turn, and by itself."""
    chain = Chain.adopt("resp_root")
    chain.extend(items(1), Output.of([{"type": "compaction", "encrypted_content": "x"}]), "resp_1", HERE)
    chain.forget_parent()
    assert full(chain).previous_response_id is None

    other = Chain.adopt("resp_root")
    other.restart([item(1)])
    assert (None, items(1, 9)) == (full(other).previous_response_id, full(other).input)


def test_a_compaction_leaves_no_call_open() -> None:
    """What it stands for is answered by it; what follows is not."""
    calls = [{"type": "function_call", "call_id": id, "name": "f", "arguments": "{}"} for id in "ab"]
    compaction = {"type": "compaction", "encrypted_content": "x"}
    chain = Chain()
    chain.extend(items(1), Output.of([calls[0], compaction]), "resp_1", HERE)
    assert [] == chain.open_calls
    chain.extend(items(3), Output.of(calls[1:]), "resp_3", HERE)
    assert calls[1:] == chain.open_calls


def test_an_answer_to_what_the_root_stands_for_is_no_orphan() -> None:
    """The server knows the call."""
    answer = encode_items([{"type": "function_call_output", "call_id": "c", "output": "x"}])
    chain = Chain.adopt("resp_root")
    chain.extend(answer, output(1), "resp_1", HERE)
    chain.forget_parent()

    assert [*answer, *items(1, 9)] == full(chain).input


@pytest.mark.parametrize(
    ("id", "found"), [("", "nothing"), (None, "nothing"), (False, "nothing"), (7, "int"), (["resp"], "list")]
)
def test_a_root_is_an_id(id: Any, found: str) -> None:
    """Anything else is refused."""
    with pytest.raises(ValueError, match=f": {found} is no id of a response"):
        Chain.adopt(id)


WHOLE: dict[str, Any] = {
    "items": [item(1), {"type": "message", "role": "assistant", "content": "2"}],
    "replay_from": 0,
    "parent": "resp_1",
    "parent_stored": True,
}


@pytest.mark.parametrize(
    "snapshot",
    [
        {"items": [], "parent": "resp_1"},
        {**WHOLE, "items": []},
        {**WHOLE, "items": [item(1)]},
        {**WHOLE, "items": [{"type": "function_call_output", "call_id": "c", "output": "x"}]},
        {**WHOLE, "length": 7},
        {**WHOLE, "length": None},
        {name: value for name, value in WHOLE.items() if name != "replay_from"},
        {name: value for name, value in WHOLE.items() if name != "parent_stored"},
    ],
)
def test_a_fragment_with_a_parent_is_never_sent_as_the_whole(snapshot: dict[str, Any]) -> None:
    """The parent stands for all that the snapshot has: what its server knows beside it nobody can say."""
    chain = Chain.resume(snapshot)
    plan = full(chain)
    assert ("resp_1", True) == (plan.previous_response_id, plan.last_resort)
    assert items(9) == plan.input
    assert snapshot["items"] == chain.items


@pytest.mark.parametrize("snapshot", [WHOLE, {**WHOLE, "length": 2}, {**WHOLE, "items": [{"content": "x"}]}])
def test_a_whole_history_needs_no_parent(snapshot: dict[str, Any]) -> None:
    """One that says how long it is, or is as one of an earlier version."""
    chain = Chain.resume(snapshot)
    chain.forget_parent()
    assert (None, len(snapshot["items"]) + 1) == (full(chain).previous_response_id, len(full(chain).input))


def test_what_the_server_has_stored_is_remembered_by_item() -> None:
    """In a snapshot, in a branch, and after an edit; but not once it keeps nothing, or is told to."""
    thought: Item = {"type": "reasoning", "id": "rs", "summary": []}
    answer: Item = {"type": "message", "role": "assistant", "content": "x"}
    chain = Chain()
    chain.extend(items(1), Output.of([thought, answer]), "resp_1", HERE)
    chain.extend(
        items(2), Output.of([{**thought, "id": "rs_2"}, answer]), "resp_2", HERE, asked=True, rooted=False
    )
    chain.extend(items(3), Output.of([{**thought, "id": "rs_3"}, answer]), "resp_3", HERE, asked=True)
    chain.extend(items(4), output(5), "resp_4", HERE)

    def kept(chain: Chain, **body: Any) -> list[str]:
        chain.forget_parent()
        return [each["id"] for each in read_items(full(chain, **body).input) if "id" in each]

    assert [3, 9] == chain.state()["stored"]
    first = Chain()
    first.extend(items(1), Output.of([thought, answer]), "resp_1", HERE, asked=True)
    assert [0] == first.state()["stored"]
    assert ["rs"] == kept(Chain.resume(first.snapshot()))
    assert ["rs_2", "rs_3"] == kept(chain) == kept(Chain.resume(chain.snapshot())) == kept(chain.fork())
    assert [] == kept(chain, store=False)
    assert not any("id" in each for each in read_items(chain.replay()))
    assert ["rs_2", "rs_3"] == kept(chain, store=True)
    for odd in (None, 7, [True], [-1, 99, "x"]):
        assert [] == kept(Chain.resume({**chain.snapshot(), "stored": odd}))
    chain.edit(chain.items[4:])
    assert ["rs_3"] == kept(chain)[-1:]
    chain.extend(items(5), output(6), "resp_5", HERE, asked=True)
    chain.forget_parent(lost_by_server=True)
    assert [] == kept(chain)


def test_elsewhere_nothing_is_stored_of_a_history() -> None:
    """No response that was stored is named, and no item by its name. What only one place has stays there."""
    thought: Item = {"type": "reasoning", "id": "rs", "summary": []}
    chain = Chain()
    chain.extend(items(1), Output.of([thought, item(2)]), "resp_1", HERE, asked=True)
    snapshot = chain.snapshot()

    here = Chain.resume(snapshot)
    assert ("resp_1", items(9)) == (full(here).previous_response_id, full(here).input)
    there = Chain.resume(snapshot, elsewhere=True)
    plan = full(there, store=True)
    assert (None, True) == (plan.previous_response_id, plan.full)
    assert not any("id" in each for each in read_items(plan.input))
    assert (None, False, []) == tuple(there.state()[name] for name in ("parent", "parent_stored", "stored"))

    for held in (Chain.adopt("resp_root").snapshot(), {**WHOLE, "items": [item(1)]}):
        with pytest.raises(ValueError, match=r"begins with a response \(resp_.+go on there"):
            Chain.resume(held, elsewhere=True)


def test_an_edit_makes_the_next_send_full() -> None:
    """A root before all items stays; one that stood for items that are now given goes."""
    chain = chain_of(3)
    chain.edit([item(1), item(9)])
    assert ([], []) == (chain.state()["stored"], chain.open_calls)
    plan = full(chain)
    assert (None, items(1, 9, 9)) == (plan.previous_response_id, plan.input)

    rooted = Chain.adopt("resp_root")
    rooted.extend(items(1), output(2), "resp_1", HERE)
    rooted.edit([item(2)])
    assert ("resp_root", items(2, 9)) == (full(rooted).previous_response_id, full(rooted).input)

    fragment = Chain.resume({**WHOLE, "items": [item(1)]})
    fragment.edit([item(2)])
    assert (None, items(2, 9)) == (full(fragment).previous_response_id, full(fragment).input)


@pytest.mark.parametrize("odd", [[7], [item(1), {"x": float("nan")}], [None]])
def test_an_edit_with_what_is_no_item_changes_nothing(odd: Any) -> None:
    """The text says where it is."""
    chain = chain_of(2)
    before = chain.snapshot()
    with pytest.raises((TypeError, ValueError), match=r"list of item dicts|is nan"):
        chain.edit(odd)
    assert before == chain.snapshot()


def test_a_name_that_another_connection_has_had_is_no_proof() -> None:
    """There are servers that count their responses anew on each; on its own connection it may be stored."""
    chain = Chain()
    chain.extend(items(1), output(2), "resp_1", HERE, asked=True)
    for lane, known, parent in (
        (THERE, False, "resp_1"),
        (THERE, True, None),
        ((HERE[0], LaneId(1)), True, "resp_1"),
    ):
        plan = chain.plan(items(9), lane, None, None, FIELDS, carried={"resp_1": known}.__getitem__)
        assert parent == plan.previous_response_id


def test_what_json_does_not_have_is_said() -> None:
    """Numbers and characters of an output; what only looks like them is not."""
    for said, notes in (
        ({"type": "x", "a": [float("nan")]}, 1),
        ({"type": "x", "a": "\ud83d"}, 1),
        ({"type": "x", "a": None, "b": "null \ufffd"}, 0),
    ):
        chain = Chain()
        chain.extend((), Output.of([said, {"type": "x", "b": 1}]), "resp_1", HERE)
        assert notes == len(chain.notes)
