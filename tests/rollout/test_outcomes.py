"""How a task ended: an answer, or why there is none."""

import math
from typing import Any

import pytest

import wspool
from wspool.rollout.method import Method
from wspool.rollout.outcomes import answer_of, ends_run
from wspool.rollout.tasks import Task, behind

TASK = Task(id="a", body={}, source={})
KNOWN = Task(id="a", body={}, source={}, expected="42")
REASONING = {"type": "reasoning", "summary": []}
SEARCH = {"type": "web_search_call", "status": "completed"}
CLICK = {"type": "computer_call", "call_id": "c"}
CALL = {"type": "function_call", "name": "f", "arguments": "{}", "call_id": "c"}


def said(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"type": "message", "role": "assistant", "content": list(parts)}


def text(words: str) -> dict[str, Any]:
    return said({"type": "output_text", "text": words})


def response(*output: Any, status: str = "completed", reason: str | None = None) -> wspool.Response:
    details = {"reason": reason} if reason else None
    return wspool.Response({"status": status, "output": list(output), "incomplete_details": details})


@pytest.mark.parametrize(
    ("task", "given", "outcome", "answer"),
    [
        (TASK, response(REASONING, text("42")), "done", "42"),
        (KNOWN, response(text(" 42\n")), "right", " 42\n"),
        (KNOWN, response(text("43")), "wrong", "43"),
        (TASK, response(text("")), "done", ""),
        (TASK, response(text("cut"), status="incomplete", reason="max_output_tokens"), "truncated", "cut"),
        (KNOWN, response(text("42"), status="incomplete"), "truncated", "42"),
        (TASK, response(status="incomplete", reason="content_filter"), "filtered", ""),
        (TASK, response(said({"type": "refusal", "refusal": "No."})), "refused", ""),
        (TASK, response(said({"type": "refusal", "refusal": "No."}, *text("but")["content"])), "done", "but"),
        (TASK, response(), "unanswered", ""),
        (TASK, response(REASONING), "unanswered", ""),
        (TASK, response(REASONING, SEARCH, said()), "unanswered", ""),
        (TASK, response({"type": "image_generation_call", "result": "AA=="}), "done", ""),
        (TASK, response(CALL), "called", [CALL]),
        (TASK, response(text("Let me see."), CALL), "called", "Let me see."),
        (TASK, response(CLICK), "called", [CLICK]),
        (KNOWN, response(CALL), "wrong", [CALL]),
        (TASK, {"said": "hi"}, "done", {"said": "hi"}),
        (TASK, None, "done", None),
        (KNOWN, "42", "right", "42"),
        (KNOWN, 42, "wrong", 42),
    ],
)  # fmt: skip
async def test_what_was_said_is_looked_at(task: Task, given: object, outcome: str, answer: object) -> None:
    """What is no answer is told from what is one."""
    found, data = answer_of(given)

    assert (outcome, answer) == ((await Method().judge(task, found, data, ()))[0], found)


class Shy:
    def __repr__(self) -> str:
        raise ValueError("no")


def deep() -> object:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    return value


@pytest.mark.parametrize("given", [object(), {1}, b"x", math.nan, {"x": math.inf}, Shy(), deep()])
def test_what_is_no_json_is_no_answer(given: object) -> None:
    """It is said, whatever it is, and nothing that others cannot read is written."""
    with pytest.raises(TypeError, match="must return a response or JSON"):
        answer_of(given)


def refused(code: str | None, status: int | None) -> wspool.ResponseFailedError:
    return wspool.ResponseFailedError("no", delivery="terminal", code=code, status=status)


def handling(error: BaseException | None) -> RuntimeError:
    """What an agent raises that says it in its own words; of None, one that goes round in a circle."""
    own = RuntimeError("mine")
    own.__context__ = error or own
    return own


@pytest.mark.parametrize(
    ("error", "ends"),
    [
        (wspool.DialFailedError("gone", phase="tcp"), True),
        (refused("insufficient_quota", 429), True),
        (refused("invalid_api_key", None), True),
        (refused(None, 401), True),
        (refused(None, 402), True),
        (refused(None, 404), True),
        (ExceptionGroup("nursery", [refused(None, 401)]), True),
        (refused("model_not_found", 404), False),
        (refused("rate_limit_exceeded", 429), False),
        (refused("invalid_prompt", 400), False),
        (refused(None, 500), False),
        (ExceptionGroup("nursery", [refused(None, 401), ValueError()]), False),
        (ExceptionGroup("nursery", [refused(None, 401), ExceptionGroup("", [refused(None, 402)])]), True),
        (handling(refused(None, 401)), True),
        (handling(ExceptionGroup("nursery", [handling(refused(None, 401))])), True),
        (handling(refused(None, 500)), False),
        (handling(None), False),
        (ValueError("a task's own"), False),
    ],
)
def test_what_every_task_would_meet_ends_the_run(error: BaseException, ends: bool) -> None:
    """And nothing else does, whatever an agent makes of it."""
    found = behind(error, ends_run)
    assert ends == (found is not None)
    assert found is None or isinstance(found, wspool.WsPoolError)
