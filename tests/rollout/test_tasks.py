"""What a result line says."""

import pytest
import trio

from wspool.errors import ResponseFailedError, TurnLostError
from wspool.rollout.tasks import Failure, Result, Task


def result(task: Task, failure: Failure | None = None) -> Result:
    return Result(
        task=task,
        outcome="failed" if failure else "done",
        answer=None if failure else {"said": "hi"},
        response=None,
        failure=failure,
        items=(),
        statistics=None,
        seconds=1.5,
    )


def test_an_error_is_told_by_class_delivery_and_code() -> None:
    """What the server said is there, and what is known about the request."""
    refused = ResponseFailedError("no", delivery="terminal", code="rate_limit_exceeded", status=429)

    assert Failure.of(refused) == Failure(
        type="ResponseFailedError", message="no", delivery="terminal", code="rate_limit_exceeded", status=429
    )
    assert Failure.of(TurnLostError("gone", delivery="ambiguous")).delivery == "ambiguous"


class Mute(Exception):
    def __str__(self) -> str:
        return str(1 / 0)


def test_a_group_of_one_is_that_one() -> None:
    """An agent's own task group is not the cause; several causes are named together."""
    one = ExceptionGroup("group", [ExceptionGroup("inner", [ValueError("x")])])
    two = ExceptionGroup("group", [ValueError("x"), KeyError("y")])

    assert Failure.of(one) == Failure(type="ValueError", message="x")
    assert Failure.of(Mute()).message == "its text cannot be had (ZeroDivisionError)"
    assert Failure.of(two).type == "ExceptionGroup"
    assert Failure.of(trio.TooSlowError()) == Failure(type="TooSlowError", message="")


@pytest.mark.parametrize("failed", [False, True])
def test_a_task_without_a_conversation_has_a_line(failed: bool) -> None:
    """Nothing was sent, and the line says so, in either shape."""
    failure = Failure(type="ValueError", message="x") if failed else None
    plain = result(Task(id="a", body={}, source={}, expected="y"), failure).as_line()
    batch = result(Task(id="a", body={}, source={}, batch=True), failure).as_line()

    assert (plain["turns"], plain["expected"], plain["items"]) == (0, "y", [])
    assert batch["error"] == ({"code": "ValueError", "message": "x"} if failed else None)
    expected = (
        None if failed else {"status_code": 200, "request_id": None, "body": {"answer": {"said": "hi"}}}
    )
    assert batch["response"] == expected
