"""The notice machine: what is about nothing, put in at every place of every transcript, changes nothing.

Heartbeats with numbers and without, vendors' notices, blank messages, types that nobody knows. Two turns are
given the same transcript, one of them with notices in between, and stay alike all the way to the same end.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import attrs
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from wspool.core.events.past import Past
from wspool.core.events.steering import Steer
from wspool.core.events.turn import Reception, TurnMachine
from wspool.core.frames import Event, MalformedMessageError, lane_of, parse_event

Frame = dict[str, Any]

_LINES: Final = (Path(__file__).with_name("transcripts.jsonl")).read_text(encoding="utf-8").splitlines()

#: What servers and gateways were seen to send that is about no request, and more of that kind.
NOTICES: Final[tuple[Frame, ...]] = (
    {"type": "keepalive"},
    {"type": "ping"},
    {"type": "codex.rate_limits", "rate_limits": {"allowed": True}},
    {"type": "codex.response.metadata", "headers": {}},
    {"type": "response.metadata", "metadata": {}},
    {"type": "responsesapi.websocket_timing", "timing_metrics": {}},
    {"type": "session.updated", "session": {"id": "sess_1"}},
    {"type": "floway:keep_alive"},
    {"type": "x.y", "response": {"id": "resp_of_nobody", "status": "completed"}},
    {"type": "response.keep_alive"},
    {"type": "response.notice", "text": "hello"},
    {"type": "error", "status": 400, "error": {"code": "connection_expiring", "message": "Soon."}},
)
#: Messages that are no event at all.
BLANKS: Final = ("", " ", "\r\n", "\t \n")


@attrs.frozen
class Story:
    """One request of a transcript, with all that was answered, and what it was steered by in between."""

    name: str
    request: Frame
    said: list[Frame] = attrs.field(factory=list[Frame])

    def __str__(self) -> str:
        return self.name


def stories() -> Iterator[Story]:
    """Every request that has an answer; where there are lanes, each with what was said on its own."""
    open_ones: dict[tuple[str, str | None], Story] = {}
    for number, line in enumerate(map(json.loads, _LINES)):
        if line["dir"] not in ("client", "server"):
            continue
        frame = line["frame"]
        key = line["t"], frame.get("stream_id") or None
        if frame["type"] == "response.create":
            if key in open_ones:
                yield open_ones[key]
            open_ones[key] = Story(f"{key[0]}-{number}", frame)
        else:
            open_ones[key].said.append(frame)
    yield from open_ones.values()


STORIES: Final = tuple(story for story in stories() if story.said)


class Turn:
    """A turn that is fed as a connection would."""

    def __init__(self, story: Story) -> None:
        self.lane = story.request.get("stream_id") or None
        self.machine = TurnMachine(story.request.get("previous_response_id"), self.lane, Past())
        self.machine.handed()
        self.shown: list[Event] = []
        self.ends = 0
        #: The number of the next event, where the server counts.
        self._shift = 0

    def hear(self, message: str) -> Reception | None:
        """Take a message; None if it is none, as a connection lets it pass."""
        try:
            event = parse_event(message)
        except MalformedMessageError:
            assert not message.strip()
            return None
        if self.lane is not None:
            lane_of(event)
        reception = self.machine.receive(event)
        self.ends += reception is Reception.END
        if reception in (Reception.DELIVER, Reception.END):
            self.shown.append(event)
        return reception

    def say(self, frame: Frame) -> None:
        """Hear what the server says, as its count stands."""
        if frame["type"] == "response.steer":
            assert self.machine.steer(Steer(input=[], target=frame["previous_response_id"]))
            return
        number = frame.get("sequence_number")
        counted = {} if number is None else {"sequence_number": number + self._shift}
        assert self.hear(json.dumps({**frame, **counted})) in (Reception.DELIVER, Reception.END)

    def notice(self, frame: Frame, number: int | None, *, counted: bool) -> None:
        """Hear a notice, which takes *number* of the response's count, or has one of its own, or none."""
        given: Frame = (
            {} if number is None else {"sequence_number": number + self._shift if counted else number}
        )
        self._shift += counted
        if self.lane is not None and frame["type"].startswith("response."):
            given["stream_id"] = self.lane  # else it would be for whoever routes it
        assert self.hear(json.dumps({**frame, **given})) in (
            Reception.IGNORE,
            Reception.DELIVER,
            Reception.EXPIRING,
        )

    @property
    def outcome(self) -> tuple[object, ...]:
        """All that anybody is told of it."""
        machine = self.machine
        error = None if machine.error is None else (machine.error.code, machine.error.message)
        kept = json.dumps(machine.response, sort_keys=True)
        return machine.state, machine.status, machine.delivery, machine.response_id, error, kept, self.ends

    @property
    def answer(self) -> list[tuple[str, Any]]:
        """The events that are not notices, without their numbers."""
        seen = [(event.type, {**event.data, "sequence_number": None}) for event in self.shown]
        return [one for one in seen if one[0] not in {notice["type"] for notice in NOTICES} - {"error"}]

    def assert_like(self, plain: Turn) -> None:
        """Assert that notices have changed nothing."""
        assert plain.outcome == self.outcome
        assert plain.answer == self.answer
        assert (plain.machine.output_seen, False) == (self.machine.output_seen, self.machine.suspect)


