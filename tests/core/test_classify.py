"""Whose is it: every kind of event, held against what is known of the request in flight."""

from __future__ import annotations

import json
from typing import Any

import pytest

from wspool.core.events.classify import Sort, classify, is_harmless, is_harmless_after, sort_of
from wspool.core.events.evidence import Evidence
from wspool.core.events.past import Past
from wspool.core.events.table import TurnInput, TurnState
from wspool.core.events.trust import Rewrite, Trust
from wspool.core.frames import Event, lane_of, parse_event
from wspool.core.server_error import ServerError

OURS, PARENT, OLD, FOREIGN = "resp_ours", "resp_parent", "resp_old", "resp_foreign"
SENT, STREAMING, FAILING, SETTLING = (
    TurnState.SENT,
    TurnState.STREAMING,
    TurnState.FAILING,
    TurnState.SETTLING,
)
#: Seconds since the epoch, and how a moment half a minute later is written in an error.
NOW = 1_796_000_000.0
UNTIL = {"reset_at": NOW + 30}
WORDS = {"code": "server_error", "message": "It broke."}


def event(kind: str, **fields: Any) -> Event:
    return parse_event(json.dumps({"type": kind, **fields}))


def about(kind: str, name: object = OURS, *, number: int | None = None, **fields: Any) -> Event:
    count = {} if number is None else {"sequence_number": number}
    return event(f"response.{kind}", response={"id": name, **fields}, **count)


def evidence(
    *,
    begun: bool = True,
    parent: str | None = PARENT,
    exact: bool = True,
    next: int | None = None,
    lane: str | None = None,
) -> Evidence:
    """What is known of a turn on a connection that has carried one response, which had an error."""
    past = Past()
    past.begin(OLD)
    past.fail(ServerError(code="server_error", type=None, message="It broke."))
    known = Evidence(parent, lane, past, Trust(exact=exact))
    if begun:
        past.begin(OURS)
        known.response_id = OURS
    known.next, past.counts = next, next is not None
    return known


def what(given: Event, state: TurnState = STREAMING, known: Evidence | None = None) -> tuple[TurnInput, bool]:
    """The kind, and whether the connection is suspect from then on."""
    reading = classify(given, state, known if known is not None else evidence(begun=state is not SENT))
    return reading.what, reading.suspect


# -- by type alone --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "sort"),
    [
        ("response.output_text.delta", Sort.DELTA),
        ("response.output_item.added", Sort.ITEM),
        ("response.output_item.delta", Sort.ITEM),
        ("response.output_item.done", Sort.ITEM_DONE),
        ("response.content_part.added", Sort.OUTPUT),
        ("response.function_call_arguments.done", Sort.DONE),
        ("response.custom_tool_call_input.delta", Sort.DELTA),
        ("response.reasoning_summary_text.delta", Sort.DELTA),
        ("response.web_search_call.searching", Sort.OUTPUT),
        ("response.mcp_call.failed", Sort.OUTPUT),
        ("response.audio.transcript.delta", Sort.DELTA),
        ("response.shell_call_command.added", Sort.OUTPUT),
        ("response.compaction.compacting", Sort.OUTPUT),
        ("response.keep_alive", Sort.UNKNOWN),
        ("response.done", Sort.UNKNOWN),
        ("response.cancelled", Sort.UNKNOWN),
        ("response.new_thing.started", Sort.UNKNOWN),
        ("response.steer.accepted", Sort.STEER),
        ("response.error", Sort.ERROR),
        ("response.metadata", Sort.NOTICE),
        ("keepalive", Sort.NOTICE),
        ("floway:keep_alive", Sort.EXTENSION),
        ("session.created", Sort.EXTENSION),
        ("responses", Sort.EXTENSION),
    ],
)
def test_a_type_says_what_it_is(kind: str, sort: Sort) -> None:
    """What begins with `response.` is about one; the rest is harmless."""
    assert sort is sort_of(kind)
    assert is_harmless(event(kind)) == (sort in (Sort.NOTICE, Sort.EXTENSION))


# -- lanes and numbers ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "lane", "found"),
    [
        ("response.output_text.delta", "theirs", TurnInput.FOREIGN),
        ("response.output_text.delta", None, TurnInput.FOREIGN),
        ("response.output_text.delta", "mine", TurnInput.OUTPUT),
        ("vendor.notice", "theirs", TurnInput.FOREIGN),
        ("vendor.notice", None, TurnInput.EXTENSION),
        ("keepalive", "theirs", TurnInput.NOTICE),
        ("error", None, TurnInput.ERROR),
        ("error", "theirs", TurnInput.FOREIGN),
    ],
)
def test_an_event_of_another_lane_is_foreign(kind: str, lane: str | None, found: TurnInput) -> None:
    """Only errors and what is about no response may leave their lane out."""
    given = event(kind, **({} if lane is None else {"stream_id": lane}))
    assert lane == lane_of(given)

    assert (found, False) == what(given, known=evidence(lane="mine"))


