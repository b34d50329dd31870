"""Which histories the server takes, and what it says of those it does not."""

import json
from typing import Any

import pytest
from trio.testing import MockClock

from wspool.server import EchoModel, Item, ModelTurn, ScriptedModel, function_call, message, open_server
from wspool.server.engine import Engine
from wspool.server.ledger import Ledger
from wspool.server.models import TurnError
from wspool.server.protocol.history import NOTHING
from wspool.server.protocol.profiles import OPENAI
from wspool.server.protocol.requests import RequestError, parse

from .client import connected, text

USER: Item = {"role": "user", "content": "hi"}
THOUGHT: Item = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA"}
BARE: Item = {"type": "reasoning", "id": "rs_1", "summary": []}
SAID: Item = {"id": "msg_1", **message("hello")}
CALL: Item = {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "look", "arguments": "{}"}
OUTPUT: Item = {"type": "function_call_output", "call_id": "c1", "output": "seen"}
CUSTOM: Item = {"type": "custom_tool_call", "call_id": "c2", "name": "sql", "input": "select 1"}
ANSWERED: Item = {"type": "custom_tool_call_output", "call_id": "c2", "output": [{"type": "input_text"}]}

KINDS: list[tuple[Item, str]] = [
    (CALL, "function call c1"),
    (CUSTOM, "custom tool call c2"),
    ({"type": "local_shell_call", "id": "lsh_1", "call_id": "c3"}, "local shell call c3"),
    ({"type": "shell_call", "call_id": "c3", "environment": {"type": "local"}}, "shell call c3"),
    ({"type": "apply_patch_call", "call_id": "c3"}, "apply patch call c3"),
    ({"type": "computer_call", "call_id": "c3"}, "computer call c3"),
    ({"type": "tool_search_call", "call_id": "c3", "execution": "client"}, "tool search call c3"),
]


def refusal(items: list[Item], *, stored: bool = False, lenient: bool = False) -> TurnError | None:
    """What the server says of *items* as all of an input."""
    return NOTHING.judge(items, items, stored=stored, lenient=lenient)[1]


@pytest.mark.parametrize(
    "items",
    [
        [],
        [USER, SAID, USER],
        [USER, THOUGHT, SAID, USER],
        [USER, THOUGHT, CALL, CUSTOM, OUTPUT, ANSWERED],
        [USER, THOUGHT, {**THOUGHT, "id": "rs_2"}, CALL, USER, OUTPUT],
        [USER, THOUGHT, {"type": "web_search_call", "id": "ws_1", "status": "completed"}, SAID],
        [USER, THOUGHT, {"role": "assistant", "content": "hello"}],
        [USER, {**BARE, "content": [{"type": "reasoning_text", "text": "hm"}]}, SAID],
        [{"type": "compaction", "encrypted_content": "x"}, THOUGHT, SAID],
        [USER, {**CALL, "async": True}, USER],
        [{"type": "shell_call", "call_id": "c3", "environment": {"type": "container_reference"}}],
        [
            {"type": "tool_search_call", "call_id": None, "execution": "server"},
            {"type": "tool_search_output"},
        ],
        [{"type": "mcp_approval_request", "id": "mcpr_1"}, USER],
        [CALL, OUTPUT, {**CALL, "id": "fc_2"}, OUTPUT],
        [{**SAID, "id": None}, {**SAID, "id": None}],
        [SAID, {"type": "item_reference", "id": "msg_1"}],
    ],
)
def test_a_history_as_the_server_made_it_is_taken(items: list[Item]) -> None:
    """Whatever may follow a reasoning item, calls answered in any order, hosted and asynchronous calls."""
    assert refusal(items) is None


def test_what_is_stored_needs_no_content() -> None:
    """The server has it."""
    assert refusal([USER, BARE, SAID], stored=True) is None


DANGLING = "Item 'rs_1' of type 'reasoning' was provided without its required following item."
GONE = (
    "Item with id 'rs_1' not found. Items are not persisted when `store` is set to false. "
    "Try again with `store` set to true, or remove this item from your input."
)
DOUBLE = "Duplicate item found with id msg_1. Remove duplicate items from your input and try again."
LONG = "string too long. Expected a string with maximum length"
EMPTY = "empty string. Expected a string with minimum length 1, but got an empty string instead."


