"""Tools: what goes wrong with the calls of a model, and between them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import trio

import wspool
from wspool.server import Fault, FaultRule, ModelRequest, ModelTurn, function_call, message

from .scene import Make, Scene, faulty

SHELL: dict[str, Any] = {"type": "shell_call", "call_id": "s", "action": {"commands": ["ls"]}}


class Calling:
    """Calls what it is told to until it has an output, then says `ok`."""

    def __init__(self, *output: dict[str, Any], status: Any = "completed") -> None:
        self._output, self._status = output, status

    def respond(self, request: ModelRequest) -> ModelTurn:
        if any("output" in item for item in request.context):
            return ModelTurn(output=[message("ok")])
        return ModelTurn(output=[dict(item) for item in self._output], status=self._status)


class Work:
    """A tool that takes some time, and a far slower one."""

    def __init__(self) -> None:
        self.done: list[str] = []

    async def quick(self) -> str:
        await trio.sleep(1)
        self.done.append("quick")
        return "done"

    async def slow(self) -> None:
        await trio.sleep(1000)

    @property
    def tools(self) -> list[Callable[..., Any]]:
        return [self.quick, self.slow]


def said_to_model(conversation: wspool.Conversation) -> list[Any]:
    """The outputs in a history."""
    return [item["output"] for item in conversation.items if "output" in item]


def assert_taken(scene: Scene) -> None:
    """Assert that the server has refused nothing."""
    assert "rejected" not in [outcome for _, outcome in scene.outcomes]


async def test_f119_the_user_interrupts_a_tool(make: Make, autojump_clock) -> None:
    """F119: you cancel `run` while its tools run, then say something else -> nothing: the calls are answered
    with what came of them, or with the word that they were cancelled. What had run is not run again.
    """
    work = Work()
    model = Calling(function_call("quick", {}, call_id="q"), function_call("slow", {}, call_id="s"))
    async with faulty(make, model=model) as scene, scene.pool.conversation(model="m") as conversation:
        with trio.move_on_after(10):
            await conversation.run("look", tools=work.tools)
        assert "ok" == (await conversation.run("never mind", tools=work.tools)).output_text
        assert ["done", "Cancelled: this call was interrupted while it ran; it may have had effects."] == (
            said_to_model(conversation)
        )
        assert "ok" == (await conversation.respond("more")).output_text
        assert ["quick"] == work.done
        assert_taken(scene)


async def test_f120_a_response_is_cut_short_after_a_call(make: Make, autojump_clock) -> None:
    """F120: a response ends as `incomplete` and has calls -> `run` returns it and makes none of them; the
    next `run` tells the model so, or makes them if it is given no input.
    """
    for given, told in (("go on", "Cancelled: this call was not run."), (None, "done")):
        work = Work()
        model = Calling(function_call("quick", {}, call_id="q"), status="incomplete")
        async with faulty(make, model=model) as scene, scene.pool.conversation(model="m") as conversation:
            response = await conversation.run("look", tools=work.tools)
            assert ("incomplete", []) == (response.status, work.done)
            await conversation.run(given, tools=work.tools)
            assert [told] == said_to_model(conversation)
            assert_taken(scene)


async def test_f121_calls_are_left_open(make: Make, autojump_clock) -> None:
    """F121: `respond` or `turn` is given no output for a call of the history -> `OpenCallsError` names it
    (`calls`); nothing is sent, for it would be refused now and ever after.
    """
    model = Calling(function_call("quick", {}, call_id="q"))
    async with faulty(make, model=model) as scene, scene.pool.conversation(model="m") as conversation:
        await conversation.respond("look")
        with pytest.raises(wspool.OpenCallsError, match=r"function_call 'quick' \(q\)") as caught:
            await conversation.respond("more")
        assert ("not_sent", ["q"]) == (
            caught.value.delivery,
            [call["call_id"] for call in caught.value.calls],
        )
        assert 1 == len(scene.ledger)
        answer = {"type": "function_call_output", "call_id": "q", "output": "done"}
        assert "ok" == (await conversation.respond([answer])).output_text


async def test_f122_calls_of_several_kinds(make: Make, autojump_clock) -> None:
    """F122: beside a function, a response calls what `run` cannot (a shell, a computer, an approval) -> the
    response is returned before any tool has run; given the outputs of the others, `run` makes the rest.
    """
    work = Work()
    model = Calling(function_call("quick", {}, call_id="q"), SHELL)
    async with faulty(make, model=model) as scene, scene.pool.conversation(model="m") as conversation:
        response = await conversation.run("look", tools=work.tools)
        assert ("completed", 2, []) == (response.status, len(response.output), work.done)
        with pytest.raises(wspool.OpenCallsError, match="shell_call"):
            await conversation.run("never mind", tools=work.tools)
        listing = {"type": "shell_call_output", "call_id": "s", "output": []}
        assert "ok" == (await conversation.run([listing], tools=work.tools)).output_text
        assert ["quick"] == work.done
        assert_taken(scene)


async def test_f123_a_tool_returns_a_picture(make: Make, autojump_clock) -> None:
    """F123: a tool returns content parts (`input_text`, `input_image`, `input_file`) -> they are sent as
    parts, also with the whole history on another connection.
    """
    picture = {"type": "input_image", "image_url": "data:image/png;base64,AAAA", "detail": "low"}

    async def quick() -> Any:
        await trio.lowlevel.checkpoint()
        return ["a cat", picture]

    fault = FaultRule(Fault("fin", at="idle", delay=5), create=2)
    model = Calling(function_call("quick", {}, call_id="q"))
    async with faulty(make, fault, model=model) as scene, scene.pool.conversation(model="m") as conversation:
        await conversation.run("look", tools=[quick])
        await trio.sleep(6)
        await conversation.respond("more")
        assert [[{"type": "input_text", "text": "a cat"}, picture]] == said_to_model(conversation)
        assert_taken(scene)


async def test_f124_a_tool_has_a_bug(make: Make, caplog, autojump_clock) -> None:
    """F124: a tool raises -> the model is told; you find the traceback in the log (`wspool.pool`, ERROR), and
    the number in `statistics().tool_errors` and `TurnRecord.tool_errors`. A `ToolError` is meant for the
    model, and is not logged. With `tool_errors="raise"` it is raised.
    """

    async def quick() -> None:
        raise ZeroDivisionError("oh")

    async def slow() -> None:
        raise wspool.ToolError("there is no such file")

    model = Calling(function_call("quick", {}, call_id="q"), function_call("slow", {}, call_id="s"))
    async with faulty(make, model=model) as scene:
        async with scene.pool.conversation(model="m") as conversation:
            await conversation.run("look", tools=[quick, slow])
            assert ["Error: ZeroDivisionError: oh", "Error: ToolError: there is no such file"] == (
                said_to_model(conversation)
            )
            assert 2 == conversation.statistics().tool_errors
        logged = [record for record in caplog.records if record.levelno == logging.ERROR]
        assert ["wspool.pool"] == [record.name for record in logged]
        assert "ZeroDivisionError: oh" in caplog.text
        async with scene.pool.conversation(model="m") as conversation:
            with pytest.raises((ZeroDivisionError, ExceptionGroup)):
                await conversation.run("look", tools=[quick, slow], tool_errors="raise")
        assert 1 == len([record for record in caplog.records if record.levelno == logging.ERROR])


async def test_f125_a_model_calls_without_measure(make: Make, autojump_clock) -> None:
    """F125: a response has thousands of calls -> `run` makes `max_tool_calls` at once, with no more tasks
    than that, and the others after them.
    """
    running = most = 0

    async def quick() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await trio.sleep(1)
        running -= 1

    model = Calling(*[function_call("quick", {}, call_id=f"c{number}") for number in range(1000)])
    limits = {"max_tool_calls": 20}
    async with (
        faulty(make, model=model, limits=limits) as scene,
        scene.pool.conversation(model="m") as conversation,
    ):
        await conversation.run("look", tools=[quick])
        assert (20, 1000) == (most, len(said_to_model(conversation)))


async def test_f126_a_response_is_lost_after_a_tool_ran(make: Make, caplog, autojump_clock) -> None:
    """F126: with `eager=True` a tool has run, and the connection is lost before its response has ended -> a
    retry of the turn (`retries`, or the same `run` again) does not run it again for the same call; a call
    that is not repeated is told to the model, with its output. The log says which calls were made.
    """
    work = Work()
    fault = FaultRule(Fault("reset", at="terminal", delay=5), create=1)
    model = Calling(function_call("quick", {}, call_id="q"))
    async with faulty(make, fault, model=model) as scene, scene.pool.conversation(model="m") as conversation:
        response = await conversation.run("look", tools=work.tools[:1], eager=True, retries=1)
        assert ("ok", ["quick"], ["done"]) == (response.output_text, work.done, said_to_model(conversation))
        assert 3 == len(scene.ledger)
        assert "after calls of it were made: function_call 'quick'" in caplog.text
