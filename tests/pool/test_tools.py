"""Tools: called all at once, answered in call order."""

from __future__ import annotations

import functools
import math
import threading
import uuid
from typing import Any

import pytest
import trio
from hypothesis import given, strategies as st

import wspool
from tests.helpers import FakeConnector, echo, fake_pool, policy, serving
from wspool.pool.tools import Tool, call_tools, open_calls, tool_calls
from wspool.server import Fault, FaultRule, FaultScript, ModelTurn, ScriptedModel, function_call, message


def call(name: str, arguments: str | None = "{}", call_id: str = "c", **more: Any) -> dict[str, Any]:
    """One call of a function tool."""
    return {"type": "function_call", "name": name, "arguments": arguments, "call_id": call_id, **more}


async def output_of(one: dict[str, Any], **tools: Tool) -> str:
    """The output that one call gets."""
    answers = await call_tools([one], tools, "return")
    assert [one["call_id"]] == [answer["call_id"] for answer in answers]
    return str(answers[0]["output"])


def test_only_calls_for_the_client_are_calls() -> None:
    """Messages, reasoning and calls that the server makes itself are not the client's."""
    items = [{"type": kind} for kind in ("message", "function_call", "web_search_call", "custom_tool_call")]

    assert [items[1], items[3]] == tool_calls(items)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.sampled_from(["c1", "c2"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["type", "x"]), inner),
    max_leaves=5,
)
KINDS = st.sampled_from(["function_call", "custom_tool_call", "function_call_output", "message"])
ITEMS = JSON | st.fixed_dictionaries({"type": KINDS | JSON}, optional={"call_id": JSON})


@given(st.lists(ITEMS, max_size=5))
def test_odd_items_are_no_calls(items: list[Any]) -> None:
    """Whatever stands in a history or an output: looking for calls in it never fails."""
    calls = tool_calls(items)

    assert calls == [
        item
        for item in items
        if isinstance(item, dict) and item.get("type") in ["function_call", "custom_tool_call"]
    ]
    assert all(item in calls for item in open_calls(items))


async def test_calls_run_at_the_same_time_and_answer_in_order(autojump_clock) -> None:
    """The slowest call decides how long a turn takes, and the order of calls is kept."""
    finished: list[int] = []

    async def wait(seconds: int) -> str:
        await trio.sleep(seconds)
        finished.append(seconds)
        return f"waited {seconds}"

    begun = trio.current_time()
    calls = [call("wait", f'{{"seconds": {seconds}}}', f"c{seconds}") for seconds in (30, 10, 20)]
    answers = await call_tools(calls, {"wait": wait}, "return")

    assert pytest.approx(30) == trio.current_time() - begun
    assert [10, 20, 30] == finished
    assert [
        {"type": "function_call_output", "call_id": f"c{seconds}", "output": f"waited {seconds}"}
        for seconds in (30, 10, 20)
    ] == answers


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (call("gone"), "Error: LookupError: there is no tool 'gone'; there are fail, give"),
        (call("give", "{not json"), "Error: JSONDecodeError"),
        (call("give", "[" * 100_000), "Error: ValueError: the arguments of 'give' are nested too deep"),
        (call("give", "[1]"), "Error: TypeError: the arguments of 'give' are not a JSON object"),
        (call("give", '{"wrong": 1}'), "Error: TypeError"),
        (call("fail"), "Error: ZeroDivisionError: no"),
        (call("give", '{"value": {"a": ["ü"]}}'), '{"a": ["ü"]}'),
        (call("give", '{"value": "text"}'), "text"),
        (call("give", '{"value": null}'), "null"),
        (call("give", None), "default"),
        (call("give", ""), "default"),
    ],
)
async def test_whatever_a_call_is_it_gets_an_output(one, expected, autojump_clock) -> None:
    """A bad call or a failing tool is told to the model; the loop goes on."""

    async def give(value: Any = "default") -> Any:
        return value

    async def fail() -> None:
        raise ZeroDivisionError("no")

    assert (await output_of(one, give=give, fail=fail)).startswith(expected)


