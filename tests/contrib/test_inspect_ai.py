"""inspect_ai, by the model that wspool registers: real evals, on both of its backends."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from wspool.server import ModelTurn, ScriptedModel, function_call, message
from wspool.testing import local_server

pytestmark = [pytest.mark.network, pytest.mark.clients]

ROOT = Path(__file__).parents[2]

# Two evals in one process: the first closes its client.
_PROGRAM = """
import json, sys
import inspect_ai
from inspect_ai import Task
from inspect_ai.dataset import Sample
from inspect_ai.model import get_model
from inspect_ai.scorer import includes
from inspect_ai.solver import generate, use_tools
from inspect_ai.tool import tool
from wspool.contrib import inspect_ai as ours

ours.register()  # what the entry point does where wspool is installed

@tool
def weather():
    async def execute(city: str):
        '''Say what the weather is.

        Args:
            city: which.
        '''
        return f"sunny in {city}"
    return execute

model = get_model("wspool/gpt-5.2", base_url=sys.argv[1], api_key="k", max_size=6)
task = Task(
    dataset=[Sample(input=f"{n}: how is it in Paris?", target="Sunny") for n in range(6)],
    solver=[use_tools(weather()), generate()], scorer=includes(),
)
said = []
for _ in range(2):
    (log,) = inspect_ai.eval(task, model=model, log_dir=sys.argv[2], display="none")
    said.append([log.status, log.results.scores[0].metrics["accuracy"].value])
print(json.dumps(said))
"""


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_evals_run_over_a_pool(backend: str, tmp_path: Path) -> None:
    """All samples are right, the tool turns are continued, and the pool is as large as was asked."""
    if importlib.util.find_spec("inspect_ai") is None:
        pytest.skip("not installed: inspect-ai")
    script = [
        ModelTurn(output=[function_call("weather", {"city": "Paris"})]),
        ModelTurn(output=[message("Sunny.")]),
    ]
    with local_server(model=ScriptedModel(script), api_key="k") as server:
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM, server.base_url, str(tmp_path)],
            capture_output=True,
            text=True,
            timeout=120,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "INSPECT_ASYNC_BACKEND": backend},
        )

        assert 0 == done.returncode, done.stderr
        assert [["success", 1.0]] * 2 == json.loads(done.stdout.splitlines()[-1])
        turns = [entry for entry in server.ledger if entry["transport"] == "websocket"]
        assert 24 <= len(turns)
        assert 12 == sum(entry["parent_from"] is not None for entry in turns)
        assert server.server.statistics().connections_peak <= 6


def test_the_module_can_be_imported_without_it() -> None:
    """Its entry point is what registers, and only where it is looked up."""
    from wspool.contrib import inspect_ai

    with pytest.raises(AttributeError, match="no attribute 'something'"):
        _ = inspect_ai.something
