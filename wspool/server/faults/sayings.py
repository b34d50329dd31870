"""More of the catalogue: events that break the rules, over a connection that works."""

from typing import Final

from wspool.server.faults.catalogue import named
from wspool.server.faults.steps import Change, Encode, Frames, Ignore, Moment, Say, Step, Treat, Write
from wspool.server.line import TEXT, frame
from wspool.server.models import Item
from wspool.server.protocol.grammar import Event, is_end
from wspool.server.protocol.shapes import on_lane, response_in

__all__ = ["FOREIGN"]

#: The id of a response that nobody asked for.
FOREIGN: Final = "resp_of_somebody_else"


# Events that break the rules.


def _text(text: str) -> tuple[Step, ...]:
    return (Say(lambda moment: [text]),)


@named("grammar", at="delta")
def invalid_json(text: str = '{"type":"response.output_text.delta",') -> tuple[Step, ...]:
    """A text message that is not JSON."""
    return _text(text)


@named("grammar", at="delta")
def empty_text() -> tuple[Step, ...]:
    """A text message without a character."""
    return _text("")


@named("grammar", at="delta")
def not_an_object(text: str = "[]") -> tuple[Step, ...]:
    """JSON that is not an object."""
    return _text(text)


@named("grammar", at="delta")
def no_type() -> tuple[Step, ...]:
    """An event without a type."""
    return _text('{"sequence_number":3}')


@named("grammar", at="delta")
def odd_type() -> tuple[Step, ...]:
    """An event whose type is a number."""
    return _text('{"type":7,"sequence_number":3}')


@named("grammar", at="delta")
def not_a_number() -> tuple[Step, ...]:
    """An event of an unknown kind with NaN in it, which is no JSON."""
    return _text('{"type":"response.unknown","value":NaN}')


@named("grammar", at="delta")
def deep_json(depth: int = 100_000) -> tuple[Step, ...]:
    """An event of an unknown kind, nested very deeply."""
    return _text('{"type":"response.unknown","value":' + "[" * depth + "]" * depth + "}")


@named("grammar", at="delta")
def duplicate_keys() -> tuple[Step, ...]:
    """An event that names its type twice."""
    return _text('{"type":"response.completed","type":"response.unknown"}')


@named("grammar", at="delta")
def done_marker() -> tuple[Step, ...]:
    """The `[DONE]` of server-sent events, as a text message."""
    return _text("[DONE]")


@named("grammar", at="delta")
def byte_order_mark() -> tuple[Step, ...]:
    """The event comes with a byte order mark before its JSON."""
    return (Encode(lambda text: frame(TEXT, b"\xef\xbb\xbf" + text)),)


@named("grammar", at="delta")
def odd_text(text: str = "\ufeff\0\ud800") -> tuple[Step, ...]:
    """A delta of characters that are hard to keep: a byte order mark, a NUL, half a surrogate pair."""
    return (Change(make=lambda moment: [moment.event | {"delta": text}]),)


@named("grammar", at="delta")
def unknown_event() -> tuple[Step, ...]:
    """An event of an unknown kind."""
    return (Say(lambda moment: [on_lane({"type": "response.unknown", "value": [1]}, moment)]),)


@named("grammar", at="response.created")
def unknown_fields() -> tuple[Step, ...]:
    """Every event has fields that nobody knows."""

    def make(moment: Moment) -> Frames:
        return [moment.event | {"unknown": {"deep": [None]}, "another": 1.5}]

    return (Change(make=make, every=True),)


@named("grammar", at="delta")
def unknown_item() -> tuple[Step, ...]:
    """An item of an unknown kind is added and done."""

    def make(moment: Moment) -> Frames:
        item = {"id": "unk_1", "type": "hologram_call", "status": "completed"}
        kinds = ("response.output_item.added", "response.output_item.done")
        return [on_lane({"type": kind, "output_index": 99, "item": item}, moment) for kind in kinds]

    return (Say(make),)


