"""Functions as tools: their definitions, what they are given, and mistakes that are said at the call."""

from __future__ import annotations

import datetime
import enum
import functools
import logging
from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypedDict

import pydantic
import pytest
import trio

import wspool
from tests.helpers import Recorder, policy
from tests.pool.tooling import Says, call, outputs, talking
from wspool.pool import schemas

F = {"type": "function", "name": "f"}
CUSTOM = {"type": "custom", "name": "f"}


class Unit(enum.Enum):
    C = "celsius"
    F = "fahrenheit"


class Place(TypedDict):
    city: str


class Trip(pydantic.BaseModel):
    to: str
    on: datetime.date


async def weather(
    city: str,
    days: int = 3,
    unit: Unit = Unit.C,
    kind: Literal["short", "long"] = "short",
    units: list[Unit] | None = None,
    near: dict[str, float] | None = None,
    note: Annotated[str, "what else"] = "",
    place: Place | None = None,
    odd: Any = None,
    **more: object,
) -> str:
    """Say the weather.

    In two lines.

    Args:
        city: the city,
            and its country.
        days (int): how many.

    Returns:
        what it will be.
    """
    await trio.lowlevel.checkpoint()
    return repr((city, days, unit))


@pytest.fixture(params=["pydantic", "own"])
def maker(request, monkeypatch) -> str:
    """What makes the schemas."""
    if request.param == "own":
        monkeypatch.setattr(schemas, "_module", lambda: None)
    return str(request.param)


def test_a_definition_is_made_of_signature_and_docstring(maker: str) -> None:
    """With and without pydantic."""
    made = wspool.tool(weather).definition
    parameters = made["parameters"]
    properties = parameters["properties"]

    assert ("function", "weather", "Say the weather.\n\nIn two lines.", False) == (
        made["type"],
        made["name"],
        made["description"],
        made["strict"],
    )
    assert (["city"], True) == (parameters["required"], parameters["additionalProperties"])
    assert {"type": "string", "description": "the city,\nand its country."} == properties["city"]
    assert {"type": "integer", "description": "how many.", "default": 3} == properties["days"]
    assert ["short", "long"] == properties["kind"]["enum"]
    assert [{"type": "object", "additionalProperties": {"type": "number"}}, {"type": "null"}] == properties[
        "near"
    ]["anyOf"]
    assert ["celsius", "fahrenheit"] == (
        parameters["$defs"]["Unit"] if maker == "pydantic" else properties["unit"]
    )["enum"]
    assert {"default": None} == properties["odd"]
    assert "more" not in properties


async def test_a_function_gets_what_it_asks_for(maker: str, autojump_clock) -> None:
    """Enums, and with pydantic whatever that reads; what does not fit is told to the model."""
    asked = [
        (0, call("weather", "a", '{"city": "Bonn", "unit": "fahrenheit", "units": ["celsius"]}')),
        (0, call("weather", "b", '{"city": "Bonn", "unit": "kelvin"}')),
    ]
    async with talking(Says(asked)) as (far, _, conversation):
        await conversation.run("x", tools=[weather])
        said = outputs(far.requests[1])

        assert repr(("Bonn", 3, Unit.F)) == said["a"]
        assert said["b"].startswith("Error: ValidationError" if maker == "pydantic" else "Error: ValueError")
        assert [wspool.tool(weather).definition] == far.requests[0]["tools"] == far.requests[1]["tools"]
        assert (2, 1) == (conversation.statistics().tool_calls, conversation.statistics().tool_errors)


async def test_models_and_dates(autojump_clock) -> None:
    """A model of pydantic's comes as one, a date as a date."""

    async def book(trip: Trip) -> str:
        return f"{trip.to} on {trip.on:%d %b}"

    async with talking(Says([(0, call("book", "a", '{"trip": {"to": "Bonn", "on": "2026-11-29"}}'))])) as (
        far,
        _,
        conversation,
    ):
        await conversation.run("x", tools=[wspool.tool(book)])
        assert {"a": "Bonn on 29 Nov"} == outputs(far.requests[1])


