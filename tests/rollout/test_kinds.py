"""Batches as people have them: each runs, or is refused with the option that makes it run.

The rows are made up, in the shapes of public files: OpenAI's and Azure's Batch files and examples for
training, benchmarks of questions, of agents and of code, and what spreadsheets and data frames write.
"""

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest

from tests.rollout.command import Saying, place, rollout, write
from wspool.server import ModelRequest, ModelTurn
from wspool.testing import local_server

__all__ = ["place"]  # a fixture

pytestmark = [pytest.mark.network, pytest.mark.usefixtures("place")]

Q = "How many apples are left?"
CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": Q}]
PARTS = [
    {
        "role": "user",
        "content": [
            {"type": "text", "text": Q},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
        ],
    }
]
TOOL = {"type": "function", "function": {"name": "count", "parameters": {"type": "object", "properties": {}}}}
SCHEMA = {
    "type": "json_schema",
    "json_schema": {"name": "answer", "schema": {"type": "object", "properties": {}}, "strict": False},
}


def batch(url: str, **body: Any) -> dict[str, Any]:
    return {"custom_id": "request-1", "method": "POST", "url": url, "body": {"model": "m", **body}}


def lines(*rows: object) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def table(*rows: dict[str, str], delimiter: str = ",") -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


GSM8K = {"question": Q, "answer": "There are 50 - 8 = <<50-8=42>>42 apples.\n#### 42"}
TAU = {
    "annotator": 0,
    "user_id": "u_1",
    "instruction": Q,
    "actions": [{"name": "f", "arguments": {}}],
    "outputs": [],
}
TAU2 = {
    "id": "0",
    "description": {"purpose": "p"},
    "user_scenario": {"persona": None, "instructions": Q},
    "evaluation_criteria": {"actions": []},
}
INSPECT = {"input": CHAT, "target": "42", "id": 7, "metadata": {"level": 3}, "choices": ["a", "b"]}

#: name of the file, what it holds, and the options that are needed.
KINDS: list[tuple[str, bytes, str]] = [
    ("openai-responses.jsonl", lines(batch("/v1/responses", input=Q)), ""),
    ("openai-chat.jsonl", lines(batch("/v1/chat/completions", messages=CHAT, max_tokens=100)), ""),
    (
        "openai-chat-seed.jsonl",
        lines(batch("/v1/chat/completions", messages=CHAT, seed=42)),
        "--leave-out seed",
    ),
    ("openai-chat-images.jsonl", lines(batch("/v1/chat/completions", messages=PARTS)), ""),
    (
        "openai-chat-tools.jsonl",
        lines(batch("/v1/chat/completions", messages=CHAT, tools=[TOOL], tool_choice="auto")),
        "",
    ),
    (
        "openai-chat-schema.jsonl",
        lines(batch("/v1/chat/completions", messages=CHAT, response_format=SCHEMA)),
        "",
    ),
    ("azure.jsonl", lines(batch("/chat/completions", messages=CHAT)), ""),
    ("azure-responses.jsonl", lines(batch("/openai/v1/responses?api-version=preview", input=CHAT)), ""),
    ("mistral.jsonl", lines({"custom_id": "0", "body": {"messages": CHAT, "max_tokens": 100}}), ""),
    (
        "anthropic.jsonl",
        lines({"custom_id": "a", "params": {"model": "m", "max_tokens": 9, "messages": CHAT[1:]}}),
        "--input-field params.messages",
    ),
    ("chat-bodies.jsonl", lines({"model": "m", "messages": CHAT, "temperature": 0}), ""),
    (
        "fine-tuning.jsonl",
        lines({"messages": [*CHAT, {"role": "assistant", "content": "42"}]}),
        "--input-field messages",
    ),
    ("openai-evals.jsonl", lines({"input": CHAT, "ideal": "42"}), ""),
    ("gsm8k.jsonl", lines(GSM8K), "--input-field question"),
    ("tau-bench.json", json.dumps([TAU]).encode(), "--input-field instruction"),
    ("tau2-bench.json", json.dumps([TAU2]).encode(), "--input-field user_scenario.instructions"),
    ("inspect.jsonl", lines(INSPECT), ""),
    ("inspect.csv", table({"input": Q, "target": "42"}), ""),
    (
        "humaneval.jsonl.gz",
        gzip.compress(lines({"task_id": "T/0", "prompt": Q, "entry_point": "f", "test": "assert f()"})),
        "--input-field prompt",
    ),
    (
        "mbpp.jsonl",
        lines({"task_id": 601, "text": Q, "code": "def f(): ...", "test_list": ["assert f()"]}),
        "--input-field text",
    ),
    ("mmlu.csv", table({"question": Q, "A": "1", "B": "2", "answer": "B"}), "--input-field question"),
    (
        "alpaca.json",
        json.dumps([{"instruction": Q, "input": "", "output": "42"}]).encode(),
        "--input-field instruction",
    ),
    (
        "sharegpt.json",
        json.dumps(
            [{"id": "x", "conversations": [{"from": "human", "value": Q}, {"from": "gpt", "value": "42"}]}]
        ).encode(),
        "--input-field conversations.0.value",
    ),
    (
        "swe-bench.jsonl",
        lines({"instance_id": "a__b-1", "repo": "a/b", "problem_statement": Q, "patch": "diff"}),
        "--input-field problem_statement",
    ),
    (
        "bfcl.jsonl",
        lines({"id": "simple_0", "question": [[{"role": "user", "content": Q}]], "function": []}),
        "--input-field question.0",
    ),
    (
        "squad.json",
        json.dumps(
            {
                "version": "1",
                "data": [{"id": "s", "question": Q, "context": "c", "answers": {"text": ["42"]}}],
            }
        ).encode(),
        "--input-field question",
    ),
    ("verifiers.jsonl", lines({"prompt": CHAT, "answer": "42", "info": {}}), "--input-field prompt"),
    (
        "excel.csv",
        b"\xef\xbb\xbf" + table({"id": "1", "input": Q}, delimiter=";").replace(b"\n", b"\r\n"),
        "",
    ),
    ("sheet.tsv", table({"id": "1", "input": Q}, delimiter="\t"), ""),
    ("lines.json", lines({"id": "1", "input": Q}, {"id": "2", "input": Q}), ""),
    ("array.jsonl", json.dumps([{"id": "1", "input": Q}]).encode(), "--format json"),
]