async def test_a_result_that_is_no_json_is_an_error_output(autojump_clock) -> None:
    """What cannot be sent is not sent."""

    async def give() -> object:
        return object()

    assert (await output_of(call("give"), give=give)).startswith("Error: TypeError")


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ({"a": [1, math.nan]}, "Error: ValueError: the result of 'give'.a[1] is nan, and JSON has no such"),
        (-math.inf, "Error: ValueError: the result of 'give' is -inf"),
        ([{"a": object()}], "Error: TypeError: the result of 'give'[0].a: Object of type object is not"),
        ({"id": uuid.UUID(int=1)}, '{"id":"00000000-0000-0000-0000-000000000001"}'),
        ([2**70], "[1180591620717411303424]"),
    ],
)
async def test_a_result_is_json_or_says_where_it_is_none(result, expected, autojump_clock) -> None:
    """No number that JSON does not have is told to the model, nor sent."""

    async def give() -> object:
        return result

    assert (await output_of(call("give"), give=give)).startswith(expected)


async def test_a_result_that_is_too_deep_is_an_error_output(autojump_clock) -> None:
    """Or one that contains itself."""

    async def deep() -> object:
        value: list[Any] = []
        for _ in range(100_000):
            value = [value]
        return value

    async def cycle() -> object:
        value: list[Any] = []
        value.append(value)
        return value

    assert "the result of 'deep' is nested too deep" in await output_of(call("deep"), deep=deep)
    assert "the result of 'cycle': Circular" in await output_of(call("cycle"), cycle=cycle)


async def test_without_tools_the_error_says_none(autojump_clock) -> None:
    """The model learns that there is nothing to call."""
    assert await output_of(call("x")) == "Error: LookupError: there is no tool 'x'; there are none"


async def test_a_custom_tool_gets_its_input_as_text(autojump_clock) -> None:
    """Free-form input is passed as it is, and answered in kind."""

    async def shell(line: str) -> str:
        return line.upper()

    one = {"type": "custom_tool_call", "name": "shell", "input": "ls {", "call_id": "c"}
    answers = await call_tools([one], {"shell": shell}, "return")

    assert [{"type": "custom_tool_call_output", "call_id": "c", "output": "LS {"}] == answers


def test_tools_in_threads_leave_to_others_what_trio_has() -> None:
    """Names are looked up there: forty slow tools would be an outage of DNS. They have as many themselves."""
    seen: list[tuple[float, float]] = []

    async def main() -> None:
        shared = trio.to_thread.current_default_thread_limiter()
        shared.total_tokens = 1
        both = threading.Barrier(2)

        def tool() -> None:
            both.wait()
            seen.append(trio.from_thread.run_sync(lambda: (shared.borrowed_tokens, shared.total_tokens)))

        await call_tools([call("first")], {"first": lambda: ""}, "raise")
        shared.total_tokens = 2
        await call_tools([call("tool"), call("tool")], {"tool": tool}, "raise")

    trio.run(main)
    assert [(0, 2), (0, 2)] == seen


def test_a_plain_function_runs_in_a_thread() -> None:
    """It may block; an async callable of any other shape runs in the task."""
    threads: list[int] = []

    def plain() -> str:
        threads.append(threading.get_ident())
        return "plain"

    async def natural(word: str) -> str:
        threads.append(threading.get_ident())
        return word

    class Callable:
        async def __call__(self) -> str:
            threads.append(threading.get_ident())
            return "object"

    async def main() -> list[str]:
        tools: dict[str, Tool] = {
            "plain": plain,
            "hidden": lambda: natural("hidden"),
            "partial": functools.partial(natural, "partial"),
            "object": Callable(),
        }
        return [await output_of(call(name), **tools) for name in tools]

    assert ["plain", "hidden", "partial", "object"] == trio.run(main)
    here = threading.get_ident()
    assert [False, True, True, True] == [thread == here for thread in threads]


@pytest.mark.parametrize("others", [0, 1])
async def test_a_failing_tool_can_end_the_loop(others, autojump_clock) -> None:
    """With `tool_errors="raise"` the exception comes out bare, and the other calls are cancelled."""
    cancelled: list[str] = []

    async def fail() -> None:
        await trio.sleep(1)
        raise ZeroDivisionError

    async def wait() -> None:
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            cancelled.append("wait")
            raise

    calls = [call("fail"), *[call("wait")] * others]
    with pytest.raises(ZeroDivisionError):
        await call_tools(calls, {"fail": fail, "wait": wait}, "raise")

    assert ["wait"] * others == cancelled


