"""The result file survives whatever ends a run, and holds every id once."""

import json
import resource
from pathlib import Path

import pytest

from wspool.rollout.results import ResultsError, open_results, score_of_line


def line(id: str, outcome: str = "done", **more: object) -> dict[str, object]:
    return {"id": id, "outcome": outcome, **more}


def lines(directory: Path) -> list[dict[str, object]]:
    return [json.loads(each) for each in (directory / "results.jsonl").read_text().splitlines()]


def write(directory: Path, content: str) -> None:
    directory.mkdir(exist_ok=True)
    (directory / "results.jsonl").write_text(content)


def test_results_are_appended_and_found_again(tmp_path: Path) -> None:
    """The next run knows what is done, and adds to it; a new directory is made."""
    with open_results(tmp_path / "a" / "b") as results:
        results.append(line("x"))
    with open_results(tmp_path / "a" / "b") as results:
        assert results.earlier == {"x": "done"}
        results.append(line("y", "failed", text="\udc80 \u2028"))

    assert [each["id"] for each in lines(tmp_path / "a" / "b")] == ["x", "y"]


def test_a_line_is_there_as_soon_as_it_is_appended(tmp_path: Path) -> None:
    """A run that is killed in the next moment has lost nothing."""
    with open_results(tmp_path) as results:
        results.append(line("x"))

        assert [line("x")] == lines(tmp_path)


def test_batch_results_are_known_by_their_custom_id(tmp_path: Path) -> None:
    """A Batch line is done or failed; its own id is not the task's."""
    with open_results(tmp_path) as results:
        results.append({"id": "batch_req_1", "custom_id": "1", "response": {}, "error": None})
        results.append({"id": "batch_req_2", "custom_id": "2", "response": None, "error": {"code": "x"}})
    with open_results(tmp_path) as results:
        assert results.earlier == {"1": "done", "2": "failed"}


def test_f173_a_torn_last_line_is_owed_again(tmp_path: Path) -> None:
    """F173: a run is killed in the middle of a line of results -> that task is owed again; what comes next
    does not stick to the torn line.
    """
    write(tmp_path, json.dumps(line("x")) + "\n" + json.dumps(line("y"))[:-5])
    with open_results(tmp_path) as results:
        assert results.earlier == {"x": "done"}
        results.append(line("y"))

    assert [line("x"), line("y")] == lines(tmp_path)


def test_a_last_line_that_only_lacks_its_end_is_kept(tmp_path: Path) -> None:
    """It is complete, and it was paid for."""
    write(tmp_path, json.dumps(line("x")))
    with open_results(tmp_path) as results:
        results.append(line("y"))

    assert [line("x"), line("y")] == lines(tmp_path)


def test_blank_lines_and_duplicates_are_mended(tmp_path: Path) -> None:
    """The first result of a task counts."""
    write(
        tmp_path, "".join(json.dumps(each) + "\n\n" for each in (line("x"), line("x", "failed"), line("y")))
    )
    with open_results(tmp_path) as results:
        assert results.earlier == {"x": "done", "y": "done"}

    assert [line("x"), line("y")] == lines(tmp_path)


@pytest.mark.parametrize("strange", ["{\n", "[]\n", '{"id": "x"}\n', '{"id": true, "outcome": "done"}\n'])
def test_a_file_of_something_else_is_left_alone(tmp_path: Path, strange: str) -> None:
    """It is named by file and line, and nothing in it is touched."""
    content = json.dumps(line("x")) + "\n" + strange
    write(tmp_path, content)
    with pytest.raises(ResultsError, match=r"results\.jsonl:2: not a result"), open_results(tmp_path):
        pass

    assert content == (tmp_path / "results.jsonl").read_text()


def test_dropped_results_are_gone(tmp_path: Path) -> None:
    """A task that is to be tried again has no old result beside the new one."""
    write(tmp_path, "".join(json.dumps(each) + "\n" for each in (line("x"), line("y", "failed"))))
    with open_results(tmp_path) as results:
        results.drop({"y", "z"})
        results.append(line("y"))

    assert [line("x"), line("y")] == lines(tmp_path)


def test_dropping_nothing_touches_nothing(tmp_path: Path) -> None:
    """A file without such results is the same file afterwards."""
    write(tmp_path, json.dumps(line("x")) + "\n")
    before = (tmp_path / "results.jsonl").stat().st_ino
    with open_results(tmp_path) as results:
        results.drop({"y"})

    assert before == (tmp_path / "results.jsonl").stat().st_ino


def test_starting_over_keeps_the_old_file(tmp_path: Path) -> None:
    """Old results are put aside, not thrown away."""
    write(tmp_path, json.dumps(line("x")) + "\n")
    with open_results(tmp_path) as results:
        results.start_over()
        results.append(line("y"))

    assert [line("y")] == lines(tmp_path)
    assert line("x") == json.loads((tmp_path / "results.jsonl.old").read_text())


def test_f178_two_runs_do_not_share_a_directory(tmp_path: Path) -> None:
    """F178: a second run is started in the directory of one that goes on -> it is told so, and nothing is
    written; when the first has ended, the directory is free.
    """
    with open_results(tmp_path), pytest.raises(ResultsError, match="another run"), open_results(tmp_path):
        pass
    with open_results(tmp_path):
        pass


def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    """A file in the way is an error that says what to do."""
    (tmp_path / "file").touch()
    with pytest.raises(ResultsError, match="use another --out"), open_results(tmp_path / "file"):
        pass


def test_a_file_that_was_deleted_takes_no_result(tmp_path: Path) -> None:
    """It would be gone with the run that has paid for it. One that was moved away takes them all the same."""
    with open_results(tmp_path / "a") as results:
        results.append({"id": "1", "outcome": "done"})
        (tmp_path / "a").rename(tmp_path / "b")
        results.append({"id": "2", "outcome": "done"})
        (tmp_path / "b" / "results.jsonl").unlink()
        with pytest.raises(FileNotFoundError, match="it was deleted"):
            results.append({"id": "3", "outcome": "done"})


def test_f174_a_result_that_cannot_be_written_leaves_no_trace(tmp_path: Path) -> None:
    """F174: the disk is full in the middle of a line of results -> the file is as it was before, and may be
    gone on with when there is room.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with open_results(tmp_path) as results:
        results.append(line("x"))
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
            with pytest.raises(OSError, match=r"bytes of a result|too large"):
                results.append(line("y", text="y" * 1000))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        results.append(line("z"))

    assert [line("x"), line("z")] == lines(tmp_path)


@pytest.mark.parametrize("score", [10**400, -(10**400), float("nan"), float("inf"), "1", None])
def test_a_score_that_is_no_number_to_count_with_is_none(score: object) -> None:
    """Somebody else may have written the line."""
    assert score_of_line({"score": score}) is None
