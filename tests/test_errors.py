"""Every error survives a process border: pickle, copy and deepcopy."""

from __future__ import annotations

import copy
import inspect
import multiprocessing
import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest
from hypothesis import given, strategies as st

import wspool
from wspool.core.commands import Refuse, RefuseReason, WaiterId
from wspool.core.failures import DialFailure, FailureKind
from wspool.core.frames import parse_event
from wspool.core.lending.pool import PoolCore
from wspool.core.policy import OPENAI
from wspool.core.server_error import ServerError
from wspool.pool.outcome import refusal, server_failure

STATISTICS = PoolCore(wspool.PoolPolicy(), OPENAI).statistics()
UNREAD = parse_event('{"type":"response.output_text.delta","sequence_number":3,"delta":"Hi"}')
READ = parse_event(b'{"type":"response.created","response":{"id":"resp_1"}}')
assert READ.data


def refused(reason: RefuseReason, kind: FailureKind = FailureKind.TRANSIENT) -> BaseException:
    failure = DialFailure(kind=kind, message="no: 503", phase="upgrade", status=503, retry_after=1.5)
    return refusal(Refuse(WaiterId(1), reason, failure), STATISTICS, OSError(24, "cause"))


def failed(code: str, status: int, response_id: str | None = "resp_1") -> BaseException:
    return server_failure(
        ServerError(code=code, status=status, message="no", param="input", raw={"error": {"code": code}}),
        "terminal",
        response_id,
    )


#: Every public error, as the library makes it.
MADE: dict[str, BaseException] = {
    "AuthenticationError": refused(RefuseReason.DIAL_FAILED, FailureKind.CREDENTIAL),
    "ConnectionLimitError": failed("websocket_connection_limit_reached", 400),
    "DialFailedError": refused(RefuseReason.DIAL_FAILED),
    "ForeignUseError": wspool.ForeignUseError("a pool can only be used where it was opened"),
    "LeaseRefusedError": wspool.LeaseRefusedError("no", statistics=STATISTICS),
    "MalformedMessageError": wspool.MalformedMessageError("the message is no JSON object"),
    "MaxTurnsError": wspool.MaxTurnsError(7),
    "BudgetExceededError": wspool.BudgetExceededError("the budget is spent: turns 4 of 4"),
    "OpenCallsError": wspool.OpenCallsError([{"type": "function_call", "name": "f", "call_id": "c"}]),
    "PoolClosedError": refused(RefuseReason.CLOSED),
    "PreviousResponseNotFoundError": failed("previous_response_not_found", 400),
    "KeyRefusedError": failed("invalid_api_key", 401, None),
    "RateLimitedError": failed("rate_limit_exceeded", 429),
    "RequestTooLargeError": wspool.RequestTooLargeError(size=3, limit=2),
    "ResponseFailedError": failed("server_error", 500),
    "SteeringRefusedError": wspool.SteeringRefusedError("not taken", delivery="terminal", code="too_late"),
    "ToolError": wspool.ToolError("there is no such file"),
    "TooManyWaitingError": refused(RefuseReason.TOO_MANY_WAITING),
    "TurnInFlightError": wspool.TurnInFlightError("one turn at a time"),
    "TurnTimeoutError": wspool.TurnTimeoutError(
        "turn lost: nothing came of it for silence_timeout=9 s", delivery="accepted", response_id="resp_1"
    ),
    "TurnLostError": wspool.TurnLostError(
        "turn lost",
        delivery="accepted",
        response_id="resp_1",
        events=[UNREAD, READ],
        close_code=1001,
        close_reason="bye",
    ),
    "UnknownEffectsError": wspool.UnknownEffectsError(
        [{"type": "function_call", "name": "f", "call_id": "c"}]
    ),
    "WebSocketNotOfferedError": refused(RefuseReason.DIAL_FAILED, FailureKind.NOT_OFFERED),
    "WsPoolError": wspool.WsPoolError("anything"),
}


class OfAUser(wspool.TurnLostError):
    """A subclass whose `__init__` takes something else altogether."""

    def __init__(self, task: int, *, tried: list[str]) -> None:
        super().__init__(f"task {task} is lost", delivery="ambiguous", events=[UNREAD])
        self.task = task
        self.tried = tried


class WithSlots(wspool.ResponseFailedError):
    """A subclass that keeps what it adds outside of its dictionary."""

    __slots__ = ("task", "unset")

    def __init__(self, task: int) -> None:
        super().__init__("no", delivery="terminal", code="server_error", raw={"a": [1]})
        self.task = task


#: What users derive.
DERIVED: dict[str, BaseException] = {"OfAUser": OfAUser(7, tried=["a", "b"]), "WithSlots": WithSlots(7)}


