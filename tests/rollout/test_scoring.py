"""How good an answer is: compared, or scored by a function; and what that comes to over many attempts."""

import json
import math
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.rollout.command import Saying, command, place, rollout, write
from wspool.rollout.limits import Limits
from wspool.rollout.scoring import SCORES, Score, Scorer, compared, exact, number
from wspool.rollout.standing import Standing
from wspool.rollout.summary import Meter, Summary
from wspool.rollout.tally import Tally
from wspool.rollout.tasks import Result, Task
from wspool.rollout.team.team import NOTHING
from wspool.server import ModelRequest, ModelTurn, message
from wspool.testing import local_server

__all__ = ["place"]  # a fixture

MINE = """
import trio

def half(answer, expected):
    return 0.5 if answer else 0

async def parts(task, items, response):
    await trio.sleep(0)
    return {"score": len(items) == 2, "length": 3, "why": task["id"]}

def boom(answer):
    raise LookupError("no such key")

def awkward(answer, rubric):
    return 1

class Judge:
    async def __call__(self, *, answer, **more):
        return answer == more["expected"]

judge = Judge()
def nan(answer): return float("nan")
def words(answer): return "good"
"""


@pytest.fixture
def mine(place: Path) -> None:
    Path("mine.py").write_text(MINE)
    write("tasks.jsonl", {"id": "a", "input": "1", "expected": "1"}, {"id": "b", "input": "2", "expected": 3})


def echo(request: ModelRequest) -> str:
    return str(request.context[-1]["content"][0]["text"])


def scored(*options: str) -> Any:
    with local_server(model=Saying(echo)) as server:
        return rollout("tasks.jsonl", "--url", server.url, *options)


@pytest.mark.network
@pytest.mark.usefixtures("mine")
class TestCommand:
    """The command scores, and says so."""

    def test_the_right_answer_is_known(self) -> None:
        """Right and wrong, with scores in the lines and their mean in the summary."""
        ended = scored()

        lines = {line["id"]: line for line in ended.results}
        assert ("right", 1.0) == (lines["a"]["outcome"], lines["a"]["score"])
        assert ("wrong", 0.0, 3) == tuple(lines["b"][name] for name in ("outcome", "score", "expected"))
        assert (1, 1, 1, 0.5) == (ended.code, *(ended.summary[name] for name in ("right", "wrong", "score")))
        assert ended.summary["hint"] is None

    @pytest.mark.parametrize(
        ("name", "scores"),
        [("half", [0.5, 0.5]), ("parts", [1.0, 1.0]), ("judge", [1.0, 0.0])],
    )
    def test_a_function_of_ones_own(self, name: str, scores: list[float]) -> None:
        """It takes by name what it needs, and is awaited if need be; what else it says is in the line."""
        ended = scored("--score", f"./mine.py:{name}")

        lines = sorted(ended.results, key=lambda line: line["id"])
        assert scores == [line["score"] for line in lines]
        known = {1.0: "right", 0.0: "wrong", 0.5: "done"}
        assert [known[score] for score in scores] == [line["outcome"] for line in lines]
        if name == "parts":
            assert {"score": True, "length": 3, "why": "a"} == lines[0]["scores"]

    def test_a_mistake_of_it_costs_no_answer(self) -> None:
        """The task has failed, and the answer is there, with the line where it happened."""
        ended = scored("--score", "./mine.py:boom")

        assert (1, 2) == (ended.code, ended.summary["failed"])
        assert {"1", "2"} == {line["answer"] for line in ended.results}
        assert 'mine.py", line 12' in ended.results[0]["error"]["traceback"]
        assert "NaN" not in Path("out/results.jsonl").read_text()

    def test_gsm8k(self) -> None:
        """The last numbers are compared."""
        write("tasks.jsonl", {"question": "It is $1,042.50", "answer": "So it is 1042.5.\n#### 1,042.5"})

        ended = scored("--input-field", "question", "--expected-field", "answer", "--score", "number")
        assert (0, 1) == (ended.code, ended.summary["right"])
        settings = json.loads(Path("out/run.json").read_text())["settings"]
        assert ("number", None) == (settings["score"], settings["score_source"])

    @pytest.mark.parametrize(
        ("options", "named"),
        [
            ("--score ./mine.py:awkward", "it takes 'rubric'; there are answer, expected, task"),
            ("--score mine", "must be exact, number, contains, pkg.mod:function"),
            ("--score ./mine.py:MINE", "cannot be imported"),
            ("--score number --expected-field input --select nothing", "fits none of 2 tasks"),
            ("--score ./mine.py:__name__", "must be a function"),
            ("--shard 0/2", "must be I/N"),
            ("--shard 3/2", "must be I/N"),
            ("--seed 3", "is of the order of --shuffle"),
            ("--expected-field answer", "there is no answer, which --expected-field names"),
        ],
    )
    def test_mistakes_are_named_before_anything_runs(self, options: str, named: str) -> None:
        """In one line, with exit code 2."""
        ended = rollout("tasks.jsonl", "--local", *options.split())

        assert (2, "") == (ended.code, ended.out)
        assert named in ended.err

    def test_what_is_compared_must_be_known(self) -> None:
        """A run that can be right about nothing is a mistake."""
        write("bare.jsonl", {"input": "x"})
        ended = rollout("bare.jsonl", "--local", "--score", "number")

        assert 2 == ended.code
        assert "--expected-field says where they are" in ended.err

    def test_another_score_makes_other_results(self) -> None:
        """What was judged otherwise is not mixed."""
        scored()
        ended = scored("--score", "number")

        assert 2 == ended.code
        assert "score: None then, 'number' now" in ended.err


