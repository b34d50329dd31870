"""Results say where they come from, and those of something else are not taken for them."""

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.rollout.command import place, rollout, write
from wspool.rollout.files import LinkError, append_to, aside, read_from, replace
from wspool.rollout.provenance import RUN, Provenance, changed_tasks, directory_for, read_provenance
from wspool.rollout.results import ResultsError, open_results
from wspool.rollout.tasks import Task

__all__ = ["place"]  # a fixture


def task(id: str, text: str) -> Task:
    return Task(id=id, body={"input": text}, source={"id": id, "input": text})


def provenance(**settings: object) -> Provenance:
    return Provenance.of(Path("t.jsonl"), [task("a", "x")], settings, {"wspool": "1"})


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    """And says the same; nothing is there before."""
    assert read_provenance(tmp_path) is None
    now = provenance(model="m", agent=None)
    now.write(tmp_path)

    assert read_provenance(tmp_path) == now
    assert Path("t.jsonl").resolve() == Path(now.tasks)


def test_what_differs_is_named() -> None:
    """A setting that is new, gone, or another; what only is noted makes no difference."""
    before = provenance(model="a", url="u", gone=1)
    now = Provenance.of(None, [], {"model": "b", "url": "u", "new": 2}, {})

    assert now.differences(before) == [
        "model: 'a' then, 'b' now",
        "new: None then, 2 now",
        "gone: 1 then, None now",
    ]
    assert before.differences(before) == []


def test_tasks_that_changed_are_named() -> None:
    """By their digest; of a result that says none nothing is known."""
    batch = [task(str(n), "x") for n in range(8)]
    digests = {each.id: each.digest for each in batch[:1]} | {str(n): "other" for n in range(1, 7)}

    assert changed_tasks(batch, digests) == [
        "tasks that have changed since: '1', '2', '3', '4', '5' and 1 more",
    ]
    assert changed_tasks(batch[:1], digests) == []


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"tasks": 1, "settings": 2, "more": {}}', "[" * 9999])
def test_something_else_is_named(tmp_path: Path, content: str) -> None:
    """It is no run's, and not touched."""
    (tmp_path / RUN).write_text(content)
    with pytest.raises(ResultsError, match="does not say how results were made"):
        read_provenance(tmp_path)


def test_each_task_file_has_a_directory_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two files of one name have two, and each finds its own again."""
    monkeypatch.chdir(tmp_path)
    first, second = Path("a/tasks.jsonl"), Path("b/tasks.jsonl.gz")
    found = []
    for _ in range(2):
        for path in (first, second, None):
            directory = directory_for(path)
            directory.mkdir(parents=True, exist_ok=True)
            Provenance.of(path, [], {}, {}).write(directory)
            found.append(directory)

    assert found[:3] == found[3:]
    assert (found[0].name, found[2].name) == ("tasks", "bundled")
    assert found[1].name.startswith("tasks-")


def test_a_backup_is_never_overwritten(tmp_path: Path) -> None:
    """What belongs together has one number."""
    for content in ("1", "2", "3"):
        (tmp_path / "r").write_text(content)
        if content == "2":
            (tmp_path / "beside").write_text("2")
        aside(tmp_path / "r", tmp_path / "beside")

    there = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert there == {"r.old": "1", "r.old.2": "2", "beside.old.2": "2", "r.old.3": "3"}


def test_files_are_private_and_keep_the_mode_that_they_were_given(tmp_path: Path) -> None:
    """Whoever made a file readable for others meant it."""
    before = os.umask(0)
    try:
        with append_to(tmp_path / "f") as file:
            file.write(b"x\n")
        replace(tmp_path / "g", [b"x"])
        modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in "fg"]
        (tmp_path / "f").chmod(0o644)
        replace(tmp_path / "f", [b"y", b"z"])
    finally:
        os.umask(before)

    assert modes == [0o600, 0o600]
    assert (tmp_path / "f").read_bytes() == b"yz"
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o644
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f", "g"]


@pytest.mark.parametrize("opened", [append_to, read_from])
@pytest.mark.parametrize("what", ["link", "pipe", "directory", "device"])
def test_nothing_but_a_file_is_opened(tmp_path: Path, what: str, opened: Callable[[Path], object]) -> None:
    """Nor waited for."""
    path, other = tmp_path / "planted", tmp_path / "other"
    other.write_text("mine")
    match what:
        case "link":
            path.symlink_to(other)
        case "pipe":
            os.mkfifo(path)
        case "directory":
            path.mkdir()
        case _:
            path = Path(os.devnull)
    with pytest.raises((LinkError, IsADirectoryError)):
        opened(path)

    assert other.read_text() == "mine"


def test_a_planted_link_is_not_written_through(tmp_path: Path) -> None:
    """Not even where a file is written beside the one that it replaces."""
    (tmp_path / "other").write_text("mine")
    (tmp_path / "f.new").symlink_to(tmp_path / "other")
    replace(tmp_path / "f", [b"x"])

    assert (tmp_path / "other").read_text() == "mine"
    assert (tmp_path / "f").read_bytes() == b"x"


@pytest.mark.parametrize("how", ["EBADF", "ENOLCK", "ENOSYS", "EOPNOTSUPP"])
def test_a_file_system_with_other_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """NFS locks what is open for writing; where there are no locks, it is said and gone on."""
    import errno
    import fcntl

    real = fcntl.flock

    def flock(file: int, operation: int) -> None:
        writable = fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
        if how == "EBADF" and writable:
            real(file, operation)
        else:
            raise OSError(getattr(errno, how), "no")

    monkeypatch.setattr(fcntl, "flock", flock)
    with open_results(tmp_path) as results:
        assert bool(results.unlocked) == (how != "EBADF")
        results.append({"id": "a", "outcome": "done", "digest": "d"})
        if how == "EBADF":
            with pytest.raises(ResultsError, match="another run"), open_results(tmp_path):
                pass
    with open_results(tmp_path) as results:
        assert ({"a": "done"}, {"a": "d"}) == (results.earlier, results.digests)
    assert json.loads((tmp_path / "results.jsonl").read_text())["id"] == "a"


@pytest.mark.network
@pytest.mark.usefixtures("place")
def test_other_tasks_are_not_mixed_with_those_that_are_there() -> None:
    """Of another file, none of which has a result; another part of the file may be, and a longer copy."""
    rows = [{"id": id, "input": "x"} for id in "abc"]
    assert 0 == rollout(write("one.jsonl", *rows), "--local", "--limit", "1").code

    refused = rollout(write("two.jsonl", {"id": "d", "input": "x"}), "--local")
    assert 2 == refused.code
    assert "two.jsonl' now, none of which has a result there" in refused.err
    assert "--allow-mixed" in refused.err

    assert 0 == rollout("one.jsonl", "--local", "--shard", "2/3").code
    ended = rollout(write("more.jsonl", *rows, {"id": "d", "input": "x"}), "--local")
    assert (0, 4) == (ended.code, len(ended.results))