@pytest.mark.parametrize("number", [0, 3, 5, 6])
@pytest.mark.parametrize("kind", ["output_text.delta", "completed", "in_progress", "done"])
def test_a_wrong_number_is_a_gap_where_the_server_counts(kind: str, number: int) -> None:
    """Something is missing, or came before: no other turn may follow, and this one may lack a piece. A
    negative one says nothing, nor does one from a gateway, nor that of a type that nobody knows."""
    given = about(kind, number=number, status="completed")
    right = what(about(kind, number=4, status="completed"), known=evidence(next=4))[0]
    reading = classify(given, STREAMING, evidence(next=4))

    assert (right, True, True) == (reading.what, reading.suspect, reading.mixed)
    assert Rewrite.NUMBERS is reading.rewritten
    for other, known in (
        (about("new_thing", number=number), evidence(next=4)),
        (given, evidence(next=number)),
        (about(kind, number=-1), evidence(next=4)),
        (about(kind, number=9), evidence(next=4, exact=False)),
    ):
        assert not what(other, known=known)[1]


@pytest.mark.parametrize(
    ("kind", "number", "changed", "found"),
    [
        ("content_part.added", 4, {}, TurnInput.OUTPUT),
        ("content_part.added", None, {}, TurnInput.STALE),
        ("content_part.added", 4, {"numbers": False}, TurnInput.STALE),
        ("content_part.added", 4, {"mixed": True}, TurnInput.STALE),
        ("output_text.delta", 4, {}, TurnInput.STALE),
        ("output_text.delta", 4, {"items": set()}, TurnInput.OUTPUT),
        ("output_text.delta", None, {"items": {"msg_old"}}, TurnInput.OUTPUT),
    ],
)
def test_a_number_ties_what_says_nothing_to_our_response(
    kind: str, number: int | None, changed: dict[str, Any], found: TurnInput
) -> None:
    """What says something is looked into once ours has items, and all is where numbers prove nothing."""
    known = evidence(next=4)
    known.past.end([{"id": "msg_old"}])
    known.announce("msg_new")
    for name, value in changed.items():
        setattr(known, name, value)
    count = {} if number is None else {"sequence_number": number}

    assert found is what(event(f"response.{kind}", item_id="msg_old", **count), known=known)[0]


# -- the beginning --------------------------------------------------------------------------


@pytest.mark.parametrize("name", [OLD, PARENT, None, 7, ["resp"]])
@pytest.mark.hits("dirty: begins without an id, or with an old one")
def test_an_old_response_does_not_begin(name: object) -> None:
    """Nor does one without an id. So it is with a gateway, too."""
    for exact in (True, False):
        given = evidence(begun=False, exact=exact)

        assert (TurnInput.FOREIGN, False) == what(about("created", name), SENT, given)


@pytest.mark.parametrize(
    ("sent", "echoed", "found"),
    [
        (PARENT, PARENT, TurnInput.CREATED),
        (PARENT, None, TurnInput.CREATED),
        (PARENT, FOREIGN, TurnInput.FOREIGN),
        (PARENT, OLD, TurnInput.FOREIGN),
        (None, None, TurnInput.CREATED),
        (None, FOREIGN, TurnInput.FOREIGN),
        (None, 7, TurnInput.CREATED),
    ],
)
def test_a_response_to_another_request_does_not_begin(
    sent: str | None, echoed: object, found: TurnInput
) -> None:
    """The parent that it names is not the one that was sent. A gateway may have rewritten it."""
    given = about("created", previous_response_id=echoed)

    assert (found, False) == what(given, SENT, evidence(begun=False, parent=sent))
    assert TurnInput.CREATED is what(given, SENT, evidence(begun=False, parent=sent, exact=False))[0]