class Improving:
    """Wrong at first, then right; of the task b never."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def respond(self, request: ModelRequest) -> ModelTurn:
        text = echo(request)
        self.asked.append(text)
        return ModelTurn(output=[message("1" if self.asked.count(text) > 1 and text == "1" else "no")])


@pytest.mark.network
@pytest.mark.usefixtures("mine")
class TestSamples:
    """Several attempts at each task."""

    def test_attempts_are_numbered_and_more_can_be_added(self) -> None:
        """A later run with more adds to those that are there; pass@k is of all of them."""
        model = Improving()
        with local_server(model=model) as server:
            first = rollout("tasks.jsonl", "--url", server.url, "-c", "1")
            ended = rollout("tasks.jsonl", "--url", server.url, "-c", "1", "-n", "4")

        assert [("a", None), ("b", None)] == [(line["id"], line.get("attempt")) for line in first.results]
        assert 8 == len(model.asked) == len(ended.results)
        assert {(id, n) for id in "ab" for n in (1, 2, 3, 4)} == {
            (line["id"], line.get("attempt", 1)) for line in ended.results
        }
        summary = ended.summary
        assert (8, 2, 4) == (summary["tasks"], summary["skipped"], summary["samples"])
        assert 3 / 8 == summary["score"]
        assert {"1": 3 / 8, "2": 0.5, "4": 0.5} == summary["pass_at"]

    def test_a_batch_line_says_its_attempt_beside_the_answer(self) -> None:
        """What the provider has stays as it is."""
        row = {"custom_id": "a", "method": "POST", "url": "/v1/responses", "body": {"input": "x"}}
        write("batch.jsonl", row)
        ended = rollout("batch.jsonl", "--local", "--samples", "2")
        again = rollout("batch.jsonl", "--local", "--samples", "2")

        assert [1, 2] == sorted(line["wspool"]["attempt"] for line in ended.results)
        assert (0, 2) == (again.code, again.summary["skipped"])

    def test_what_is_run_again_is_said_and_kept(self) -> None:
        """Wrong ones alone, or all that did not go well."""
        with local_server(model=Saying(echo)) as server:
            rollout("tasks.jsonl", "--url", server.url)
            ended = rollout("tasks.jsonl", "--url", server.url, "--redo-wrong")
            assert (1, 1) == (ended.summary["wrong"], ended.summary["skipped"])
            assert "1 tasks run again (1 wrong)" in ended.err
            assert 0.5 == ended.summary["score"]
        assert 1 == Path("out/redone.jsonl").read_text().count("\n")
        write("good.jsonl", {"id": "a", "input": "1", "expected": "1"})
        with local_server(model=Saying(echo)) as server:
            ended = rollout("good.jsonl", "--url", server.url, "--redo-errors", "--allow-mixed")
        assert "there is nothing to run again" in ended.err


def test_a_summary_for_people_says_how_good_the_answers_are() -> None:
    """The mean, and pass@k where there are several attempts."""
    summary = Summary(tasks=4, samples=2, right=1, wrong=3, max_connections=1, score=0.25)
    assert "4 (2 attempts at each): 1 right, 3 wrong" in str(summary)
    assert "score         mean 0.2500\n" in str(summary)
    several = attrs.evolve(summary, pass_at={"1": 0.25, "2": 0.5})
    assert "score         mean 0.2500, pass@1 0.2500, pass@2 0.5000\n" in str(several)


def ids(*options: str) -> list[str]:
    ended = rollout("many.jsonl", "--local", "-c", "1", "--no-resume", *options)
    assert 0 == ended.code, ended.err
    return [line["id"] for line in ended.results]


@pytest.mark.network
def test_what_is_run_of_a_batch(place: Path) -> None:
    """Chosen, shuffled, cut, sharded: the shards are together what one run would do."""
    write("many.jsonl", *({"id": f"t{n}", "input": "x", "kind": {"level": n % 3}} for n in range(12)))

    assert ["t3", "t10", "t11"] == ids("--select", "t3", "--select", "t1?")
    assert ["t2", "t5", "t8", "t11"] == ids("--select", "kind.level=2")
    shuffled = ids("--shuffle", "--limit", "7")
    assert shuffled == ids("--shuffle", "--seed", "0", "--limit", "7")
    assert shuffled not in (ids("--limit", "7"), ids("--shuffle", "--seed", "1", "--limit", "7"))
    parts = [ids("--shuffle", "--limit", "7", "--shard", f"{number}/3") for number in (1, 2, 3)]
    assert sorted(shuffled) == sorted(id for part in parts for id in part)
    assert [3, 2, 2] == [len(part) for part in parts]


@pytest.mark.network
def test_shards_are_merged(place: Path) -> None:
    """Into results that a run of the whole goes on with; what is there twice is named."""
    write("many.jsonl", *({"id": f"t{n}", "input": "x"} for n in range(5)))
    for part in ("1/2", "2/2"):
        assert 0 == command("rollout", "many.jsonl", "--local", "--quiet", "--shard", part).code
    shards = [Path(f"rollout-results/many-shard-{part}-of-2") for part in (1, 2)]
    with (shards[1] / "results.jsonl").open("ab") as file:
        file.write(b'{"id": "torn')

    merged = command("merge", *shards, "--out", "out", "--json")
    assert (0, 5, 0) == (merged.code, merged.summary["tasks"], merged.summary["owed"])
    assert ([], "") == (merged.summary["missing"], merged.err)
    assert [f"t{n}" for n in (0, 2, 4, 1, 3)] == [line["id"] for line in merged.results]
    assert 5 == rollout("many.jsonl", "--local").summary["skipped"]

    # Of a task that is in both, the one that went well is kept.
    good = (shards[0] / "results.jsonl").read_text().splitlines(keepends=True)[0]
    bad = good.replace('"outcome": "done"', '"outcome": "failed"')
    with (shards[1] / "results.jsonl").open("w") as file:
        file.write(bad)
    twice = command("merge", shards[1], shards[0], "--out", "other", "--json")
    assert (1, 3, 2) == (twice.code, twice.summary["tasks"], twice.summary["owed"])
    assert f"'t0' is in {shards[1]} and {shards[0]}; that of {shards[0]} is kept" in twice.err
    same = command("merge", shards[0], shards[0], "--out", "same", "--json")
    assert (3, 3, 0) == (same.summary["same"], same.summary["tasks"], same.summary["owed"])
    assert ["2/2"] == same.summary["missing"]
    assert "shards that are not among them: 2/2" in same.err
    both = command("merge", "same", shards[1], "--out", "both", "--json")
    assert (2, []) == (both.summary["owed"], both.summary["missing"]), "of what was merged nobody can say"


@pytest.mark.network
def test_what_cannot_be_merged_is_named(place: Path) -> None:
    """Other results, none at all, a place that is taken."""
    write("many.jsonl", {"id": "t", "input": "x"})
    command("rollout", "many.jsonl", "--local", "--quiet", "--out", "one")
    command("rollout", "many.jsonl", "--local", "--quiet", "--out", "two", "--set", "temperature=0")
    Path("bad").mkdir()
    Path("bad/results.jsonl").write_text("no\n")

    for arguments, named in (
        ("one two --out out", "set: None then, {'temperature': 0} now"),
        ("one nothing --out out", "there is no results.jsonl in nothing"),
        ("one --out one", "is merged, and cannot be where the results go"),
        ("one bad --out out", "bad/results.jsonl:1: not a result"),
        ("one --out two", "there are results in two"),
        ("one --out many.jsonl", "use another --out"),
    ):
        ended = command("merge", *arguments.split())
        assert (2, "") == (ended.code, ended.out), arguments
        assert named in ended.err
    assert 1 == command("merge", "one", "two", "--out", "out", "--allow-mixed").code


@pytest.mark.parametrize(
    ("answer", "expected", "same"),
    [
        ("42", "42", True),
        (" 42\n", "42", True),
        ("42", 42, True),
        ("41", 42, False),
        ("true", True, True),
        (1, True, False),
        ({"a": 1}, {"a": 1}, True),
        ("b", ["a", "b"], True),
        ("c", ["a", "b"], False),
        (None, "x", False),
    ],
)
def test_answers_are_compared(answer: object, expected: object, same: bool) -> None:
    """But for space around them; a list of right ones has one of them."""
    assert same is exact(answer, expected)


@pytest.mark.parametrize(
    ("answer", "expected", "same"),
    [
        ("The answer is 42.", "#### 42", True),
        ("#### 1,000", 1000, True),
        ("first 42 then 43", "42", False),
        ("3.0", "#### 3", True),
        ("-3", 3, False),
        ("none", "3", False),
        (["3"], "3", False),
    ],
)
def test_numbers_are_compared(answer: object, expected: object, same: bool) -> None:
    """The last ones."""
    assert same is number(answer, expected)


@pytest.mark.parametrize(
    ("answer", "expected", "better"),
    [
        ("It is 42.", "42", "number"),
        ("It is 42.", 42, "number"),
        ("So it is 1,042.", "6 x 7 are 42 #### 1042", "number"),
        ("It is 42, not 43.", "42", "contains"),
        ("It is the\nred one.", "The red one", "contains"),
        ("Born in Bern in 1999.", "Bern, 1999", None),
        ("Bern", ["in Bern", "bern"], "contains"),
        ("It is 142.", 42, None),
        ("It is B.", "B", "contains"),
        ("ABBA", "B", None),
        ("It is 42.", "", None),
        ("It is 42.", {"a": 42}, None),
        (42.5, "43", None),
        ("42", "42", None),
    ],
)
def test_how_a_wrong_text_would_be_right(answer: object, expected: object, better: str | None) -> None:
    """By what there is for it; a number only where a number is what is expected."""
    score = compared(answer, expected)

    assert (better, float(answer == expected)) == (score.better, score.value)
    assert better is None or SCORES[better](answer, expected)


@pytest.mark.parametrize(
    ("better", "hint"),
    [
        (["number"] * 3 + [None], "3 of 4 wrong answers end with the right number: --score number"),
        (["number"] + ["contains"] * 3, "3 of 4 wrong answers contain the right one: --score contains"),
        (["number", None], None),
        ([None], None),
    ],
)
async def test_most_are_wrong_only_as_texts(better: list[str | None], hint: str | None) -> None:
    """The summary says so in one line, and nothing if it is some."""
    standing = Standing(Limits(), Tally())
    for at, each in enumerate(better):
        standing.add(result(str(at), each))
    summary = standing.summary(Meter(), NOTHING, tasks=len(better))

    assert hint == summary.as_json()["hint"]
    assert (hint is not None) is ("\nhint" in str(summary))
    assert hint is None or f"hint          {hint}\n" in str(summary)


def result(id: str, better: str | None) -> Result:
    task = Task(id=id, body={}, source={}, expected="4")
    return Result(
        task=task,
        outcome="wrong",
        answer="",
        response=None,
        failure=None,
        items=(),
        statistics=None,
        seconds=0.0,
        score=0.0,
        better=better,
    )


@pytest.mark.parametrize(
    ("returned", "value"),
    [(1, 1.0), (True, 1.0), (0.5, 0.5), ({"score": 0, "x": 1}, 0.0), ({"a": 1, "b": 0, "c": "so"}, 0.5)],
)
def test_a_score(returned: object, value: float) -> None:
    """A number, or several by name."""
    assert value == Score.of(returned).value


@pytest.mark.parametrize(
    "returned", ["1", None, [1], math.nan, {"a": "b"}, {"score": "1"}, {"a": math.inf}, {"a": {1}}]
)
def test_what_is_no_score(returned: object) -> None:
    """It is told from one."""
    with pytest.raises(TypeError, match="a score must"):
        Score.of(returned)


@pytest.mark.parametrize("function", [lambda: 1, lambda answer, /: 1, lambda answer, other: 1, dict.fromkeys])
def test_what_cannot_be_called_is_told_beforehand(function: Callable[..., object]) -> None:
    """By the names that it asks for."""
    with pytest.raises(TypeError, match="it takes"):
        Scorer.of(function)


def test_numbers_of_arrays_are_numbers_by_name_too() -> None:
    """As those of numpy, which are none of Python's."""
    score = Score.of({"score": Decimal("0.25"), "length": Fraction(3), "why": "so"})

    assert (0.25, {"score": 0.25, "length": 3.0, "why": "so"}) == (score.value, score.parts)


