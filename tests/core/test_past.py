"""What a connection has carried: it is known again, and it is bounded."""

from __future__ import annotations

import json

from wspool.core.events import past
from wspool.core.events.past import Past, name_of
from wspool.core.events.turn import Reception, TurnMachine
from wspool.core.frames import parse_event
from wspool.core.server_error import ServerError


def test_what_began_is_known() -> None:
    """By its id; nothing else is."""
    it = Past()
    it.begin("resp_1")

    assert it.knows("resp_1")
    assert not any(it.knows(other) for other in ("resp_2", None, 1, ["resp_1"]))


def test_an_error_is_known_by_its_words() -> None:
    """Whatever else stands beside them."""
    it = Past()
    it.fail(ServerError(code="server_error", type="server_error", message="It broke.", status=500))

    assert it.heard(ServerError(code="server_error", message="It broke."))
    assert not it.heard(ServerError(code="server_error", message="It broke again."))


def test_an_error_that_had_a_frame_of_its_own_is_known_as_such() -> None:
    """Also when its response has ended with it; what only an end has said may be said anew, with a status."""
    it = Past()
    framed, ended = (ServerError(code="server_error", message=text, status=500) for text in ("a", "b"))
    it.fail(framed)
    it.end_failed(framed)
    it.end_failed(ended)

    assert it.heard(framed)
    assert not it.heard(ended)
    assert it.heard(ServerError(code="server_error", message="b"))


def test_it_is_bounded() -> None:
    """The oldest are forgotten first, several at once: to take one each time costs more than all the rest."""
    it = Past()
    for number in range(past.KEPT + past.BEYOND):
        it.begin(f"resp_{number}")
    assert it.knows("resp_0")

    it.begin("resp_last")

    assert not it.knows("resp_0")
    assert not it.knows(f"resp_{past.BEYOND - 1}")
    assert it.knows(f"resp_{past.BEYOND}")
    assert it.knows("resp_last")


def test_items_are_known_by_their_ids() -> None:
    """Those without one are like no other."""
    it = Past()
    it.end([{"id": "msg_1"}, {"type": "message"}, {"id": 7}], ["msg_3"])

    assert it.has_item("msg_1")
    assert it.has_item("msg_3"), "announced, and called something else at the end"
    assert not it.shares(name_of(item) for item in ({"id": "msg_1"}, {"id": ["msg_1"]}, {"id": 8}))
    assert it.shares(["msg_1", "msg_2"])
    assert not it.shares(["msg_1"])
    assert not it.shares(["msg_2", None])


def test_an_error_that_came_in_a_response_refuses_no_other() -> None:
    """It says again what was said of that: though its end named another one, and it has a status."""
    shared = Past()
    receptions = []
    boom = {"type": "error", "status": 500, "error": {"code": "server_error", "message": "boom"}}
    failed = {"id": "r", "status": "failed", "output": [], "error": {"code": "other", "message": "else"}}
    said = ({"type": "response.created", "response": {"id": "r"}}, boom)
    for events in ((*said, {"type": "response.failed", "response": failed}), (boom,)):
        machine = TurnMachine(None, None, shared)
        machine.handed()
        receptions.append([machine.receive(parse_event(json.dumps(event))) for event in events])
    deliver, end, dirty = Reception.DELIVER, Reception.END, Reception.DIRTY
    assert [[deliver, deliver, end], [dirty]] == receptions
