"""The event grammar: a response and what the model said, as the sequence of events that a client sees.

Pure: values in, values out. The rules of this module:

1. `sequence_number` counts from 0 in every response. Fields are in the order in which OpenAI writes them: the
   type, then the others by their names, so that some stand behind the number.
2. Every id is derived from the response id, so the same run always yields the same ids.
3. A response object repeats the settings of the request that it belongs to.

Source: the streaming events of the OpenAI API reference, and the types of openai-python 3.54.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import attrs

from wspool.server.models import AgentTurn, Item, ModelTurn, TurnError
from wspool.server.protocol.response import response_object, usage_of

__all__ = ["INTERNAL_ERROR", "TERMINAL", "Event", "Plan", "error_frame", "finished_items", "is_end"]

#: One event as plain JSON.
Event = dict[str, Any]

#: The events that end a response, unless they are about one within it (`is_end`).
TERMINAL: Final = frozenset({"response.completed", "response.failed", "response.incomplete"})

# Token-like: a word with the space before it; long words are cut, as tokens are short.
_TOKENS: Final = re.compile(r"\s*\S{1,16}|\s+")

# Providers pad deltas with junk of varying length, so that their size on the wire says little about the text.
_PADDING: Final = "kQ3vZp0Lw9TzYb7Hc2"

_ID_PREFIX: Final = {
    "message": "msg",
    "function_call": "fc",
    "custom_tool_call": "ctc",
    "reasoning": "rs",
    "compaction": "cmp",
}

#: What a provider says when it is at fault and does not say why.
INTERNAL_ERROR: Final = TurnError(
    message="The server had an error processing your request.", code="server_error"
)


def is_end(event: Event) -> bool:
    """Whether *event* ends its response; the end of an agent's, which it names, does not."""
    return event["type"] in TERMINAL and "agent" not in event


def error_frame(error: TurnError, *, stream_id: str | None = None, with_status: bool = True) -> Event:
    """The frame that refuses a request: no response began, and nothing follows for this request.

    Args:
      stream_id: the lane, if the client named one.
      with_status: some local servers leave the HTTP status out.
    """
    frame: Event = {"type": "error"}
    if with_status:
        frame["status"] = error.status
    if stream_id is not None:
        frame["stream_id"] = stream_id
    frame["error"] = error.body()
    return frame


def finished_items(output: Sequence[Item], response_id: str, *, status: str = "completed") -> list[Item]:
    """*output* with everything in place that the model left out: ids, call ids, statuses, annotations.

    Args:
      status: of the last item; all before it are completed.
    """
    number = response_id.rpartition("_")[2]
    items: list[Item] = []
    for index, item in enumerate(output):
        kind = str(item.get("type", "message"))
        own = f"{_ID_PREFIX.get(kind, 'item')}_{number}_{index}"
        state = status if index == len(output) - 1 else "completed"
        given = {key: value for key, value in item.items() if key != "type"}
        head: Item
        match kind:
            case "message":
                head = {"id": own, "type": kind, "role": "assistant", "status": state}
                given["content"] = [_finished_part(part) for part in given.get("content", ())]
            case "function_call" | "custom_tool_call":
                head = {"id": own, "type": kind, "status": state, "call_id": f"call_{number}_{index}"}
            case "reasoning":
                head = {"id": own, "type": kind, "summary": []}
                given.setdefault("status", state)
            case _:
                head = {"id": own, "type": kind}
        items.append(head | given)
    return items


def _finished_part(part: Mapping[str, Any]) -> Item:
    if part.get("type") != "output_text":
        return dict(part)
    finished: Item = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    return finished | dict(part)