def test_names_and_texts_can_be_given() -> None:
    """For functions whose own are no good; and `tool` is a decorator."""
    made = wspool.tool(lambda city: city, name="echo", description="Say it.", strict=True, async_=True)
    assert {
        "type": "function",
        "name": "echo",
        "description": "Say it.",
        "parameters": {
            "type": "object",
            "properties": {"city": {}},
            "required": ["city"],
            "additionalProperties": False,
        },
        "strict": True,
        "async": True,
    } == made.definition
    assert "x" == made("x")
    assert "<DefinedTool" in repr(made) or "DefinedTool(name='echo')" == repr(made)

    class Asked:
        """Ask.

        :param str what: the question
        :returns: nothing
        """

        def __call__(self, what: str) -> None:
            """Ask it."""

    assert ("Asked", "Ask it.") == (wspool.tool(Asked()).name, wspool.tool(Asked()).definition["description"])
    partial = functools.partial(weather, city="Bonn")
    assert "unit" in wspool.tool(partial, name="bonn").definition["parameters"]["properties"]
    assert wspool.tool(made, name="other").definition["name"] == "other"

    @wspool.tool
    def look(path: str) -> str:
        """Look.

        :param str path: where
          to look
        """
        return path

    assert ("look", "where\nto look") == (
        look.name,
        look.definition["parameters"]["properties"]["path"]["description"],
    )


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        (7, TypeError, "a tool is a function, not 7"),
        (lambda: None, ValueError, "a tool cannot be called '<lambda>'"),
        (lambda x, /: None, TypeError, "by position only"),
        ("annotated", TypeError, "there is no schema for"),
        ("unreadable", TypeError, "cannot be read"),
    ],
)
def test_what_no_definition_can_be_made_of(given, error, text) -> None:
    """It says why."""

    def annotated(scope: trio.CancelScope) -> None: ...

    def unreadable(scope: Nowhere) -> None: ...  # type: ignore[name-defined] # noqa: F821

    function = {"annotated": annotated, "unreadable": unreadable}.get(str(given), given)
    with pytest.raises(error, match=text):
        wspool.tool(function, name=None if "lambda" in text else "f")


def f(**_: Any) -> str:
    return "f"


@pytest.mark.parametrize(
    ("defined", "tools", "error", "text"),
    [
        ([F], {"f": f, "g": f}, ValueError, "no definition of 'g'"),
        ([F], {}, ValueError, "no function for 'f'"),
        ([CUSTOM], {}, ValueError, "no function for 'f'"),
        ([], {"f": f}, ValueError, "no definition of 'f'"),
        ([F], {"f": 7}, TypeError, "that of 'f' is 7"),
        ([F], [F], TypeError, "is none"),
        ([F], [7], TypeError, "7 is none"),
        ([F], "f", TypeError, r"not 'f'"),
        (None, [lambda: 1], ValueError, "cannot be called '<lambda>'"),
        (None, [f, wspool.tool(weather, name="f")], ValueError, "two functions that are called 'f'"),
        (None, {"g": lambda x, /: x}, TypeError, "by position only"),
    ],
)
async def test_mistakes_are_said_at_the_call(defined, tools, error, text, autojump_clock) -> None:
    """Only the model would see them else."""
    more = {} if defined is None else {"tools": defined}
    async with talking() as (far, pool, _), pool.conversation(model="m", **more) as conversation:
        with pytest.raises(error, match=text):
            await conversation.run("x", tools=tools)
        assert [] == far.requests


