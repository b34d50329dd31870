"""No effect twice: rollouts are killed at random points, and what their tools have done is counted.

Few points here; `python -m tests.rollout.test_effects 500` takes as many as it is told.
"""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

import attrs
import pytest

import wspool
from tests.rollout.command import Saying, command, place, rollout, write
from wspool.core.effects import UNKNOWN
from wspool.pool import durable
from wspool.rollout.checkpoints import EFFECTS
from wspool.server import ModelRequest, ModelTurn, TurnError, function_call, message
from wspool.testing import local_server

__all__ = ["place"]  # a fixture

pytestmark = pytest.mark.network

TASKS: Final = 8
ROUNDS: Final = 4
#: Seconds that a turn and what it calls take, and what is written of both.
A_ROUND: Final = 0.06
#: Seconds in which a rollout has begun, on a machine with other things to do.
BEGINS: Final = 1.5
#: What is done in each round, at the same time: once only, or as often as one likes.
KINDS: Final = ("pay", "read")

MINE: Final = '''
import os, time
import wspool

def done(kind, name):
    fd = os.open(f"did-{kind}-{name}", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, b"x")
    os.close(fd)
    time.sleep(0.03)
    return f"{kind} {name}"

def pay(name: str) -> str:
    """Pay once."""
    return done("pay", name)

@wspool.tool(repeatable=True)
def read(name: str) -> str:
    """Look."""
    return done("read", name)

tools = [pay, read]
'''


class Paying:
    """Has tools called in each round, says at last what they gave, and counts what it was asked."""

    def __init__(self) -> None:
        self.asked: Counter[tuple[str, int]] = Counter()
        self.reached = threading.Event()
        self._left = 0

    def set_out(self, requests: int) -> None:
        """Have `reached` set with so many requests more."""
        self.reached.clear()
        self._left = requests

    def respond(self, request: ModelRequest) -> ModelTurn:
        self._left -= 1
        if self._left == 0:
            self.reached.set()
        task = str(request.context[0]["content"][0]["text"])
        outputs = {item["call_id"]: item["output"] for item in request.context if "output" in item}
        number = len(outputs) // len(KINDS)
        self.asked[task, number] += 1
        if number == ROUNDS:
            return ModelTurn(output=[message(json.dumps(outputs, sort_keys=True))], delay=0.01)
        calls = [
            function_call(kind, {"name": f"{task}-{number}"}, call_id=f"{kind}-{task}-{number}")
            for kind in KINDS
        ]
        return ModelTurn(output=calls, delay=0.01)


@attrs.define
class Seen:
    """What was seen of all kills."""

    kills: int = 0
    unknown: int = 0
    repeated: int = 0
    paid_twice: int = 0