@named("grammar", at="delta")
def many_events(count: int = 100_000) -> tuple[Step, ...]:
    """As many tiny events of a kind that nobody knows, in one burst."""
    portion = min(count, 1000)
    return (Write(data=frame(TEXT, b'{"type":"x"}') * portion, times=count // portion),)


def _with_response(event: Event, response: Item) -> Event:
    return event | {"response": response}


def _numbered(event: Event, number: int | None) -> Event:
    changed = {key: value for key, value in event.items() if key != "sequence_number"}
    return changed if number is None else changed | {"sequence_number": number}


@named("grammar", at="response.created")
def no_sequence_number() -> tuple[Step, ...]:
    """No event has a `sequence_number`."""
    return (Change(make=lambda moment: [_numbered(moment.event, None)], every=True),)


@named("grammar", at="delta")
def sequence_gap(by: int = 3) -> tuple[Step, ...]:
    """From here on the sequence numbers are too high: events are missing."""

    def make(moment: Moment) -> Frames:
        return [_numbered(moment.event, moment.event["sequence_number"] + by)]

    return (Change(make=make, every=True),)


@named("grammar", at="delta")
def sequence_repeat() -> tuple[Step, ...]:
    """The event comes twice, with the same sequence number."""
    return (Change(make=lambda moment: [moment.event, moment.event]),)


@named("grammar", at="terminal")
def duplicate_terminal() -> tuple[Step, ...]:
    """The last event of the turn comes twice."""
    return (Change(make=lambda moment: [moment.event, moment.event]),)


@named("grammar", at="terminal", after=True)
def events_after_terminal() -> tuple[Step, ...]:
    """After the last event of the turn comes one more delta of it."""

    def make(moment: Moment) -> Frames:
        return [_delta("late", moment.sequence, moment)]

    return (Say(make),)


def _delta(text: str, number: int, moment: Moment) -> Event:
    event: Event = {
        "type": "response.output_text.delta",
        "item_id": "msg_of_somebody_else",
        "output_index": 0,
        "content_index": 0,
        "delta": text,
        "logprobs": [],
        "sequence_number": number,
    }
    return on_lane(event, moment)


@named("grammar", at="response.created")
def stale_events() -> tuple[Step, ...]:
    """Before the turn comes the rest of another one: a delta and the end of a response long abandoned."""

    def make(moment: Moment) -> Frames:
        response = response_in(moment, "completed", id=FOREIGN)
        last = {"type": "response.completed", "response": response, "sequence_number": 8}
        return [_delta("stale", 7, moment), on_lane(last, moment)]

    return (Say(make),)


@named("grammar", at="delta")
def foreign_response() -> tuple[Step, ...]:
    """In the middle of the turn another response is created."""

    def make(moment: Moment) -> Frames:
        response = response_in(moment, "in_progress", id=FOREIGN)
        return [on_lane({"type": "response.created", "response": response, "sequence_number": 0}, moment)]

    return (Say(make),)


@named("grammar", at="delta")
def foreign_stream() -> tuple[Step, ...]:
    """In the middle of the turn comes an event of a lane that nobody opened."""
    return (Say(lambda moment: [_delta("foreign", moment.sequence, moment) | {"stream_id": "nobodys_lane"}]),)


@named("grammar", at="terminal")
def foreign_end(instead: bool = False) -> tuple[Step, ...]:
    """Before the last event, or *instead* of it, comes that of another response."""

    def make(moment: Moment) -> Frames:
        said: Item = {"id": "msg_of_somebody_else", "type": "message", "role": "assistant", "content": []}
        said["status"] = "completed"
        response = response_in(moment, "completed", id=FOREIGN) | {"output": [said]}
        return [on_lane(_with_response({**moment.event, "type": "response.completed"}, response), moment)]

    return (Change(make=make),) if instead else (Say(make),)


@named("grammar", at="response.created")
def rewritten_id() -> tuple[Step, ...]:
    """Until its last event the response has another id, which a gateway has made up."""

    def make(moment: Moment) -> Frames:
        event, response = moment.event, moment.event.get("response")
        if response is None or is_end(event):
            return [event]
        return [_with_response(event, response | {"id": f"resp_made_up_{response['id']}"})]

    return (Change(make=make, every=True),)


@named("grammar", at="response.created")
def created_twice() -> tuple[Step, ...]:
    """The response is created twice."""
    return (Change(make=lambda moment: [moment.event, moment.event]),)


@named("grammar", at="response.created")
def never_created() -> tuple[Step, ...]:
    """Everything comes but `response.created`."""
    return (Change(make=lambda moment: []),)


@named("grammar", at="response.created")
def terminal_without_created() -> tuple[Step, ...]:
    """Nothing of the turn comes but its last event."""

    def make(moment: Moment) -> Frames:
        return [moment.event] if is_end(moment.event) else []

    return (Change(make=make, every=True),)


@named("grammar", at="terminal")
def terminal_without_output() -> tuple[Step, ...]:
    """The last event's response has no `output`."""

    def make(moment: Moment) -> Frames:
        response = {key: value for key, value in moment.event["response"].items() if key != "output"}
        return [_with_response(moment.event, response)]

    return (Change(make=make),)


@named("grammar", at="terminal")
def terminal_with_empty_output(gap: int = 0) -> tuple[Step, ...]:
    """The last event's response has an empty `output`, whatever came before; its number is *gap* too high."""

    def make(moment: Moment) -> Frames:
        event = _numbered(moment.event, moment.event["sequence_number"] + gap)
        return [_with_response(event, moment.event["response"] | {"output": []})]

    return (Change(make=make),)


@named("grammar", at="terminal")
def big_terminal(size: int = 2 * 1024 * 1024) -> tuple[Step, ...]:
    """The last event is so many bytes larger than it was: legal, and more than a MiB by default."""

    def make(moment: Moment) -> Frames:
        return [_with_response(moment.event, moment.event["response"] | {"instructions": "x" * size})]

    return (Change(make=make),)


@named("grammar", at="receipt")
def odd_id(response_id: str = "r" * 300) -> tuple[Step, ...]:
    """The response has an odd id, and can be continued by it."""
    return (Treat(response_id=response_id),)


@named("grammar", at="receipt", silent=True)
def unanswered() -> tuple[Step, ...]:
    """The request is never answered; the connection lives."""
    return (Ignore(),)


@named("grammar", at="receipt")
def warm_up_generates() -> tuple[Step, ...]:
    """A warm-up is answered by a full response."""
    return (Treat(warm_up=False),)