@pytest.mark.parametrize(
    ("body", "tools", "sent"),
    [
        ({}, {"g": f}, ["g"]),
        ({}, {}, None),
        ({}, [], None),
        ({"tools": [F]}, {"f": f}, ["f"]),
        ({"tools": [F]}, [f], ["f"]),
        ({"tools": [F]}, {"f": f, "w": wspool.tool(weather)}, ["f", "w"]),
        ({"tools": [F, {"type": "web_search"}]}, [f, weather], ["f", None, "weather"]),
        ({"prompt": {"id": "pmpt_1"}}, {"f": f}, None),
    ],
)
async def test_what_is_not_defined_is_defined(body, tools, sent, autojump_clock) -> None:
    """Where the function says how; what the caller defines stays as it is."""
    async with talking() as (far, pool, _), pool.conversation(model="m", **body) as conversation:
        await conversation.run("x", tools=tools)
        got = far.requests[0].get("tools")
        assert sent == (None if got is None else [tool.get("name") for tool in got])
        if "tools" in body:
            assert body["tools"] == (got or [])[: len(body["tools"])]


async def test_pictures_are_sent_as_pictures(autojump_clock) -> None:
    """And arguments that come as an object are taken."""
    picture = {"type": "input_image", "image_url": "data:,", "detail": "low"}

    async def draw(what: str) -> Sequence[Any]:
        return [what, picture]

    async with talking(Says([(0, call("draw", "a", {"what": "a cat"}))])) as (far, _, conversation):
        await conversation.run("x", tools={"draw": draw})
        assert {"a": [{"type": "input_text", "text": "a cat"}, picture]} == outputs(far.requests[1])
        assert far.requests[1]["input"] == conversation.items[2:3]


async def test_a_bug_in_a_tool_is_logged_and_counted(caplog, autojump_clock) -> None:
    """With its traceback; what a tool means for the model, and the model's own mistakes, are no bugs."""

    async def broken() -> None:
        raise ZeroDivisionError("oh")

    async def no() -> None:
        raise wspool.ToolError("there is no such file")

    asked = [(0, call(name, name)) for name in ("broken", "no", "gone")]
    recorder = Recorder()
    async with talking(Says(asked), instrument=recorder) as (far, _, conversation):
        await conversation.run("x", tools={"broken": broken, "no": no})

        assert {
            "broken": "Error: ZeroDivisionError: oh",
            "no": "Error: ToolError: there is no such file",
            "gone": "Error: LookupError: there is no tool 'gone'; there are broken, no",
        } == outputs(far.requests[1])
        (logged,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
        assert "function_call 'broken' (broken)" in logged.getMessage()
        assert logged.name == "wspool.pool"
        assert "in broken" in caplog.text
        assert 3 == conversation.statistics().tool_errors
        assert [0, 3] == [record.tool_errors for record in recorder.records]
        await conversation.respond("more")
        assert 0 == recorder.records[-1].tool_errors


async def test_what_a_tool_raises_to_the_caller_is_not_logged(caplog, autojump_clock) -> None:
    """The caller has it; it is counted all the same."""

    async def broken() -> None:
        raise ZeroDivisionError

    async with talking(Says([(0, call("broken", "a"))])) as (_, _, conversation):
        with pytest.raises(ZeroDivisionError):
            await conversation.run("x", tools={"broken": broken}, tool_errors="raise")
        assert (1, 1) == (conversation.statistics().tool_calls, conversation.statistics().tool_errors)
    assert "broken" not in caplog.text


async def test_a_model_does_not_choose_how_many_tasks_there_are(autojump_clock) -> None:
    """5,000 calls in one response: as many at once as the policy says, and no more tasks for them."""
    most, running, tasks = 0, 0, 0

    async def tool(number: int) -> int:
        nonlocal most, running, tasks
        running += 1
        most = max(most, running)
        tasks = max(tasks, trio.lowlevel.current_statistics().tasks_living)
        await trio.sleep(1)
        running -= 1
        return number

    asked = [call("tool", f"c{number}", f'{{"number": {number}}}') for number in range(5_000)]
    limits = policy(max_size=1, max_tool_calls=100)
    async with talking(Says((), final=asked), limits=limits) as (far, _, conversation):
        before = trio.lowlevel.current_statistics().tasks_living
        begun = trio.current_time()
        await conversation.run("x", tools={"tool": tool})

        assert (100, 50) == (most, trio.current_time() - begun)
        assert tasks <= before + 110
        assert {f"c{number}": str(number) for number in range(5_000)} == outputs(far.requests[1])
