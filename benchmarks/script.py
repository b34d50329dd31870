"""What the blaster says: whole turns in the event grammar, made before anybody asks.

One `Say` describes a kind of turn; it travels in the query of the URL, so that one blaster serves
every benchmark. Events are what providers send: the type first, its number second, about 220 bytes.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

import attrs

__all__ = ["PREFIX", "RESPONSE_ID", "STAMP", "Say", "events_of", "steps_of"]

#: Stands in a delta where its time of sending goes, in nanoseconds on the machine's monotonic clock.
STAMP: Final = b"~" * 16


@attrs.frozen(kw_only=True)
class Say:
    """One kind of turn.

    Attributes:
        events: events of a turn, deltas and all.
        call: True for a function call, False for a message.
        each: True to send one event per write (over TLS: per record), False all of a step in one.
        think: seconds before the first delta.
        gap: seconds between deltas, 0 for all at once.
        hello: seconds before the answer to the upgrade.
    """

    events: int = 108
    call: bool = False
    each: bool = False
    think: float = 0.0
    gap: float = 0.0
    hello: float = 0.0

    @property
    def query(self) -> str:
        """As the query of a URL."""
        return urlencode({name: float(value) for name, value in attrs.asdict(self).items()})

    @property
    def short(self) -> bool:
        """Whether there is no room for more than `created`, deltas and `completed`."""
        return self.events <= 8

    @property
    def before(self) -> int:
        """How many of the events come before the first delta."""
        return 1 if self.short else 3 if self.call else 4

    @property
    def deltas(self) -> int:
        """How many of the events are deltas."""
        return self.events - (2 if self.short else 6 if self.call else 8)

    @classmethod
    def parse(cls, query: str) -> Say:
        """Read `query`."""
        given = {name: float(value) for name, value in parse_qsl(query)}
        return cls(
            events=int(given.get("events", 108)),
            call=bool(given.get("call")),
            each=bool(given.get("each")),
            think=given.get("think", 0.0),
            gap=given.get("gap", 0.0),
            hello=given.get("hello", 0.0),
        )


#: What the id of a response begins with, and the id that stands for each response's own.
PREFIX: Final = b"resp_"
RESPONSE_ID: Final = PREFIX + b"0" * 48


def events_of(say: Say) -> list[dict[str, Any]]:
    """Return the events of a turn, all ids zero."""
    name = RESPONSE_ID.decode()
    text = " token" * say.deltas
    if say.call:
        item_id, kind = f"fc_{0:048x}", "function_call"
        delta, done = "response.function_call_arguments.delta", "response.function_call_arguments.done"
        arguments = json.dumps({"path": text})
        item: dict[str, Any] = {"id": item_id, "type": kind, "status": "completed"}
        item |= {"name": "read_file", "call_id": f"call_{0:048x}", "arguments": arguments}
        empty = {**item, "status": "in_progress", "arguments": ""}
        where: dict[str, Any] = {"item_id": item_id, "output_index": 0}
        last: dict[str, Any] = {"arguments": arguments}
    else:
        item_id, kind = f"msg_{0:048x}", "message"
        delta, done = "response.output_text.delta", "response.output_text.done"
        said = {"type": "output_text", "annotations": [], "logprobs": [], "text": text}
        item = {"id": item_id, "type": kind, "status": "completed", "content": [said], "role": "assistant"}
        empty = {**item, "status": "in_progress", "content": []}
        where = {"item_id": item_id, "output_index": 0, "content_index": 0}
        last = {"logprobs": [], "text": text}

    response: dict[str, Any] = {
        "id": name,
        "object": "response",
        "created_at": 1780000000,
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "model": "bench",
        "output": [],
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "usage": None,
    }
    usage: dict[str, Any] = {
        "input_tokens": 100,
        "output_tokens": say.deltas,
        "total_tokens": 100 + say.deltas,
    }
    usage |= {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
    ended = {**response, "status": "completed", "output": [item], "usage": usage}
    deltas: list[dict[str, Any]] = [
        {"type": delta, **where, "delta": " token", "logprobs": [], "obfuscation": STAMP.decode()}
        for _ in range(say.deltas)
    ]
    plain: list[dict[str, Any]] = [{"type": "response.created", "response": response}]
    if say.short:
        plain += deltas
    else:
        part = {**where, "part": {"type": "output_text", "annotations": [], "logprobs": [], "text": ""}}
        opened: list[dict[str, Any]] = [{"type": "response.content_part.added", **part}]
        closed: list[dict[str, Any]] = [{"type": "response.content_part.done", **part}]
        plain += [
            {"type": "response.in_progress", "response": response},
            {"type": "response.output_item.added", "output_index": 0, "item": empty},
            *([] if say.call else opened),
            *deltas,
            {"type": done, **where, **last},
            *([] if say.call else closed),
            {"type": "response.output_item.done", "output_index": 0, "item": item},
        ]
    plain.append({"type": "response.completed", "response": ended})
    return [
        {"type": event.pop("type"), "sequence_number": number, **event} for number, event in enumerate(plain)
    ]


@functools.cache
def steps_of(say: Say, *, sse: bool) -> list[tuple[float, Sequence[bytes]]]:
    """Return what to write and when: seconds since the request, and the frames (or chunks) due then."""
    events = events_of(say)
    frames = [_chunk(event) if sse else _frame(_compact(event)) for event in events]
    if sse:
        frames[0] = _SSE_HEAD + frames[0]
        frames[-1] += b"0\r\n\r\n"
    if not say.think and not say.gap:
        return [(0.0, frames)]
    # What announces the response comes at once, what announces its output after the thinking.
    begin = 0 if say.short else 2
    steps: list[tuple[float, Sequence[bytes]]] = [(0.0, frames[:begin])] if begin else []
    if not say.gap:
        return [*steps, (say.think, frames[begin:])]
    for number in range(say.deltas):
        end = len(frames) if number == say.deltas - 1 else say.before + number + 1
        steps.append((say.think + (number + 1) * say.gap, frames[begin:end]))
        begin = end
    return steps


_SSE_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
)


def _compact(event: Mapping[str, Any]) -> bytes:
    return json.dumps(event, separators=(",", ":")).encode()


def _frame(payload: bytes) -> bytes:
    size = len(payload)
    if size < 126:
        return b"\x81" + bytes([size]) + payload
    if size < 0x10000:
        return b"\x81\x7e" + size.to_bytes(2) + payload
    return b"\x81\x7f" + size.to_bytes(8) + payload


def _chunk(event: Mapping[str, Any]) -> bytes:
    data = b"event: %s\ndata: %s\n\n" % (str(event["type"]).encode(), _compact(event))
    return b"%x\r\n%s\r\n" % (len(data), data)
