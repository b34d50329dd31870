"""The models: who answers, behind one small protocol.

A model is a function from what it is shown to what it says. It never sees a socket, a lane or a clock:

1. `respond` is synchronous and must be quick; a turn that should *take* time says so in `ModelTurn.delay`.
2. `respond` must depend on the request alone. The same conversation then gets the same answers on every
   connection, after a full resend, and under any concurrency, which is what makes a run repeatable.
3. Ids (`id`, `call_id`) and item statuses may be left out of the output: the server fills them in.
"""

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Literal, Protocol, TypeGuard

import attrs

from wspool.listening.errors import TurnError

__all__ = [
    "MODEL_ITEM_TYPES",
    "AgentTurn",
    "Item",
    "Model",
    "ModelRequest",
    "ModelTurn",
    "ScriptedModel",
    "TurnError",
    "function_call",
    "is_array",
    "is_object",
    "message",
    "text_of",
    "turns_so_far",
]

#: One input or output item of a response, as plain JSON.
Item = dict[str, Any]

#: Item types that only a model makes. A message is the model's if its role is `assistant`.
MODEL_ITEM_TYPES: Final = frozenset({"function_call", "custom_tool_call", "reasoning", "compaction"})


def is_object(value: object) -> TypeGuard[Item]:
    """Whether *value* is a JSON object."""
    return isinstance(value, dict)


def is_array(value: object) -> TypeGuard[list[Any]]:
    """Whether *value* is a JSON array."""
    return isinstance(value, list)


def message(text: str) -> Item:
    """An assistant message that says *text*."""
    return {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}


def function_call(name: str, arguments: Mapping[str, Any], *, call_id: str | None = None) -> Item:
    """A call of the client's function *name*; without *call_id* the server gives it one."""
    item: Item = {"type": "function_call", "name": name, "arguments": json.dumps(arguments)}
    return item if call_id is None else item | {"call_id": call_id}


def text_of(item: Mapping[str, Any]) -> str:
    """All text of a message item; its content may be a string or a list of parts."""
    content: str | list[Item] = item.get("content") or ""
    if isinstance(content, str):
        return content
    return "".join(str(part.get("text", "")) for part in content)


def turns_so_far(context: Iterable[Mapping[str, Any]]) -> int:
    """How many model turns *context* holds: the number of unbroken runs of items that a model made.

    Counted from the items and not from the connection, so that a continuation and a full resend of the same
    conversation give the same number. Two turns with no input between them count as one.
    """
    turns, inside = 0, False
    for item in context:
        made_by_model = item.get("type") in MODEL_ITEM_TYPES or item.get("role") == "assistant"
        turns += made_by_model and not inside
        inside = made_by_model
    return turns


@attrs.frozen(kw_only=True)
class ModelRequest:
    """What a model is shown for one turn."""

    context: Sequence[Item]
    """Every item of the conversation, oldest first: the whole chain of parents, then the new input."""
    instructions: str | None = None
    """Of this turn: instructions are not inherited from a parent."""
    tools: Sequence[Item] = ()
    """Of this turn: tools are not inherited either."""
    body: Mapping[str, Any] = attrs.field(factory=dict[str, Any])
    """The request as it came in, for anything else."""


@attrs.frozen(kw_only=True)
class AgentTurn:
    """What an agent says that the model has called for its own turn: a response within the response."""

    name: str
    """Such as `/root/critic`. It goes with each of the agent's events."""
    output: Sequence[Item] = ()
    """Its output items."""