async def test_tools_that_fail_together_are_a_group(autojump_clock) -> None:
    """Two exceptions at once are not hidden behind one."""

    async def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ExceptionGroup) as caught:
        await call_tools([call("fail"), call("fail")], {"fail": fail}, "raise")

    assert 2 == len(caught.value.exceptions)


# -- the loop -------------------------------------------------------------------------------------

TWO_CALLS = ScriptedModel(
    [
        ModelTurn(output=[function_call("add", {"a": 1, "b": 2}), function_call("add", {"a": 3, "b": 4})]),
        ModelTurn(output=[function_call("add", {"a": 3, "b": 7})]),
        ModelTurn(output=[message("10")]),
    ]
)


async def add(a: int, b: int) -> int:
    """A tool that takes its time."""
    await trio.sleep(10)
    return a + b


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"tool_errors": "rasie"}, ValueError, "tool_errors='rasie' must be 'return' or 'raise'"),
        ({"tool_errors": None}, ValueError, "tool_errors=None must be"),
        ({"tool_errors": ["raise"]}, ValueError, "must be 'return' or 'raise'"),
        ({"max_turns": 0}, ValueError, "max_turns=0 must be at least 1; None for no limit"),
        ({"max_turns": -1}, ValueError, "max_turns=-1 must be at least 1"),
        ({"max_turns": 1.5}, TypeError, "max_turns=1.5 must be a whole number"),
        ({"max_turns": "3"}, TypeError, "max_turns='3' must be a whole number"),
        ({"max_turns": True}, TypeError, "max_turns=True must be a whole number"),
        ({"retries": -1}, ValueError, "retries=-1 must be at least 0; 0 for none"),
        ({"retries": None}, TypeError, "retries=None must be a whole number"),
        ({"retries": math.inf}, TypeError, "retries=inf must be a whole number"),
        ({"tools": None}, TypeError, "tools= takes what to call by tool name"),
        ({"tools": [add_twice := {"type": "function", "name": "f"}]}, TypeError, "tools= takes what to call"),
        ({"tools": {"f": add_twice}}, TypeError, "tools= takes functions; that of 'f' is {'type'"),
        ({"tools": {7: print}}, TypeError, "7 is no name"),
        ({"input": [7]}, TypeError, "input must be a str or a list of item dicts"),
        ({"input": 7}, TypeError, "input must be a str or a list of item dicts, not int"),
        ({"input": [{"output": math.nan}]}, ValueError, r"input\[0\]\.output is nan"),
        ({"temperature": math.inf}, ValueError, "temperature is inf"),
        ({"previous_response_id": "x"}, ValueError, "cannot be set here"),
    ],
)
async def test_run_checks_what_it_is_given(arguments, error, text, autojump_clock) -> None:
    """At the call: nothing is dialled for it, and the error says what to write."""
    connector = FakeConnector(echo)
    given = {"input": "x", "tools": {"add": add}, **arguments}
    async with fake_pool(connector) as pool, pool.conversation(model="m") as conversation:
        with pytest.raises(error, match=text):
            await conversation.run(**given)

        assert (0, 0) == (connector.dials, len(conversation.items))


async def test_run_takes_turns_until_the_model_is_done(autojump_clock) -> None:
    """Parallel calls cost the time of one; all but the first turn are deltas on one connection."""
    async with serving(TWO_CALLS) as world, world.pool() as pool:
        async with pool.conversation(model="m") as conversation:
            begun = trio.current_time()
            response = await conversation.run("sum up", tools={"add": add})

            assert response.output_text == "10"
            assert pytest.approx(20) == trio.current_time() - begun
            outputs = [item["output"] for item in conversation.items if "output" in item]
            assert ["3", "7", "10"] == outputs
            statistics = conversation.statistics()
            assert (3, 2, 1, 3) == (
                statistics.turns,
                statistics.delta_turns,
                statistics.full_turns,
                statistics.tool_calls,
            )
        assert {1} == {entry["connection"] for entry in world.ledger}