@pytest.mark.parametrize(
    ("items", "said", "param", "code"),
    [
        ([USER, THOUGHT], DANGLING, "input", None),
        ([USER, THOUGHT, USER], DANGLING, "input", None),
        ([USER, THOUGHT, {"type": "message", "role": "developer", "content": "x"}], DANGLING, "input", None),
        ([CALL, THOUGHT, OUTPUT], DANGLING, "input", None),
        ([USER, BARE, SAID], GONE, "input", None),
        ([USER, SAID, USER, SAID], DOUBLE, "input", None),
        ([OUTPUT], "No tool call found for function call output with call_id c1.", "input", None),
        ([OUTPUT, CALL], "No tool call found for function call output with call_id c1.", "input", None),
        ([ANSWERED], "No tool call found for custom tool call output with call_id c2.", "input", None),
        ([CALL, {**ANSWERED, "call_id": "c1"}], "No tool output found for function call c1.", "input", None),
        ([CALL, OUTPUT, CALL | {"id": "fc_2"}], "No tool output found for function call c1.", "input", None),
        *(([USER, call, USER], f"No tool output found for {words}.", "input", None) for call, words in KINDS),
        ([{**CALL, "name": ""}], f"Invalid 'input[0].name': {EMPTY}", "input[0].name", "empty_string"),
        (
            [USER, {**CALL, "name": "a.b"}],
            "Invalid 'input[1].name': string does not match pattern. Expected a string that matches the "
            "pattern '^[a-zA-Z0-9_-]+$'.",
            "input[1].name",
            "invalid_value",
        ),
        (
            [{**CALL, "name": "x" * 129}],
            f"Invalid 'input[0].name': {LONG} 128, but got a string with length 129 instead.",
            "input[0].name",
            "string_above_max_length",
        ),
        (
            [{**OUTPUT, "call_id": "x" * 65}, {**CALL, "call_id": "x" * 65}],
            f"Invalid 'input[0].call_id': {LONG} 64, but got a string with length 65 instead.",
            "input[0].call_id",
            "string_above_max_length",
        ),
        (
            [{**CALL, "call_id": ""}],
            f"Invalid 'input[0].call_id': {EMPTY}",
            "input[0].call_id",
            "empty_string",
        ),
        (
            [{**CALL, "call_id": None}],
            "Invalid type for 'input[0].call_id': expected a string, but got null instead.",
            "input[0].call_id",
            "invalid_type",
        ),
        (
            [{**CALL, "arguments": {}}],
            "Invalid type for 'input[0].arguments': expected a string, but got an object instead.",
            "input[0].arguments",
            "invalid_type",
        ),
        (
            [{key: value for key, value in CALL.items() if key != "name"}],
            "Missing required parameter: 'input[0].name'.",
            "input[0].name",
            "missing_required_parameter",
        ),
        (
            [{"type": "reasoning", "id": "rs_1", "encrypted_content": "x"}, SAID],
            "Missing required parameter: 'input[0].summary'.",
            "input[0].summary",
            "missing_required_parameter",
        ),
        (
            [{"role": "assistant", "content": None}],
            "Invalid type for 'input[0].content': expected one of an array of objects or string, "
            "but got null instead.",
            "input[0].content",
            "invalid_type",
        ),
        (
            [{"role": "assistant", "content": [{"type": "output_text", "text": None}]}],
            "Invalid type for 'input[0].content[0].text': expected a string, but got null instead.",
            "input[0].content[0].text",
            "invalid_type",
        ),
        (
            [{"role": "assistant", "content": [{"type": "input_text", "text": "x"}]}],
            "Invalid value: 'input_text'. Supported values are: 'output_text' and 'refusal'.",
            "input[0].content[0]",
            "invalid_value",
        ),
        (
            [{"role": "tool", "content": "x"}],
            "Invalid value: 'tool'. Supported values are: 'assistant', 'system', 'developer', and 'user'.",
            "input[0]",
            "invalid_value",
        ),
    ],
)
def test_what_is_refused(items: list[Item], said: str, param: str, code: str | None) -> None:
    """Each with the provider's own words; a lenient server takes all but outputs without calls."""
    error = refusal(items)
    assert error is not None
    assert (error.message, error.param, error.code) == (said, param, code)
    assert error.type == "invalid_request_error"
    assert error.status == (404 if said == GONE else 400)
    easy = refusal(items, lenient=True)
    assert easy is None or easy.message.startswith("No tool call found")