@attrs.frozen(kw_only=True)
class ModelTurn:
    """What a model says in one turn."""

    output: Sequence[Item] = ()
    """The output items."""
    status: Literal["completed", "incomplete", "failed", "rejected"] = "completed"
    """`failed` streams its output, then an `error` event, then `response.failed`.
    `rejected` is one error frame and nothing else: the turn never began."""
    reason: str = "max_output_tokens"
    """Why it is incomplete; nobody looks at it in any other status."""
    error: TurnError | None = None
    """Why it failed or was rejected; an internal server error if nothing is given."""
    delay: float = 0.0
    """Seconds between `response.in_progress` and the first output event (thinking time)."""
    agents: Sequence[AgentTurn] = ()
    """Who speaks before the model itself does, one after the other. Their items are no part of its output; an
    item that is, and was made by an agent, has an `agent` of its own.
    """
    usage: Mapping[str, Any] | None = None
    """The `usage` object; estimated from the number of words if not given."""

    @classmethod
    def from_json(cls, turn: Mapping[str, Any]) -> "ModelTurn":
        """A turn from plain JSON: the fields of this class, or `text` for the one message of a short turn.

        Raises:
          TypeError: there is an unknown field, or one has the wrong shape.
        """
        fields = dict(turn)
        for name, (fits, words) in _SHAPES.items():
            if fields.get(name) is not None and not fits(fields[name]):
                raise TypeError(f"{name!r} must be {words}, and is {str(fields[name])[:40]!r}")
        if "text" in fields:
            fields["output"] = [*fields.get("output", ()), message(fields.pop("text"))]
        if fields.get("error") is not None:
            fields["error"] = TurnError(**fields["error"])
        if "agents" in fields:
            fields["agents"] = [AgentTurn(**agent) for agent in fields["agents"]]
        return cls(**fields)


_STATUSES: Final = ("completed", "incomplete", "failed", "rejected")

# Of a turn as plain JSON: what fits, in code and in words.
_SHAPES: Final[dict[str, tuple[Callable[[Any], bool], str]]] = {
    "output": (lambda value: is_array(value) and all(map(is_object, value)), "an array of items"),
    "text": (lambda value: isinstance(value, str), "a string"),
    "status": (lambda value: value in _STATUSES, f"one of {', '.join(_STATUSES)}"),
    "reason": (lambda value: isinstance(value, str), "a string"),
    "error": (
        lambda value: is_object(value) and isinstance(value.get("message"), str),
        "an object with a message",
    ),
    "delay": (lambda value: isinstance(value, int | float) and 0 <= value < math.inf, "seconds, from 0"),
    "usage": (is_object, "an object"),
    "agents": (
        lambda value: is_array(value) and all(is_object(one) and "name" in one for one in value),
        "an array of objects with a name",
    ),
}


class Model(Protocol):
    """Whoever answers. See the rules of this module."""

    def respond(self, request: ModelRequest) -> ModelTurn:
        """The next turn of the conversation in *request*. Quick, and a function of the request alone.

        An exception refuses the request with a 500 error frame that says where it was raised; its code,
        `model_exception`, is none that waiting mends. The connection lives.
        """
        ...


class ScriptedModel:
    """Plays a script: turn *n* of every conversation is line *n* of the script.

    *n* is the number of model turns already in the conversation (`turns_so_far`), so conversations do not
    disturb each other however they interleave, and a conversation that is sent again in full gets the same
    answer again. A turn that failed left nothing in the conversation: asking again gets the same failure.
    A conversation that outlives the script starts it over.
    """

    def __init__(self, turns: Iterable[ModelTurn | Mapping[str, Any]]) -> None:
        """Args:
          turns: the script; plain JSON is read by `ModelTurn.from_json`.

        Raises:
          ValueError: there is no turn.
        """
        self._turns: tuple[ModelTurn, ...] = tuple(
            turn if isinstance(turn, ModelTurn) else ModelTurn.from_json(turn) for turn in turns
        )
        if not self._turns:
            raise ValueError("a script needs at least one turn")

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> "ScriptedModel":
        """Read a JSONL file, one turn per line; empty lines are skipped.

        Raises:
          ValueError: a line is not a turn; the message names it.
        """
        turns: list[ModelTurn] = []
        with open(path, encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    try:
                        turns.append(ModelTurn.from_json(json.loads(line)))
                    except (ValueError, TypeError) as problem:
                        raise ValueError(f"{os.fspath(path)}:{number}: not a turn: {problem}") from problem
        return cls(turns)

    def respond(self, request: ModelRequest) -> ModelTurn:
        """The turn of the script that this conversation has come to."""
        return self._turns[turns_so_far(request.context) % len(self._turns)]
