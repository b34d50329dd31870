"""The command line. It runs in a process of its own where that is what a test is about: signals, what is
left when it is killed, streams, limits. Elsewhere in this one, for most of what a short command costs is its
start.
"""

import importlib
import inspect
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from tests.rollout.command import command, place, rollout
from wspool.cli.app import COMMANDS, app
from wspool.cli.streams import guard_streams
from wspool.server.lookup import LookupModel
from wspool.testing import local_server

__all__ = ["place"]  # a fixture

pytestmark = pytest.mark.network

PLACE = str(Path(__file__).parents[1])
COMMAND = (sys.executable, "-m", "wspool")
#: For questions of one's own that need the bundled tools.
TOOLS = ("--tools", "bundled")
#: Of a process that wants more.
FILES = 96
QUESTION = "How many classes and how many functions does the module `json.decoder` define at its top level?"


def start(
    cwd: Path, *arguments: str, env: Mapping[str, str] | None = None, files: int | None = None
) -> subprocess.Popen[str]:
    """Start the command; *files* is the limit of open files that its shell has set."""
    clean = {name: value for name, value in os.environ.items() if name != "OPENAI_API_KEY"}
    clean["PYTHONPATH"] = os.pathsep.join(filter(None, (PLACE, clean.get("PYTHONPATH"))))
    return subprocess.Popen(
        [*(("sh", "-c", f'ulimit -n {files} && exec "$@"', "sh") if files else ()), *COMMAND, *arguments],
        cwd=cwd,
        env={**clean, **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def write_questions(path: Path, count: int) -> str:
    """A task file of questions that take seven requests each."""
    question = "How many lines do the modules of the package `json` have together, without its subpackages?"
    return write_tasks(
        path,
        *({"id": str(n), "input": question, "parallel_tool_calls": False} for n in range(count)),
    )


def run(
    cwd: Path, *arguments: str, env: Mapping[str, str] | None = None, files: int | None = None
) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    process = start(cwd, *arguments, env=env, files=files)
    try:
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert "Traceback" not in err, err
    return process.returncode, out, err


class Serving:
    """A provider in another process."""

    url = base = err = ""


@contextmanager
def serving(cwd: Path, *arguments: str, env: Mapping[str, str] | None = None) -> Iterator[Serving]:
    """It must end well when it is stopped; what it said on standard error is there afterwards."""
    process, serving = start(cwd, "serve", *arguments, env=env), Serving()
    assert process.stdout is not None
    try:
        serving.url = process.stdout.readline().strip()
        serving.base = process.stdout.readline().strip()
        yield serving
        process.terminate()
        _, serving.err = process.communicate(timeout=10)
        assert process.returncode == 0
    finally:
        process.kill()
        process.communicate()


@contextmanager
def served(cwd: Path, *arguments: str) -> Iterator[str]:
    """The URL of one that has nothing to complain about."""
    with serving(cwd, *arguments) as server:
        yield server.url
    assert "" == server.err


def write_tasks(path: Path, *tasks: Mapping[str, Any]) -> str:
    path.write_text("".join(json.dumps(task) + "\n" for task in tasks))
    return str(path)


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def results(directory: Path) -> list[dict[str, Any]]:
    return read_lines(directory / "results.jsonl")


def wait_for(path: Path, process: subprocess.Popen[str], lines: int = 1) -> None:
    """Wait until the file has so many lines, which the process must live to see."""
    while not path.exists() or path.read_bytes().count(b"\n") < lines:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def test_the_bundled_batch_twice(place: Path) -> None:
    """A new user runs it, all answers are right, and running it again runs it again."""
    code, out, err = run(place, "rollout", "--json")
    summary = json.loads(out)

    assert code == 0
    assert all(" done, " in line for line in err.splitlines()), "progress, on a machine that is busy"
    assert summary["results"] == "rollout-results/bundled/results.jsonl"
    assert summary["tasks"] == summary["right"] == len(results(place / "rollout-results/bundled")) >= 40
    assert summary["skipped"] == summary["failed"] == summary["wrong"] == summary["owed"] == 0
    assert summary["max_connections"] == summary["peak_connections"] == summary["dialed"] == 8
    assert summary["tasks"] <= summary["full_turns"] < summary["delta_turns"]
    assert summary["turns"] == summary["delta_turns"] + summary["full_turns"]
    assert summary["bytes_saved"] > 0

    again = command("rollout", "--limit", "5")

    assert again.code == 0
    assert "5: 5 right" in again.out
    assert "results in rollout-results/bundled/results.jsonl" in again.out


def test_the_ledger_of_another_process_agrees(place: Path) -> None:
    """Every request that the rollout counts is one that the provider saw, and it continued the latest one."""
    with served(place, "--ledger", "ledger.jsonl") as url:
        ended = rollout("--url", url, "--limit", "10", "--max-connections", "2")
    ledger = read_lines(place / "ledger.jsonl")
    assert 0o600 == (place / "ledger.jsonl").stat().st_mode & 0o777
    summary = ended.summary

    assert ended.code == 0
    assert summary["right"] == summary["tasks"] == 10
    assert len(ledger) == summary["turns"] == summary["delta_turns"] + summary["full_turns"]
    assert sum(entry["previous_response_id"] is not None for entry in ledger) == summary["delta_turns"]
    assert all(entry["parent_was_latest"] for entry in ledger if entry["previous_response_id"])
    assert {entry["unfinished_on_lane"] for entry in ledger} == {1}


def test_connections_that_expire_all_the_time(place: Path) -> None:
    """Conversations move to other connections, and all answers are still right."""
    with served(place, "--lifetime", "0.2", "--delay-per-token", "0.002") as url:
        ended = rollout("--url", url, "--limit", "10", "--max-connections", "2")

    assert (0, 10) == (ended.code, ended.summary["right"])
    assert ended.summary["moves"] > 0
    assert ended.summary["dialed"] > 2


def test_a_killed_run_is_taken_up(place: Path) -> None:
    """Only what is owed runs again; the result file is complete and has no duplicates."""
    tasks = write_questions(place / "tasks.jsonl", 12)
    with local_server(model=LookupModel(), delay_per_token=0.003) as server:
        arguments = (tasks, "--url", server.url, "--model", "lookup", "-c", "3", *TOOLS)
        process = start(place, "rollout", *arguments, "--out", "out")
        path = place / "out/results.jsonl"
        wait_for(path, process, lines=3)
        process.kill()
        process.communicate()
        whole, _, _ = path.read_bytes().rpartition(b"\n")
        before = [json.loads(line)["id"] for line in whole.splitlines()]
        with path.open("ab") as file:
            file.write(b'{"id": "torn')
        ended = rollout(*arguments)

    summary = ended.summary
    ids = [line["id"] for line in ended.results]
    assert ended.code == 0
    assert 0 < summary["skipped"] == len(before) < summary["tasks"]
    assert summary["done"] == summary["tasks"] - len(before)
    assert ids[: len(before)] == before
    assert max(Counter(ids).values()) == 1
    assert len(ids) == summary["tasks"]

    # A third time there is nothing left, and nothing is dialed.
    ended = rollout(tasks, "--local", "--allow-mixed")
    assert (0, summary["tasks"]) == (ended.code, ended.summary["skipped"])
    assert 0 == ended.summary["dialed"]


def test_the_first_interrupt_finishes_what_runs(place: Path) -> None:
    """No task that has begun is lost, no other is begun, and the next run does the rest."""
    tasks = write_questions(place / "tasks.jsonl", 12)
    arguments = (tasks, "--model", "lookup", "-c", "4", "--max-connections", "2", *TOOLS)
    with local_server(model=LookupModel(), delay_per_token=0.005) as server:
        process = start(place, "rollout", *arguments, "--url", server.url, "--out", "out", "--json")
        wait_for(place / "out/results.jsonl", process)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        ledger = server.ledger
    summary = json.loads(out)

    assert process.returncode == 130
    assert summary["interrupted"]
    assert summary["owed"] > 0
    assert err == f"wspool: {summary['owed']} tasks are owed; the same command runs them\n"
    assert summary["done"] == len(results(place / "out")) == 12 - summary["owed"]
    assert {entry["outcome"] for entry in ledger} == {"completed"}

    ended = rollout(*arguments, "--local", "--allow-mixed")
    assert (0, summary["owed"]) == (ended.code, ended.summary["done"])


def test_the_second_interrupt_stops_at_once(tmp_path: Path) -> None:
    """What had ended has its result, the rest is owed."""
    (tmp_path / "my_agent.py").write_text(AGENT)
    tasks = write_questions(tmp_path / "tasks.jsonl", 9)
    agent = ("--agent", "my_agent:endless")
    process = start(tmp_path, "rollout", tasks, *agent, "--out", "out", "--json", "--local")
    wait_for(tmp_path / "out/results.jsonl", process)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)

    assert "Traceback" not in err
    assert process.returncode == 130
    assert (json.loads(out)["owed"], len(results(tmp_path / "out"))) == (8, 1)


def test_the_third_interrupt_always_ends(tmp_path: Path) -> None:
    """Whatever an agent does: this one never gives the word back, and hears no interrupt."""
    (tmp_path / "my_agent.py").write_text(AGENT)
    tasks = write_tasks(tmp_path / "tasks.jsonl", {"id": "a", "input": "x"})
    process = start(tmp_path, "rollout", tasks, "--agent", "my_agent:deaf", "--out", "out", "--local")
    wait_for(tmp_path / "deaf", process)
    for _ in range(3):
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
    process.communicate(timeout=20)

    assert 130 == process.returncode


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell the peak")
def test_no_command_holds_what_only_another_needs(tmp_path: Path) -> None:
    """Its version costs none of them anything, and who goes elsewhere has no server."""
    said = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; sys.argv[1:] = ['--version']; from wspool_command import main; main(); "
            "print('trio' in sys.modules); from wspool.cli import app, rollout; "
            "print([name for name in sys.modules if name.startswith(('wspool.server', 'wspool.proxy'))]); "
            "print(*(line for line in open('/proc/self/status') if line.startswith('VmHWM')))",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": PLACE},
        capture_output=True,
        text=True,
        check=True,
    )

    found = re.fullmatch(r"wspool \S+\nFalse\n\[\]\nVmHWM:\s+(\d+) kB\s+", said.stdout)
    assert found is not None, said.stdout
    assert int(found[1]) < 60 * 1024


