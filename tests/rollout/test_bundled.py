"""The bundled questions are answered by looking, and the answers are the truth."""

import functools
import json
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from wspool.rollout.bundled import _about_packages, _about_places, bundled_tasks
from wspool.rollout.tasks import Task
from wspool.rollout.tools import TOOL_SCHEMAS, Tools
from wspool.server.lookup import MAX_PARALLEL, LookupModel
from wspool.server.models import Item, ModelRequest, text_of

#: All that may be asked about; what this installation does not have is asked by nobody.
IDS = [question.id for question in (*_about_places(), *_about_packages())]

#: Turns a finished list of (call, output) into what the client sends next.
Shuffle = Callable[[list[Item]], list[Item]]


@functools.cache
def tasks() -> dict[str, Task]:
    """The tasks by their ids. Half the standard library is read for them: not for the collection."""
    return {task.id: task for task in bundled_tasks()}


class Play:
    """One conversation of the model with the real tools, without a network in between."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.context: list[Item] = [{"type": "message", "role": "user", "content": task.body["input"]}]
        self.calls: list[list[Item]] = []

    def ask(self) -> Sequence[Item]:
        request = ModelRequest(context=self.context, tools=self.task.body["tools"], body=self.task.body)
        return LookupModel().respond(request).output

    async def answer(self, order: random.Random | None = None) -> str:
        tools = Tools().callables()
        while True:
            output = self.ask()
            calls = [item for item in output if item["type"] == "function_call"]
            if not calls:
                return text_of(output[0])
            self.calls.append(calls)
            results: list[Item] = []
            for call in calls:
                call["call_id"] = f"call_{random.getrandbits(64):x}"
                said: Any = tools[call["name"]](**json.loads(call["arguments"]))
                said = said if isinstance(said, str) else await said
                results.append({"type": "function_call_output", "call_id": call["call_id"], "output": said})
            if order is not None:
                order.shuffle(results)
            self.context += [*calls, *results]


@pytest.mark.parametrize("id", IDS)
async def test_a_bundled_task_is_answered_rightly(id: str) -> None:
    """The answer found through the tools is the one computed from the interpreter itself."""
    if id not in tasks():
        pytest.skip("not in this installation")
    play = Play(tasks()[id])

    answer = await play.answer(random.Random(id))

    assert answer == tasks()[id].expected
    assert max(map(len, play.calls)) <= (MAX_PARALLEL if tasks()[id].body["parallel_tool_calls"] else 1)
    called = [(call["name"], call["arguments"]) for calls in play.calls for call in calls]
    assert len(called) == len(set(called))


async def test_the_batch_is_varied() -> None:
    """Many tasks with ids of their own; some with many calls, some with several in one turn."""
    counts: list[int] = []
    parallel = 0
    for task in tasks().values():
        play = Play(task)
        await play.answer()
        counts.append(sum(map(len, play.calls)))
        parallel += max(map(len, play.calls)) > 1

    assert len(tasks()) == len(bundled_tasks()) >= 44
    assert min(counts) >= 2
    assert sum(count == 3 for count in counts) >= 10
    assert sum(count > 20 for count in counts) >= 8
    assert parallel >= 8


async def test_any_point_of_a_conversation_can_be_asked_again() -> None:
    """The model remembers nothing: the same context gets the same calls, however often."""
    play = Play(tasks()["where-urllib"])
    seen: list[tuple[list[Item], Sequence[Item]]] = []
    ask = play.ask

    def remember() -> Sequence[Item]:
        context = list(play.context)
        output = ask()
        seen.append((context, [dict(item) for item in output]))
        return output

    play.ask = remember  # type: ignore[method-assign]
    await play.answer()

    for context, output in reversed(seen):
        play.context = context
        assert ask() == output


def after_grep(output: object, question: str | None = None) -> str:
    """What the model says when its second call, a grep, got *output*."""
    calls: list[Item] = [
        {
            "type": "function_call",
            "name": "list_dir",
            "arguments": '{"path": "json"}',
            "call_id": "a",
        },
        {"type": "function_call_output", "call_id": "a", "output": '{"directories": [], "files": []}'},
        {
            "type": "function_call",
            "name": "grep",
            "arguments": json.dumps(
                {"pattern": r"^(?:async def|def|class) JSONDecoder\b", "path": "json"},
            ),
            "call_id": "b",
        },
        {"type": "function_call_output", "call_id": "b", "output": output},
    ]
    asked = question if question is not None else tasks()["where-JSONDecoder"].body["input"]
    context = [{"role": "user", "content": asked}, *calls]
    return text_of(LookupModel().respond(ModelRequest(context=context, tools=TOOL_SCHEMAS)).output[0])


@pytest.mark.parametrize(
    "output",
    [
        "Error: the disk is on fire",
        None,
        "[1]",
        "{}",
        '{"matches": 3}',
        '{"matches": [], "truncated": false}',
        '{"matches": [], "truncated": true}',
        '{"matches": [{"line": 1}]}',
        '{"error": "no"}',
        [{"type": "input_text", "text": "what?"}],
    ],
)
def test_a_tool_that_failed_is_admitted(output: object) -> None:
    """No guess and no second try."""
    assert after_grep(output).startswith("I could not find the answer: ")


def test_a_question_that_it_does_not_know() -> None:
    """It says so, and calls nothing; no question at all is one of them."""
    for context in ([{"role": "user", "content": "What is the meaning of life?"}], []):
        (item,) = LookupModel().respond(ModelRequest(context=context, tools=TOOL_SCHEMAS)).output

        assert text_of(item).startswith("I only know some kinds of questions")


def test_a_tool_that_was_not_offered() -> None:
    """Without its tools it cannot know anything."""
    context = [{"role": "user", "content": tasks()["where-JSONDecoder"].body["input"]}]
    (item,) = LookupModel().respond(ModelRequest(context=context)).output

    assert text_of(item) == "I could not find the answer: I was not given the tool list_dir."


async def test_a_second_question_is_looked_up_anew() -> None:
    """What was found for an earlier question of the conversation is not used again."""
    play = Play(tasks()["definitions-json.decoder"])
    await play.answer()
    asked = len(play.calls)
    play.context.append({"role": "user", "content": play.task.body["input"]})

    assert await play.answer() == play.task.expected
    assert len(play.calls) == 2 * asked


async def test_foreign_calls_in_the_conversation_do_no_harm() -> None:
    """Calls whose arguments are no JSON, and outputs of nobody's call, are passed over."""
    play = Play(tasks()["definitions-json.decoder"])
    play.context += [
        {"type": "function_call", "name": "other", "arguments": "{", "call_id": "x"},
        {"type": "function_call_output", "call_id": "y", "output": "z"},
    ]

    assert await play.answer() == play.task.expected


def test_a_module_and_a_class_that_are_not_there() -> None:
    """The search ends in a plain sentence."""
    listing: list[Item] = [
        {"type": "function_call", "name": "list_dir", "arguments": '{"path": "a"}', "call_id": "1"},
        {"type": "function_call_output", "call_id": "1", "output": '{"files": [], "directories": []}'},
    ]
    questions = {
        "How many classes and how many functions does the module `a.b` define at its top level?": "no module",
        "Which module of the package `a` has the most lines, without its subpackages?": "has no modules",
    }
    for question, reason in questions.items():
        context = [{"role": "user", "content": question}, *listing]
        (item,) = LookupModel().respond(ModelRequest(context=context, tools=TOOL_SCHEMAS)).output

        assert reason in text_of(item)
