"""The report: what was counted is what is shown, and nothing of what others wrote does anything."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from tests.report.page import Page, line, results
from tests.rollout.command import Ended, Saying, command, place, write
from wspool.cli import report as asked
from wspool.report import making
from wspool.report.making import REPORT
from wspool.rollout.results import RESULTS
from wspool.rollout.samples import SAMPLES
from wspool.testing import local_server

__all__ = ["place"]  # a fixture


def report(directory: Path, *options: str) -> Page:
    ended = command("report", directory, *options)
    assert (0, "") == (ended.code, ended.err)
    assert f"report in {directory / REPORT}\n" == ended.out
    page = Page(directory / REPORT)
    page.assert_inert()
    return page


def test_what_is_shown_is_what_is_there(place: Path) -> None:
    """Outcomes, scores, tokens, cost, phases, requests: each sum and each mean."""
    found = results(
        "out",
        [
            line("a-1", "right", score=1.0, cost=0.5),
            line("a-2", "wrong", score=0.0, cost=1.5, seconds=4.0, answer="no"),
            line("b-1", "right", score=1.0, cost=1.0),
            line("b-2", "failed", error={"type": "ValueError", "message": "bad day", "traceback": "File x"}),
        ],
        more={"task_count": 6, "options": {"ray": True, "actors": 3}},
    )
    page = report(found)

    assert ["2", "50.0 %"] == page.row("right")
    assert ["2", "1", "1", "0", "0.5", "3 s", "100", "1"] == page.row("a")
    assert "2 tasks are owed" in page.text
    assert "actors" in page.text
    assert ["0.6667"] == page.row("mean")
    assert ["80", "20.0 %"] == page.row("input, not cached")
    assert ["3", "1", "1", "1.5", "1.5"] == page.row("cost")
    assert ["10 s", "2.5 s", "2 s", "4 s", "4 s"] == page.row("whole time")
    assert ["2 s", "500 ms", "500 ms", "500 ms", "500 ms"] == page.row("in line")
    assert ["3 s", "750 ms", "250 ms", "2.25 s", "2.25 s"] == page.row("the rest")
    assert ["4", "50.0 %"] == page.row("with only what was new")
    assert ["1.2 kB", "75.0 %"] == page.row("bytes sent")
    assert ["failed", "1", "ValueError", "bad day", "b-2"] == page.table("outcome", "error")[0]
    assert [["a-2", "0"]] == page.table("task", "score")
    assert [["a-2", "1.5"], ["b-1", "1"], ["a-1", "0.5"]] == page.table("task", "cost")
    assert ["a-2", "4 s"] == page.table("task", "time")[0]
    assert "question b-2" in page.text
    assert "File x" in page.text
    assert 0o600 == (found / REPORT).stat().st_mode & 0o777


def test_scores_in_between_and_several_attempts(place: Path) -> None:
    """The mean has its error by tasks, pass@k is there, and so are the parts of scores."""
    lines = [
        line(id, "right" if score == 1 else "wrong", score=score, attempt=n, scores={"len": 3 * n, "x": None})
        for id, scores in {"a": (1, 0), "b": (0.5, 0.5), "c": (1, 1)}.items()
        for n, score in enumerate(scores, 1)
    ]
    page = report(results("out", lines))

    assert ["0.6667"] == page.row("mean")
    assert ["0.1667"] == page.row("standard error of the mean")
    assert ["0.6667"] == page.row("pass@2")
    assert ["4.5"] == page.row("mean of len")
    assert ["-"] == page.row("mean of x")
    assert "a, attempt 2" in page.text


HOSTILE = (
    "</script><script>alert(1)</script><img src=x onerror=alert(1)>\x00\x1b[31m\u202eevil\ud800 "
    '"\'><a href="http://evil.example">{{ 7*7 }}{% raw %}]]>--><!--'
)


def test_what_others_wrote_is_text(place: Path) -> None:
    """Wherever it stands, and however long it is."""
    nasty = {"type": HOSTILE, "message": HOSTILE, "code": HOSTILE, "traceback": HOSTILE}
    lines = [
        line(HOSTILE, "failed", error=nasty, model=HOSTILE, began=HOSTILE, ended=HOSTILE, expected=HOSTILE),
        line("b", "wrong", score=0.5, scores={HOSTILE: 1}, answer={HOSTILE: [HOSTILE]}, items=[
            {"type": HOSTILE, HOSTILE: HOSTILE}, HOSTILE, {"role": HOSTILE, "content": [{"text": HOSTILE}]},
            {"type": "function_call", "name": HOSTILE, "arguments": HOSTILE},
            {"type": "function_call_output", "output": "x" * 2_000_000 + HOSTILE},
            {"type": "message", "role": "user", "content": "a\n" * 300_000},
            *({"type": "message", "role": "user", "content": HOSTILE} for _ in range(100)),
        ]),
    ]  # fmt: skip
    raw = [json.dumps(each).encode() + b"\n" for each in lines]
    found = results(
        "out",
        raw,
        tasks=f"/secret/place/{HOSTILE}",
        settings={"model": HOSTILE, "agent_args": {"key": "hush"}, HOSTILE: HOSTILE},
    )
    page = report(found)

    assert "alert(1)" in page.text
    assert "{{ 7*7 }}" in page.text
    assert "\\u202eevil\\ud800" in page.text
    assert "hush" not in page.raw
    assert "/secret/place" not in page.raw
    assert "items are left out" in page.text
    assert len(page.raw) < 500_000
    second = results("second", [line("b", "right", score=1.0, answer=HOSTILE)])
    assert 0 == command("report", found, second).code
    page = Page(second / "compare.html")
    page.assert_inert()
    assert "alert(1)" in page.text


def test_of_what_is_damaged_the_rest_is_shown(place: Path) -> None:
    """Each thing that is missing is named; none is in the way of the others."""
    found = results(
        "damaged",
        [
            b"\xff\xfe\n", b"[1]\n", b"\n", b"[" * 100_000 + b"\n", line("a"), line("a", "failed"),
            {"id": "b", "outcome": "done", "usage": "many", "phases": [], "items": {"a": 1}, "score": "high"},
            {"id": "c", "outcome": "done", "seconds": float("nan"), "scores": {"x": {}}, "requests": 3},
            {"custom_id": "d", "response": None, "wspool": 7}, b'{"id": "e", "outco',
        ],
    )  # fmt: skip
    (found / "run.json").write_text("[]")
    (found / SAMPLES).write_bytes(
        b'nonsense\n{"run": 1, "seconds": 0}\n{"run": 1, "seconds": 2, "open": 3}\n'
        b'{"run": 2, "seconds": 5}\n{"run'
    )
    page = report(found)

    assert [["done", "4", "100.0 %"]] == page.table("outcome")
    assert 3 == len(page.notes)
    assert "does not say how results were made" in page.notes[0]
    assert page.notes[1].startswith("4 lines are no results and are left out; the first is line 1.")
    assert page.notes[2].startswith("1 results were there twice")
    assert ["3", "1.0"] == page.row("open")


@pytest.mark.parametrize("size", [1e299, 1e99, 1e-99, 5e-324, 10**400, 0])
def test_numbers_of_any_size(place: Path, size: float) -> None:
    """A score may be a likelihood: what is too large or too small to be counted with is in nothing's way."""
    lines = [
        line(
            f"a-{n}", "wrong", score=score, cost=score, seconds=score, turns=score, phases={"line": score},
            usage={"input_tokens": size, "output_tokens": 1, "total_tokens": size},
        )
        for n, score in enumerate([size, -size, 2 * size, 0, *([1.0, 2.0] if size else [])])
    ]  # fmt: skip
    found = results("out", lines)
    (found / SAMPLES).write_text(
        "".join(json.dumps({"run": 1, "seconds": each, "open": each}) + "\n" for each in (size, 2 * size))
    )

    assert f"{len(lines)} results" in report(found).text
    assert 0 == command("report", found, found).code