def check(kills: int, seed: int, seen: Seen) -> None:
    """Kill one rollout *kills* times in the working directory, let it end, and look at everything."""
    chance = random.Random(seed)
    model = Paying()
    write("tasks.jsonl", *({"id": f"t{n}", "input": f"t{n}"} for n in range(TASKS)))
    Path("mine.py").write_text(MINE)
    with local_server(model=model) as server:
        options = [
            "rollout", "tasks.jsonl", "--url", server.url, "--model", "m", "--tools", "./mine.py:tools",
            "--out", "out", "--quiet", "--checkpoint-turns", "-c", "4",
        ]  # fmt: skip
        command = [sys.executable, "-m", "wspool", *options]
        environment = {**os.environ, "PYTHONPATH": str(Path(wspool.__file__).parent.parent)}
        while True:
            # A point of the work that is left, and a moment after it: a time from the start would be past the
            # end of most runs that have little left to do. One in eight is killed while it begins.
            left = TASKS * (ROUNDS + 1) - len(model.asked)
            model.set_out(chance.randint(1, max(1, left // max(1, kills))))
            patience = chance.uniform(0, BEGINS) if chance.random() < 1 / 8 else math.inf
            began = time.monotonic()
            process = subprocess.Popen(
                command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            )
            with process:
                if kills > 0:
                    while not model.reached.wait(0.02) and process.poll() is None:
                        if time.monotonic() > began + patience:
                            break
                    time.sleep(chance.uniform(0, A_ROUND))
                    process.send_signal(signal.SIGKILL)
                    kills -= 1
                errors = process.communicate()[1]
            if process.returncode != -signal.SIGKILL:
                break
            seen.kills += 1
    assert 0 == process.returncode, errors.decode()
    look(model, seen)


def look(model: Paying, seen: Seen) -> None:
    """What was done, what was paid, and what came of it."""
    lines = [json.loads(line) for line in Path("out/results.jsonl").read_text().splitlines()]
    assert sorted(f"t{n}" for n in range(TASKS)) == sorted(line["id"] for line in lines)
    for line in lines:
        task, given = line["id"], json.loads(line["answer"])
        for number in range(ROUNDS):
            did = {kind: Path(f"did-{kind}-{task}-{number}") for kind in KINDS}
            counts = {kind: path.stat().st_size if path.exists() else 0 for kind, path in did.items()}
            said = {kind: given.pop(f"{kind}-{task}-{number}") for kind in KINDS}
            assert f"read {task}-{number}" == said["read"]
            assert 1 <= counts["read"]
            seen.repeated += counts["read"] > 1
            if said["pay"] == UNKNOWN:
                seen.unknown += 1
                assert counts["pay"] <= 1
            else:
                assert (f"pay {task}-{number}", 1) == (said["pay"], counts["pay"])
        assert {} == given
        again = sum(model.asked[task, number] - 1 for number in range(ROUNDS + 1))
        assert 0 <= again
        seen.paid_twice += again
    per_task = Counter(task for (task, _), asked in model.asked.items() for _ in range(asked - 1))
    assert all(again <= seen.kills for again in per_task.values())


def test_f170_a_killed_rollout_does_nothing_twice(place: Path) -> None:
    """F170: a rollout with `--checkpoint-turns` is killed (`kill -9`) anywhere, and started again -> each
    call that is not `repeatable` is made once at most, one turn of each conversation is paid twice at most
    for a kill; the results are those of an undisturbed run, but for calls of which nobody can know.
    """
    seen = Seen()
    check(6, 1, seen)
    assert 0 < seen.kills <= 6


class Once:
    """Has one call made, and says what came of it."""

    def respond(self, request: ModelRequest) -> ModelTurn:
        if "output" in request.context[-1]:
            return ModelTurn(output=[message(str(request.context[-1]["output"]))])
        return ModelTurn(output=[function_call("die", {}, call_id="c")])


DYING: Final = '''
import os, signal

def die() -> str:
    """Do something, and take the process with it."""
    with open("did", "a") as file:
        file.write("x")
    os.kill(os.getpid(), signal.SIGKILL)
'''


def test_a_person_can_look_first(place: Path) -> None:
    """The task stays owed, and the command says why; then it goes on, and the call is not made again."""
    Path("mine.py").write_text(DYING)
    write("tasks.jsonl", {"id": "a", "input": "x"})
    with local_server(model=Once()) as server:
        options: list[Any] = [
            "tasks.jsonl", "--url", server.url, "--model", "m", "--tools", "./mine.py:die",
            "--checkpoint-turns",
        ]  # fmt: skip
        environment = {**os.environ, "PYTHONPATH": str(Path(wspool.__file__).parent.parent)}
        killed = subprocess.run(
            [sys.executable, "-m", "wspool", "rollout", *options, "--out", "out", "--quiet"],
            env=environment,
            check=False,
        )
        assert -signal.SIGKILL == killed.returncode
        ended = rollout(*options, "--unknown-effects", "stop")
        assert (1, []) == (ended.code, ended.results)
        assert "task a: function_call 'die' (c)" in ended.err
        assert "--unknown-effects tell" in ended.err
        ended = rollout(*options)
    assert (0, [UNKNOWN]) == (ended.code, [line["answer"] for line in ended.results])
    assert 1 == ended.summary["unknown_calls"]
    assert "outcome is unknown: 1; the model was told so" in ended.err
    assert "x" == Path("did").read_text()
    assert json.loads(Path("out", EFFECTS).read_text().splitlines()[-1])["over"] is True


def cut(name: str) -> None:
    """Called before each payment is made, in a test of power cuts."""


def test_f171_a_power_cut_repeats_nothing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """F171: the power is cut while a call is made, and of all files no more is left than was on the disk ->
    no call that is not `repeatable` is made twice; each task has its result after the next start.
    """
    disk, cuts, power = Path("disk"), Path("cuts"), threading.Lock()
    disk.mkdir()

    def sync(descriptor: int) -> None:
        name = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        with power:
            shutil.copy(name, disk / name.name)

    def cut_here(name: str) -> None:
        (cuts / name).mkdir(parents=True)
        for path in Path().glob("did-*"):  # first: what is made meanwhile was on the disk before
            if path.stat().st_size:  # else it is being made, by another task, and is not yet
                shutil.copy(path, cuts / name / path.name)
        with power:
            shutil.copytree(disk, cuts / name, dirs_exist_ok=True)
        (cuts / name / f"did-pay-{name}").write_text("x")  # it is made, and then the power is cut

    Path("mine.py").write_text(
        MINE.replace("    fd = os", "    if kind == 'pay': test_effects.cut(name)\n    fd = os").replace(
            "import wspool", "import wspool\nfrom tests.rollout import test_effects"
        )
    )
    write("tasks.jsonl", *({"id": f"t{n}", "input": f"t{n}"} for n in range(2)))
    with local_server(model=Paying()) as server:
        options: list[Any] = [
            "tasks.jsonl", "--url", server.url, "--model", "m", "--tools", "./mine.py:tools",
            "--checkpoint-turns",
        ]  # fmt: skip
        with monkeypatch.context() as patch:
            patch.setattr(durable, "_sync", sync)
            patch.setattr(sys.modules[__name__], "cut", cut_here)
            assert 0 == rollout(*options).code
        assert 2 * ROUNDS == len(list(cuts.iterdir()))
        for at in sorted(cuts.iterdir()):
            (at / "run.json").write_bytes(Path("out/run.json").read_bytes())
            for path in Path().glob("did-*"):
                path.unlink()
            for path in at.glob("did-*"):
                shutil.copy(path, path.name)
            command("rollout", *options, "--out", at, "--quiet", "--no-report")
            assert {1} == {path.stat().st_size for path in Path().glob("did-pay-*")}
            lines = (at / "results.jsonl").read_text().splitlines()
            assert {"t0", "t1"} == {json.loads(line)["id"] for line in lines}


def test_a_task_that_failed_goes_on_and_one_that_was_answered_begins_anew(place: Path) -> None:
    """When they are run again: the first repeats no effect, the second all of them."""

    class Failing(Once):
        def __init__(self) -> None:
            self.fails = True
            self.asked = 0

        def respond(self, request: ModelRequest) -> ModelTurn:
            self.asked += 1
            if "output" in request.context[-1] and self.fails:
                error = TurnError(
                    message="bad", code="invalid_prompt", type="invalid_request_error", status=400
                )
                return ModelTurn(status="failed", error=error)
            return super().respond(request)

    model = Failing()
    Path("mine.py").write_text(DYING.replace("os.kill(os.getpid(), signal.SIGKILL)", "return 'paid'"))
    write("tasks.jsonl", {"id": "a", "input": "x", "expected": "no"})
    with local_server(model=model) as server:
        options: list[Any] = [
            "tasks.jsonl", "--url", server.url, "--model", "m", "--tools", "./mine.py:die", "--retries", "0",
            "--checkpoint-turns", "--max-wait", "1",
        ]  # fmt: skip
        assert ["failed"] == [line["outcome"] for line in rollout(*options).results]
        model.fails = False
        assert ["wrong"] == [line["outcome"] for line in rollout(*options, "--redo-errors").results]
        assert ("x", 3) == (Path("did").read_text(), model.asked)
        rollout(*options, "--redo-wrong")
        assert ("xx", 5) == (Path("did").read_text(), model.asked)


class Stubborn(Saying):
    """Has one call made, and then another again and again, until it may end."""

    ends = False

    def respond(self, request: ModelRequest) -> ModelTurn:
        outputs = [item for item in request.context if "output" in item]
        if not outputs:
            return ModelTurn(output=[function_call("pay", {"name": "once"})])
        if not self.ends:
            return ModelTurn(output=[function_call("look", {})])
        return super().respond(request)


STUBBORN: Final = '''
import wspool

def pay(name: str) -> str:
    """Pay once."""
    with open("did", "a") as file:
        file.write("x")
    return "paid"

@wspool.tool(repeatable=True)
def look() -> str:
    """Look."""
    return "seen"

tools = [pay, look]
'''


@pytest.mark.parametrize("between", ["", "--select b", "--limit 1"])
def test_what_was_done_is_known_whatever_was_run_in_between(place: Path, between: str) -> None:
    """By a run that has nothing to do for the task, or was told to do others."""
    model = Stubborn()
    Path("mine.py").write_text(STUBBORN)
    write("tasks.jsonl", {"id": "b", "input": "b"}, {"id": "a", "input": "a"})
    with local_server(model=model) as server:
        options: list[Any] = [
            "tasks.jsonl", "--url", server.url, "--model", "m", "--tools", "./mine.py:tools",
            "--checkpoint-turns",
        ]  # fmt: skip
        assert 1 == rollout(*options, "--max-turns", "3").code
        assert "xx" == Path("did").read_text()
        model.ends = True
        rollout(*options, *between.split(), *(["--redo-errors"] if between else []))
        assert 0 == rollout(*options, "--redo-errors").code

    assert "xx" == Path("did").read_text()


def test_what_was_done_is_not_forgotten_without_a_word(place: Path) -> None:
    """Who leaves the option out is told what would be done again, before it is."""
    model = Stubborn()
    Path("mine.py").write_text(STUBBORN)
    write("tasks.jsonl", {"id": "a", "input": "a"})
    with local_server(model=model) as server:
        options: list[Any] = [
            "tasks.jsonl",
            "--url",
            server.url,
            "--model",
            "m",
            "--tools",
            "./mine.py:tools",
        ]
        rollout(*options, "--checkpoint-turns", "--max-turns", "3")
        model.ends = True
        refused = rollout(*options, "--redo-errors")
        assert (2, "x") == (refused.code, Path("did").read_text())
        assert ["failed"] == [line["outcome"] for line in refused.results]
        assert "begun 1 of these tasks (first 'a')" in refused.err
        assert "say --checkpoint-turns" in refused.err
        assert 0 == rollout(*options, "--redo-errors", "--allow-mixed").code

    assert "xx" == Path("did").read_text()


def test_to_start_over_is_to_begin_anew_even_without_a_result(place: Path) -> None:
    """Of a run that was killed before its first one, what it had begun is put aside as well."""
    Path("mine.py").write_text(DYING)
    write("tasks.jsonl", {"id": "a", "input": "x"})
    with local_server(model=Once()) as server:
        options: list[Any] = ["tasks.jsonl", "--url", server.url, "--model", "m", "--tools", "./mine.py:die"]
        environment = {**os.environ, "PYTHONPATH": str(Path(wspool.__file__).parent.parent)}
        killed = subprocess.run(
            [sys.executable, "-m", "wspool", "rollout", *options, "--checkpoint-turns", "--out", "out"],
            env=environment,
            stderr=subprocess.DEVNULL,
            check=False,
        )
        assert -signal.SIGKILL == killed.returncode
        Path("mine.py").write_text(DYING.replace("os.kill(os.getpid(), signal.SIGKILL)", "return 'paid'"))
        assert 0 == rollout(*options, "--no-resume").code

    assert Path("out/effects.jsonl.old").stat().st_size
    assert not Path("out/effects.jsonl").exists()


JUDGING: Final = (
    MINE
    + """

def judge(answer):
    if not os.path.exists("judged"):
        open("judged", "w").close()
        os.kill(os.getpid(), 9)
    return 1
"""
)


def test_a_result_that_is_lost_costs_one_turn(place: Path) -> None:
    """Killed after the last turn, before the result is written: that turn is taken again, and no
    call is made again.
    """
    model = Paying()
    write("tasks.jsonl", {"id": "t0", "input": "t0"})
    Path("mine.py").write_text(JUDGING)
    with local_server(model=model) as server:
        options: list[Any] = [
            "tasks.jsonl", "--url", server.url, "--model", "m", "--tools", "./mine.py:tools",
            "--score", "./mine.py:judge", "--checkpoint-turns",
        ]  # fmt: skip
        environment = {**os.environ, "PYTHONPATH": str(Path(wspool.__file__).parent.parent)}
        killed = subprocess.run(
            [sys.executable, "-m", "wspool", "rollout", *options, "--out", "out", "--quiet"],
            env=environment,
            check=False,
        )
        assert (-signal.SIGKILL, True) == (killed.returncode, Path("judged").exists())
        ended = rollout(*options)
    assert (0, ["right"]) == (ended.code, [line["outcome"] for line in ended.results])
    assert [1] * (len(KINDS) * ROUNDS) == [path.stat().st_size for path in Path().glob("did-*")]
    assert {("t0", number): 1 + (number == ROUNDS) for number in range(ROUNDS + 1)} == model.asked


def test_f172_what_cannot_be_noted_ends_the_run(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """F172: a call cannot be noted before it is made: the disk is full -> it is not made; the run ends and
    says why, its tasks stay owed, and the next run does them.
    """

    def full(ledger: wspool.FileLedger, line: object) -> None:
        raise OSError(28, "no room")

    Path("mine.py").write_text(MINE.replace("pay", "die").replace("(name: str)", '(name: str = "x")'))
    write("tasks.jsonl", {"id": "a", "input": "x"})
    with local_server(model=Once()) as server:
        options = ("tasks.jsonl", "--url", server.url, "--model", "m", "--checkpoint-turns")
        with monkeypatch.context() as patch:
            patch.setattr(wspool.FileLedger, "write", full)
            ended = rollout(*options, "--tools", "./mine.py:die")
        assert (1, []) == (ended.code, ended.results)
        assert "a call of a tool could not be noted: [Errno 28] no room" in ended.err
        assert [] == [*Path().glob("did-*")]
        ended = rollout(*options, "--tools", "./mine.py:die")
    assert (0, ["die x"]) == (ended.code, [line["answer"] for line in ended.results])


def test_what_becomes_of_the_unknown_has_two_ways(place: Path) -> None:
    """Another one is named before anything is sent."""
    write("tasks.jsonl", {"id": "a", "input": "x"})
    ended = rollout("tasks.jsonl", "--local", "--unknown-effects", "ask")
    assert (2, "wspool: --unknown-effects 'ask' must be tell or stop\n") == (ended.code, ended.err)


def main(points: int) -> None:
    """Take so many points, in runs that are killed a few times each, and say what was seen."""
    total, began = Seen(), time.monotonic()
    for seed in range(points):
        with tempfile.TemporaryDirectory() as directory:
            os.chdir(directory)
            seen = Seen()
            check(4 + seed % 7, seed, seen)
        for name in attrs.fields_dict(Seen):
            setattr(total, name, getattr(total, name) + getattr(seen, name))
        print(f"{time.monotonic() - began:.0f} s, {seed + 1} runs: {total}", flush=True)  # noqa: T201
        if total.kills >= points:
            return


if __name__ == "__main__":
    main(int(sys.argv[1]))