def test_batch_in_gives_batch_out(place: Path) -> None:
    """The result lines of an OpenAI Batch file have the shape of its output file."""
    body = {"model": "lookup", "input": QUESTION}
    task = {"custom_id": "a", "method": "POST", "url": "/v1/responses", "body": body}
    ended = rollout(write_tasks(place / "batch.jsonl", task), "--local", *TOOLS)
    (line,) = ended.results

    assert ended.code == 0
    assert (line["custom_id"], line["error"], line["response"]["status_code"]) == ("a", None, 200)
    answer = line["response"]["body"]
    assert line["response"]["request_id"] == answer["id"]
    assert answer["output"][0]["content"][0]["text"] == "2 classes, 4 functions"


AGENT = """
import trio
async def agent(conversation, task):
    if task["fails"]:
        async with trio.open_nursery():
            raise ValueError("no " + task["id"])
    response = await conversation.respond(task["input"])
    return {"said": response.output_text}
class Calls:
    async def __call__(self, conversation, task): return await conversation.respond(task["input"])
calls = Calls()
async def endless(conversation, task):
    await conversation.respond(task["input"])
    if task["id"] != "8": await trio.sleep_forever()
async def deaf(conversation, task):
    import pathlib, time
    pathlib.Path("deaf").write_text("\\n")
    while True:
        try: time.sleep(0.1)
        except BaseException: pass
def no_agent(conversation, task): pass
async def greedy(conversation, task, more): pass
async def unfit(conversation, task): return object()
class Broken:
    def __init__(self): raise ValueError("no")
"""


