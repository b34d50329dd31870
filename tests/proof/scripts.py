"""Honest turns: what a server says to one request, put together from the transcripts, in variants.

A turn is a head, blocks (one for each output item) and a tail, all of them frames of
`tests/server/transcripts.jsonl` with their ids and texts replaced. Every text of an answer holds the
mark of its request (`«A2.7»`: the seventh request, which asks A2), every text of an error the mark
`«!A2.7»`. Whatever is found anywhere later can be traced to its request.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import attrs

#: A JSON object, and what a server may send: an object or a text that is none.
Frame = dict[str, Any]
Message = Frame | str

_LINES: Final = (Path(__file__).parent.parent / "server" / "transcripts.jsonl").read_text(encoding="utf-8")
_SAID: Final = [json.loads(line) for line in _LINES.splitlines()]


def _server(name: str) -> list[Frame]:
    """What the server says in one transcript, up to its first terminal event."""
    frames: list[Frame] = []
    for line in _SAID:
        if line["t"] == name and line["dir"] == "server":
            frames.append(line["frame"])
            if is_terminal(line["frame"]):
                break
    return frames


TERMINALS: Final = ("response.completed", "response.incomplete", "response.failed")


def is_terminal(frame: Frame) -> bool:
    """Whether a frame is one of the three documented ends of a response."""
    return frame.get("type") in TERMINALS


_T1, _T2, _T3, _T7, _T8 = (_server(name) for name in ("T1", "T2", "T3", "T7", "T8"))
_HEAD: Final = _T3[:2]
_TAIL: Final = _T3[-1]
_TEXT: Final = _T1[2:-1]
_CALL: Final = _T2[2:-1]
_REASONING: Final = _T3[2:8]
_CUT_TEXT: Final = _T8[2:-1]


@attrs.frozen
class Variant:
    """How one server writes.

    Attributes:
        numbered: its events have numbers.
        output: the last event repeats the output.
        echo: its responses name their parent.
        restart: it counts its ids anew on each connection.
    """

    numbered: bool = True
    output: bool = True
    echo: bool = True
    restart: bool = False

    def __str__(self) -> str:
        words = ("num", self.numbered), ("out", self.output), ("echo", self.echo)
        text = "+".join(word if on else f"no-{word}" for word, on in words)
        return text + "+restart" * self.restart


@attrs.frozen
class Said:
    """A turn as an honest server says it.

    Attributes:
        frames: in order.
        items: the output as it is meant, in the order of `output_index`.
        outcome: what the caller is to be told: completed, incomplete, failed, lost, or again (refused,
            and a second request of the same question is in order).
    """

    frames: list[Frame]
    items: list[Frame]
    outcome: str


Shape = Callable[[Frame, bool], Frame]


def _nested(frame: Frame, **more: Any) -> Frame:
    return {"type": "error", **more, "error": frame}


def _flat(frame: Frame, **more: Any) -> Frame:
    return {"type": "error", **more, **{name: frame[name] for name in ("code", "message", "param")}}


#: Errors in the midst of a running response. Which of them a server sends over WebSocket is inferred, not
#: known (E2, E3, E7 and E1 of the protocol reference). A number is put in later, where there is to be one.
IN_STREAM: Final[Mapping[str, Callable[[Frame], Frame]]] = {
    "number": lambda e: _nested(e, sequence_number=0),
    "bare": lambda e: _nested(e),
    "status": lambda e: _nested(e, status=500),
    "both": lambda e: _nested(e, status=500, sequence_number=0),
    "flat": lambda e: _flat(e, sequence_number=0),
    "flat-bare": lambda e: _flat(e),
    "no-code": lambda e: _nested({**e, "code": None}, sequence_number=0),
}

#: Errors that refuse a request before anything was created.
REFUSALS: Final[Mapping[str, Callable[[Frame], Frame]]] = {
    "status": lambda e: _nested(e, status=400),
    "flat": lambda e: _flat(e, status=400),
    "bare": lambda e: _nested(e),
    "alias": lambda e: _nested(e, status_code=400),
    "body": lambda e: {"type": "error", "status": 400, "body": {"error": e}},
    "no-code": lambda e: _nested({**e, "code": None}, status=400),
}

#: The turns of a server, by name: blocks of output items, and how they end.
_BLOCKS: Final[Mapping[str, list[list[Frame]]]] = {
    "text": [_TEXT],
    "calls": [_CALL],
    "reasoning": [_REASONING, _TEXT],
    "several": [_TEXT, _CALL, _CALL],
    "bundle": [_TEXT, _CALL, _TEXT],
    "incomplete": [_CUT_TEXT],
}

KINDS: Final = (
    *_BLOCKS,
    *(f"failed-{shape}" for shape in IN_STREAM),
    "broken-number",
    "broken-bare",
    "cut",
    *(f"refused-{shape}" for shape in REFUSALS),
    "busy-status",
    "limit",
)


def honest(kind: str, variant: Variant, *, response_id: str, parent: str | None, mark: str, key: str) -> Said:
    """Return what an honest server says to one request.

    Args:
        kind: one of `KINDS`.
        variant: how the server writes.
        response_id: the id of the response.
        parent: the parent that the request named.
        mark: the request's mark, without its quotes.
        key: makes the ids of items and calls unique.
    """
    name, _, shape = kind.partition("-")
    error = {
        "type": "server_error",
        "code": "invalid_prompt",
        "message": f"it broke «!{mark}»",
        "param": None,
    }
    if name in ("refused", "busy", "limit"):
        return _refusal(name, shape, error)
    blocks = _BLOCKS.get(name, [])
    if name in ("broken", "cut"):
        blocks = [_TEXT[:3]]
    frames: list[Frame] = [*_HEAD]
    body: list[Frame] = []
    for index, block in enumerate(blocks):
        own = {**_names(block), **_words(mark, index)}
        own = {old: f"{new}_{index}_{key}" if old in _names(block) else new for old, new in own.items()}
        body += [{**_replaced(frame, own), "output_index": index} for frame in block]
    if name == "bundle":  # all announced, then all finished: what comes between is left out
        body = [f for f in body if f["type"] == "response.output_item.added"] + [
            f for f in body if f["type"] == "response.output_item.done"
        ]
    frames += body
    items = [frame["item"] for frame in body if frame["type"] == "response.output_item.done"]
    if name in ("failed", "broken"):
        frames.append(IN_STREAM[shape](error))
        frames.append(_replaced(_T7[-1], {}))
        frames[-1]["response"]["error"] = {"code": error["code"], "message": error["message"]}
        outcome = "failed"
    elif name == "cut":
        frames += _refusal("limit", "", error).frames
        outcome = "lost"
    else:
        tail = _replaced(_T8[-1] if name == "incomplete" else _TAIL, {})
        tail["response"]["output"] = items if variant.output else []
        frames.append(tail)
        outcome = "incomplete" if name == "incomplete" else "completed"
    return Said(_signed(frames, variant, response_id, parent), items, outcome)


def _refusal(name: str, shape: str, error: Frame) -> Said:
    if name == "limit":
        limit = {"type": "invalid_request_error", "code": "websocket_connection_limit_reached"}
        return Said([_nested({**error, **limit}, status=400)], [], "again")
    if name == "busy":
        busy = {"type": "rate_limit_error", "code": "rate_limit_exceeded", "headers": {"Retry-After": "1"}}
        return Said([_nested({**error, **busy}, status=429)], [], "again")
    return Said([REFUSALS[shape](error)], [], "failed")


def _names(block: list[Frame]) -> dict[str, str]:
    """The ids in a block, by what they are."""
    item = block[0]["item"]
    return {item[name]: name for name in ("id", "call_id") if name in item}


def _words(mark: str, index: int) -> dict[str, str]:
    """What the texts of the transcripts are replaced with; each piece holds the whole mark."""
    first, second = f"«{mark}» says {index}", f" so «{mark}»"
    return {
        "Hi": first,
        " there.": second,
        "Hi there.": first + second,
        "Roses": first,
        "{}": json.dumps({"q": f"«{mark}» {index}"}, ensure_ascii=False),
        "Adding.": f"«{mark}» thinks",
        "gAAAAAB-opaque": f"sealed «{mark}»",
        "gAAAAAB-partial": f"sealing «{mark}»",
    }


def _replaced(value: Any, words: Mapping[str, str]) -> Any:
    """A deep copy with every string that is one of *words* replaced."""
    if isinstance(value, dict):
        return {name: _replaced(inner, words) for name, inner in value.items()}
    if isinstance(value, list):
        return [_replaced(inner, words) for inner in value]
    return words.get(value, value) if isinstance(value, str) else value


def _signed(frames: list[Frame], variant: Variant, response_id: str, parent: str | None) -> list[Frame]:
    """Ids, parents and numbers, as the variant has them."""
    signed = []
    for frame in frames:
        frame = dict(frame)
        if isinstance(frame.get("response"), dict):
            response = frame["response"] = {**frame["response"], "id": response_id}
            response["previous_response_id"] = parent
            if not variant.echo:
                del response["previous_response_id"]
        signed.append(frame)
    return renumbered(signed, variant)


def renumbered(frames: list[Frame], variant: Variant) -> list[Frame]:
    """The frames with their numbers counted anew from 0, or without any.

    An event that has no number in a stream that counts does not use one up.
    """
    counted, number = [], 0
    for frame in frames:
        frame = dict(frame)
        if "sequence_number" in frame:
            del frame["sequence_number"]
            if variant.numbered:
                frame["sequence_number"] = number
                number += 1
        counted.append(frame)
    return counted
