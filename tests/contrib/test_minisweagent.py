"""mini-swe-agent, by the model of wspool: real agents, real commands."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from wspool.server import ModelTurn, ScriptedModel, function_call, message
from wspool.testing import LocalServer, local_server

os.environ.setdefault("MSWEA_SILENT_STARTUP", "1")
pytest.importorskip("minisweagent", reason="not installed: mini-swe-agent")

pytestmark = [pytest.mark.network, pytest.mark.clients]

DONE = "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT; cat f"


def bash(command: str) -> ModelTurn:
    return ModelTurn(output=[function_call("bash", {"command": command})])


def run(server: LocalServer, folder: Path, **settings: Any) -> Any:
    """Have an agent work in *folder*; return what it ended with, and the agent."""
    from minisweagent.agents.default import DefaultAgent
    from minisweagent.environments.local import LocalEnvironment
    from minisweagent.models import get_model

    config = {
        "model_class": "wspool.contrib.minisweagent.Model",
        "url": server.url,
        # What a configuration has for litellm does no harm.
        "model_kwargs": {"drop_params": True},
        "cost_tracking": "ignore_errors",
        **settings,
    }
    agent = DefaultAgent(
        get_model("openai/gpt-5.2", config),
        LocalEnvironment(cwd=str(folder)),
        system_template="Use bash.",
        instance_template="{{task}}",
    )
    return agent.run("Do it."), agent


def test_agents_in_threads_share_a_pool(tmp_path: Path) -> None:
    """Each sends what is new; commands run; what is submitted comes back."""
    script = ScriptedModel([bash("echo hi > f"), bash("ls"), bash(DONE)])
    with local_server(model=script) as server, ThreadPoolExecutor(4) as threads:
        folders = [tmp_path / str(number) for number in range(4)]
        for folder in folders:
            folder.mkdir()
        ends = list(threads.map(lambda folder: run(server, folder, policy={"max_size": 4})[0], folders))

        assert ["hi"] * 4 == [end["submission"].strip() for end in ends]
        assert ["Submitted"] * 4 == [end["exit_status"] for end in ends]
        server.expect(requests=12, continued=8, transport="websocket")
        assert len({entry["connection"] for entry in server.ledger}) <= 4
        assert {"gpt-5.2"} == {request.body["model"] for request in server.requests}


def test_an_answer_without_a_call_is_told_and_paid_for(tmp_path: Path) -> None:
    """mini-swe-agent says so to the model, which does better; both turns have their price."""
    (tmp_path / "f").write_text("x", encoding="utf-8")
    script = ScriptedModel([ModelTurn(output=[message("I would look first.")]), bash(DONE)])
    with local_server() as server:
        # The response without a call is not in the history, so the model says it until it is told.
        server.use(_Told(script))
        end, agent = run(server, tmp_path, price=[1.0, 0.1, 10.0])

        assert "Submitted" == end["exit_status"]
        assert 2 == agent.n_calls
        assert agent.cost > 0
        # A trajectory is JSON.
        assert "wspool.contrib.minisweagent.Model" == agent.serialize()["info"]["config"]["model_type"]


class _Told:
    """Calls the tool once it was told that it must."""

    def __init__(self, script: ScriptedModel) -> None:
        self.script = script

    def respond(self, request: Any) -> ModelTurn:
        told = "No tool calls found" in str(request.context[-1])
        return bash(DONE) if told else self.script.respond(request)