def test_an_agent_of_the_users_own(place: Path) -> None:
    """It is imported from the working directory, sees the whole task, and its failure is its own."""
    (place / "my_agent.py").write_text(AGENT)
    tasks = write_tasks(
        place / "tasks.jsonl",
        {"id": "good", "input": "hello", "fails": False},
        {"id": "bad", "input": "hello", "fails": True},
    )
    ended = rollout(tasks, "--local", "--agent", "./my_agent.py:agent")
    lines = {line["id"]: line for line in ended.results}

    assert (ended.code, ended.summary["done"], ended.summary["failed"]) == (1, 1, 1)
    assert lines["good"]["answer"]["said"].startswith("hello")
    assert lines["good"]["items"][0]["role"] == "user"
    error = {"type": "ValueError", "message": "no bad", "delivery": None, "code": None, "status": None}
    assert lines["bad"]["error"].items() > error.items()
    assert 'my_agent.py", line 6' in lines["bad"]["error"]["traceback"]
    assert ended.summary["errors"][0]["count"] == 1

    # Another agent's results are other results.
    ended = rollout(tasks, "--local", "--agent", "my_agent:calls")
    assert (ended.code, ended.summary["skipped"]) == (2, 2)
    assert "agent: './my_agent.py:agent' then, 'my_agent:calls' now" in ended.err

    # Skipped, and still not well; then tried again, without a duplicate.
    mixed = (tasks, "--local", "--allow-mixed", "--agent")
    ended = rollout(*mixed, "my_agent:calls")
    assert (ended.code, ended.summary["skipped"]) == (1, 2)
    assert "--redo-errors" in ended.err
    ended = rollout(*mixed, "my_agent:calls", "--redo-errors")
    assert (ended.code, ended.summary["done"]) == (0, 1)
    assert [line["id"] for line in ended.results] == ["good", "bad"]

    ended = rollout(*mixed, "my_agent:unfit", "--no-resume")
    assert (ended.code, ended.summary["failed"]) == (1, 2)
    assert (place / "out/results.jsonl.old").exists()


