"""`wspool rollout` in this process, against a provider in a thread, with a model that a test writes down."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
from typer.testing import CliRunner

from wspool.cli.app import app
from wspool.server import ModelRequest, ModelTurn, message


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory of its own; what is imported there is forgotten again, and no key is set."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


@attrs.frozen
class Ended:
    """How a command ended, and the results that it left in `out`."""

    code: int
    out: str
    err: str
    results: list[dict[str, Any]]

    @property
    def summary(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out)
        return found


def command(*arguments: object, stdin: bytes | None = None) -> Ended:
    """Run `wspool` in the working directory."""
    result = CliRunner().invoke(app, [str(each) for each in arguments], input=stdin)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    file = Path("out/results.jsonl")
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    return Ended(result.exit_code, result.stdout, result.stderr, lines)


def rollout(*arguments: object, stdin: bytes | None = None) -> Ended:
    """Run `wspool rollout`, with its summary as JSON and its results in `out`, without a report."""
    return command("rollout", *arguments, "--out", "out", "--quiet", "--json", "--no-report", stdin=stdin)


def write(name: str, *rows: Mapping[str, Any]) -> Path:
    """Write a task file into the working directory."""
    path = Path(name)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


class Saying:
    """A model that says what *words* makes of each request, and keeps their bodies."""

    def __init__(self, words: Callable[[ModelRequest], str] = lambda request: "fine") -> None:
        self.bodies: list[Mapping[str, Any]] = []
        self._words = words

    def respond(self, request: ModelRequest) -> ModelTurn:
        self.bodies.append(request.body)
        return ModelTurn(output=[message(self._words(request))])


def answers(results: Iterable[Mapping[str, Any]]) -> dict[Any, Any]:
    """The answers by id."""
    return {line["id"]: line["answer"] for line in results}