async def test_what_a_function_does_to_what_it_gets_is_its_own() -> None:
    """The result is of what was answered, and the task of what it said."""
    task = Task(id="a", body={}, source={"rubric": ["x"]}, expected=["42"])
    response: dict[str, Any] = {"output": [message("42")]}
    answer = {"said": ["42"]}

    def rude(answer: Any, expected: Any, task: Any, response: Any) -> int:
        for each in (answer["said"], expected, task["rubric"], response["output"]):
            each.clear()
        return 1

    digest = task.digest
    await Scorer.of(rude).score(task, answer, response, ())

    assert (digest, ["42"], {"said": ["42"]}) == (task.digest, task.expected, answer)
    assert [message("42")] == response["output"]


async def test_a_function_that_makes_a_coroutine() -> None:
    """Is awaited as well."""

    async def later() -> int:
        return 1

    scorer = Scorer.of(lambda answer: later())
    assert 1.0 == (await scorer.score(Task(id="a", body={}, source={}), "x", None, ())).value


def test_pass_at_k() -> None:
    """Without bias: the share of the k attempts that could have been made in which one is right."""
    tally = Tally()
    assert (None, {}) == (tally.mean, tally.pass_at())
    for id, rights in (("a", "1000"), ("b", "1100"), ("c", "00")):
        for right in rights:
            tally.add(id, float(right), right=right == "1")

    found = tally.pass_at()
    assert 0.3 == tally.mean
    assert ["1", "2", "4"] == list(found)
    assert pytest.approx((1 / 4 + 1 / 2 + 0) / 3) == found["1"]
    assert pytest.approx((1 / 2 + 5 / 6 + 0) / 3) == found["2"]
    assert 1.0 == found["4"]


PARTLY = """
def partly(answer):
    return {"1": 1, "2": 0.5, "3": 0, "4": True, "5": 7}[answer]
"""


@pytest.mark.parametrize(
    ("options", "outcomes"),
    [
        ([], ["right", "done", "wrong", "right", "done"]),
        (["--right-from", "0.5"], ["right", "right", "wrong", "right", "right"]),
        (["--right-from", "7"], ["wrong", "wrong", "wrong", "wrong", "right"]),
    ],
)
def test_partial_credit_is_in_the_mean(place: Path, options: list[str], outcomes: list[str]) -> None:
    """It is neither right nor wrong, unless somebody says from where on an answer is right."""
    Path("mine.py").write_text(PARTLY)
    write("tasks.jsonl", *({"id": str(n), "input": str(n)} for n in range(1, 6)))
    ended = rollout("tasks.jsonl", "--local", "--model", "m", "--score", "./mine.py:partly", *options)

    assert outcomes == [line["outcome"] for line in sorted(ended.results, key=lambda line: line["id"])]
    assert 1.9 == pytest.approx(ended.summary["score"])
    alone = rollout("tasks.jsonl", "--local", "--model", "m", "--right-from", "1")
    assert (2, True) == (alone.code, "give both" in alone.err)
