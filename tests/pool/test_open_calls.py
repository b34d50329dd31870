"""Calls that are open in a history: nothing is sent that can only be refused, and what has run is kept."""

from __future__ import annotations

from typing import Any

import pytest
import trio

import wspool
from tests.helpers import said
from tests.pool.tooling import Says, call, outputs, talking

NOT_RUN = "Cancelled: this call was not run."
INTERRUPTED = "Cancelled: this call was interrupted while it ran; it may have had effects."
OTHERS: list[dict[str, Any]] = [
    {"type": "local_shell_call", "id": "lsh_1", "call_id": "c2", "action": {}},
    {"type": "shell_call", "id": "sh_1", "call_id": "c2", "action": {}},
    {"type": "computer_call", "id": "cu_1", "call_id": "c2", "action": {}},
    {"type": "apply_patch_call", "id": "apc_1", "call_id": "c2", "operation": {}},
    {"type": "tool_search_call", "id": "ts_1", "call_id": "c2", "execution": "client", "arguments": {}},
]
ASKED = {"type": "mcp_approval_request", "id": "mcpr_1", "name": "x", "arguments": "{}"}


class Tools:
    """A quick tool and a slow one, and what was done with them."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    async def quick(self) -> str:
        self.calls.append("quick")
        await trio.lowlevel.checkpoint()
        return "done"

    async def slow(self) -> str:
        self.calls.append("slow")
        await trio.sleep(60)
        return "done at last"

    @property
    def tools(self) -> dict[str, Any]:
        return {"quick": self.quick, "slow": self.slow}


BOTH = Says([(0, call("quick", "q")), (0, call("slow", "s"))])


async def test_a_message_after_a_cancel_closes_what_is_open(autojump_clock) -> None:
    """With what came of each call, or the word that nothing did; the server takes it, and the next turn."""
    tools = Tools()
    async with talking(BOTH) as (far, _, conversation):
        with trio.move_on_after(1):
            await conversation.run("look", tools=tools.tools)
        response = await conversation.run("never mind", tools=tools.tools)

        assert "ok" == response.output_text
        assert {"q": "done", "s": INTERRUPTED} == outputs(far.requests[-1])
        assert "never mind" == far.requests[-1]["input"][-1]["content"][0]["text"]
        assert "ok" == (await conversation.respond("hello?")).output_text
        assert ([], ["quick", "slow"]) == (far.refused, sorted(tools.calls))


async def test_what_has_run_is_not_run_again(autojump_clock) -> None:
    """To go on after a cancel makes only the call that did not end."""
    tools = Tools()
    async with talking(BOTH) as (far, _, conversation):
        with trio.move_on_after(1):
            await conversation.run("look", tools=tools.tools)
        await conversation.run(None, tools=tools.tools)

        assert {"q": "done", "s": "done at last"} == outputs(far.requests[-1])
        assert ["quick", "slow", "slow"] == sorted(tools.calls)
        assert (3, 0) == (conversation.statistics().tool_calls, conversation.statistics().tool_errors)


async def test_outputs_that_were_lost_on_the_way_are_kept(autojump_clock) -> None:
    """The turn that was to carry them is lost: the next run sends them, and calls nothing."""
    tools = Tools()
    async with talking(BOTH, Says(how="lost")) as (far, _, conversation):
        with pytest.raises(wspool.TurnLostError):
            await conversation.run("look", tools=tools.tools)
        await conversation.run(None, tools=tools.tools)

        assert outputs(far.requests[1]) == outputs(far.requests[2])
        assert ["quick", "slow"] == sorted(tools.calls)


async def test_a_response_that_was_cut_short_leaves_its_calls_open(autojump_clock) -> None:
    """They are not made, and the next message says so."""
    tools = Tools()
    async with talking(Says(BOTH.items, how="incomplete")) as (far, _, conversation):
        response = await conversation.run("look", tools=tools.tools)
        assert "incomplete" == response.status
        await conversation.run("go on", tools=tools.tools)

        assert {"q": NOT_RUN, "s": NOT_RUN} == outputs(far.requests[-1])
        assert ([], []) == (far.refused, tools.calls)


async def test_who_leaves_calls_open_is_told_before_anything_is_sent(autojump_clock) -> None:
    """`respond` and `turn` name them; with their outputs, or without them in the history, all is well."""
    async with talking(BOTH, Says(), BOTH) as (far, _, conversation):
        await conversation.respond("look")
        before = conversation.items
        answered = {"type": "function_call_output", "call_id": "q", "output": "x"}
        given: Any
        for given, left in (("more", ["q", "s"]), ([answered], ["s"])):
            with pytest.raises(wspool.OpenCallsError, match="function_call 'slow'") as caught:
                await conversation.respond(given)
            assert ("not_sent", left) == (
                caught.value.delivery,
                [one["call_id"] for one in caught.value.calls],
            )
            with pytest.raises(wspool.OpenCallsError):
                async with conversation.turn(given):
                    pass
        assert (1, before) == (len(far.requests), conversation.items)
        await conversation.respond([answered, {**answered, "call_id": "s"}])
        await conversation.respond("look again")
        conversation.edit([item for item in conversation.items if item not in BOTH.items[0] + BOTH.items[1]])
        await conversation.respond("and now?")
        assert [] == far.refused


@pytest.mark.parametrize("other", [*OTHERS, ASKED], ids=lambda other: str(other["type"]))
async def test_a_mixed_set_of_calls_is_the_callers(other, autojump_clock) -> None:
    """It is returned before any tool has run; with the rest from the caller the loop goes on."""
    tools = Tools()
    async with talking(Says([(0, call("quick", "q")), (0, other)])) as (far, _, conversation):
        response = await conversation.run("look", tools=tools.tools)
        assert ([call("quick", "q"), other], []) == (response.output, tools.calls)
        if "call_id" not in other:
            return
        for given in ("never mind", None):
            with pytest.raises(wspool.OpenCallsError, match=rf"{other['type']} \(c2\)"):
                await conversation.run(given, tools=tools.tools)
        assert 1 == len(far.requests)
        kind = f"{other['type']}_output".replace("_call_output", "_output", other["type"].startswith("tool_"))
        answered = {"type": kind, "call_id": "c2", "output": "x"}
        assert "ok" == (await conversation.run([answered], tools=tools.tools)).output_text
        assert {"q": "done", "c2": "x"} == outputs(far.requests[1])
        assert (["quick"], []) == (tools.calls, far.refused)


async def test_nothing_is_made_for_a_conversation_that_is_busy_or_closed(autojump_clock) -> None:
    """Tools do not run for a turn that cannot be."""
    tools = Tools()
    async with talking(BOTH, Says(ends=5)) as (_, _, conversation):
        await conversation.respond("look")
        with trio.move_on_after(2):
            async with conversation.turn([{**answer, "output": "x"} for answer in answers("q", "s")]):
                with pytest.raises(wspool.TurnInFlightError):
                    await conversation.run(None, tools=tools.tools)
        conversation.close()
        with pytest.raises(wspool.PoolClosedError):
            await conversation.run(None, tools=tools.tools)
        assert [] == tools.calls


def answers(*names: str) -> list[dict[str, Any]]:
    """Outputs, without what they say."""
    return [{"type": "function_call_output", "call_id": name} for name in names]


async def test_a_branch_and_a_resumed_conversation_know_what_is_open(autojump_clock) -> None:
    """Whoever goes on from a history sees its calls."""
    tools = Tools()
    async with talking(BOTH) as (far, pool, conversation):
        await conversation.respond("look")
        async with conversation.fork() as branch, pool.conversation(resume=conversation.snapshot()) as later:
            for one in (branch, later):
                with pytest.raises(wspool.OpenCallsError):
                    await one.respond("more")
                await one.run("more", tools=tools.tools)
                await one.respond("more")
        with pytest.raises(wspool.OpenCallsError):
            await conversation.respond("more")
        assert [] == far.refused


async def test_a_compaction_stands_for_the_calls_before_it(autojump_clock) -> None:
    """They are not sent again, so nothing is owed for them."""
    compaction = {"type": "compaction", "encrypted_content": "x"}
    script = Says([(0, call("quick", "q")), (0, compaction), (0, said("shorter"))])
    async with talking(script) as (far, _, conversation):
        await conversation.respond("look")
        await conversation.respond("more")
        assert 2 == len(far.requests)


async def test_a_server_that_uses_ids_again_is_answered_again(autojump_clock) -> None:
    """The same call under the same id, a turn later, is another call."""
    tools = Tools()
    script = [Says([(0, call("quick", "call_1"))])] * 3
    async with talking(*script) as (far, _, conversation):
        await conversation.run("look", tools=tools.tools)
        assert ["quick"] * 3 == tools.calls
        assert [{"call_1": "done"}] * 3 == [outputs(request) for request in far.requests[1:]]


async def test_two_calls_that_cannot_be_told_apart_are_two(autojump_clock) -> None:
    """Both are made, and both are answered."""
    tools = Tools()
    async with talking(Says([(0, call("quick", "c")), (0, call("quick", "c"))])) as (far, _, conversation):
        await conversation.run("look", tools=tools.tools)
        assert ["quick", "quick"] == tools.calls
        assert ["c", "c"] == [item["call_id"] for item in far.requests[1]["input"]]


async def test_an_output_that_no_request_can_carry_is_dropped(autojump_clock) -> None:
    """The call can be made again; the others of its turn are not."""
    provider = wspool.Provider(name="small", max_request=5_000)
    made: list[str] = []

    async def big() -> str:
        made.append("big")
        await trio.lowlevel.checkpoint()
        return "x" * 6_000

    async def small() -> str:
        made.append("small")
        await trio.lowlevel.checkpoint()
        return "little"

    async def cut() -> str:
        await trio.lowlevel.checkpoint()
        return "cut"

    calls = Says(items=[(0.0, call("big", "c1")), (0.0, call("small", "c2"))])
    async with talking(calls, provider=provider) as (far, _, conversation):
        tools: dict[str, Any] = {"big": big, "small": small}
        with pytest.raises(wspool.RequestTooLargeError):
            await conversation.run("go", tools=tools)
        assert (1, 3) == (len(far.requests), len(conversation.items))
        with pytest.raises(wspool.RequestTooLargeError):
            await conversation.run(None, tools=tools)
        await conversation.run(None, tools={**tools, "big": cut})
        assert outputs(far.requests[1]) == {"c1": "cut", "c2": "little"}
        assert sorted(made) == ["big", "big", "small"]


async def test_a_call_whose_output_was_too_large_can_be_closed(autojump_clock) -> None:
    """The model is told that it was run, by whatever is said next."""

    async def big() -> str:
        await trio.lowlevel.checkpoint()
        return "x" * 6_000

    calls = Says(items=[(0.0, call("big", "c1"))])
    provider = wspool.Provider(name="small", max_request=5_000)
    async with talking(calls, provider=provider) as (far, _, conversation):
        with pytest.raises(wspool.RequestTooLargeError):
            await conversation.run("go", tools={"big": big})
        await conversation.run("leave it", tools={"big": big})
        assert "was run" in outputs(far.requests[1])["c1"]
        assert "too large" in outputs(far.requests[1])["c1"]
