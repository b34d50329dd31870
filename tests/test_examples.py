"""Each example runs to its end without a key, and says what it should."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "examples"

#: What each prints, among other things; a regular expression.
SAYS = {
    "django_view": r"Question 0\nQuestion 1\nQuestion 2\nQuestion 3\n",
    "fastapi_app": r"uvicorn: Who are you\?\nhypercorn: Who are you\?\n",
    "opentelemetry_spans": r"chat gpt-5\.2 below look after the boat.*\n(.*\n)*execute_tool tide below",
    "prometheus_metrics": r"wspool_turns_total\{model=\"gpt-5\.2\",status=\"completed\"\} 8\.0",
    "gsm8k": r"3 of 3 right, 0 were there already",
    "live_terminal": r"(?s)rivers.*docks.*4 of 4",
    "parallel_with_budget": r"20 answers, \d+ of them cut short by the budget\n\d+ turns",
    "ray_data": r"40 answers, 0 errors",
    "ray_rollout": r"60 of 60 right, 0 were there already",
    "tomorrow": r"This is visit 1\.\n2 items are in conversation\.json",
    "under_async_openai": r"What is the capital of France\?\nAnd of Spain\?\nThank you\.\n",
    "under_inspect_ai": r"success 1\.0",
    "under_mini_swe_agent": r"(submitted: hello\n){4}",
    "under_openai_agents": r"(It is sunny in Lisbon\.\n){8}",
    "under_pydantic_ai": r"(Lake Baikal is 1642 m deep\.\n){4}",
}
#: Those that are run in another way than by Python alone.
OTHERWISE = {"endpoint", "test_an_agent"}


def environment() -> dict[str, str]:
    """That of a newcomer without a key. The package is this tree's."""
    mine = {name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")}
    return {**mine, "PYTHONPATH": f"{ROOT}{os.pathsep}{FOLDER}", "COLUMNS": "100", "NO_COLOR": "1"}


def needs(path: Path) -> None:
    """Skip if a library is not installed that the example at *path* imports."""
    text = path.read_text(encoding="utf-8").replace("import wspool.ray", "import ray")
    names = set(re.findall(r"^\s*(?:import|from) (\w+)", text, re.MULTILINE))
    missing = sorted(name for name in names - {"endpoint"} if importlib.util.find_spec(name) is None)
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    if "ray" in names and (problem := ray_problem()) is not None:
        pytest.skip(f"Ray does not start on this machine: {problem}")


@functools.cache
def ray_problem() -> str | None:
    """What keeps Ray itself from running here, None for nothing: it wants memory, and its kind of system."""
    program = "import ray; ray.init(num_cpus=1, include_dashboard=False); print(ray.get(ray.put(1)))"
    try:
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=90, check=False
        )
    except subprocess.TimeoutExpired:
        return "it takes longer than 90 s"
    return None if done.returncode == 0 else "".join(done.stderr.splitlines()[-1:]) or "it says nothing"


def run(*words: str, cwd: Path) -> str:
    """Run Python, and return what it printed."""
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, timeout=120, cwd=cwd, env=environment()
    )

    assert 0 == done.returncode, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout


def test_every_example_is_known_here() -> None:
    """A program that nobody runs is soon wrong."""
    assert {path.stem for path in FOLDER.glob("*.py")} == {*SAYS, *OTHERWISE}


@pytest.mark.network
@pytest.mark.parametrize("name", SAYS)
def test_an_example_runs(name: str, tmp_path: Path) -> None:
    """From an empty directory, against a provider on this machine."""
    needs(FOLDER / f"{name}.py")

    said = run(str(FOLDER / f"{name}.py"), cwd=tmp_path)

    assert re.search(SAYS[name], said), said


@pytest.mark.network
def test_a_conversation_goes_on_tomorrow(tmp_path: Path) -> None:
    """A second process goes on where the first has stopped, and a batch does what is owed."""
    for visit in (1, 2):
        said = run(str(FOLDER / "tomorrow.py"), cwd=tmp_path)

        assert f"This is visit {visit}." in said
    run(str(FOLDER / "gsm8k.py"), cwd=tmp_path)
    results = tmp_path / "gsm8k-results" / "results.jsonl"
    lines = results.read_text(encoding="utf-8").splitlines(keepends=True)
    results.write_text("".join(lines[:2]), encoding="utf-8")

    assert "3 of 3 right, 2 were there already" in run(str(FOLDER / "gsm8k.py"), cwd=tmp_path)


@pytest.mark.network
def test_the_tests_of_an_agent_pass(tmp_path: Path) -> None:
    """They are run as their reader would."""
    path = tmp_path / "test_an_agent.py"
    path.write_text((FOLDER / path.name).read_text(encoding="utf-8"), encoding="utf-8")
    words = ("-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(tmp_path))

    assert "4 passed" in run("-m", "pytest", "-q", *words, *_plugin(), str(path), cwd=tmp_path)


def _plugin() -> tuple[str, ...]:
    from importlib.metadata import entry_points

    installed = any(each.value == "pytest_wspool" for each in entry_points(group="pytest11"))
    return () if installed else ("-p", "pytest_wspool")


@pytest.mark.network
def test_the_notebook_runs(tmp_path: Path) -> None:
    """From its first cell to its last, in a kernel."""
    pytest.importorskip("nbclient", reason="not installed: nbclient")
    pytest.importorskip("ipykernel", reason="not installed: ipykernel")
    program = (
        "import nbformat, nbclient, sys\n"
        "notebook = nbformat.read(sys.argv[1], 4)\n"
        "nbclient.NotebookClient(notebook, timeout=60).execute()\n"
        "print(*[output.get('text', '') for cell in notebook.cells for output in cell.get('outputs', ())])\n"
    )

    assert "8 answers" in run("-c", program, str(FOLDER / "notebook.ipynb"), cwd=tmp_path)
