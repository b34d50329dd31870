"""Task files are read whole, and every mistake in them is named."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import spent
from wspool.rollout.batch import MAX_NAMED, BatchError, Columns, read_tasks
from wspool.rollout.fields import answer_column
from wspool.rollout.tasks import Result, Task

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
    content = "\ufeff\r\n" + '{"id": "a", "input": "x\u2028y"}' + "\r\n  \r" + '{"id": "b", "input": ""}\r\n'

    assert [task["id"] for task in read(tmp_path, content)] == ["a", "b"]


@pytest.mark.parametrize(
    ("line", "mistake"),
    [
        ("{", "not JSON"),
        ("[1]", "a JSON array, and no row; if the file is one array, say --format json"),
        ("1", "not a JSON object"),
        ('{"input": "hi"}', "there is no id, and line 1 has one"),
        ('{"id": "", "input": "hi"}', "id must be a string that is not empty"),
        ('{"id": true, "input": "hi"}', "id must be a string"),
        ('{"id": null, "input": "hi"}', "id must be a string that is not empty, not None; --id-field says"),
        ('{"id": "x"}', "there is no input"),
        ('{"id": "x", "input": 1}', "input must be a string or a list of items, not int"),
        ('{"id": "x", "input": "hi", "previous_response_id": "r"}', "previous_response_id cannot be given"),
        ('{"id": "first", "input": "hi"}', "the id 'first' is taken by line 1"),
        (json.dumps(BATCH), "an OpenAI Batch line, but line 1 is a plain task"),
        (json.dumps(BATCH | {"method": "GET"}), "method must be 'POST', not 'GET'"),
        (json.dumps(BATCH | {"url": "/v1/embeddings"}), "url must be '/v1/responses' or"),
        (json.dumps(BATCH | {"body": None}), "there is no body"),
        (json.dumps(BATCH | {"body": {}}), "there is no input"),
        (
            '{"id": "x", "input": ["hi"]}',
            "input must be a str or a list of item dicts, not a list with str at",
        ),
    ],
)
def test_a_mistake_is_named_by_file_and_line(tmp_path: Path, line: str, mistake: str) -> None:
    """The line is counted as an editor counts it."""
    with pytest.raises(BatchError) as caught:
        read(tmp_path, f'{{"id": "first", "input": "hi"}}\n\n{line}\n')

    (problem,) = caught.value.problems
    assert f"{tmp_path / 'tasks.jsonl'}:3: {mistake}" in problem


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"id": "x", "input": [{"n": NaN}]}', "input[0].n is nan, and JSON has no such number"),
        ('{"id": "x", "input": "hi", "top_p": 1e999}', "top_p is inf, and JSON has no such number"),
        ('{"id": "x", "input": "hi", "background": true}', "'background' cannot be set here"),
        ('{"id": "x", "input": "hi", "conversation": "c"}', "'conversation' cannot be set here"),
    ],
)
def test_what_cannot_be_sent_costs_its_task(tmp_path: Path, line: str, problem: str) -> None:
    """It is known by file and line; with no other there is nothing to run."""
    path = tmp_path / "tasks.jsonl"
    path.write_text(f'{{"id": "first", "input": "hi"}}\n\n{line}\n')
    first, second = read_tasks(path)

    assert first.refused is None
    assert f"{path}:3: {problem}" in str(second.refused)
    with pytest.raises(BatchError) as caught:
        read(tmp_path, line)
    assert f"{path}:1: {problem}" in str(caught.value)


@pytest.mark.parametrize("name", ["budget", "resume", "self"])
def test_what_a_conversation_takes_for_itself_is_no_field(tmp_path: Path, name: str) -> None:
    """A Batch line goes as it is, but for that: it would say to the pool what its user has not said."""
    line = BATCH | {"body": {"model": "m", "input": "hi", name: {"items": []}}}
    second = BATCH | {"custom_id": "second"}
    path = tmp_path / "tasks.jsonl"
    path.write_text(json.dumps(line) + "\n" + json.dumps(second))
    task, other = read_tasks(path)

    assert other.refused is None
    assert f"no request from here can have '{name}'; --leave-out {name} does without" in str(task.refused)
    task, _ = read_tasks(path, Columns(leave_out=(name,)))
    assert task.refused is None


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


def tasks_of(tmp_path: Path, *rows: dict[str, Any], **columns: Any) -> list[Task]:
    path = tmp_path / "tasks.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_tasks(path, Columns(**columns))


def test_rows_without_an_id_get_one_of_what_they_say(tmp_path: Path) -> None:
    """The same in another order and beside others; the same row again is another task."""
    one, other = {"input": "x", "target": "y"}, {"input": "z"}
    first = [task.id for task in tasks_of(tmp_path, one, other, one)]
    second = [task.id for task in tasks_of(tmp_path, {"target": "y", "input": "x"}, {"input": "q"}, other)]

    assert 3 == len(set(first))
    assert (first[0], first[1]) == (second[0], second[2])
    assert f"{first[0]}-2" == first[2]


def test_columns_are_told_from_fields_of_the_request(tmp_path: Path) -> None:
    """By the kinds of their values as well: data sets have texts, numbers and lists under the same names."""
    row = {
        "id": 1, "input": "hi", "model": "m", "temperature": 0, "user": "u", "stream": None,
        "text": "a column", "reasoning": "so", "metadata": {"level": 3}, "tools": "[]", "target": 5,
        "top_p": True,
    }  # fmt: skip
    (task,) = tasks_of(tmp_path, row)

    assert {"input": "hi", "model": "m", "temperature": 0, "user": "u", "stream": None} == task.body
    assert ("text", "reasoning", "metadata", "tools", "target", "top_p") == task.unsent
    assert row == task.source
    (task,) = tasks_of(tmp_path, {"input": "hi", "metadata": {"a": "b"}, "text": {"verbosity": "low"}})
    assert {"input": "hi", "metadata": {"a": "b"}, "text": {"verbosity": "low"}} == task.body


def test_fields_are_named_by_the_caller(tmp_path: Path) -> None:
    """By a name or a way into the row; an exact name comes first."""
    row = {"meta": {"n": 7}, "q": ["no", "why?"], "a.b": "because", "a": {"b": "no"}}
    (task,) = tasks_of(tmp_path, row, id="meta.n", input="q.1", expected="a.b")

    assert ("7", 7, {"input": "why?"}, "because") == (task.id, task.number, task.body, task.expected)
    assert () == task.unsent
    for name in ("id", "input", "expected"):
        with pytest.raises(BatchError, match=f"there is no nothing, which --{name}-field names"):
            tasks_of(tmp_path, row, **{"input": "q.1", name: "nothing"})


def test_an_agent_reads_rows_that_have_no_input(tmp_path: Path) -> None:
    """What they say is its business."""
    (task,) = tasks_of(tmp_path, {"id": "a", "repo": "r", "temperature": 0}, for_agent=True)

    assert ({"temperature": 0}, {"id": "a", "repo": "r", "temperature": 0}) == (task.body, task.source)


def test_a_chat_line_is_translated_and_its_answer_too(tmp_path: Path) -> None:
    """Whatever the path is called."""
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 50}
    for url in (
        "/v1/chat/completions",
        "/chat/completions",
        "https://h/openai/deployments/d/chat/completions?v=1",
    ):
        (task,) = tasks_of(tmp_path, {"custom_id": "a", "method": "POST", "url": url, "body": body})
        assert (True, True) == (task.batch, task.chat)
        assert {
            "store": False,
            "model": "m",
            "input": [{"role": "user", "content": "hi"}],
            "max_output_tokens": 50,
        } == task.body
    answer = {
        "status": "completed",
        "output": [{"type": "message", "content": [{"type": "output_text", "text": "x"}]}],
    }
    result = Result(
        task=task,
        outcome="done",
        answer="x",
        response=answer,
        failure=None,
        items=(),
        statistics=None,
        seconds=0,
    )
    assert "x" == result.as_line()["response"]["body"]["choices"][0]["message"]["content"]


def test_a_file_is_read_by_its_format(tmp_path: Path) -> None:
    """A cell may hold line ends; an empty one says nothing; a row that is too long is named."""
    path = tmp_path / "tasks.csv"
    path.write_text('id,input,note\n1,"two\nlines",\n2,x,y,z\n3,w\n')

    with pytest.raises(BatchError, match=r"tasks.csv:4: 4 cells, and there are 3 columns"):
        read_tasks(path)
    path.write_text('id,input,note\n1,"two\nlines",\n3,w\n')
    assert [{"input": "two\nlines"}, {"input": "w"}] == [task.body for task in read_tasks(path)]
    path.write_text("id,id\n1,2\n")
    with pytest.raises(BatchError, match="two columns are called 'id'"):
        read_tasks(path)


def test_what_every_task_of_an_agent_would_meet_is_named(tmp_path: Path) -> None:
    """Its columns are its own, but those that are fields of a request go with every turn."""
    path = tmp_path / "tasks.jsonl"
    path.write_text('{"id": "a", "conversation": "c"}')
    with pytest.raises(BatchError, match="'conversation' cannot be set here"):
        read_tasks(path, Columns(for_agent=True))

    (task,) = read_tasks(path, Columns(for_agent=True, leave_out=["conversation"]))
    assert {} == task.body


@pytest.mark.parametrize("row", [{"input": "hi"}, {"input": "hi", "id": None}])
def test_rows_alike_without_an_id(tmp_path: Path, row: dict[str, object]) -> None:
    """Each is a task, and finding it an id costs no more for the last than for the first."""

    def reading(count: int) -> Callable[[], None]:
        def work() -> None:
            assert count == len({task.id for task in tasks_of(tmp_path, *[row] * count, leave_out=["id"])})

        return work

    assert spent.seconds(reading(8_000)) < 10 * spent.seconds(reading(2_000)), "4 is linear, and 16 is not"


def test_a_batch_line_without_an_id_gets_one(tmp_path: Path) -> None:
    """It is none the less one."""
    line = {name: value for name, value in BATCH.items() if name != "custom_id"}
    (task,) = read(tmp_path, json.dumps(line))

    assert (True, BATCH["body"]) == (task["batch"], task["body"])


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"id,input\n1,a\n2,b\n1,c\n", ":4: the id '1' is taken by line 2"),
        (b"id;input\n1;a\n2;b\n1;c\n", ":4: the id '1' is taken by line 2"),
        (b'id,input\n1,"a\nb"\n1,c\n', ":4: the id '1' is taken by line 2"),
        (b'id,input\n1,a\n2,"b"c\n', ":3: not CSV: ',' expected after '\"'"),
        (b'id,input\n1,a\n2,"b\n3,c\n', ":3: not CSV: unexpected end of data"),
        (b"id,input\n1,a\n2,b\xff\n", ": cannot be read: line 3 is no UTF-8"),
        (b"id,input,,\n1,a,,\n1,b,,\n", ":3: the id '1' is taken by line 2"),
        (b'"id";"input"\n"1";"a"\n"1";"b"\n', ":3: the id '1' is taken by line 2"),
    ],
)
def test_a_mistake_in_a_table_is_named_by_its_line(tmp_path: Path, content: bytes, problem: str) -> None:
    """The one that its row begins in, whatever stands between the cells."""
    path = tmp_path / "tasks.csv"
    path.write_bytes(content)
    with pytest.raises(BatchError) as caught:
        read_tasks(path)

    assert (f"{path}{problem}",) == tuple(each.partition(" (")[0] for each in caught.value.problems)


def test_another_encoding_is_named_by_its_line(tmp_path: Path) -> None:
    """However far down it is."""
    lines = [b'{"id": %d, "input": "%s"}\n' % (number, b"x" * 99) for number in range(3000)]
    lines[2345] = b'{"id": "last", "input": "caf\xe9"}\n'
    with pytest.raises(BatchError, match="line 2346 is no UTF-8"):
        read(tmp_path, b"".join(lines))


@pytest.mark.parametrize(
    ("row", "path"),
    [
        ({"category": "writing", "turns": ["Compose it.", "Once more."], "reference": ["a"]}, "turns.0"),
        ({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yo"}]}, ".0.value"),
        (
            {"created_at": "2024-05-01", "inputs": {"input": "Why?"}, "outputs": {"output": "So."}},
            "inputs.input",
        ),
        ({"prompt_id": "0123456789abcdef", "prompt": "Why?", "source_url": "https://a"}, "prompt"),
        ({"question_id": "tc_1", "Question": "Why?", "Best Answer": "So."}, "Question"),
        (
            {"key": "r-1", "request": {"contents": [{"role": "user", "parts": [{"text": "Why?"}]}]}},
            ".parts.0.text",
        ),
        ({"Question text": "Why?"}, "'Question text'"),
    ],
)
def test_where_the_input_may_be(tmp_path: Path, row: dict[str, Any], path: str) -> None:
    """In public data sets, as a shell takes it."""
    with pytest.raises(BatchError, match=rf"there is no input; --input-field \S*{re.escape(path)} takes"):
        tasks_of(tmp_path, row)


def test_a_table_without_names_of_its_columns(tmp_path: Path) -> None:
    """Its first row is taken for them, and that is said."""
    (tmp_path / "t.csv").write_text("What is 2 + 2?,3,4,B\nWhat is 2 + 3?,5,6,A\n")
    with pytest.raises(
        BatchError, match="looks like a row: the first line has to name them; --input-field 'W"
    ):
        read_tasks(tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("row", "path"),
    [
        ({"input": "x", "note": "n", "__expected": "y"}, "__expected"),
        ({"inputs": "x", "outputs": {"answer": "y"}}, "outputs.answer"),
        ({"input": "x", "outputs": {"answer": "y", "trace": "z"}}, None),
        ({"input": "x", "answerKey": "B"}, "answerKey"),
        ({"Question": "x", "Best Answer": "B"}, "Best Answer"),
        ({"input": "x", "y": 1}, None),
    ],
)
def test_where_the_answer_may_be(row: dict[str, Any], path: str | None) -> None:
    assert path == answer_column(row, row)
