"""The page about testing says what is so: its programs run, its options are there."""

import re
from pathlib import Path

import pytest

from wspool.server import ModelRequest, ModelTurn
from wspool.testing import local_server

from .test_plugin import run

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.network

PAGE = (Path(__file__).parents[2] / "docs" / "testing.md").read_text(encoding="utf-8")
SERVER, CASSETTE = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


class Knows:
    def respond(self, request: ModelRequest) -> ModelTurn:
        return ModelTurn.from_json({"text": "Paris."})


def test_the_programs_run(pytester: pytest.Pytester) -> None:
    """As they stand there."""
    pytester.makepyfile(test_server=SERVER)
    run(pytester).assert_outcomes(passed=3)
    pytester.makepyfile(test_cassette=CASSETTE)
    with local_server(model=Knows()) as server:
        run(pytester, "test_cassette.py", f"--wspool-record={server.url}").assert_outcomes(passed=1)
    assert (pytester.path / "cassettes" / "test_cassette" / "test_an_answer.json").exists()
    run(pytester).assert_outcomes(passed=4)


def test_the_options_are_there(pytester: pytest.Pytester) -> None:
    """And none that the page does not have."""
    helped = set(re.findall(r"--wspool-[\w-]+", run(pytester, "--help").stdout.str()))
    assert helped == set(re.findall(r"--wspool-[\w-]+", PAGE))