# -- progress and end -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "name", "found", "lenient"),
    [
        ("completed", OURS, TurnInput.TERMINAL, TurnInput.TERMINAL),
        ("failed", OURS, TurnInput.TERMINAL, TurnInput.TERMINAL),
        ("completed", FOREIGN, TurnInput.DOUBTFUL, TurnInput.TERMINAL),
        ("completed", None, TurnInput.DOUBTFUL, TurnInput.TERMINAL),
        ("completed", OLD, TurnInput.STALE, TurnInput.STALE),
        ("in_progress", OURS, TurnInput.PROGRESS, TurnInput.PROGRESS),
        ("queued", FOREIGN, TurnInput.DOUBTFUL, TurnInput.PROGRESS),
        ("queued", None, TurnInput.UNKNOWN, TurnInput.UNKNOWN),
        ("in_progress", OLD, TurnInput.STALE, TurnInput.STALE),
    ],
)
def test_an_id_says_whose_progress_or_end_it_is(
    kind: str, name: str | None, found: TurnInput, lenient: TurnInput
) -> None:
    """An old id is a repetition, after which no other turn may follow; an unseen one may be a gateway's, and
    is in doubt where the provider is none."""
    suspect = name == OLD

    assert (found, suspect or found is TurnInput.DOUBTFUL) == what(about(kind, name))
    assert (lenient, suspect) == what(about(kind, name), known=evidence(exact=False))


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.hits("dirty: an end before the beginning")
def test_before_the_beginning_nothing_is_ours(exact: bool) -> None:
    """Not even what has no id."""
    for name in (OURS, FOREIGN, None):
        given = evidence(begun=False, exact=exact)

        assert TurnInput.FOREIGN is what(about("completed", name), SENT, given)[0]


@pytest.mark.parametrize("kind", ["created", "in_progress", "completed", "failed", "done"])
def test_the_life_of_an_agents_response_is_not_ours(kind: str) -> None:
    """It is an event like another, whatever its id."""
    for name in (OURS, FOREIGN):
        given = event(f"response.{kind}", response={"id": name}, agent={"agent_name": "child"})
        found = TurnInput.UNKNOWN if kind == "done" else TurnInput.MEMBER

        assert (found, False) == what(given)


@pytest.mark.parametrize("kind", ["in_progress", "completed", "done"])
def test_an_agent_of_null_is_none(kind: str) -> None:
    """A server that writes out what it has nothing for still ends the response."""
    given = event(f"response.{kind}", response={"id": OURS, "status": "completed"}, agent=None)

    assert (TurnInput.PROGRESS if kind == "in_progress" else TurnInput.TERMINAL, False) == what(given)


@pytest.mark.parametrize(
    ("kind", "fields", "status"),
    [
        ("done", {"status": "completed"}, "completed"),
        ("done", {"status": "incomplete"}, "incomplete"),
        ("finished", {"status": "failed"}, "failed"),
        ("done", {"status": "cancelled"}, "failed"),
        ("cancelled", {}, "failed"),
        ("completed", {"status": "in_progress"}, "completed"),
        ("incomplete", {"status": "stop"}, "incomplete"),
        ("failed", {"status": 5}, "failed"),
    ],
)
def test_whatever_says_that_our_response_has_ended_is_its_end(
    kind: str, fields: dict[str, Any], status: str
) -> None:
    """A known type says how; of an unknown one, the status of the response."""
    reading = classify(about(kind, **fields), STREAMING, evidence())

    assert (TurnInput.TERMINAL, status) == (reading.what, reading.status)
    assert (reading.error is not None) == (status == "failed")


@pytest.mark.parametrize("kind", ["failed", "done"])
@pytest.mark.parametrize(
    ("name", "exact", "what"),
    [
        (OURS, True, TurnInput.TERMINAL),
        (FOREIGN, False, TurnInput.TERMINAL),
        (FOREIGN, True, TurnInput.DOUBTFUL),
    ],
)
def test_the_end_of_a_failed_response_has_all_that_it_says(
    kind: str, name: str, exact: bool, what: TurnInput
) -> None:
    """Also where nobody has seen its id: its error, how long to wait, and its status."""
    fields: dict[str, Any] = {
        "status": "failed",
        "error": {"code": "slow_down", "message": "Later.", **UNTIL},
    }
    reading = classify(about(kind, name, **fields), STREAMING, evidence(exact=exact), wall_clock=NOW)

    assert (what, "failed", name) == (reading.what, reading.status, (reading.response or {}).get("id"))
    assert reading.error is not None
    assert ("slow_down", 30.0) == (reading.error.code, reading.error.retry_after)


def test_progress_has_its_response() -> None:
    """What it says of it beside its status."""
    reading = classify(about("in_progress", model="m"), STREAMING, evidence())
    assert {"id": OURS, "model": "m"} == reading.response