@pytest.mark.parametrize("item", [{"type": "thinking"}, {"type": None}, {"type": 7}, {"text": "x"}])
def test_a_type_must_exist(item: Item) -> None:
    """The refusal names those that do."""
    error = refusal([USER, item])
    assert error is not None
    assert error.message.startswith(f"Invalid value: '{item.get('type', '')}'. Supported values are: '")
    assert ("input[1]", "invalid_value") == (error.param, error.code)


def test_a_parent_counts() -> None:
    """Its open calls, its ids, and its calls that may be answered."""
    before = NOTHING.after([USER, SAID, CALL])

    def said(items: list[Item]) -> str | None:
        _, problem = before.judge(items, items, stored=False)
        return None if problem is None else problem.message

    assert said([OUTPUT]) is None
    assert said([USER]) == "No tool output found for function call c1."
    assert said([OUTPUT, CALL]) == DOUBLE.replace("msg_1", "fc_1")
    assert said([OUTPUT, SAID]) == DOUBLE


@pytest.mark.parametrize(
    "raw",
    [
        rb'{"a":"\ud83d"}',
        rb'{"a":"x\uDE00\ud83d"}',
        rb'{"\ud800":1}',
        b'{"a":"\xed\xa0\xbd"}',
        rb'{"a":NaN}',
        rb'{"a":[-Infinity]}',
        rb'{"a":1e999}',
        '{"a":"\ud83d"}',
    ],
)
def test_what_is_no_json(raw: bytes | str) -> None:
    """Half a surrogate pair, and numbers that JSON does not have."""
    with pytest.raises(RequestError, match="could not parse the JSON body"):
        parse(raw)


@pytest.mark.parametrize(
    "raw", [rb'{"a":"\ud83d\ude00"}', rb'{"a":"\\ud83d"}', '{"a":"\U0001f600"}'.encode()]
)
def test_what_only_looks_like_none(raw: bytes) -> None:
    """A whole pair, and a text about half a pair."""
    assert parse(raw)["a"] in ("\U0001f600", r"\ud83d")


async def test_over_the_wire(autojump_clock: MockClock) -> None:
    """A refusal is an error frame, the connection stays, and a request in full mends it."""
    script = [ModelTurn(output=[function_call("look", {})]), ModelTurn(output=[message("done")])]
    async with open_server(ScriptedModel(script), port=None) as server, connected(server) as client:
        first = await client.respond("go")
        (call,) = first["output"]
        (frame,) = await client.turn("never mind", previous_response_id=first["id"])
        answer = {"type": "function_call_output", "call_id": call["call_id"], "output": "1"}
        again = await client.respond([USER, call, answer])

    assert frame["error"] == {
        "type": "invalid_request_error",
        "code": None,
        "message": f"No tool output found for function call {call['call_id']}.",
        "param": "input",
    }
    assert text(again) == "done"


async def test_compaction_is_as_strict(autojump_clock: MockClock) -> None:
    """But a call may be open: nobody goes on from there without the rest."""
    strict, lenient = (
        Engine(EchoModel(), OPENAI, Ledger(None), lenient=lenient) for lenient in (False, True)
    )
    body: dict[str, Any] = {"model": "m", "input": [USER, THOUGHT]}
    refused = strict.compact(body)
    assert isinstance(refused, TurnError)
    assert refused.message == DANGLING
    assert not isinstance(lenient.compact(body), TurnError)
    assert not isinstance(strict.compact({"model": "m", "input": [USER, CALL]}), TurnError)
    assert json.dumps(strict.compact({"model": "m", "input": "hi"}))