def refused(ended: Ended) -> str:
    assert (2, "") == (ended.code, ended.out)
    assert 1 == ended.err.count("\n")
    return ended.err.removeprefix("wspool: ").strip()


def test_what_cannot_be_reported_on_is_one_sentence(place: Path) -> None:
    """No directory, no results, no regular file, no place for the report."""
    assert "there is no directory nowhere" == refused(command("report", "nowhere"))
    Path("empty").mkdir()
    assert "there is no results.jsonl in empty" == refused(command("report", "empty"))
    os.mkfifo(Path("empty", RESULTS))
    assert "regular file" in refused(command("report", "empty"))
    found = results("out", [line("a")])
    assert "use another --out" in refused(command("report", found, "--out", "nowhere/x.html"))
    assert "no result has a field 'x'" in refused(command("report", found, "--group-by", "x"))
    assert "--group-by is for" in refused(command("report", found, found, "--group-by", "model"))
    results("none", [])
    assert "0 results" in report(Path("none")).text


def test_groups_by_a_field_of_results_or_rows(place: Path) -> None:
    """The rows are those of the task file, which is read again."""
    tasks = write("t.jsonl", *({"id": f"q{n}", "question": "x", "level": {"of": n % 2}} for n in range(4)))
    options = {"options": {"input_field": "question"}}
    found = results("out", [line(f"q{n}") for n in range(4)], tasks=str(tasks.resolve()), more=options)

    assert "2" == report(found, "--group-by", "level.of").row("1")[0]
    assert "4" == report(found, "--group-by", "model").row("m")[0]
    assert "beginning of the id" not in report(found).text
    tasks.unlink()
    assert "none that can be read again" in refused(command("report", found, "--group-by", "level.of"))