def test_every_answer_is_right_through_every_fault(place: Path) -> None:
    """One request in seven gets a fault; what is lost is taken again, and what failed is run again."""
    with served(place, "--fault-rate", "0.15", "--seed", "3", "--ledger", "ledger.jsonl") as url:
        arguments = ("--url", url, "--retries", "4", "--limit", "20")
        first = ended = rollout(*arguments)
        if first.code:
            ended = rollout(*arguments, "--redo-errors")

    assert ended.code == 0
    assert {"right"} == {line["outcome"] for line in ended.results}
    assert len(ended.results) == first.summary["tasks"] == 20
    assert first.summary["retries"] > 0
    assert len({entry["fault"] for entry in read_lines(place / "ledger.jsonl")}) > 8


def test_what_the_server_refuses_is_a_failure(place: Path) -> None:
    """The server's code is in the result, plain or Batch-shaped."""
    error = {"message": "Slow down.", "code": "rate_limit_exceeded", "status": 429}
    (place / "script.jsonl").write_text(json.dumps({"status": "rejected", "error": error}))
    plain = write_tasks(place / "plain.jsonl", {"id": "a", "input": "hello"})
    batch = write_tasks(
        place / "batch.jsonl",
        {"custom_id": "a", "method": "POST", "url": "/v1/responses", "body": {"input": "hello"}},
    )
    with served(place, "--script", "script.jsonl") as url:
        options = ("--url", url, "--quiet", "--max-wait", "0")
        codes = [command("rollout", tasks, *options).code for tasks in (plain, batch)]
    (one,) = results(place / "rollout-results/plain")
    (other,) = results(place / "rollout-results/batch")

    assert codes == [1, 1]
    assert (one["outcome"], one["error"]["code"]) == ("failed", "rate_limit_exceeded")
    assert one["error"]["delivery"] is not None
    assert other["error"]["code"] == "rate_limit_exceeded"
    assert other["response"]["status_code"] == 429


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("rollout nowhere.jsonl", "cannot be read"),
        ("rollout bad.jsonl", "bad.jsonl:1: not JSON"),
        ("rollout good.jsonl --url http://localhost/?secret=very-secret", "must start with wss://"),
        ("rollout good.jsonl --url ws://api.example.com/?key=very-secret", "use wss://"),
        ("rollout good.jsonl --url ws://[very-secret/", "cannot be parsed"),
        ("rollout good.jsonl", "the tasks go to wss://api.openai.com/v1/responses (the default), and there"),
        ("rollout good.jsonl --local --url ws://localhost/", "give one of them"),
        ("rollout --local --format csv", "--format is about a file of tasks"),
        ("rollout --expected-field right", "--expected-field is about a file of tasks"),
        ("rollout good.jsonl --local --provider nobody", "there are azure, litellm, openai, vercel, xai"),
        ("rollout good.jsonl --local --tools mine", "must be pkg.mod:tools or ./file.py:tools"),
        ("rollout good.jsonl --local --max-cost 1", "max_cost needs a price"),
        ("rollout good.jsonl --local --price 1,2", "must be (input, cached input, output)"),
        ("rollout good.jsonl --local --price a,b,c", "must be three numbers"),
        ("rollout good.jsonl --local --tools bundled --agent my_agent:agent", "calls its tools itself"),
        ("rollout good.jsonl --url ws://localhost/ --api-key-env BAD_KEY", "the API key in BAD_KEY must be"),
        (
            "rollout good.jsonl --url wss://api.example.com/ --api-key-env NO_KEY",
            "no API key in the environment",
        ),
        (
            "rollout good.jsonl --url wss://api.example.com/",
            "no API key for this host",
        ),
        ("rollout good.jsonl --url wss://api.example.com/ --api-key-env KEY", "say which with --model"),
        ("rollout good.jsonl --local --agent my_agent", "must be pkg.mod:callable"),
        ("rollout good.jsonl --local --agent my_agent:nothing", "cannot be imported"),
        ("rollout good.jsonl --local --agent nowhere:agent", "cannot be imported"),
        ("rollout good.jsonl --local --agent ./nowhere.py:agent", "there is no file nowhere.py"),
        ("rollout good.jsonl --local --agent my_agent:no_agent", "must be an async function"),
        ("rollout good.jsonl --local --agent my_agent:greedy", "is called with (conversation, task)"),
        ("rollout good.jsonl --local --out bad.jsonl", "use another --out"),
        ("serve --script bad.jsonl", "the script cannot be used"),
        ("serve --profile nobody", "there is no profile"),
        ("serve --host 192.0.2.1 --api-key k", "cannot serve on"),
        ("serve --host 0.0.0.0", "without a key"),
        ("serve --host ::", "without a key"),
        ("serve --api-key=", "--api-key is empty"),
        ("serve --ledger .", "Is a directory"),
        ("serve --model nothing", "must be echo, lookup, pkg.mod:name or ./file.py:name"),
        ("serve --model nowhere:model", "cannot be imported: ModuleNotFoundError"),
        ("serve --model my_agent:nothing", "cannot be imported: AttributeError"),
        ("serve --model ./nowhere.py:model", "there is no file nowhere.py"),
        ("serve --model my_agent:Broken", "cannot be used: ValueError: no"),
        ("serve --model my_agent:no_agent", "has no method respond"),
        ("serve --model my_agent:agent --script good.jsonl", "give one of them"),
        ("serve --fault nobody", "there are big_terminal, binary_frame"),
        ("serve --fault nobody@3", "there is no fault 'nobody'"),
        ("serve --fault reset@0", "the number of a request, from 1"),
        ("serve --fault reset@x", "the number of a request, from 1"),
        ("serve --fault reset@", "the number of a request, from 1"),
    ],
)
def test_wrong_usage_is_exit_code_2(
    place: Path, monkeypatch: pytest.MonkeyPatch, arguments: str, expected: str
) -> None:
    """Each says what to do, before anything runs, and never the key."""
    monkeypatch.setenv("KEY", "very-secret")
    monkeypatch.setenv("BAD_KEY", "very-secret with a space")
    write_tasks(place / "good.jsonl", {"id": "a", "input": "x"})
    (place / "bad.jsonl").write_text("{\n")
    (place / "my_agent.py").write_text(AGENT)

    result = CliRunner().invoke(app, arguments.split())

    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("wspool: ")
    assert expected in result.stderr
    assert "very-secret" not in result.stderr


