"""The judge: whether what our server and our client send is what the Open Responses specification says.

Nobody here wrote it: the models are those of PyPI's `openresponses-types`, made from the specification. Every
frame and every answer of every test that runs a server is judged, but for what a fault put in its place; and
every request of every pool of every test. What is not as the specification says is on a list of deviations,
each with its reason, or the test fails. A test that has a caller give what nobody may send says so
(`@pytest.mark.odd_requests`).

It is cheap: one compiled validator for each type of event, some microseconds for each frame.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any, Final

import openresponses_types as specification
import pydantic

from wspool.listening.answers import Answers
from wspool.pool.sender import Sender
from wspool.server.http import _EventStream
from wspool.server.session import Session

__all__ = ["ASKED", "DEVIATIONS", "JUDGED", "REQUESTS", "problem_in_request", "problem_of", "start"]

Frame = dict[str, Any]

#: What was sent against the specification since the last look: (the problem, the frame).
PROBLEMS: Final[list[tuple[str, Frame]]] = []

#: What a pool sent against it since the last look.
ASKED: Final[list[tuple[str, Frame]]] = []

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
    return _problem(model, frame)


#: The model of each kind of item that a request may have.
_GIVEN: Final[dict[str, type[pydantic.BaseModel]]] = {
    "compaction": specification.types.CompactionSummaryItemParam,
    "function_call": specification.types.FunctionCallItemParam,
    "function_call_output": specification.types.FunctionCallOutputItemParam,
    "item_reference": specification.types.ItemReferenceParam,
    "reasoning": specification.types.ReasoningItemParam,
}
_SAID: Final[dict[str, type[pydantic.BaseModel]]] = {
    "assistant": specification.types.AssistantMessageItemParam,
    "developer": specification.types.DeveloperMessageItemParam,
    "system": specification.types.SystemMessageItemParam,
    "user": specification.types.UserMessageItemParam,
}


def _other_tools(request: Frame) -> bool:
    given = request.get("tools")
    return isinstance(given, list) and any(
        isinstance(tool, dict) and tool.get("type", "function") != "function" for tool in given
    )


def _includes_more(request: Frame) -> bool:
    known = ("reasoning.encrypted_content", "message.output_text.logprobs")
    given = request.get("include")
    return isinstance(given, list) and any(name not in known for name in given)


#: What requests have although the specification has it otherwise: (the reason, whether a request is such).
REQUESTS: Final[tuple[tuple[str, Callable[[Frame], bool]], ...]] = (
    ("the providers have tools of their own", _other_tools),
    ("the providers can be asked to include more", _includes_more),
    ("its own model of `stream_options` fails at any value", lambda request: "stream_options" in request),
)


#: The provider takes names of calls that are longer than those of its tools. Source: the refusals of
#: api.openai.com (`wspool.server.protocol.history`).
LONGEST_NAME: Final = 128


def problem_in_request(request: Frame) -> str | None:
    """What is wrong with the `response.create` *request*, or None.

    Items of kinds that the specification does not have are those of the providers, and messages without a
    type are what they take as well (`EasyInputMessage`): neither is judged.
    """
    rest = {name: value for name, value in request.items() if name != "input"}
    if not any(is_such(rest) for _, is_such in REQUESTS):
        problem = _problem(specification.types.WebSocketResponseCreateEvent, rest)
        if problem is not None:
            return problem
    items = request.get("input", [])
    if isinstance(items, str):
        return None
    for place, item in enumerate(items):
        if not isinstance(item, dict):
            return f"input.{place}: no object"
        kind = item.get("type")
        model = _SAID.get(str(item.get("role"))) if kind == "message" else _GIVEN.get(str(kind))
        if kind == "message" and model is None:
            return f"input.{place}: nobody says it"
        if kind == "function_call" and len(str(item.get("name"))) <= LONGEST_NAME:
            item = {**item, "name": str(item.get("name"))[:64]}
        if kind == "function_call_output" and request.get("previous_response_id"):
            # It answers a call that its server has, by whatever name that has it: none, or one too long.
            item = {**item, "call_id": str(item.get("call_id"))[:64]}
        if model is not None and (problem := _problem(model, item)) is not None:
            return f"input.{place}: {kind}: {problem}"
    return None


def _problem(model: type[pydantic.BaseModel], value: Any) -> str | None:
    try:
        model.__pydantic_validator__.validate_python(value)
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
    """Judge everything that any server or pool of this process sends from now on."""
    Sender._transmit = _judging_requests(Sender._transmit)  # type: ignore[method-assign] # what tests do
    Session.send = _judging(Session.send)  # type: ignore[method-assign] # what tests do
    _EventStream.send = _judging(_EventStream.send)  # type: ignore[method-assign] # the same
    Answers.send_json = _judging_answers(Answers.send_json)  # type: ignore[method-assign] # the same


def _judging_requests(transmit: Any) -> Any:
    @functools.wraps(transmit)
    async def judged(self: Any, message: bytes, *rest: Any) -> Any:
        request: Frame = json.loads(message)
        if request.get("type") == "response.create":
            JUDGED["response.create"] = JUDGED.get("response.create", 0) + 1
            if (problem := problem_in_request(request)) is not None:
                ASKED.append((problem, request))
        return await transmit(self, message, *rest)

    return judged


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
