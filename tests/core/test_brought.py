"""A history that comes with its request goes as it was given; only what is new of it, where that will do."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any, Final

import pytest

from wspool.core.commands import ConnectionId, LaneId, LaneKey
from wspool.core.encoding import Encoded
from wspool.core.frames import encode
from wspool.core.items import Output, encode_fields, encode_items
from wspool.core.matching.index import Index, digest_of
from wspool.core.sending.brought import FULL_REASONS, BroughtHistory, WrittenBody, http_only
from wspool.core.sending.chain import Plan
from wspool.core.sending.takes import Takes
from wspool.core.sending.warm_up import WarmUp

HERE: Final[LaneKey] = (ConnectionId(1), LaneId(0))
BESIDE: Final[LaneKey] = (ConnectionId(1), LaneId(1))
ELSEWHERE: Final[LaneKey] = (ConnectionId(2), LaneId(0))
USER = {"role": "user", "content": "hi"}
SAID = {
    "type": "message",
    "id": "m",
    "role": "assistant",
    "content": [{"type": "output_text", "text": "yes"}],
}
THOUGHT = {"type": "reasoning", "id": "rs_1", "summary": []}
REFERENCE = {"type": "item_reference", "id": "m"}
FIELDS = encode_fields({"model": "m"})
NO_IDS: Final[Sequence[Any]] = (7, "", [], False, {})
NO_FLAGS: Final[Sequence[Any]] = (1, 0, "yes", "", [])


def brought(index: Index, *items: Mapping[str, Any], **body: Any) -> BroughtHistory:
    return BroughtHistory(index, {"model": "m", "input": list(items), **body}, 0.0)


def plan(
    history: BroughtHistory,
    lane: LaneKey = HERE,
    latest: str | None = "resp_1",
    warm_up: WarmUp | None = None,
    **more: Any,
) -> Plan:
    return history.plan((), lane, latest, warm_up, FIELDS, **more)


def sent(plan: Plan) -> tuple[str | None, Any]:
    """The parent and the items of what is sent."""
    request = json.loads(plan.request({}, None))
    return request.get("previous_response_id"), request["input"]


def after(stored: bool = False, output: Sequence[Mapping[str, Any]] = (SAID,)) -> Index:
    """What is known after one turn."""
    index = Index(max_bytes=2**20, max_age=3600)
    first = brought(index, USER)
    plan(first, latest=None)
    first.extend((), Output.of(list(output)), "resp_1", HERE, asked=stored)
    return index


def test_only_what_is_new_goes_to_the_lane_that_remembers() -> None:
    """With the response that it goes on from; and it says what that saves."""
    history = brought(after(), USER, SAID, USER)
    planned = plan(history)

    assert ("resp_1", [USER]) == sent(planned)
    assert ("resp_1", False) == (history.parent, history.is_new)
    assert (False, False, False) == (planned.full, planned.rooted, planned.last_resort)
    assert len(json.dumps([USER, SAID], separators=(",", ":"))) - 1 == planned.saved


def test_items_are_counted_as_brought_and_as_sent() -> None:
    """None was sent before it was planned; all are where the caller names the parent."""
    history = brought(after(), USER, SAID, USER)
    elsewhere = plan(history, ELSEWHERE)
    named = brought(after(), USER, USER, previous_response_id="resp_9")

    assert [(3, 0), (3, 1), (3, 3)] == [history.counts((), each) for each in (None, plan(history), elsewhere)]
    assert (2, 2) == named.counts((), plan(named))


@pytest.mark.parametrize(
    ("lane", "latest"), [(HERE, "resp_2"), (HERE, None), (BESIDE, "resp_1"), (ELSEWHERE, "resp_1")]
)
def test_everywhere_else_all_of_it_goes(lane: LaneKey, latest: str | None) -> None:
    """An id alone proves nothing."""
    planned = plan(brought(after(), USER, SAID, USER), lane, latest)

    assert (None, [USER, SAID, USER]) == sent(planned)
    assert (True, True, 0) == (planned.full, planned.rooted, planned.saved)


def test_what_was_stored_is_gone_on_from_anywhere() -> None:
    """Unless the connection has carried another response of that name, or the lane has another one now."""
    history = brought(after(stored=True), USER, SAID, USER)

    assert ("resp_1", [USER]) == sent(plan(history, ELSEWHERE, "resp_2"))
    assert ("resp_1", [USER]) == sent(plan(history, BESIDE, None, carried=lambda _: True))
    carried = {"resp_1"}.__contains__
    assert (None, [USER, SAID, USER]) == sent(plan(history, ELSEWHERE, "resp_2", carried=carried))
    assert (None, [USER, SAID, USER]) == sent(plan(history, ELSEWHERE, "resp_1"))
    assert plan(history, ELSEWHERE, None).rooted
    index = Index(max_bytes=2**20, max_age=3600)
    brought(index, USER).extend((), Output.of([SAID]), "resp_1", HERE)
    assert None is sent(plan(brought(index, USER, SAID, USER), ELSEWHERE, None))[0], "nobody asked for that"


def test_what_was_stored_is_gone_on_from_on_its_own_connection() -> None:
    """Whatever its number is, and that of the lane."""
    index, connection = Index(max_bytes=2**20, max_age=3600), ConnectionId(7)
    brought(index, USER).extend((), Output.of([SAID]), "resp_1", (connection, LaneId(0)), asked=True)
    history = brought(index, USER, SAID, USER)

    assert "resp_1" == sent(plan(history, (connection, LaneId(1)), None, carried=lambda _: True))[0]


@pytest.mark.parametrize("written", [False, True])
def test_of_several_with_the_same_words_that_of_the_session_is_likelier(written: bool) -> None:
    """Though another is later: headers say who asks."""
    index = Index(max_bytes=2**20, max_age=3600)
    body = {"model": "m", "input": [USER]}
    for session in ("a", "b"):
        history = BroughtHistory(index, body, 0.0, session=[session])
        history.extend((), Output.of([SAID]), f"resp_{session}", HERE)

    again = {"model": "m", "input": [USER, SAID, USER]}
    for session in ("a", "b"):
        history = BroughtHistory(index, WrittenBody(again) if written else again, 0.0, session=[session])
        assert history.parent == f"resp_{session}"


def test_of_several_with_the_same_words_that_of_the_lane_is_taken() -> None:
    """Whichever was likelier."""
    index = after()
    other = brought(index, USER)
    other.extend((), Output.of([SAID]), "resp_2", ELSEWHERE)

    assert ("resp_1", [USER]) == sent(plan(brought(index, USER, SAID, USER)))
    assert ("resp_2", [USER]) == sent(plan(brought(index, USER, SAID, USER), ELSEWHERE, "resp_2"))


def test_of_several_with_the_same_words_each_is_gone_on_from() -> None:
    """Hosts keep no ids, and ask one thing many times: who comes second goes on from the other one."""
    index = Index(max_bytes=2**20, max_age=3600)
    lanes = {"resp_1": HERE, "resp_2": ELSEWHERE}
    for name, lane in lanes.items():
        first = brought(index, USER)
        plan(first, lane, None)
        first.extend((), Output.of([SAID]), name, lane)
    unnamed = {**SAID, "id": None}
    parents: list[str | None] = []
    for _ in lanes:
        history = brought(index, USER, unnamed, USER)
        parents.append(history.parent)
        plan(history, lanes[str(history.parent)], history.parent)
    assert {*lanes} == {*parents}


def test_where_no_parent_is_taken_none_is_named() -> None:
    """But one that the request names itself."""
    takes = Takes()
    takes.parents = False

    for stored in (False, True):
        history = brought(after(stored), USER, SAID, USER)
        assert (None, [USER, SAID, USER]) == sent(plan(history, takes=takes))
    named = brought(after(), USER, previous_response_id="resp_1")
    assert ("resp_1", [USER]) == sent(plan(named, takes=takes))


def test_what_was_refused_is_not_named_again() -> None:
    """By no request; and a server that has lost what it stored is not believed to store."""
    index = after(stored=True)
    extra = brought(index, {"role": "user", "content": "ho"})
    extra.extend((), Output.of([SAID]), "resp_9", HERE, asked=True)
    history = brought(index, USER, SAID, USER)
    plan(history)
    assert index.trusts_store
    history.forget_parent(lost_by_server=True)

    assert (None, [USER, SAID, USER]) == sent(plan(history))
    assert brought(index, USER, SAID, USER).is_new
    elsewhere = brought(index, {"role": "user", "content": "ho"}, SAID, USER)
    assert "resp_9" == elsewhere.parent
    assert sent(plan(elsewhere, ELSEWHERE, None))[0] is None
    assert "resp_9" == sent(plan(elsewhere, HERE, "resp_9"))[0]


def test_a_parent_that_was_lost_on_the_way_says_nothing_of_what_is_stored() -> None:
    """Only its server can say that it has lost it."""
    index = after(stored=True)
    history = brought(index, USER, SAID, USER)
    plan(history)
    history.forget_parent()

    assert index.trusts_store


def test_what_is_forgotten_without_being_named_stays() -> None:
    """Another turn of the pool may go on from it."""
    index = after()
    history = brought(index, USER, SAID, USER)
    history.forget_parent()

    assert history.is_new
    assert "resp_1" == brought(index, USER, SAID, USER).parent
    other = brought(index, USER, SAID, USER)
    plan(other)
    other.forget_parent()
    assert (True, True) == (brought(index, USER, SAID, USER).is_new, index.trusts_store)


def test_a_parent_that_is_said_is_named_as_it_is() -> None:
    """On whatever lane, and to the last: nobody here has what is before it."""
    index = after(stored=True)
    history = brought(index, USER, previous_response_id="resp_1")
    history.forget_parent()
    planned = plan(history, ELSEWHERE, None)

    assert ("resp_1", [USER]) == sent(planned)
    assert ("resp_1", False) == (history.parent, history.is_new)
    assert (False, True, True) == (planned.full, planned.rooted, planned.last_resort)
    assert 0 == planned.saved
    assert not plan(brought(index, USER, previous_response_id="of old")).rooted


def test_a_warm_up_is_gone_on_from_by_whoever_goes_on_from_nothing() -> None:
    """All of the history is new to it."""
    index = after()
    warm = WarmUp("resp_w", FIELDS)
    planned = plan(brought(index, USER, USER), latest="resp_w", warm_up=warm)

    assert ("resp_w", [USER, USER]) == sent(planned)
    assert (True, False) == (planned.full, planned.rooted)
    assert None is sent(plan(brought(index, USER), latest="resp_1", warm_up=warm))[0]
    assert (
        None
        is sent(
            plan(
                brought(index, USER), latest="resp_w", warm_up=WarmUp("resp_w", encode_fields({"model": "n"}))
            )
        )[0]
    )


def test_a_steered_turn_is_gone_on_from_at_its_end() -> None:
    """With what steered it. Where the lane holds more input that nobody has answered, it is not."""
    index = after()
    history = brought(index, USER, SAID, USER)
    plan(history)
    history.extend((), Output.of([SAID]), "resp_2", HERE)
    history.extend(encode_items("more"), Output.of([SAID]), "resp_3", HERE)
    items: list[Mapping[str, Any]] = [USER, SAID, USER, SAID, {"role": "user", "content": "more"}, SAID, USER]
    assert "resp_3" == brought(index, *items).parent
    history.queue([])
    assert "resp_2" == brought(index, *items).parent
    nothing = brought(index, USER, conversation="c")
    nothing.extend((), Output.of([SAID]), "resp_4", HERE)
    nothing.queue([])

    assert 2 == len(index)


@pytest.mark.parametrize(("later", "known"), [(4600.0, "resp_1"), (4601.0, None)])
def test_what_steered_a_turn_may_name_what_was_said(later: float, known: str | None) -> None:
    """That is of use again, from then on."""
    index = after(stored=True)
    history = BroughtHistory(index, {"model": "m", "input": [USER]}, 1000.0)
    for more in ((), encode_items([REFERENCE])):
        history.extend(more, Output.of([{**SAID, "id": "n", "content": "no"}]), "resp_2", HERE)

    assert known == BroughtHistory(index, {"model": "m", "input": [USER, SAID, USER]}, later).parent


@pytest.mark.parametrize("stored", [False, True])
def test_what_was_stored_may_be_referred_to(stored: bool) -> None:
    """By its id; nobody else knows what that means."""
    history = brought(after(stored), USER, REFERENCE, USER)

    assert ("resp_1" if stored else None) == history.parent


def test_what_was_never_planned_or_answered_leaves_nothing_to_forget() -> None:
    """Nor does what was sent in full."""
    index = after()
    history = brought(index, USER)
    history.queue([])
    for _ in range(2):
        history.forget_parent(lost_by_server=True)
        plan(history, latest=None)

    assert (1, True) == (len(index), index.trusts_store)


def test_an_output_that_is_not_whole_is_not_gone_on_from() -> None:
    """Its server knows more than anybody would send again."""
    index = after(output=[SAID, {"no": "type"}])

    assert 0 == len(index)


@pytest.mark.parametrize(
    ("given", "items"),
    [
        ("hi", [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]}]),
        (None, []),
        ([], []),
        ((USER, SAID), [USER, SAID]),
        (
            [{"type": "x", "n": 2**70, "null": None, "empty": []}],
            [{"type": "x", "n": 2**70, "null": None, "empty": []}],
        ),
    ],
)
def test_it_goes_as_it_was_given(given: Any, items: list[Any]) -> None:
    """All of it, and nothing else: what a model would see by HTTP."""
    history = BroughtHistory(Index(max_bytes=2**20, max_age=1), {"input": given}, 0.0)

    assert (None, items) == sent(plan(history))
    assert frozenset() == history.notes


@pytest.mark.parametrize(
    ("given", "where"),
    [
        (7, "int"),
        ([USER, "hi"], r"str at \[1\]"),
        ([USER, {"a": {"b": float("nan")}}], r"input\[1\]\.a\.b"),
        (b"hi", "bytes"),
    ],
)
def test_what_cannot_be_sent_is_said_with_its_place(given: Any, where: str) -> None:
    """Before anything else happens."""
    with pytest.raises((TypeError, ValueError), match=where):
        BroughtHistory(Index(max_bytes=2**20, max_age=1), {"input": given}, 0.0)


def test_what_happens_to_a_body_later_changes_nothing() -> None:
    """It was written down."""
    items = [dict(USER)]
    history = BroughtHistory(Index(max_bytes=2**20, max_age=1), {"input": items}, 0.0)
    items[0]["content"] = "other"

    assert (None, [USER]) == sent(plan(history))


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"background": True}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"stream_id": "a"}, "stream_id"),
        ({"background": False, "conversation": None, "stream": True, "input": "hi"}, None),
        ({"previous_response_id": None, "stream": None, "background": None}, None),
        ({"previous_response_id": "resp_1"}, None),
        *(({"previous_response_id": value}, "id of a response") for value in NO_IDS),
        *(({"stream": value}, "true or false") for value in NO_FLAGS),
        *(({"background": value}, "true or false") for value in (0, "")),
    ],
)
def test_what_goes_by_http_only_is_said_with_its_reason(body: dict[str, Any], word: str | None) -> None:
    """One function for all doors."""
    reason = http_only(body)

    assert (word is None) == (reason is None)
    assert (word or "") in (reason or "")


def test_what_is_no_body_is_refused() -> None:
    """Also by who only asks how it goes."""
    with pytest.raises(TypeError, match=r"^body must be the body of a request, a mapping, not list$"):
        http_only(["my secret"])  # type: ignore[arg-type] # which is the point


@pytest.mark.parametrize("given", [{"a": "my secret"}, ["my secret"], 7, [{}, None]])
def test_an_input_that_is_none_is_refused_without_its_words(given: Any) -> None:
    """Errors are written down where no text of a conversation may be."""
    with pytest.raises(
        TypeError, match=r"^input must be a str or a list of item dicts, not (a list with )?[A-Za-z]+"
    ) as caught:
        BroughtHistory(Index(max_bytes=2**20, max_age=1), {"input": given}, 0.0)

    assert "secret" not in str(caught.value)


def test_nothing_is_encoded_twice() -> None:
    """A history of hundreds of items is one piece of text."""
    history = brought(after(), USER, SAID, USER, USER)

    assert 1 == len(plan(history).input)
    assert all(isinstance(piece, Encoded) for piece in plan(history).input)


@pytest.mark.parametrize(
    "given",
    [
        [USER, SAID, USER],
        [USER, THOUGHT, SAID, USER],
        [USER, REFERENCE, USER],
        [USER, {"type": "item_reference", "id": "who"}, USER],
        [USER, SAID, {"type": "function_call", "arguments": "{1", "name": "f", "call_id": "c"}],
        [USER, {"role": {1: 2}, "content": USER}, USER],
        [USER],
        [],
        "hi",
        None,
    ],
)
def test_what_was_written_before_is_as_if_it_was_now(given: Any) -> None:
    """Whatever is in it: it goes on from the same turn, sends the same, and is known as the same."""
    body = {"model": "m", "input": given}
    known, again = (after(stored=True, output=[THOUGHT, SAID]) for _ in range(2))
    now, before = BroughtHistory(known, body, 1.0), BroughtHistory(again, WrittenBody(body), 1.0)

    assert now._given.hashes == before._given.hashes
    assert (now._given.thoughts, now._given.spoken) == (before._given.thoughts, before._given.spoken)
    assert (now._given.certain, now.parent) == (before._given.certain, before.parent)
    assert sent(plan(now)) == sent(plan(before))
    nobody = (Index(max_bytes=2**20, max_age=3600) for _ in range(2))
    unheard, too = (BroughtHistory(next(nobody), each, 1.0) for each in (body, WrittenBody(body)))
    assert plan(unheard).why == plan(too).why


@pytest.mark.parametrize("given", [[USER, SAID], [USER, REFERENCE]])
def test_what_is_written_says_all_that_its_body_says(given: list[dict[str, Any]]) -> None:
    """And of its items, where what they mean depends on others, as much as can be known without these."""
    body = {"model": "m", "input": given, "store": False}
    written = WrittenBody(body)

    assert written == body
    assert list(written.digests) == ([digest_of(USER), None] if REFERENCE in given else [])


@pytest.mark.parametrize("said", [USER, THOUGHT])
def test_one_that_is_written_costs_no_call_for_each_of_its_items(said: dict[str, Any]) -> None:
    """Nobody waits for that who waits for others' turns: it was done aside. Nor does what is said of it."""
    calls = []
    for count in (10, 3_000):
        body = WrittenBody({"model": "m", "input": [USER, said] * (count // 2)})
        index, made = Index(max_bytes=2**20, max_age=3600), 0

        def note(frame: FrameType, event: str, _: object) -> None:
            nonlocal made
            made += event == "call"

        sys.setprofile(note)
        try:
            why = plan(BroughtHistory(index, body, 0.0)).why
        finally:
            sys.setprofile(None)
        calls.append(made)
        assert ("first" if said is USER else "unknown") == why

    assert calls[0] + 10 > calls[1]


@pytest.mark.parametrize("count", [999, 1_000, 1_001, 2_500])
def test_many_items_are_written_as_few_are(count: int) -> None:
    """Some at a time; and the place of what is no JSON is that in the whole."""
    items: list[dict[str, Any]] = [{"role": "user", "content": f"{n}"} for n in range(count)]
    at_once = 0

    def note(frame: FrameType, event: str, _: object) -> None:
        nonlocal at_once
        at_once += event == "call" and frame.f_code is encode.__code__

    sys.setprofile(note)
    try:
        body = WrittenBody({"model": "m", "input": items})
    finally:
        sys.setprofile(None)
    assert -(-count // 1_000) == at_once
    history = BroughtHistory(Index(max_bytes=2**20, max_age=3600), body, 0.0)
    assert items == sent(plan(history, latest=None))[1]
    assert encode(items)[1:-1] == body.row[0]

    items[-1]["content"] = {1, 2}
    with pytest.raises(TypeError, match=rf"^input\[{count - 1}\]\.content: "):
        WrittenBody({"model": "m", "input": items})


def test_it_counts_what_is_sent_and_says_why_it_is_everything() -> None:
    """Each reason has its own word."""
    known = after()
    delta = plan(brought(known, USER, SAID, USER))
    named = plan(brought(known, USER, previous_response_id="resp_9"))
    refused = brought(known, USER, SAID, USER)
    plan(refused)
    refused.forget_parent()

    assert ((3, 1), None) == (delta.counted, delta.why)
    assert ((1, 1), None) == (named.counted, named.why)
    told = [{"role": role, "content": "be good"} for role in ("system", "developer")]
    cases = {
        "first": plan(brought(Index(max_bytes=2**20, max_age=3600), *told, USER)),
        "unknown": plan(brought(Index(max_bytes=2**20, max_age=3600), USER, SAID, USER)),
        "elsewhere": plan(brought(after(), USER, SAID, USER), ELSEWHERE),
        "uncertain": plan(brought(after(), USER, SAID, USER, prompt={"id": "p"})),
        "refused": plan(refused),
        "unchained": plan(brought(after(), USER, SAID, USER), takes=unchained()),
    }
    assert list(cases) == [case.why for case in cases.values()]
    assert FULL_REASONS == cases.keys()
    assert {(3, 3)} == {case.counted for case in cases.values()}


def unchained() -> Takes:
    """What an endpoint takes that takes no parents."""
    takes = Takes()
    takes.parents = False
    return takes


def test_what_cannot_be_understood_has_no_digest() -> None:
    """Nor has what is told apart by more than its words; whoever reads it all finds that out anew."""
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    assert digest_of({"role": "user", "content": deep}) is None
    assert digest_of({"type": "item_reference", "id": "a"}) is None
    assert digest_of(USER) == digest_of({**USER, "type": "message"}) is not None
    assert digest_of(USER) != digest_of(SAID)


def test_nothing_is_owed_to_a_history_that_was_brought() -> None:
    """Also where a tool's result is missing: its host knows, or is told by the server."""
    call = {"type": "function_call", "id": "c", "call_id": "call_1", "name": "f", "arguments": "{}"}
    history = brought(after(output=[call]), USER, call, USER)

    assert [] == history.owed((), FIELDS)


@pytest.mark.parametrize("given", [[USER] * 2_500, [USER], [], "hi", None])
def test_what_is_forgotten_is_gone_and_only_that(given: Any) -> None:
    """Its items, however many; what was written of them is what is sent."""
    body = WrittenBody({"model": "m", "input": given})
    row, count = body.row, len(body.history)
    body.forget()
    assert (0 if isinstance(given, list) else count, row) == (len(body.history), body.row)