def test_a_cancelled_response_has_an_error_that_says_so() -> None:
    """The server gives none."""
    reading = classify(about("cancelled", status="cancelled"), STREAMING, evidence())

    assert reading.error is not None
    assert "cancelled" == reading.error.code


def test_a_second_end_of_a_response_that_settles_is_let_pass() -> None:
    """Some servers end each turn twice, the second time in words of their own."""
    assert (TurnInput.UNKNOWN, False) == what(about("done", status="completed"), SETTLING)


@pytest.mark.parametrize(
    ("name", "status", "found"),
    [
        (OURS, "in_progress", TurnInput.UNKNOWN),
        (OURS, None, TurnInput.UNKNOWN),
        (OURS, ["completed"], TurnInput.UNKNOWN),
        (None, "completed", TurnInput.UNKNOWN),
        (OLD, "completed", TurnInput.STALE),
        (FOREIGN, "completed", TurnInput.DOUBTFUL),
    ],
)
def test_an_unknown_type_is_let_pass_unless_it_is_foreign(
    name: str | None, status: object, found: TurnInput
) -> None:
    """One that repeats an old response is dropped, and no sign of trouble: some servers end each turn so."""
    doubt = found is TurnInput.DOUBTFUL

    assert (found, doubt) == what(about("done", name, status=status))
    given = event("response.beat", response_id=name)
    assert (TurnInput.UNKNOWN if name == OURS else found, doubt) == what(given)
    assert (TurnInput.UNKNOWN if doubt else found, False) == what(
        about("done", name), known=evidence(exact=False)
    )


# -- errors ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "found"),
    [(None, TurnInput.ERROR), (0, TurnInput.ERROR), (1, TurnInput.FOREIGN), (7, TurnInput.FOREIGN)],
)
@pytest.mark.parametrize("status", [None, 429])
def test_the_number_of_a_running_response_refuses_nothing(
    number: int | None, status: int | None, found: TurnInput
) -> None:
    """Ours has not begun. A gateway's numbers prove nothing."""
    fields = {"sequence_number": number, "status": status}
    fields = {name: value for name, value in fields.items() if value is not None}
    given = event("error", error={"code": "rate_limit_exceeded"}, **fields)

    assert (found, False) == what(given, SENT)
    assert TurnInput.ERROR is what(given, SENT, evidence(begun=False, exact=False))[0]


@pytest.mark.hits("dirty: an error that was heard before, or names another parent")
def test_the_words_of_a_running_response_refuse_nothing() -> None:
    """The same error was heard in a response on this connection: it comes late, or twice."""
    for shape in ({"error": WORDS}, {**WORDS}, {"error": WORDS, "status": 500}):
        assert (TurnInput.FOREIGN, False) == what(event("error", **shape), SENT)
        assert (TurnInput.ERROR, False) == what(event("error", **shape), STREAMING)


def test_the_words_of_a_failed_response_refuse_nothing_without_a_status() -> None:
    """Its error frame may come behind it. With a status it is what refuses the next request in an outage."""
    known = evidence(begun=False)
    known.past.end_failed(ServerError(code="server_is_overloaded", message="Later."))
    words = {"code": "server_is_overloaded", "type": "server_error", "message": "Later."}

    assert (TurnInput.FOREIGN, False) == what(event("error", error=words), SENT, known)
    assert (TurnInput.ERROR, False) == what(event("error", status=503, error=words), SENT, known)


@pytest.mark.parametrize(
    ("message", "parent", "found"),
    [
        (f"Previous response with id '{PARENT}' not found.", PARENT, TurnInput.ERROR),
        (f"Previous response with id '{OLD}' not found.", PARENT, TurnInput.FOREIGN),
        (f"Previous response with id '{OLD}' not found.", OLD, TurnInput.ERROR),
        ("Previous response with id 'resp_as_the_gateway_knows_it' not found.", PARENT, TurnInput.ERROR),
        ("Gone.", PARENT, TurnInput.ERROR),
        ("Gone.", None, TurnInput.ERROR),
        (f"Previous response with id '{OLD}' not found.", None, TurnInput.ERROR),
    ],
)
def test_a_parent_of_an_earlier_request_refuses_nothing(
    message: str, parent: str | None, found: TurnInput
) -> None:
    """Such an error is about somebody else's request. Where none was sent, nobody can say which."""
    given = event("error", status=400, error={"code": "previous_response_not_found", "message": message})

    assert (found, parent is None) == what(given, SENT, evidence(begun=False, parent=parent))