MODEL = """
from wspool.server import ModelTurn, message


class Counts:
    def respond(self, request):
        if request.context[-1]["content"][0]["text"] == "wrong":
            raise LookupError("a mistake of the model")
        return ModelTurn(output=[message(f"{len(request.context)} items")])


counts = Counts()
"""


def post(url: str, text: str, **headers: str) -> tuple[int, str]:
    """The status and the text of one answer over HTTP."""
    with httpx.Client(trust_env=False) as http:
        answer = http.post(url + "/responses", json={"model": "m", "input": text}, headers=headers)
        body = answer.json()
        return answer.status_code, body["output"][0]["content"][0]["text"] if "output" in body else ""


@pytest.mark.parametrize("model", ["my_model:Counts", "my_model:counts", "./my_model.py:counts"])
def test_a_model_of_ones_own(tmp_path: Path, model: str) -> None:
    """Imported from where the command runs; its mistakes are on standard error, and the server lives."""
    (tmp_path / "my_model.py").write_text(MODEL)
    with serving(tmp_path, "--model", model) as server:
        assert server.url.replace("ws://", "http://") == f"{server.base}/responses"
        assert (500, "") == post(server.base, "wrong")
        assert (200, "1 items") == post(server.base, "hi")
    assert "Traceback" in server.err
    assert "LookupError: a mistake of the model" in server.err


