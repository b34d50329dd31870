"""A real Ray cluster of three nodes on this machine: a driver is killed, a node is killed, nothing is lost.

Slow, and so only where it is asked for: `WSPOOL_RAY=1 python -m pytest -n 0 tests/ray`.
"""

import importlib
import importlib.util
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import wspool
from wspool.server import ModelRequest, ModelTurn, function_call, message
from wspool.testing import local_server

pytestmark = [
    pytest.mark.ray,
    pytest.mark.network,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="not installed: ray"),
    pytest.mark.skipif("WSPOOL_RAY" not in os.environ, reason="WSPOOL_RAY is not set"),
]

QUESTIONS = 200
CALCULATOR = '''
def product(a: int, b: int) -> int:
    """Multiply two numbers."""
    return a * b
'''
#: Ray warns of sockets that it leaves to the interpreter.
IGNORED = "ignore::ResourceWarning"


class Solver:
    """Calls the calculator for a question, then answers; one answer in seven is wrong."""

    def respond(self, request: ModelRequest) -> ModelTurn:
        last = request.context[-1]
        if last.get("type") == "function_call_output":
            return ModelTurn(output=[message(f"#### {last['output']}")], delay=0.05)
        found = re.search(r"(\d+) boxes of (\d+)", json.dumps(request.context))
        assert found is not None
        a, b = int(found[1]), int(found[2])
        return ModelTurn(output=[function_call("product", {"a": a, "b": b + (a * b % 7 == 0)})], delay=0.05)


@pytest.fixture
def url() -> Iterator[str]:
    with local_server(model=Solver()) as server:
        yield server.url


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head and two nodes."""
    cluster: Any = importlib.import_module("ray.cluster_utils").Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1}
    )
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


def start(*options: object) -> "subprocess.Popen[str]":
    words = ["--score", "number", "--input-field", "question", "--expected-field", "answer", "-n", 4]
    words += ["--tools", "./calculator.py:product", "--json", "--quiet", "--no-report", *options]
    command = [sys.executable, "-m", "wspool", "rollout", "gsm.jsonl", *map(str, words)]
    path = os.pathsep.join([str(Path(wspool.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}
    )


def scores(out: str) -> list[tuple[Any, ...]]:
    lines = map(json.loads, Path(out, "results.jsonl").read_text().splitlines())
    return sorted((line["id"], line["attempt"], line["answer"], line["score"]) for line in lines)


def until(run: "subprocess.Popen[str]", are_there: Callable[[int], bool]) -> int:
    """Wait until so many results are there; return how many."""
    results = Path("three/results.jsonl")
    while True:
        count = len(results.read_bytes().splitlines()) if results.exists() else 0
        if are_there(count):
            return count
        assert run.poll() is None, "it has ended before"
        time.sleep(0.1)


@pytest.mark.filterwarnings(IGNORED)
def test_three_actors_say_what_one_process_says(
    url: str, cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file in the shape of GSM8K, sampled four times; the driver is killed twice, then a node."""
    monkeypatch.chdir(tmp_path)
    Path("calculator.py").write_text(CALCULATOR)
    dice = random.Random(1)
    with Path("gsm.jsonl").open("w") as file:
        for n in range(QUESTIONS):
            a, b = dice.randint(2, 99), dice.randint(2, 99)
            row = {
                "question": f"({n}) {a} boxes of {b} apples?",
                "answer": f"<<{a}*{b}={a * b}>>\n#### {a * b}",
            }
            print(json.dumps(row), file=file)
    alone = start("--url", url, "--out", "one")
    expected, _ = alone.communicate(timeout=240)

    on_ray = ("--url", url, "--out", "three", "--ray", "--address", cluster.address, "--actors")
    for actors, enough in ((3, 200), (2, 400)):
        run = start(*on_ray, actors)
        until(run, lambda count, enough=enough: count >= enough)  # type: ignore[misc]
        run.send_signal(signal.SIGKILL)
        run.communicate()
    run = start(*on_ray, 3)
    there = until(run, lambda count: True)
    until(run, lambda count: count >= there + 100)
    cluster.remove_node(cluster.list_all_nodes()[-1], allow_graceful=False)
    said, _ = run.communicate(timeout=240)

    assert (alone.returncode, run.returncode) == (1, 1)  # some are wrong
    assert scores("one") == scores("three")
    assert len(scores("three")) == 4 * QUESTIONS
    one, three = json.loads(expected), json.loads(said)
    assert (one["score"], one["pass_at"]) == (three["score"], three["pass_at"])
    assert (0, None) == (three["owed"], three["problem"])
    assert three["peak_connections"] <= 128

    run = start(*on_ray, 3)  # nothing is owed any more
    again, _ = run.communicate(timeout=60)

    assert (1, 0, 4 * QUESTIONS) == (run.returncode, json.loads(again)["owed"], json.loads(again)["skipped"])


@pytest.mark.filterwarnings(IGNORED)
def test_interrupted(url: str, cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first Ctrl-C finishes what runs everywhere; the rest is owed."""
    monkeypatch.chdir(tmp_path)
    Path("calculator.py").write_text(CALCULATOR)
    Path("gsm.jsonl").write_text(
        "".join(json.dumps({"question": f"({n}) 3 boxes of 5?", "answer": "15"}) + "\n" for n in range(3000))
    )
    run = start("--url", url, "--out", "three", "--ray", "--address", cluster.address, "-c", 24)
    until(run, lambda count: count >= 24)
    run.send_signal(signal.SIGINT)
    said, _ = run.communicate(timeout=60)

    summary = json.loads(said)
    assert 130 == run.returncode
    assert summary["interrupted"]
    assert summary["right"] == len(scores("three"))
    # None of them was cut.
    assert summary["full_turns"] + summary["delta_turns"] == 2 * summary["right"], summary
    assert summary["owed"] == 12000 - summary["right"]