#: What a whole answer ends with; one of the transcripts is cut short.
LAST: Final = ("response.completed", "response.incomplete", "response.failed", "error")

#: How a notice is numbered: not at all, as the next event of the response, or by a count of its own.
COUNTS: Final = ("none", "counted", "own")


def put_in(turn: Turn, story: Story, place: int, notice: Frame | str, count: str) -> None:
    """Put a notice before the event at *place*."""
    if isinstance(notice, str):
        assert turn.hear(notice) is None
        return
    numbered = place < len(story.said) and "sequence_number" in story.said[place]
    if count == "counted" and numbered and notice["type"] != "error":
        turn.notice(notice, story.said[place]["sequence_number"], counted=True)
    else:
        turn.notice(notice, 0 if count == "own" and notice["type"] != "error" else None, counted=False)


def put_in_everywhere(story: Story, notice: Frame | str, count: str) -> Iterator[tuple[Turn, Turn]]:
    """The turn with a notice at each place, and the turn without it."""
    for place in range(len(story.said) + 1):
        plain, noticed = Turn(story), Turn(story)
        for index, frame in enumerate(story.said):
            if index == place:
                put_in(noticed, story, place, notice, count)
            plain.say(frame)
            noticed.say(frame)
        if place == len(story.said) and not _is_about_one(notice):
            put_in(noticed, story, place, notice, count)
        yield noticed, plain


def _is_about_one(notice: Frame | str) -> bool:
    """Whether it is about a response, nobody knows which: between turns the connection has to judge that."""
    return isinstance(notice, dict) and notice["type"] in ("response.keep_alive", "response.notice")


@pytest.mark.parametrize("story", STORIES, ids=str)
@pytest.mark.parametrize("count", COUNTS)
def test_one_notice_at_every_place_changes_nothing(story: Story, count: str) -> None:
    """Each of them alone, before the first event, between any two, and behind the last."""
    everything: list[Frame | str] = [*NOTICES, *BLANKS]
    for notice in everything:
        for noticed, plain in put_in_everywhere(story, notice, count):
            noticed.assert_like(plain)
            assert plain.ends == (story.said[-1]["type"] in LAST)


class NoticeMachine(RuleBasedStateMachine):
    """Any number of notices, anywhere; alike after every step."""

    @initialize(story=st.sampled_from(STORIES))
    def begin(self, story: Story) -> None:
        self.story, self.place = story, 0
        self.plain, self.noticed = Turn(story), Turn(story)

    @precondition(lambda self: self.place < len(self.story.said))
    @rule()
    def go_on(self) -> None:
        frame = self.story.said[self.place]
        self.plain.say(frame)
        self.noticed.say(frame)
        self.place += 1

    @rule(notice=st.sampled_from(NOTICES), count=st.sampled_from(COUNTS))
    def notice(self, notice: Frame, count: str) -> None:
        if self.place < len(self.story.said) or not _is_about_one(notice):
            put_in(self.noticed, self.story, self.place, notice, count)

    @rule(notice=st.sampled_from(BLANKS))
    def blank(self, notice: str) -> None:
        put_in(self.noticed, self.story, self.place, notice, "none")

    @invariant()
    def alike(self) -> None:
        if hasattr(self, "noticed"):
            self.noticed.assert_like(self.plain)

    def teardown(self) -> None:
        for frame in self.story.said[self.place :] if hasattr(self, "story") else ():
            self.plain.say(frame)
            self.noticed.say(frame)
        self.alike()


TestNoticeMachine = NoticeMachine.TestCase