def test_a_server_with_a_key_says_what_it_does(tmp_path: Path) -> None:
    """A line per request, refused ones included, and nothing in them that a client could use."""
    with serving(tmp_path, "-v", "--ledger", "l.jsonl", env={"WSPOOL_SERVE_API_KEY": "sk-secret"}) as server:
        assert (401, "") == post(server.base, "hi")
        assert (401, "") == post(server.base, "hi", Authorization="Bearer sk-wrong")
        assert (200, "hi") == post(server.base, "hi", Authorization="Bearer sk-secret")
        with httpx.Client(trust_env=False, headers={"Authorization": "Bearer sk-secret"}) as http:
            assert 404 == http.post(server.base + "/nowhere").status_code
    one, two, three, four = server.err.splitlines()
    assert (one, two) == ("refused: 401 Incorrect API key provided.",) * 2
    assert re.fullmatch(r"http 3\.1, resp_\w+, 1 of 1 items, completed, after 0\.\d+ s", three)
    assert four == "refused: 404 Invalid URL."
    assert 1 == len(read_lines(tmp_path / "l.jsonl"))
    assert "sk-" not in server.err


def test_faults_by_name_and_number(place: Path) -> None:
    """The second and the fourth request meet what was asked for, and the client's loop goes on."""
    tasks = write_tasks(place / "tasks.jsonl", *({"id": str(n), "input": "hi"} for n in range(5)))
    faults = ("--fault", "rate_limited@2", "--fault", "reset@4", "--fault", "metadata")
    with served(place, "--ledger", "l.jsonl", *faults) as url:
        ended = rollout(tasks, "--url", url, "-c", "1", "--retries", "3")
    assert (0, "") == (ended.code, ended.err)
    entries = read_lines(place / "l.jsonl")
    assert ["metadata", "rate_limited", None, "reset"] == [
        entry["fault"] and entry["fault"].partition("(")[0] for entry in entries[:4]
    ]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no such device")
