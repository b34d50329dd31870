"""The judge: whether what our server sends is what the Open Responses specification says.

Nobody here wrote it: the models are those of PyPI's `openresponses-types`, made from the specification. Every
frame and every answer of every test that runs a server is judged, but for what a fault put in its place. What
is not as the specification says is on the list of deviations, each with its reason, or the test fails.

It is cheap: one compiled validator for each type of event, some microseconds for each frame.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final

import openresponses_types as specification
import pydantic

from wspool.listening.answers import Answers
from wspool.server.http import _EventStream
from wspool.server.session import Session

__all__ = ["DEVIATIONS", "JUDGED", "problem_of", "start"]

Frame = dict[str, Any]

#: What was sent against the specification since the last look: (the problem, the frame).
PROBLEMS: Final[list[tuple[str, Frame]]] = []

#: How many frames were judged, by type.
JUDGED: Final[dict[str, int]] = {}

#: The item types of the specification.
_ITEMS: Final = frozenset({"message", "function_call", "function_call_output", "reasoning", "compaction"})


def _event_models() -> dict[str, type[pydantic.BaseModel]]:
    """The model of each event, by its type."""
    found: dict[str, type[pydantic.BaseModel]] = {}
    for name, model in vars(specification.types).items():
        if name.endswith("StreamingEvent") and "type" in model.model_fields:
            (kind,) = model.model_fields["type"].annotation
            found[kind.value] = model
    return found


_EVENTS: Final = _event_models()


def _is_of_another_kind(value: Any) -> bool:
    """An item, a tool or a choice of a kind that the specification does not have."""
    if not isinstance(value, dict):
        return False
    if value.get("object") == "response":
        tools, choice, output = (value.get(name) or () for name in ("tools", "tool_choice", "output"))
        return (
            any(tool.get("type") != "function" for tool in tools)
            or (isinstance(choice, dict) and choice.get("type") not in ("function", "allowed_tools"))
            or any(item.get("type") not in _ITEMS for item in output)
        )
    return value.get("type") not in _ITEMS


def _of_another_kind(frame: Frame) -> bool:
    parts = [frame] if "object" in frame else [frame[name] for name in ("response", "item") if name in frame]
    return any(map(_is_of_another_kind, parts))


def _response_in(frame: Frame) -> Frame | None:
    response = frame.get("response", frame)
    return response if response.get("object") == "response" else None


def _schema_repeated(frame: Frame) -> bool:
    response = _response_in(frame)
    return response is not None and "schema" in response.get("text", {}).get("format", {})


def _another_event(frame: Frame) -> bool:
    return str(frame.get("type")) in _OTHER_EVENTS


def _without_code(frame: Frame) -> bool:
    return frame.get("type") == "error" and frame["error"].get("code") is None


def _without_status(frame: Frame) -> bool:
    return frame.get("type") == "error" and "status" not in frame


def _new_effort(frame: Frame) -> bool:
    response = _response_in(frame)
    return response is not None and (response.get("reasoning") or {}).get("effort") in ("minimal", "max")


_OTHER_EVENTS: Final = frozenset(
    {
        "response.compaction.compacting",
        "response.custom_tool_call_input.delta",
        "response.custom_tool_call_input.done",
        "response.reasoning_text.delta",
        "response.reasoning_text.done",
        "response.steer.accepted",
        "response.steer.failed",
        "response.steer.pending",
    }
)

#: What we send although the specification has it otherwise: (profiles, the reason, whether a frame is such).
DEVIATIONS: Final[tuple[tuple[str, str, Callable[[Frame], bool]], ...]] = (
    (
        "all",
        "the providers have tools, and items that go with them, which the specification leaves to extensions",
        _of_another_kind,
    ),
    (
        "all",
        "the providers repeat the schema of a format; the specification's own model has null for it",
        _schema_repeated,
    ),
    (
        "all",
        "the providers have events of their own: custom tools, compaction, steering, the text of reasoning "
        "(which the specification calls response.reasoning.delta)",
        _another_event,
    ),
    ("all", "the providers refuse what is malformed with a code that is null", _without_code),
    ("localai, litellm", "they leave the status out of an error", _without_status),
    ("all", "efforts that are newer than the specification are repeated as they were given", _new_effort),
)


def problem_of(frame: Frame) -> str | None:
    """What is wrong with *frame*, or None."""
    kind = str(frame.get("type") or frame.get("object") or "")
    model: type[pydantic.BaseModel] | None
    if kind == "error" and "sequence_number" not in frame:
        model = specification.types.WebSocketErrorEvent
    elif frame.get("object") == "response":
        model = specification.types.ResponseResource
    elif frame.get("object") == "response.compaction":
        model = specification.types.CompactResource
    else:
        model = _EVENTS.get(kind)
    JUDGED[kind] = JUDGED.get(kind, 0) + 1
    if model is None:
        return f"there is no event {kind!r}"
    try:
        model.__pydantic_validator__.validate_python(frame)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return None


def judge(frame: Frame) -> None:
    """Note what is wrong with *frame*, unless it is on the list."""
    problem = problem_of(frame)
    if problem is not None and not any(is_such(frame) for _, _, is_such in DEVIATIONS):
        PROBLEMS.append((problem, frame))


def start() -> None:
    """Judge everything that any server of this process sends from now on."""
    Session.send = _judging(Session.send)  # type: ignore[method-assign] # what tests do
    _EventStream.send = _judging(_EventStream.send)  # type: ignore[method-assign] # the same
    Answers.send_json = _judging_answers(Answers.send_json)  # type: ignore[method-assign] # the same


def _judging(send: Any) -> Any:
    @functools.wraps(send)
    async def judged(self: Any, event: Frame) -> None:
        judge(event)
        await send(self, event)

    return judged


def _judging_answers(send: Any) -> Any:
    @functools.wraps(send)
    async def judged(self: Any, status: int, value: Frame, *rest: Any) -> None:
        if value.get("object") in ("response", "response.compaction") and "deleted" not in value:
            judge(value)
        await send(self, status, value, *rest)

    return judged