def last_text(request: ModelRequest) -> str:
    return json.dumps([item for item in request.context if item.get("role") == "user"])


@pytest.mark.parametrize(("name", "content", "options"), KINDS, ids=[name for name, _, _ in KINDS])
def test_it_runs_or_the_option_is_named_that_makes_it_run(name: str, content: bytes, options: str) -> None:
    """What the model sees is the question."""
    Path(name).write_bytes(content)
    model = Saying(last_text)
    with local_server(model=model) as server:
        ended = rollout(name, "--url", server.url)
        if options:
            assert (2, 0) == (ended.code, len(model.bodies)), ended.err
            assert options in ended.err
            ended = rollout(name, "--url", server.url, *options.split())

    assert 0 == ended.code, ended.err
    assert all(Q in json.dumps(line) for line in ended.results)
    assert "Traceback" not in ended.err


def test_other_files_are_told_what_to_do() -> None:
    """A table of a data frame, an archive, another encoding."""
    for content, way in (
        (b"PAR1\0\0", "to_json"),
        (b"PK\x03\x04\0", "unpack it"),
        ("{}".encode("utf-16"), "UTF-8"),
        (b"\x1f\x8b\x08\0", "cannot be read"),
        (gzip.compress(lines({"id": 1, "input": Q}))[:-9], "cannot be read"),
        (b'{"id": "a", "input": "caf\xe9"}', "save it as UTF-8"),
    ):
        Path("tasks.jsonl").write_bytes(content)
        ended = rollout("tasks.jsonl", "--local")

        assert 2 == ended.code
        assert way in ended.err


@pytest.mark.parametrize(
    ("content", "options"),
    [
        (lines({"id": "a", "input": Q}), ""),
        (gzip.compress(lines({"id": "a", "input": Q})), ""),
        (json.dumps([{"id": "a", "input": Q}]).encode(), ""),
        (table({"id": "a", "input": Q}), "--format csv"),
    ],
    ids=["lines", "gzip", "json", "csv"],  # what gzip makes has the time in it, and workers must agree
)
def test_standard_input(content: bytes, options: str) -> None:
    """Looked at, as it has no name; compressed or not."""
    ended = rollout("-", "--local", *options.split(), stdin=content)

    assert (0, ["a"]) == (ended.code, [line["id"] for line in ended.results])


class Raising(Saying):
    """Has a mistake of its own in its code."""

    def respond(self, request: ModelRequest) -> ModelTurn:
        if "three" in str(request.context):
            raise KeyError("no three")
        return super().respond(request)


def test_a_model_that_raises_is_no_outage(place: Path) -> None:
    """Its task fails with what it raised, and where; the others are done, and nobody waits."""
    write("tasks.jsonl", {"id": "a", "input": "two"}, {"id": "b", "input": "three"})
    with pytest.raises(KeyError), local_server(model=Raising()) as server:
        ended = rollout("tasks.jsonl", "--url", server.url, "--model", "m")
    assert 1 == ended.code
    lines = {line["id"]: line for line in ended.results}
    assert ("done", "failed") == (lines["a"]["outcome"], lines["b"]["outcome"])
    assert "model_exception" == lines["b"]["error"]["code"]
    assert "the model raised KeyError: 'no three' (test_kinds.py:" in lines["b"]["error"]["message"]