def test_a_ledger_that_cannot_be_written_is_told_once(tmp_path: Path) -> None:
    """Who waits for the server waits for answers, not for its ledger."""
    with serving(tmp_path, "--ledger", "/dev/full") as server:
        assert [(200, "hi")] * 2 == [post(server.base, "hi") for _ in range(2)]
    (line,) = server.err.splitlines()
    assert line.startswith("wspool: no ledger from here on: ")


def test_an_endpoint_that_cannot_be_reached(place: Path) -> None:
    """The run ends at once with one line that says what to do; the tasks are owed."""
    tasks = write_questions(place / "tasks.jsonl", 3)
    with local_server() as server:
        elsewhere = server.url.replace("responses", "elsewhere")
        for wrong, expected in [("ws://127.0.0.1:1/v1/responses", "refused"), (elsewhere, "Invalid URL")]:
            began = time.monotonic()
            ended = rollout(tasks, "--url", wrong, "--allow-mixed")

            assert ended.code == 1
            assert ended.summary["owed"] == ended.summary["tasks"]
            assert ended.summary["problem"] in ended.err
            assert expected in ended.err
            assert time.monotonic() - began < 10


def test_version_and_help() -> None:
    """The two things that everybody tries first."""
    assert command("--version").out.startswith("wspool ")
    assert "rollout" in command("--help").out
    assert "--max-connections" in command("rollout", "--help").out


#: Runs each command in a fork of its own, which has read all modules before; says how each has ended. A
#: stream that is None is closed, as a process finds it that has begun without.
FORKS = """
import json, os, sys
from wspool.cli import app, doctor, merge, probe, rollout
from wspool_command import main

for number, (arguments, streams) in enumerate(json.loads(sys.argv[1])):
    if not os.fork():
        break
    print(os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
else:
    sys.exit()
sys.argv = ["wspool", *arguments]
for fd, path in enumerate(streams):
    if path is None:
        os.close(fd)
        setattr(sys, ("stdin", "stdout", "stderr")[fd], None)
    else:
        os.dup2(os.open(path.format(number), os.O_RDWR | os.O_CREAT), fd)
main()
"""
NOWHERE, FULL, OUT, ERR = "/dev/null", "/dev/full", "out{}", "err{}"


@pytest.mark.skipif(not Path(FULL).exists(), reason="there is no such device")
def test_what_is_in_nobodys_way_has_no_traceback(tmp_path: Path) -> None:
    """A command ends as it would have, whether or not somebody can be told."""
    cases = [
        ("--version", (NOWHERE, None, ERR), 0),
        ("--version", (NOWHERE, FULL, None), 0),
        ("--help", (NOWHERE, FULL, ERR), 0),
        ("rollout --help", (NOWHERE, FULL, FULL), 0),
        ("--nope", (NOWHERE, OUT, FULL), 2),
        ("merge", (NOWHERE, OUT, None), 2),
        ("rollout nowhere.jsonl", (NOWHERE, OUT, FULL), 2),
        ("rollout nowhere.jsonl", (NOWHERE, OUT, None), 2),
        ("rollout - --local", (None, OUT, ERR), 2),
        ("merge nowhere --out all", (NOWHERE, OUT, FULL), 2),
        ("doctor --url ws://127.0.0.1:1/ --json", (NOWHERE, FULL, ERR), 1),
        ("doctor --url ws://127.0.0.1:1/", (NOWHERE, FULL, ERR), 1),
        ("probe --url ws://127.0.0.1:1/", (NOWHERE, OUT, FULL), 1),
    ]
    said = subprocess.run(
        [sys.executable, "-c", FORKS, json.dumps([(each.split(), streams) for each, streams, _ in cases])],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": PLACE},
        check=True,
    )

    for number, ((*case, code), ended) in enumerate(zip(cases, said.stdout.split(), strict=True)):
        err = tmp_path / ERR.format(number)
        assert (code, False) == (int(ended), err.exists() and "Traceback" in err.read_text()), case