@pytest.mark.parametrize("where", [{"response": {"id": OLD}}, {"response_id": OLD}])
@pytest.mark.hits("dirty: the error of an earlier response")
def test_an_error_that_names_an_old_response_is_foreign(where: dict[str, Any]) -> None:
    """Whatever is in flight."""
    for state in (SENT, STREAMING):
        assert (TurnInput.FOREIGN, False) == what(event("error", error={"code": "x"}, **where), state)
    assert TurnInput.ERROR is what(event("error", response_id=OURS, error={"code": "x"}), STREAMING)[0]


@pytest.mark.parametrize(
    "error",
    [
        {"code": "concurrent_request"},
        {"code": "response_already_in_flight"},
        {"message": "a response is already in progress on this connection"},
    ],
)
def test_a_refusal_by_a_busy_server_leaves_the_connection_suspect(error: dict[str, Any]) -> None:
    """It works on something for this lane that nobody here waits for."""
    assert (TurnInput.ERROR, True) == what(event("error", status=409, error=error), SENT)


@pytest.mark.parametrize(
    ("number", "found", "suspect"),
    [
        (4, TurnInput.ERROR, False),
        (None, TurnInput.ERROR, False),
        (-1, TurnInput.ERROR, False),
        (2, TurnInput.DOUBTFUL, True),
        (0, TurnInput.DOUBTFUL, True),
        (6, TurnInput.DOUBTFUL, True),
    ],
)
def test_an_error_has_a_number_in_its_response(number: int | None, found: TurnInput, suspect: bool) -> None:
    """Another is in doubt, or a repetition if it was heard before. What follows an error needs none."""
    count = {} if number is None else {"sequence_number": number}
    given, heard = event("error", error={"code": "new"}, **count), event("error", error=WORDS, **count)

    assert (found, suspect) == what(given, STREAMING, evidence(next=4))
    assert (TurnInput.STALE if suspect else found, suspect) == what(heard, STREAMING, evidence(next=4))
    for error in (given, heard):
        assert (TurnInput.ERROR, False) == what(error, FAILING, evidence(next=4))
        assert (TurnInput.ERROR, False) == what(error, STREAMING, evidence(next=4, exact=False))


def test_an_error_whose_number_is_wrong_is_kept_with_its_reason() -> None:
    """If no end comes, it is what there is to say; and a piece of ours may be missing."""
    given = event("error", error={"code": "new"}, sequence_number=6)
    reading = classify(given, STREAMING, evidence(next=4))

    assert reading.error is not None
    assert ("new", True) == (reading.error.code, reading.mixed)
    assert reading.why.startswith("an error with a number that shows")


@pytest.mark.parametrize("state", [SENT, STREAMING])
def test_a_date_says_how_long_to_wait(state: TurnState) -> None:
    """It is compared with the clock that is given; without one it says nothing."""
    given = event("error", status=429, error={"code": "rate_limit_exceeded", "message": "Later.", **UNTIL})
    for clock, wait in ({"wall_clock": NOW}, 30.0), ({}, None):
        reading = classify(given, state, evidence(begun=state is not SENT), **clock)
        assert reading.error is not None
        assert wait == reading.error.retry_after


def test_a_notice_of_the_end_says_what_it_said() -> None:
    """It is about the connection, and is told."""
    reading = classify(event("error", status=400, error={"code": "connection_expiring"}), SENT, evidence())
    assert reading.error is not None
    assert "connection_expiring" == reading.error.code


def test_limits_are_about_the_connection() -> None:
    """At any time of a turn."""
    for code, found in (
        ("websocket_connection_limit_reached", TurnInput.LIMIT),
        ("connection_expiring", TurnInput.EXPIRING),
    ):
        for state in (SENT, STREAMING, FAILING, SETTLING):
            assert (found, False) == what(event("error", status=400, error={"code": code}), state)


def test_what_may_come_between_turns() -> None:
    """What is about no response, or of an unknown type and about none but an old one."""
    past = evidence().past
    for given, harmless in (
        (event("session.created"), True),
        (event("response.keep_alive"), True),
        (about("done", OLD), True),
        (about("done", FOREIGN), False),
        (about("completed", OLD), False),
        (event("response.beat", response_id=OLD), True),
        (event("response.beat", response_id=FOREIGN), False),
        (event("response.output_text.delta"), False),
        (event("error"), False),
    ):
        assert harmless == is_harmless_after(given, past), given


def test_an_unknown_type_that_cannot_be_read_is_let_pass() -> None:
    """Nobody has to understand it."""
    broken = parse_event('{"type":"response.new_thing",oops}')

    assert (TurnInput.UNKNOWN, False) == what(broken)
