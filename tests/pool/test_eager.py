"""Eager tools: a call is made when it is sealed; what has run is known, whatever becomes of its response."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import pytest
import trio

import wspool
from tests.helpers import policy, said
from tests.pool.tooling import FarEnd, Says, call, outputs, talking
from wspool.core.items import Item

INTERRUPTED = "Cancelled: this call was interrupted while it ran; it may have had effects."


@attrs.frozen
class Profile:
    """The calls of one response: when each is sealed, how long its tool takes; and when the response ends."""

    sealed: Sequence[float]
    takes: Sequence[float]
    ends: float

    @property
    def ideal(self) -> float:
        """When the next request can leave at the earliest."""
        return max(self.ends, *(at + took for at, took in zip(self.sealed, self.takes, strict=True)))

    @property
    def lazy(self) -> float:
        """When it leaves if the tools wait for the response."""
        return self.ends + max(self.takes)


PROFILES = {
    "slow first": Profile([1, 2, 3, 4], [4, 1, 1, 1], 4.2),
    "slow last": Profile([1, 2, 3, 4], [1, 1, 1, 4], 4.2),
    "equal": Profile([1, 2, 3, 4], [2, 2, 2, 2], 4.2),
    "one huge": Profile([0.5, 0.6, 9], [30, 0.1, 0.1], 9.1),
    "many short": Profile([number / 20 for number in range(200)], [0.05] * 200, 10.1),
    "one only": Profile([1], [3], 1.1),
}


class Working:
    """A tool that takes as long as it is told to, and what was done with it."""

    def __init__(self) -> None:
        self.begun: list[tuple[float, str]] = []
        self.ended: list[str] = []

    async def work(self, name: str, seconds: float = 0.0) -> str:
        self.begun.append((trio.current_time(), name))
        await trio.sleep(seconds)
        self.ended.append(name)
        return f"{name} done"

    @property
    def names(self) -> list[str]:
        """What was begun, in order."""
        return [name for _, name in self.begun]


def work(name: str, seconds: float = 0.0, call_id: str = "") -> Item:
    """A call of that tool."""
    return call("work", call_id or f"c_{name}", f'{{"name": "{name}", "seconds": {seconds}}}')


async def run(conversation: wspool.Conversation, tool: Working, given: Any = "x", **options: Any) -> Any:
    """Run a loop with that tool."""
    return await conversation.run(given, tools=[tool.work], **{"eager": True, **options})


@pytest.mark.parametrize("name", PROFILES)
async def test_a_call_is_made_when_it_is_sealed(name: str, autojump_clock) -> None:
    """Each tool starts at its seal, and the next request leaves when the last of all is done."""
    profile = PROFILES[name]
    items = [
        (at, work(f"t{number}", took))
        for number, (at, took) in enumerate(zip(profile.sealed, profile.takes, strict=True))
    ]
    took = {}
    for eager in (True, False):
        tool = Working()
        async with talking(Says(items, ends=profile.ends)) as (far, _, conversation):
            await run(conversation, tool, eager=eager)
            began, left = far.times
            took[eager] = left - began
            assert len(items) == len(outputs(far.requests[1]))
            seals = [at if eager else profile.ends for at, _ in items]
            assert [pytest.approx(at) for at in seals] == sorted(at - began for at, _ in tool.begun)

    assert took[True] <= profile.ideal * 1.05
    assert took[False] == pytest.approx(profile.lazy)
    assert took[True] <= took[False] * 1.02
    if name == "slow first":
        assert took[True] <= took[False] * 0.7


async def test_no_call_is_made_on_a_piece_of_it(autojump_clock) -> None:
    """A call that is done without arguments waits for the response, which has the last word."""
    tool = Working()
    whole = work("a")
    half = [{**whole, "arguments": ""}, {**whole, "arguments": None}, {**whole, "status": "incomplete"}]
    for piece in half:
        async with talking(Says([(1, piece)], ends=5, final=[whole])) as (far, _, conversation):
            await run(conversation, tool)
            assert pytest.approx(5) == tool.begun[-1][0] - far.times[0]
            assert {"c_a": "a done"} == outputs(far.requests[1])
    assert ["a"] * 3 == tool.names


async def test_a_call_that_is_sealed_twice_is_one(autojump_clock) -> None:
    """As servers say it that repeat themselves."""
    tool = Working()
    async with talking(Says([(1, work("a")), (2, work("a"))], ends=3, final=[work("a")])) as (far, _, talk):
        await run(talk, tool)
        assert (["a"], {"c_a": "a done"}) == (tool.names, outputs(far.requests[1]))


async def test_what_ran_for_a_lost_response_is_not_run_again(caplog, autojump_clock) -> None:
    """Its output is kept for the same call of the retry, under whatever id; the log says so."""
    for how in ("lost", "failed"):
        tool = Working()
        again = [(1, work("a", 0.5, "other_1")), (1, work("b", 9, "other_2")), (1, work("new"))]
        first = Says([(1, work("a", 0.5)), (1, work("b", 9))], ends=3, how=how)
        async with talking(first, Says(again, ends=4)) as (far, _, conversation):
            with trio.fail_after(60):
                if how == "failed":
                    with pytest.raises(wspool.ResponseFailedError):
                        await run(conversation, tool, retries=0)
                    assert ["a"] == tool.ended
                    await run(conversation, tool)
                else:
                    await run(conversation, tool, retries=1)
            assert {"a done", "b done", "new done"} == set(outputs(far.requests[2]).values())
            assert {"other_1", "other_2", "c_new"} == set(outputs(far.requests[2]))
            # The one that was still running when nobody tried again was interrupted, and not its output kept.
            assert {"lost": ["a", "b", "new"], "failed": ["a", "b", "b", "new"]}[how] == sorted(tool.names)
            assert 0 == sum("_lost" in str(item.get("call_id")) for item in conversation.items)
        assert "a response did not end well after calls of it were made: function_call 'work'" in caplog.text
        caplog.clear()


async def test_a_retry_that_asks_for_something_else_is_told_what_ran(caplog, autojump_clock) -> None:
    """As a call with its output, in the next request and in the history."""
    tool = Working()
    first = Says([(1, work("a", 0.5)), (1, work("slow", 60))], ends=3, how="lost")
    async with talking(first, Says([(1, work("b"))], ends=2)) as (far, _, conversation):
        await run(conversation, tool, retries=1)

        told = far.requests[2]["input"]
        assert [None, "a done", None, INTERRUPTED, "b done"] == [item.get("output") for item in told]
        assert ["work", "work"] == [item["name"] for item in told if "name" in item]
        assert told == conversation.items[2:7]
        assert [] == far.refused
        assert "of which only a lost response knew" in caplog.text
        assert ["a", "b", "slow"] == sorted(tool.names)


async def test_a_retry_that_asks_for_nothing_leaves_it_to_the_next_run(autojump_clock) -> None:
    """The response is returned at once; whatever is said next begins with what ran."""
    tool = Working()
    first = Says([(1, work("a"))], ends=3, how="lost")
    async with talking(first, Says()) as (far, _, conversation):
        await run(conversation, tool, retries=1)
        assert 2 == len(conversation.items)
        await run(conversation, tool)
        assert ["function_call", "function_call_output", "message"] == [
            item["type"] for item in far.requests[2]["input"]
        ]
        await run(conversation, tool)
        assert 1 == len(far.requests[3]["input"])


@pytest.mark.parametrize("given", ["x", "something else"])
async def test_who_tries_again_later_finds_what_ran(given: str, autojump_clock) -> None:
    """The same input is the same turn: its calls are not made again. Another one is told what ran."""
    tool = Working()
    first = Says([(1, work("a"))], ends=3, how="lost")
    async with talking(first, Says([(1, work("a"))], ends=3)) as (far, _, conversation):
        with pytest.raises(wspool.TurnLostError):
            await run(conversation, tool)
        await run(conversation, tool, given)

        same = given == "x"
        assert (1 if same else 3) == len(far.requests[1]["input"])
        assert (["a"] if same else ["a", "a"]) == tool.names
        assert {"c_a": "a done"} == outputs(far.requests[2])


async def test_a_cancel_in_mid_response_is_told(autojump_clock) -> None:
    """The turn leaves no trace but what ran for it."""
    tool = Working()
    async with talking(Says([(1, work("a")), (1, work("slow", 60))], ends=30)) as (far, _, conversation):
        with trio.move_on_after(5):
            await run(conversation, tool)
        assert [] == conversation.items
        await run(conversation, tool, "never mind", eager=False)
        told = far.requests[1]["input"]
        assert [None, "a done", None, INTERRUPTED, None] == [item.get("output") for item in told]
        assert [] == far.refused


async def test_a_response_that_was_cut_short_keeps_what_ran(autojump_clock) -> None:
    """And says of the rest that it was not run."""
    tool = Working()
    script = Says([(1, work("a"))], ends=3, how="incomplete", final=[work("a"), work("b")])
    async with talking(script) as (far, _, conversation):
        await run(conversation, tool)
        await run(conversation, tool, "go on")
        assert {"c_a": "a done", "c_b": "Cancelled: this call was not run."} == outputs(far.requests[1])
        assert ["a"] == tool.names


async def test_after_a_call_that_is_the_callers_nothing_is_made(autojump_clock) -> None:
    """What was made before is kept, and sent with what the caller brings."""
    shell = {"type": "shell_call", "id": "sh", "call_id": "s", "action": {}}
    tool = Working()
    async with talking(Says([(1, work("a")), (2, shell), (3, work("b"))], ends=4)) as (far, _, conversation):
        response = await run(conversation, tool)
        assert (3, ["a"]) == (len(response.output), tool.names)
        await run(conversation, tool, [{"type": "shell_call_output", "call_id": "s", "output": []}])
        assert {"c_a": "a done", "c_b": "b done", "s": []} == outputs(far.requests[1])
        assert ["a", "b"] == tool.names


async def test_the_response_has_the_last_word(autojump_clock) -> None:
    """If it ends with other arguments than it has sealed, those count; what ran is told."""
    tool = Working()
    script = Says([(1, work("a"))], ends=3, final=[work("b", 0, "c_a")])
    async with talking(script) as (far, _, conversation):
        await run(conversation, tool)
        assert {"c_a_lost1": "a done", "c_a": "b done"} == outputs(far.requests[1])
        assert ["a", "b"] == tool.names


async def test_no_call_is_made_early_that_is_not_made_at_all(autojump_clock) -> None:
    """In the last turn that may be."""
    tool = Working()
    async with talking(Says([(1, work("a"))], ends=3)) as (_, _, conversation):
        with pytest.raises(wspool.MaxTurnsError):
            await run(conversation, tool, max_turns=1)
        assert [] == tool.names


async def test_a_tool_that_ends_the_loop_does_not_end_the_response(autojump_clock) -> None:
    """It is paid for, and counts; then the exception comes out bare, and stops what else runs."""
    tool = Working()

    async def broken() -> None:
        raise ZeroDivisionError

    script = Says([(1, work("a", 60)), (1, call("broken", "x")), (2, work("b"))], ends=3)
    async with talking(script) as (far, _, conversation):
        with pytest.raises(ZeroDivisionError):
            await conversation.run("x", tools=[tool.work, broken], eager=True, tool_errors="raise")
        assert (3, 4, ["a"]) == (trio.current_time() - far.times[0], len(conversation.items), tool.names)
        assert [] == tool.ended


async def test_early_calls_are_as_many_at_once_as_the_policy_says(autojump_clock) -> None:
    """The others wait in line, and go on as soon as one is done."""
    tool = Working()
    items = [(1, work(f"t{number}", 2)) for number in range(5)]
    limits = policy(max_size=1, max_tool_calls=2)
    async with talking(Says(items, ends=2), limits=limits) as (far, _, conversation):
        await run(conversation, tool)
        assert [1, 1, 3, 3, 5] == [at - far.times[0] for at, _ in tool.begun]
        assert 5 == len(outputs(far.requests[1]))


async def test_early_and_late_loops_say_the_same(autojump_clock) -> None:
    """Requests and history do not depend on when a tool runs."""
    seen = []
    for eager in (True, False):
        script = [
            Says([(1, work("a", 3)), (2, said("hm")), (2, work("b", 1))], ends=4),
            Says([(1, work("c"))]),
        ]
        async with talking(*script) as (far, _, conversation):
            await run(conversation, Working(), eager=eager)
            seen.append(([request["input"] for request in far.requests], conversation.items))
    assert seen[0] == seen[1]


# -- events ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_whoever_listens_is_given_the_events_of_all_turns(kind: str, autojump_clock) -> None:
    """In order, those of a turn that was lost too; what is waited for is waited for."""
    heard: list[str] = []

    def listen(event: wspool.Event) -> None:
        heard.append(event.type.removeprefix("response."))

    async def listen_slowly(event: wspool.Event) -> None:
        await trio.sleep(1)
        listen(event)

    tool = Working()
    script = [Says([(1, work("a"))], ends=1, how="lost"), Says([(1, work("a"))], ends=1)]
    async with talking(*script) as (_, _, conversation):
        response = await run(
            conversation, tool, eager=False, retries=1, on_event=listen if kind == "plain" else listen_slowly
        )
        assert "ok" == response.output_text
        one = ["created", "output_item.added", "output_item.done"]
        assert [*one, *one, "completed", *one, "completed"] == heard
        assert 3 == conversation.statistics().turns + conversation.statistics().retries


async def test_what_a_listener_raises_ends_the_loop(autojump_clock) -> None:
    """It comes out as it is, and the turn is given up."""

    def listen(event: wspool.Event) -> None:
        raise ZeroDivisionError

    for eager in (True, False):
        async with talking(Says([(1, work("a"))], ends=1)) as (_, _, conversation):
            with pytest.raises(ZeroDivisionError):
                await run(conversation, Working(), eager=eager, on_event=listen)
            assert [] == conversation.items
            assert "ok" == (await conversation.respond("x")).output_text


async def test_what_a_listener_does_to_an_event_changes_nothing(autojump_clock) -> None:
    """Calls are read from what came."""

    def listen(event: wspool.Event) -> None:
        event.data.clear()

    tool = Working()
    async with talking(Says([(1, work("a"))], ends=1)) as (far, _, conversation):
        await run(conversation, tool, on_event=listen)
        assert {"c_a": "a done"} == outputs(far.requests[1])


# -- async tools ----------------------------------------------------------------------------------


def later(name: str, seconds: float = 0.0) -> Item:
    """A call for whose output the model does not wait."""
    return {**work(name, seconds), "async": True}


async def run_async(conversation: wspool.Conversation, tool: Working, **options: Any) -> Any:
    """Run a loop in which `work` is async, and `now` is not."""

    async def now(name: str, seconds: float) -> str:
        return await tool.work(name, seconds)

    tools: list[Any] = [wspool.tool(tool.work, async_=True), now]
    return await conversation.run("x", tools=tools, **options)


def now(name: str, seconds: float = 0.0) -> Item:
    return {**work(name, seconds), "name": "now"}


@pytest.mark.parametrize("eager", [False, True])
async def test_async_calls_run_beside_the_turns_that_follow(eager: bool, autojump_clock) -> None:
    """Their outputs are sent with the first turn after they have come; at the end they are waited for."""
    tool = Working()
    script = [
        Says([(0, later("a", 12)), (0, later("b", 3)), (0, now("n1", 1))], ends=1),
        Says([(1, now("n2", 2))], ends=1),
        Says([(0, said("what else?"))], ends=1),
    ]
    async with talking(*script) as (far, _, conversation):
        response = await run_async(conversation, tool, eager=eager)

        assert "ok" == response.output_text
        assert [["c_n1"], ["c_n2", "c_b"], ["c_a"]] == [list(outputs(each)) for each in far.requests[1:]]
        assert ["a", "b", "n1", "n2"] == sorted(tool.names)
        since = far.times[0]
        assert pytest.approx(12 if eager else 13) == far.times[-1] - since
        assert [] == far.refused
        assert {"type", "call_id", "output"} == set(far.requests[-1]["input"][0])


async def test_async_calls_alone_are_waited_for_one_by_one(autojump_clock) -> None:
    """Whichever comes first is sent first."""
    tool = Working()
    async with talking(Says([(0, later("a", 9)), (0, later("b", 4))], ends=1)) as (far, _, conversation):
        await run_async(conversation, tool)
        assert [["c_b"], ["c_a"]] == [list(outputs(each)) for each in far.requests[1:]]
        assert [0, 5, 10] == [at - far.times[0] for at in far.times]


async def test_async_calls_that_fail_are_told_and_counted(caplog, autojump_clock) -> None:
    """As all calls; or raised, if that was asked for."""

    async def broken() -> None:
        await trio.sleep(5)
        raise ZeroDivisionError("oh")

    asked = {**call("broken", "c"), "async": True}
    tools = [wspool.tool(broken, async_=True)]
    async with talking(Says([(0, asked)], ends=1)) as (far, _, conversation):
        await conversation.run("x", tools=tools)
        assert {"c": "Error: ZeroDivisionError: oh"} == outputs(far.requests[1])
        assert 1 == conversation.statistics().tool_errors
        assert "in broken" in caplog.text
    async with talking(Says([(0, asked)], ends=1)) as (_, _, conversation):
        with pytest.raises(ZeroDivisionError):
            await conversation.run("x", tools=tools, tool_errors="raise")


async def test_async_calls_that_are_cancelled_are_closed_by_the_next_run(autojump_clock) -> None:
    """`respond` may leave them open, for nobody waits for them; `run` does not."""
    tool = Working()
    async with talking(Says([(0, later("a", 60)), (0, later("b"))], ends=1)) as (far, _, conversation):
        with trio.move_on_after(1.5):
            await run_async(conversation, tool)
        await conversation.respond("how is it going?")
        await run_async(conversation, tool)
        assert [] == far.refused
        assert {"c_a": INTERRUPTED} == outputs(far.requests[-1])


async def test_a_loop_that_may_not_go_on_leaves_async_calls_open(autojump_clock) -> None:
    """The limit of turns is one for them too."""
    tool = Working()
    async with talking(Says([(0, later("a", 60))], ends=1)) as (far, _, conversation):
        with pytest.raises(wspool.MaxTurnsError):
            await run_async(conversation, tool, max_turns=1)
        assert isinstance(far, FarEnd)
        assert [] == tool.names