@pytest.mark.parametrize(
    "options",
    [{"leave_out": 5}, {"leave_out": [[1]]}, {"id_field": 5}, {"input_field": [1]}, {"format": 7}, 3],
)
def test_options_of_another_kind_are_none(place: Path, options: Any) -> None:
    """Somebody else wrote the directory: what makes no sense there is as if it were not said."""
    tasks = write("t.jsonl", {"id": "q", "input": "x", "level": 1})
    found = results("out", [line("q")], tasks=str(tasks.resolve()), more={"options": options})

    assert "1" == report(found, "--group-by", "level").row("1")[0]


def test_a_report_does_not_grow_with_the_run(place: Path) -> None:
    """Nor what is kept for it: ids that are all different, each in a group of its own, each failing anew."""

    def lines(count: int) -> list[dict[str, Any]]:
        return [
            line(
                f"{n}-x",
                "failed",
                score=n,
                model=f"m{n}",
                scores={f"s{n}": 1},
                error={"type": "E", "message": f"no {n}", "traceback": "t" * 500},
                items=[{"type": "message", "role": "user", "content": "y" * 2000}],
            )
            for n in range(count)
        ]

    small = report(results("small", lines(300)))
    large = report(results("large", lines(3000)))

    assert len(large.raw) < 1.1 * len(small.raw)
    assert "2970 kinds more" not in large.text, "they are counted together"
    assert any("(others)" in cell for row in large.tables for cells in row for cell in cells)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None), max_size=8),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=3), inside, max_size=3),
    max_leaves=6,
)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_line_has_a_place(tmp_path: Path, data: st.DataObject) -> None:
    """Whatever JSON stands where something else is expected. A report takes long, and many lines."""
    names = st.sampled_from([*line("x"), "score", "scores", "attempt", "expected", "cost", "status"])
    lines = []
    for n in range(data.draw(st.integers(1, 20))):
        changed = data.draw(st.dictionaries(names, VALUES, max_size=4))
        one = {
            **line(f"t{n}"),
            **changed,
            "id": f"t{n}",
            "outcome": data.draw(st.sampled_from(["done", "failed"])),
        }
        lines.append(
            one
            if data.draw(st.booleans())
            else {
                "custom_id": f"t{n}",
                "response": data.draw(VALUES),
                "error": data.draw(VALUES),
                "wspool": one,
            }
        )
    directory = tmp_path / str(len(list(tmp_path.iterdir())))
    results(str(directory), lines)
    making.make_report(directory, directory / REPORT)
    Page(directory / REPORT).assert_inert()


