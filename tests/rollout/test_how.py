"""How a task is done, as the command line says: an agent with its arguments, tools, fields for all."""

from pathlib import Path

import pytest

from tests.rollout.command import Saying, answers, place, rollout, write
from wspool.rollout.method import Method
from wspool.rollout.tasks import Task
from wspool.server import ModelRequest, ModelTurn, function_call, message
from wspool.testing import local_server

__all__ = ["place"]  # a fixture

pytestmark = pytest.mark.network

MINE = '''
import wspool

async def agent(conversation, task, *, depth: int = 1, note: str = "") -> object:
    return [task["id"], depth, note]

def add(a: int, b: int) -> int:
    """Add two numbers.

    Args:
        a: the one.
    """
    return a + b

async def shout(word: str) -> str:
    """Say it louder."""
    return word.upper()

tools = [add, shout]
named = {"plus": add}
made = wspool.tool(add, name="sum")
empty = []
number = 7
'''


@pytest.fixture(autouse=True)
def mine(place: Path) -> None:
    Path("mine.py").write_text(MINE)
    write("tasks.jsonl", {"id": "a", "input": "hi"}, {"id": "b", "input": "hi", "temperature": 1})


def test_an_agent_has_arguments() -> None:
    """A value is JSON, or else a text."""
    ended = rollout(
        "tasks.jsonl", "--local", "--agent", "./mine.py:agent", "--agent-arg", "depth=3", "--agent-arg",
        "note=as it is",
    )  # fmt: skip

    assert (0, {"a": ["a", 3, "as it is"], "b": ["b", 3, "as it is"]}) == (ended.code, answers(ended.results))


@pytest.mark.parametrize("name", ["name", "option", "function", "self_", "conversation_id"])
def test_an_argument_of_an_agent_may_have_any_name(name: str) -> None:
    """It is nobody else's."""
    Path("mine.py").write_text(f"async def agent(conversation, task, {name}):\n    return {name}\n")
    ended = rollout("tasks.jsonl", "--local", "--agent", "./mine.py:agent", "--agent-arg", f"{name}=x")

    assert (0, {"a": "x", "b": "x"}) == (ended.code, answers(ended.results))


class Adding:
    """Calls the first tool that it is told of, and says what it gave."""

    def respond(self, request: ModelRequest) -> ModelTurn:
        if "output" in request.context[-1]:
            return ModelTurn(output=[message(str(request.context[-1]["output"]))])
        return ModelTurn(output=[function_call(str(request.tools[0]["name"]), {"a": 20, "b": 22})])


@pytest.mark.parametrize("name", ["tools", "named", "made", "add"])
def test_tools_of_ones_own_are_defined_and_called(name: str) -> None:
    """Functions, by name or by themselves, or one: the model is told what they take."""
    with local_server(model=Adding()) as server:
        ended = rollout("tasks.jsonl", "--url", server.url, "--tools", f"./mine.py:{name}")

    assert (0, {"a": "42", "b": "42"}) == (ended.code, answers(ended.results))


def test_fields_for_all_tasks() -> None:
    """They replace what a task says, and go into its objects; a Batch line is no exception."""
    model = Saying()
    batch = write(
        "batch.jsonl",
        {
            "custom_id": "a",
            "method": "POST",
            "url": "/v1/responses",
            "body": {"model": "m", "input": "hi", "reasoning": {"summary": "auto", "effort": "high"}},
        },
    )
    options = ("--set", "temperature=0", "--set", "reasoning.effort=low", "--set", "model=n")
    with local_server(model=model) as server:
        codes = [
            rollout(tasks, "--url", server.url, "--no-resume", *options).code
            for tasks in ("tasks.jsonl", batch)
        ]

    assert [0, 0] == codes
    assert [(0, "n")] * 3 == [(body["temperature"], body["model"]) for body in model.bodies]
    assert [None, None, "auto"] == [body["reasoning"].get("summary") for body in model.bodies]
    assert ["low"] * 3 == [body["reasoning"]["effort"] for body in model.bodies]


def test_what_is_set_makes_other_results() -> None:
    """Results of another temperature, of other tools or arguments are other results."""
    with local_server() as server:
        rollout("tasks.jsonl", "--url", server.url)
        ended = rollout("tasks.jsonl", "--url", server.url, "--set", "temperature=0")

    assert 2 == ended.code
    assert "set: None then, {'temperature': 0} now" in ended.err


