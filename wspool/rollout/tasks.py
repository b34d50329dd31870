"""What a task is, and what its result is.

Tasks come from a file (`batch.py`) or are bundled (`bundled.py`); from then on nobody asks where they came
from, except that a task which came as an OpenAI Batch line has a Batch-shaped result line."""

import hashlib
import json
import traceback
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Literal, cast, get_args

import attrs

from wspool.core.statistics import ConversationStatistics
from wspool.errors import ResponseFailedError, WsPoolError
from wspool.rollout.completion import completion_of

__all__ = ["OUTCOMES", "WELL", "Failure", "Outcome", "Result", "Task", "attempt_key", "behind", "only"]

#: How a task ended. With an answer: `right` or `wrong` where the right one is known, else `done`, or `called`
#: if it is a call of a tool that nobody here can run. Without: `truncated` (the response was cut off),
#: `filtered` (by the server's content filter), `refused` (by the model), `unanswered` (it said nothing), or
#: `failed`.
Outcome = Literal[
    "right", "wrong", "done", "called", "truncated", "filtered", "refused", "unanswered", "failed"
]
OUTCOMES: Final[tuple[Outcome, ...]] = get_args(Outcome)
#: Frames of a traceback, and characters of it.
_MOST_FRAMES: Final = 12
_LONGEST_TRACEBACK: Final = 8000
#: Errors that are followed from one to the one that was handled then.
_DEEPEST: Final = 50
#: Those that need no other run.
WELL: Final[frozenset[Outcome]] = frozenset({"right", "done", "called"})