@pytest.mark.skipif(not Path(FULL).exists(), reason="there is no such device")
@pytest.mark.parametrize(
    ("command", "code"), [("--version >&-", 0), ("merge 2>&-", 2), ("rollout - --local <&-", 2)]
)
def test_what_is_closed_before_python_begins(tmp_path: Path, command: str, code: int) -> None:
    done = subprocess.run(
        ["sh", "-c", f'"$0" -m wspool {command}', sys.executable],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": PLACE},
        check=False,
    )

    assert (code, False) == (done.returncode, "Traceback" in done.stderr), done.stderr


@pytest.mark.parametrize("first", ["attrs", "typer"])
def test_ctrl_c_while_modules_are_read_is_one_line(tmp_path: Path, first: str) -> None:
    """They take longer than some people wait: those of the library, and those of commands."""
    (tmp_path / f"{first}.py").write_text("raise KeyboardInterrupt")
    done = subprocess.run(
        [sys.executable, "-c", "from wspool_command import main; main()", "doctor"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{PLACE}"},
        check=False,
    )

    assert (130, "", "wspool: interrupted\n") == (done.returncode, done.stdout, done.stderr)


def test_what_is_installed_is_what_hears_ctrl_c() -> None:
    assert '\nwspool = "wspool_command:main"\n' in (Path(PLACE) / "pyproject.toml").read_text()


def test_letters_that_a_stream_does_not_have_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes what comes after them as well, also if somebody has closed it."""
    written, said = io.BytesIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, "ascii"))
    monkeypatch.setattr(sys, "stderr", said)
    guard_streams()
    sys.stdout.write("caf\u00e9\n")
    sys.stdout.close()
    sys.stdout.write("tea\n")
    sys.stdout.flush()

    assert ([b"caf\\xe9", b"tea"], "") == (written.getvalue().split(), said.getvalue())


@pytest.mark.parametrize("name", COMMANDS)
def test_what_a_command_does_is_said_twice(name: str) -> None:
    """In the list of all, and in the first words of its own help."""
    function = getattr(importlib.import_module(f"wspool.cli.{name}"), name)
    assert COMMANDS[name] == (inspect.getdoc(function) or "").partition("\n\n")[0].replace("\n", " ")


def test_without_its_extra_the_command_says_what_to_install(tmp_path: Path) -> None:
    """One line; and the library itself needs none of it."""
    code = "import sys\nfor name in ('typer', 'rich'): sys.modules[name] = None\n"
    done = subprocess.run(
        [sys.executable, "-c", code + "import wspool\nfrom wspool.cli import main\nmain()"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": PLACE},
        check=False,
    )

    assert done.returncode == 2
    assert done.stderr == "wspool: the command line needs typer and rich: pip install 'wspool[cli]'\n"


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such limit")
@pytest.mark.parametrize("embedded", [True, False])
def test_more_connections_than_files(place: Path, embedded: bool) -> None:
    """The tools read files all the same: no answer is spoiled, and the shortage is told before the run."""
    tasks = write_questions(place / "tasks.jsonl", 40)
    arguments = ("rollout", tasks, "-c", "120", "--json", "--quiet", "--out", "out", *TOOLS)
    if embedded:
        code, out, err = run(place, *arguments, "--local", files=FILES)
    else:
        with local_server(model=LookupModel()) as server:
            code, out, err = run(place, *arguments, "--model", "lookup", "--url", server.url, files=FILES)

    assert 0 == code, err
    summary = json.loads(out)
    assert (40, 0, 0) == (summary["done"], summary["failed"], summary["owed"])
    most = summary["max_connections"]
    assert FILES // 2 - 30 < most * (2 if embedded else 1) <= FILES // 2
    assert 0.7 * most < summary["peak_connections"] <= most
    assert f"--max-connections=120 cannot be had, there will be {most} connections at most" in err
    (answer,) = {line["answer"] for line in results(place / "out")}
    assert answer.isdecimal(), "one question, one answer"