@attrs.frozen(kw_only=True)
class Plan:
    """One response, ready to be told: everything that its events are made of."""

    response_id: str
    body: Mapping[str, Any]
    """The request."""
    turn: ModelTurn
    items: Sequence[Item]
    """The output, finished (`finished_items`)."""
    usage: Mapping[str, Any]
    created_at: int
    """Unix time, in seconds."""
    stream_id: str | None = None
    """The named lane; events of the default lane carry no `stream_id`."""

    def response(self, status: str) -> Item:
        """The response object as it is in *status*."""
        over, error = status != "in_progress", self.turn.error or INTERNAL_ERROR
        failed = {"code": error.code or "server_error", "message": error.message}
        return response_object(
            response_id=self.response_id,
            body=self.body,
            status=status,
            created_at=self.created_at,
            output=self.items if over else (),
            usage=self.usage if over and status != "failed" else None,
            error=failed if status == "failed" else None,
            incomplete=self.turn.reason if status == "incomplete" else None,
        )

    def events(self) -> Iterator[Event]:
        """Every event of the response, from `response.created` to the terminal one, in order."""
        for number, event in enumerate(self._unnumbered()):
            event["sequence_number"] = number
            if self.stream_id is not None:
                event["stream_id"] = self.stream_id
            yield {"type": event.pop("type"), **dict(sorted(event.items()))}

    def _unnumbered(self) -> Iterator[Event]:
        yield {"type": "response.created", "response": self.response("in_progress")}
        yield {"type": "response.in_progress", "response": self.response("in_progress")}
        for number, agent in enumerate(self.turn.agents, 1):
            yield from self._told_by(agent, number)
        yield from self._said()
        status = self.turn.status
        if status == "failed":
            yield {"type": "error", "error": (self.turn.error or INTERNAL_ERROR).body()}
        yield self.terminal()

    def _said(self) -> Iterator[Event]:
        padded = _wants_obfuscation(self.body)
        for index, item in enumerate(self.items):
            for event in _item_events(item, index):
                if padded and event["type"] in _PADDED:
                    event["obfuscation"] = _PADDING[: 1 + (7 * len(event["delta"])) % len(_PADDING)]
                if "agent" in item:
                    event["agent"] = item["agent"]
                yield event

    def _told_by(self, agent: AgentTurn, number: int) -> Iterator[Event]:
        """The response of an agent, from its beginning to its end; every event names it."""
        response_id = f"{self.response_id}a{number}"
        turn = ModelTurn(output=agent.output)
        items = finished_items(agent.output, response_id)
        part = attrs.evolve(self, response_id=response_id, turn=turn, items=items, usage=usage_of(0, 0, 0))
        for event in part._unnumbered():
            yield event | {"agent": {"agent_name": agent.name}}

    def terminal(self) -> Event:
        """The last event, without its number and lane."""
        return {"type": f"response.{self.turn.status}", "response": self.response(self.turn.status)}


_PADDED: Final = frozenset(
    {
        "response.output_text.delta",
        "response.refusal.delta",
        "response.function_call_arguments.delta",
        "response.custom_tool_call_input.delta",
    }
)


def _wants_obfuscation(body: Mapping[str, Any]) -> bool:
    options: Mapping[str, Any] = body.get("stream_options") or {}
    return options.get("include_obfuscation") is not False


def _item_events(item: Item, index: int) -> Iterator[Event]:
    """All events of one output item, from its `added` to its `done`."""
    kind = item["type"]
    at: Event = {"item_id": item["id"], "output_index": index}
    started = dict(item)
    if "status" in started:
        started["status"] = "in_progress"
    inner: Iterator[Event] = iter(())
    match kind:
        case "message":
            started["content"] = []
            inner = _content_events(item["content"], at)
        case "function_call":
            started["arguments"] = ""
            inner = _call_events("response.function_call_arguments", "arguments", item, at)
        case "custom_tool_call":
            started["input"] = ""
            inner = _call_events("response.custom_tool_call_input", "input", item, at)
        case "reasoning":
            started.pop("status")
            started["summary"] = []
            if "encrypted_content" in item:
                # What `added` carries is only a beginning; clients must take it from `done`.
                started["encrypted_content"] = item["encrypted_content"][:8]
            if "content" in item:
                started["content"] = []
            inner = _reasoning_events(item, at)
        case "compaction":
            started["encrypted_content"] = ""
            inner = iter([{"type": "response.compaction.compacting", **at}])
        case _:
            pass
    yield {"type": "response.output_item.added", "output_index": index, "item": started}
    yield from inner
    yield {"type": "response.output_item.done", "output_index": index, "item": item}


# Part type -> (event family, key of the whole text in its `done` event).
_PARTS: Final = {
    "output_text": ("response.output_text", "text"),
    "refusal": ("response.refusal", "refusal"),
    "reasoning_text": ("response.reasoning_text", "text"),
}


def _content_events(content: Sequence[Item], at: Event) -> Iterator[Event]:
    for index, part in enumerate(content):
        where = {**at, "content_index": index}
        family, key = _PARTS[part["type"]]
        empty = {name: "" if name == key else value for name, value in part.items()}
        extra: Event = {"logprobs": []} if part["type"] == "output_text" else {}
        yield {"type": "response.content_part.added", **where, "part": empty}
        for token in _TOKENS.findall(part[key]):
            yield {"type": f"{family}.delta", **where, "delta": token, **extra}
        yield {"type": f"{family}.done", **where, key: part[key], **extra}
        yield {"type": "response.content_part.done", **where, "part": part}


def _call_events(family: str, key: str, item: Item, at: Event) -> Iterator[Event]:
    for token in _TOKENS.findall(item[key]):
        yield {"type": f"{family}.delta", **at, "delta": token}
    done: Event = {"type": f"{family}.done", **at, key: item[key]}
    yield done


def _reasoning_events(item: Item, at: Event) -> Iterator[Event]:
    for index, part in enumerate(item["summary"]):
        where = {**at, "summary_index": index}
        yield {"type": "response.reasoning_summary_part.added", **where, "part": {**part, "text": ""}}
        for token in _TOKENS.findall(part["text"]):
            yield {"type": "response.reasoning_summary_text.delta", **where, "delta": token}
        yield {"type": "response.reasoning_summary_text.done", **where, "text": part["text"]}
        yield {"type": "response.reasoning_summary_part.done", **where, "part": part}
    yield from _content_events(item.get("content") or (), at)