@attrs.frozen(kw_only=True)
class Task:
    """One conversation to be held.

    Attributes:
      id: unique in its batch; results are found again by it.
      body: fields of the request, as in the Responses API; `input` is among them.
      source: the line of the file as it was, for agents that want more than the body.
      batch: whether it was an OpenAI Batch line.
      chat: whether that was one of the Chat Completions API, whose answer has the shape of that.
      expected: the right answer, as JSON; None if nobody knows it.
      number: the id as the file has it, if that is a number.
      attempt: which of several, from 1; None if there is one.
      unsent: columns of the row that are not sent.
      refused: why its request cannot be sent, and so none is: it fails; None if it can.
    """

    id: str
    body: Mapping[str, Any]
    source: Mapping[str, Any]
    batch: bool = False
    chat: bool = False
    expected: Any = None
    number: int | None = None
    attempt: int | None = None
    unsent: tuple[str, ...] = ()
    refused: str | None = None

    @property
    def key(self) -> str:
        """Unique among all attempts at all tasks; the first attempt, or the only one, has the id."""
        return attempt_key(self.id, self.attempt or 1)

    @property
    def digest(self) -> str:
        """Of what the task says, so that a result is not taken for that of another text under its id."""
        return hashlib.sha256(json.dumps(self.source, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def given_id(self) -> str | int:
        """The id as the file has it, for who joins results with tasks."""
        return self.id if self.number is None else self.number


def attempt_key(id: str, attempt: int) -> str:
    """The key of an attempt at the task *id*."""
    return id if attempt == 1 and "\0" not in id else f"{id}\0{attempt}"


@attrs.frozen(kw_only=True)
class Failure:
    """Why a task failed.

    Attributes:
      type: name of the error's class.
      message: its message.
      delivery: what is known about the request; None if the error is not about one.
      code: the server's error code, if it gave one.
      status: the server's HTTP-like status, if it gave one.
      traceback: where it was raised, last line last; None for errors of the library, which say it all.
    """

    type: str
    message: str
    delivery: str | None = None
    code: str | None = None
    status: int | None = None
    traceback: str | None = None

    @classmethod
    def of(cls, error: BaseException) -> "Failure":
        """What *error* says; a group of one is that one."""
        if (inside := only(error)) is not None:
            return cls.of(inside)
        refused = error if isinstance(error, ResponseFailedError) else None
        return cls(
            type=type(error).__name__,
            message=_text(error),
            delivery=error.delivery if isinstance(error, WsPoolError) else None,
            code=refused.code if refused else None,
            status=refused.status if refused else None,
            traceback=None if isinstance(error, WsPoolError) else _traceback(error),
        )


@attrs.frozen(kw_only=True)
class Result:
    """How a task ended.

    Attributes:
      answer: what the agent returned, as JSON; the text of a response.
      response: the response that the agent returned, if it was one, as the server sent it.
      failure: why there is no answer, or None.
      items: the whole conversation.
      statistics: of the conversation, None if there never was one.
      seconds: from the start of the task, time in line included.
      began: when it was begun, in seconds since 1970.
      model: the model that answered, or was asked; None if nobody said which.
      price: of a million tokens of input, of input from the cache, and of output; None if nobody said.
      score: how good the answer is, None if nobody can say.
      scores: what a function said of it by name, None if it said one number.
      better: how it is to be compared so that it is right, see `wspool.rollout.scoring.Score`.
      phases: seconds of each phase (`wspool.rollout.phases`), None if it never was a conversation.
    """

    task: Task
    outcome: Outcome
    answer: Any
    response: Mapping[str, Any] | None
    failure: Failure | None
    items: Sequence[Mapping[str, Any]]
    statistics: ConversationStatistics | None
    seconds: float
    began: float = 0.0
    model: str | None = None
    price: Sequence[float] | None = None
    score: float | None = None
    scores: Mapping[str, Any] | None = None
    better: str | None = None
    phases: Mapping[str, float] | None = None

    def as_line(self) -> dict[str, Any]:
        """The result as one JSON object, in the shape that the task came in."""
        return self._batch_line() if self.task.batch else self._plain_line()

    def _plain_line(self) -> dict[str, Any]:
        line: dict[str, Any] = {"id": self.task.given_id, **self._attempt}
        line |= {"outcome": self.outcome, "answer": self.answer}
        if self.task.expected is not None:
            line["expected"] = self.task.expected
        return line | {
            **self._scores,
            "error": attrs.asdict(self.failure) if self.failure else None,
            "response_id": self.response.get("id") if self.response else None,
            "status": self.response.get("status") if self.response else None,
            **self._counts(),
            **self._provenance(),
            "items": list(self.items),
        }

    def _batch_line(self) -> dict[str, Any]:
        response: dict[str, Any] | None = None
        error: dict[str, Any] | None = None
        if self.failure is None:
            body = self.response if self.response is not None else {"answer": self.answer}
            if self.task.chat and self.response is not None:
                body = completion_of(self.response)
            response = {"status_code": 200, "request_id": body.get("id"), "body": body}
        else:
            error = {"code": self.failure.code or self.failure.type, "message": self.failure.message}
            if self.failure.status is not None:
                response = {"status_code": self.failure.status, "request_id": None, "body": {"error": error}}
        return {
            "id": f"batch_req_{self.task.id}",
            "custom_id": self.task.given_id,
            "response": response,
            "error": error,
            "wspool": {
                **self._attempt,
                "outcome": self.outcome,
                **self._scores,
                **self._counts(),
                **self._provenance(),
            },
        }

    @property
    def _attempt(self) -> dict[str, Any]:
        return {} if self.task.attempt is None else {"attempt": self.task.attempt}

    @property
    def _scores(self) -> dict[str, Any]:
        scores = {} if self.scores is None else {"scores": dict(self.scores)}
        return scores if self.score is None else {"score": self.score, **scores}

    @property
    def _sent(self) -> bool:
        return self.statistics is not None and bool(self.statistics.full_turns + self.statistics.delta_turns)

    def _counts(self) -> dict[str, Any]:
        its = self.statistics
        return {
            "turns": its.turns if its else 0,
            "tool_calls": its.tool_calls if its else 0,
            "moves": its.moves if its else 0,
            "seconds": round(self.seconds, 4),
        }

    def _provenance(self) -> dict[str, Any]:
        return {
            "usage": self.statistics.usage.as_json() if self.statistics and self._sent else None,
            **({"cost": self.statistics.usage.cost(self.price)} if self.statistics and self.price else {}),
            "model": self.model,
            "digest": self.task.digest,
            "began": _time(self.began),
            "ended": _time(self.began + self.seconds),
            **self._way(),
        }

    def _way(self) -> dict[str, Any]:
        """How it was sent, and where its time went."""
        its = self.statistics
        if its is None:
            return {}
        requests = {
            "delta": its.delta_turns,
            "full": its.full_turns,
            "bytes_sent": its.bytes_sent,
            "bytes_saved": its.bytes_saved,
        }
        return {"requests": requests, "phases": dict(self.phases or {})}


def only(error: BaseException) -> BaseException | None:
    """The one error in a group of one; None if *error* is no such group."""
    # Not whatever has `exceptions`: other errors than groups mean something else by that.
    if not isinstance(error, BaseExceptionGroup):
        return None
    inside = cast("BaseExceptionGroup[BaseException]", error).exceptions
    return inside[0] if len(inside) == 1 else None


def behind(
    error: BaseException, is_one: Callable[[BaseException], bool], depth: int = 0
) -> BaseException | None:
    """Return the error that *is_one* and that *error* stands for, None if there is none.

    It may be that itself, have been handled when *error* was raised, or be in a group of nothing else. Errors
    of the library stand for themselves.
    """
    if is_one(error):
        return error
    if isinstance(error, WsPoolError) or depth > _DEEPEST:
        return None
    if isinstance(error, BaseExceptionGroup):
        inside = cast("BaseExceptionGroup[BaseException]", error).exceptions
        found = [behind(each, is_one, depth + 1) for each in inside]
        return found[0] if all(each is not None for each in found) else None
    handled = error.__cause__ or error.__context__
    return None if handled is None else behind(handled, is_one, depth + 1)


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as problem:  # whatever its __str__ raises
        return f"its text cannot be had ({type(problem).__name__})"


def _traceback(error: BaseException) -> str | None:
    if error.__traceback__ is None:
        return None
    try:
        lines = traceback.format_exception(error, limit=-_MOST_FRAMES)
    except Exception:  # whatever it raises that is asked for its text
        lines = traceback.format_tb(error.__traceback__, limit=-_MOST_FRAMES)
    return "".join(lines)[-_LONGEST_TRACEBACK:]


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