def pickled(protocol: int) -> Callable[[Any], Any]:
    return lambda error: pickle.loads(pickle.dumps(error, protocol))


COPIES: dict[str, Callable[[Any], Any]] = {
    **{f"pickle {protocol}": pickled(protocol) for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1)},
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


def attributes(error: BaseException) -> dict[str, Any]:
    """What *error* says beside its text; events by what they say, for they are compared by identity."""
    names = {name for name in dir(error) if not name.startswith("__")} | {"__notes__"}
    values = {name: getattr(error, name, None) for name in names}
    fields = {name: value for name, value in values.items() if not inspect.ismethod(value)}
    fields["events"] = [
        (event.type, event.raw, event.data, event.sequence_number, event.stream_id)
        for event in fields.get("events") or ()
    ]
    return {name: value for name, value in fields.items() if not inspect.isbuiltin(value)}


def test_every_public_error_is_made_here() -> None:
    """A new error cannot be forgotten."""
    public = {
        name
        for name in wspool.__all__
        if isinstance(found := getattr(wspool, name), type) and issubclass(found, BaseException)
    }

    assert public == MADE.keys()
    assert all(type(error).__name__ == name for name, error in {**MADE, **DERIVED}.items())


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("name", [*MADE, *DERIVED])
def test_an_error_survives(name: str, way: str) -> None:
    """Class, text, arguments, attributes and notes are the same; the cause stays behind, as always."""
    error = {**MADE, **DERIVED}[name]
    error.__notes__ = ["while it ran"]

    again = COPIES[way](error)

    assert again is not error
    assert type(again) is type(error)
    assert (str(again), repr(again), again.args) == (str(error), repr(error), error.args)
    assert attributes(again) == attributes(error)
    assert again.__cause__ is None
    assert again.__traceback__ is None


@pytest.mark.parametrize("way", COPIES)
def test_a_group_of_errors_survives(way: str) -> None:
    """Nurseries raise groups; what is in them goes with them."""
    lost = MADE["TurnLostError"]
    assert isinstance(lost, wspool.TurnLostError)
    group = ExceptionGroup("two", [lost, OfAUser(7, tried=[])])

    again = COPIES[way](group)

    assert [str(error) for error in group.exceptions] == [str(error) for error in again.exceptions]
    assert again.exceptions[0].events[0].data == UNREAD.data


def test_a_shallow_copy_shares_and_a_deep_one_does_not() -> None:
    """As the words say."""
    error = MADE["RateLimitedError"]
    assert isinstance(error, wspool.RateLimitedError)

    assert copy.copy(error).raw is error.raw
    deep = copy.deepcopy(error)
    assert deep.raw == error.raw
    assert deep.raw is not error.raw


def lose(task: int) -> None:
    """What a worker of a process pool does."""
    try:
        raise ConnectionResetError(104, "reset")
    except ConnectionResetError as cause:
        raise OfAUser(task, tried=["once"]) from cause


@pytest.mark.network
def test_an_error_comes_out_of_a_process_pool() -> None:
    """The worker's error is the caller's, and the pool of processes lives on."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as workers:
        with pytest.raises(OfAUser, match="task 3 is lost") as caught:
            workers.submit(lose, 3).result(timeout=60)
        assert 4 == workers.submit(len, "four").result(timeout=60)

    assert (3, ["once"], "ambiguous") == (caught.value.task, caught.value.tried, caught.value.delivery)


def construct(kind: type[BaseException], text: str) -> BaseException:
    """An error of *kind* with *text* wherever a text goes."""
    parameters = inspect.signature(kind.__init__).parameters
    if "message" in parameters or "args" in parameters:
        required = {
            name: text
            for name, parameter in parameters.items()
            if parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty
        }
        return kind(text, **required)
    return MADE[kind.__name__]


def test_an_error_is_made_of_anything() -> None:
    """A text is bounded, though not as short as what others say; what is none stays as it is."""
    assert (7, None, "x" * 4000) == wspool.WsPoolError(7, None, "x" * 4000).args


@pytest.mark.parametrize(
    "kind", [type(error) for error in MADE.values() if isinstance(error, wspool.WsPoolError)]
)
@given(text=st.text() | st.sampled_from(["\x1b[2J", "a\r\nb", "\u202e", "\ud800", "x" * 100_000]))
def test_the_text_of_every_error_is_plain(kind: type[BaseException], text: str) -> None:
    """Whoever raises it, and whatever with: one line that can be shown and written, of bounded length."""
    error = construct(kind, text)
    for shown in (str(error), str(pickle.loads(pickle.dumps(error))), str(copy.copy(error))):
        assert shown.isprintable()
        assert len(shown) <= 4000
        shown.encode()