def test_objects_are_put_together_and_nothing_is_changed_in_place() -> None:
    """The task of the file stays what it is."""
    task = Task(id="a", body={"input": "hi", "reasoning": {"effort": "high"}}, source={})

    fields = Method(overrides={"reasoning": {"summary": "auto"}}).fields(task)

    assert {"reasoning": {"effort": "high", "summary": "auto"}} == fields
    assert {"effort": "high"} == task.body["reasoning"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--agent ./mine.py:agent --agent-arg deep=3", "unexpected keyword argument 'deep'"),
        ("--agent ./mine.py:agent --agent-arg depth", "must be KEY=VALUE"),
        ("--agent ./mine.py:agent --agent-arg depth=1 --agent-arg depth=2", "is given twice"),
        ("--agent-arg depth=3", "say which with --agent"),
        ("--tools ./mine.py:tools --agent ./mine.py:agent", "an agent calls its tools itself"),
        ("--tools mine", "must be pkg.mod:tools or ./file.py:tools"),
        ("--tools ./mine.py:number", "tools= takes what to call by tool name"),
        ("--tools ./mine.py:empty", "has no tool in it"),
        ("--tools ./mine.py:nothing", "cannot be imported"),
        ("--set temprature=0", "'temprature' is no field of a request; 'temperature' is one"),
        ("--set zzzz=0", "'zzzz' is no field of a request\n"),
        ("--set input=x", "that is the task's own, or the pool's"),
        ("--set temperature=hot", '--set temperature: it must be a number, not "hot"'),
        ("--set temperature=NaN", '--set temperature: it must be a number, not "NaN"'),
        ("--set temperature=1e999", "temperature is inf, and JSON has no such number"),
        ("--set store=maybe", "--set store: it must be true or false"),
        ("--set metadata.deep.er=1", "--set metadata: it must be an object of texts"),
        ("--set tools=[1]", "--set tools: it must be a list of objects"),
        ("--set tool_choice=5", "--set tool_choice: it must be a text or an object"),
        ("--set conversation=c", "that is the task's own, or the pool's"),
        ("--score exact --right-from nan", "must be a finite number"),
        ("--leave-out=", "--leave-out must be the name of a field"),
        ("--model=", "--model must be the name of a model"),
        ("--leave-out=seed", "--leave-out 'seed' is in none of 2 tasks"),
        ("--id-field=", "--id-field must be the name of a field"),
        ("--header A", "--header is for an endpoint"),
        ("--unknown-effects stop", "--unknown-effects is of the calls that --checkpoint-turns notes"),
        ("--proxy nowhere:1", "--proxy is for an endpoint"),
        ("--api-key-env MINE", "--api-key-env is for an endpoint"),
        ("--set =1", "must be KEY=VALUE"),
        ("--set reasoning..effort=1", "must be KEY=VALUE"),
        ("--set reasoning=low --set reasoning.effort=low", "has a value already"),
    ],
)
def test_mistakes_are_named_before_anything_runs(options: str, expected: str) -> None:
    """In one line, with exit code 2."""
    ended = rollout("tasks.jsonl", "--local", *options.split())

    assert (2, "") == (ended.code, ended.out)
    assert expected in ended.err


def test_a_task_that_defines_other_tools_is_named() -> None:
    """What it defines cannot be called, and that is known beforehand."""
    write("other.jsonl", {"id": "a", "input": "hi", "tools": [{"type": "function", "name": "subtract"}]})

    ended = rollout("other.jsonl", "--local", "--tools", "./mine.py:tools")

    assert 2 == ended.code
    assert "does not fit the task 'a': it has no function for 'subtract'" in ended.err


def test_a_batch_line_goes_as_it_is_and_what_is_unknown_is_named() -> None:
    """A field may be newer than this, or a mistake."""
    body = {"input": "hi", "temprature": 0}
    write("other.jsonl", {"custom_id": "a", "method": "POST", "url": "/v1/responses", "body": body})

    ended = rollout("other.jsonl", "--local")

    assert (1, 1) == (ended.code, len(ended.results))
    assert 'fields that are unknown here go as they are: "temprature"' in ended.err


def test_what_cannot_be_sent_fails_alone_and_is_named_before() -> None:
    """No request is made of it."""
    write("some.jsonl", {"id": "a", "input": "hi", "background": True}, {"id": "b", "input": "hi"})
    model = Saying()
    with local_server(model=model) as server:
        ended = rollout("some.jsonl", "--url", server.url, "--model", "m")
    a, b = sorted(ended.results, key=lambda line: str(line["id"]))

    assert "what cannot be sent fails, and the others are run\nsome.jsonl:1: 'background'" in ended.err
    assert (1, 1, ["failed", "done"]) == (ended.code, len(model.bodies), [a["outcome"], b["outcome"]])
    assert ("ValueError", None) == (a["error"]["type"], a["error"]["traceback"])
    assert a["error"]["message"].startswith("some.jsonl:1: 'background' cannot be set here")