def test_what_another_run_has_changed(place: Path) -> None:
    """Pairs of answers: worse, better, otherwise; what cannot be compared is counted."""
    first = results(
        "first",
        [
            line("same", "right", score=1.0), line("worse", "right", score=1.0),
            line("better", "wrong", score=0.0), line("other", answer="one"), line("broken"), line("gone"),
            line("text"),
        ],
        settings={"model": "m"},
    )  # fmt: skip
    second = results(
        "second",
        [
            line("same", "right", score=1.0), line("worse", "wrong", score=0.5),
            line("better", "right", score=1.0), line("other", answer="two"), line("new"),
            line("broken", "failed", error={"type": "E", "message": "oh"}), line("text", digest="another"),
        ],
        settings={"model": "n"},
    )  # fmt: skip
    ended = command("report", first, second)
    assert (0, f"report in {second / 'compare.html'}\n") == (ended.code, ended.out)
    page = Page(second / "compare.html")
    page.assert_inert()

    assert ["Both runs", "What changed", "Worse answers", "Better answers", "Other answers"] == page.titles
    assert ["right → wrong", "1 → 0.5", "fine", "fine"] == page.row("worse")
    assert ["done → failed", "-", "fine", "oh"] == page.row("broken")
    assert ["wrong → right", "0 → 1", "fine", "fine"] == page.row("better")
    assert ["done", "-", "one", "two"] == page.row("other")
    assert "5 attempts are in both: of 2 the answer got worse, of 1 better, and of 1" in page.text
    assert "changed by +0.1667, with a standard error of 0.441 (3 tasks)" in page.text
    assert "1 attempts are in the first only, 1 in the second only." in page.text
    assert "1 attempts are at tasks that say something else by now" in page.text
    assert "m  →  n" in page.text


@pytest.mark.network
def test_a_rollout_ends_with_its_report(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless somebody wants none, or it cannot be made, which ends nothing."""
    tasks = write("tasks.jsonl", {"id": "a", "input": "x", "expected": "fine"})
    with local_server(model=Saying()) as server:
        options = ("rollout", tasks, "--url", server.url, "--model", "m", "--out")
        ended = command(*options, "one", "--quiet")
        assert (0, "report in one/report.html") == (ended.code, ended.out.splitlines()[-1])
        page = Page(Path("one", REPORT))
        page.assert_inert()
        assert ["1", "100.0 %"] == page.row("right")
        assert "Connections" in page.titles
        assert "fine" in page.text
        Path("one", REPORT).write_bytes(b"as it is")
        ended = command(*options, "one", "--quiet")  # has nothing to do, and nothing else to report
        assert (b"as it is", "report in one/report.html") == (
            Path("one", REPORT).read_bytes(),
            ended.out.splitlines()[-1],
        )
        os.utime("one/results.jsonl", (2**32, 2**32))
        command(*options, "one", "--quiet")
        assert b"as it is" != Path("one", REPORT).read_bytes()
        ended = command(*options, "two", "--quiet", "--json", "--no-report")
        assert (0, None) == (ended.code, json.loads(ended.out)["report"])
        with monkeypatch.context() as patch:
            for module in (making, asked):
                patch.setattr(module, "missing", lambda: ["pygal"])
            ended = command(*options, "three")
            assert (0, 1) == (ended.code, ended.err.count("pip install 'wspool[report]'"))
            assert "wspool[report]" in refused(command("report", "one"))
        Path("four").mkdir()
        Path("four", REPORT).mkdir()
        ended = command(*options, "four", "--quiet", "--json")
        assert (0, None) == (ended.code, json.loads(ended.out)["report"])
        assert "there is no report: IsADirectoryError" in ended.err


def test_what_draws_is_in_nobodys_way() -> None:
    """Whoever looks for a package after a report finds it: the finder of another library has to stay."""
    program = (
        "import importlib.metadata, sys; from wspool.report import plots; plots._library();"
        "assert 'pygal' not in [type(each).__module__ for each in sys.meta_path];"
        "print(importlib.metadata.version('pygal'))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip()
