"""Task files are read whole, and every mistake in them is named."""

import json
from pathlib import Path

import pytest

from wspool.rollout.batch import MAX_NAMED, BatchError, read_tasks

BATCH = {"custom_id": "b", "method": "POST", "url": "/v1/responses", "body": {"model": "m", "input": "hi"}}


def read(tmp_path: Path, content: str | bytes) -> list[dict[str, object]]:
    path = tmp_path / "tasks.jsonl"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return [
        {"id": task.id, "body": dict(task.body), "batch": task.batch, "source": dict(task.source)}
        for task in read_tasks(path)
    ]


def test_plain_lines(tmp_path: Path) -> None:
    """Everything but the id belongs to the request; a number is an id too."""
    tasks = read(tmp_path, '{"id": "a", "input": "hi", "model": "m"}\n{"id": 7, "input": []}')

    assert [(t["id"], t["body"]) for t in tasks] == [
        ("a", {"input": "hi", "model": "m"}),
        ("7", {"input": []}),
    ]
    assert tasks[1]["source"] == {"id": 7, "input": []}
    assert [task.given_id for task in read_tasks(tmp_path / "tasks.jsonl")] == ["a", 7]


def test_batch_lines(tmp_path: Path) -> None:
    """The body of an OpenAI Batch line is the request."""
    (task,) = read(tmp_path, json.dumps(BATCH))

    assert {"id": "b", "body": BATCH["body"], "batch": True, "source": BATCH} == task


def test_what_editors_leave_behind_is_no_mistake(tmp_path: Path) -> None:
    """A byte order mark, CRLF, blank lines, and Unicode line separators inside of strings."""
    content = (
        "\ufeff\r\n" + '{"id": "a", "input": "x\u2028y"}' + "\r\n  \r\n" + '{"id": "b", "input": ""}\r\n'
    )

    assert [task["id"] for task in read(tmp_path, content)] == ["a", "b"]


@pytest.mark.parametrize(
    ("line", "mistake"),
    [
        ("{", "not JSON"),
        ("[1]", "not a JSON object"),
        ('{"input": "hi"}', "there is no id"),
        ('{"id": "", "input": "hi"}', "id must be a string that is not empty"),
        ('{"id": true, "input": "hi"}', "id must be a string"),
        ('{"id": "x"}', "there is no input"),
        ('{"id": "x", "input": 1}', "input must be a string or a list of items, not int"),
        ('{"id": "x", "input": "hi", "previous_response_id": "r"}', "previous_response_id cannot be given"),
        ('{"id": "first", "input": "hi"}', "the id 'first' is taken by line 1"),
        (json.dumps(BATCH), "an OpenAI Batch line, but line 1 is a plain task"),
        (json.dumps(BATCH | {"method": "GET"}), "method must be 'POST', not 'GET'"),
        (json.dumps(BATCH | {"url": "/v1/embeddings"}), "url must be '/v1/responses', not '/v1/embeddings'"),
        (json.dumps(BATCH | {"body": None}), "there is no body"),
        (json.dumps(BATCH | {"body": {}}), "there is no input"),
    ],
)
def test_a_mistake_is_named_by_file_and_line(tmp_path: Path, line: str, mistake: str) -> None:
    """The line is counted as an editor counts it."""
    with pytest.raises(BatchError) as caught:
        read(tmp_path, f'{{"id": "first", "input": "hi"}}\n\n{line}\n')

    (problem,) = caught.value.problems
    assert f"{tmp_path / 'tasks.jsonl'}:3: {mistake}" in problem


def test_all_mistakes_are_named_at_once(tmp_path: Path) -> None:
    """Nobody wants to find them one by one; a file full of them is cut short."""
    with pytest.raises(BatchError) as caught:
        read(tmp_path, "{\n" * (MAX_NAMED + 2))

    assert len(caught.value.problems) == MAX_NAMED + 2
    assert str(caught.value).endswith("... and 2 more")


@pytest.mark.parametrize(
    ("content", "mistake"), [("\n", "there is no task"), (b"\xff\xfe", "cannot be read")]
)
def test_a_file_that_is_none(tmp_path: Path, content: str | bytes, mistake: str) -> None:
    """An empty file and one in another encoding are mistakes too."""
    with pytest.raises(BatchError, match=mistake):
        read(tmp_path, content)


def test_a_missing_file(tmp_path: Path) -> None:
    """A file that is not there is a mistake like the others."""
    with pytest.raises(BatchError, match="cannot be read"):
        read_tasks(tmp_path / "nowhere.jsonl")