async def test_run_takes_a_lost_turn_again_if_asked_to(autojump_clock) -> None:
    """The tools are not called again for it; what does not pass is told at once."""
    called: list[int] = []

    async def add_now(a: int, b: int) -> int:
        await trio.lowlevel.checkpoint()
        called.append(a + b)
        return a + b

    faults = FaultScript(
        FaultRule(Fault("reset"), create=1),
        FaultRule(Fault("failed"), create=3),
        FaultRule(Fault("fin"), create=4),
    )
    async with (
        serving(TWO_CALLS, faults=faults) as world,
        world.pool() as pool,
        pool.conversation(model="m") as conversation,
    ):
        response = await conversation.run("sum up", tools={"add": add_now}, retries=3)

        assert "10" == response.output_text
        assert ([3, 7, 10], 3) == (sorted(called), conversation.statistics().retries)
        assert 3 == conversation.statistics().turns

    for retries, script in (
        (0, FaultScript(FaultRule(Fault("reset"), times=None))),
        (2, FaultScript(FaultRule(Fault("reset"), times=None))),
        (2, FaultScript(FaultRule(Fault("error", code="invalid_prompt", status=400), times=None))),
    ):
        async with (
            serving(TWO_CALLS, faults=script) as world,
            world.pool() as pool,
            pool.conversation(model="m") as conversation,
        ):
            with pytest.raises((wspool.TurnLostError, wspool.ResponseFailedError)):
                await conversation.run("sum up", tools={"add": add_now}, retries=retries)
            refused = any(entry["outcome"] == "rejected" for entry in world.ledger)
            assert (1 if refused else retries + 1) == len(world.ledger)


async def test_run_goes_on_where_a_history_stopped(autojump_clock) -> None:
    """A resumed conversation that stopped at calls answers them first; one that ended has nothing to do."""
    async with serving(TWO_CALLS) as world, world.pool() as pool:
        async with pool.conversation(model="m") as conversation:
            await conversation.respond("sum up")
            snapshot = conversation.snapshot()
        async with pool.conversation(resume=snapshot) as conversation:
            response = await conversation.run(None, tools={"add": add})

            assert ("10", 3) == (response.output_text, conversation.statistics().tool_calls)
            with pytest.raises(ValueError, match="nothing to go on with"):
                await conversation.run(None, tools={"add": add})


async def test_run_stops_after_its_last_turn(autojump_clock) -> None:
    """The limit is an error, and what the model said so far is in the history."""
    async with (
        serving(TWO_CALLS) as world,
        world.pool() as pool,
        pool.conversation(model="m") as conversation,
    ):
        with pytest.raises(wspool.MaxTurnsError, match="after 2 turns") as caught:
            await conversation.run("sum up", tools={"add": add}, max_turns=2)

        assert (2, "terminal") == (caught.value.max_turns, caught.value.delivery)
        assert "function_call" == conversation.items[-1]["type"]
        assert 2 == len(world.ledger)


async def test_run_raises_what_a_tool_raises(autojump_clock) -> None:
    """With `tool_errors="raise"` the conversation stays usable; the turn before is history."""

    async def broken(**_: int) -> None:
        raise ZeroDivisionError

    async with (
        serving(TWO_CALLS) as world,
        world.pool(limits=policy(max_size=1)) as pool,
        pool.conversation(model="m") as conversation,
    ):
        with pytest.raises((ZeroDivisionError, ExceptionGroup)):
            await conversation.run("sum up", tools={"add": broken}, tool_errors="raise")

        assert 3 == len(conversation.items)
        assert pool.statistics().leased == 1


async def test_an_incomplete_response_ends_the_loop(autojump_clock) -> None:
    """Calls of a response that was cut short are not made."""
    cut = ModelTurn(output=[function_call("add", {"a": 1, "b": 2})], status="incomplete")
    async with (
        serving(ScriptedModel([cut])) as world,
        world.pool() as pool,
        pool.conversation(model="m") as conversation,
    ):
        response = await conversation.run("sum up", tools={"add": add})

        assert ("incomplete", 0) == (response.status, conversation.statistics().tool_calls)
