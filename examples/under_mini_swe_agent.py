"""Under mini-swe-agent, in threads: four agents that really run commands, over one pool.

On a command line: `mini-extra swebench -w 32 --model gpt-5.2 --model-class wspool.contrib.minisweagent.Model`
"""

import os
import tempfile
from concurrent.futures import ThreadPoolExecutor

os.environ.setdefault("MSWEA_SILENT_STARTUP", "1")

from endpoint import MODEL, endpoint
from minisweagent.agents.default import DefaultAgent
from minisweagent.environments.local import LocalEnvironment
from minisweagent.models import get_model

from wspool.server import ModelTurn, ScriptedModel, function_call

SCRIPT = [
    ModelTurn(output=[function_call("bash", {"command": "echo hello > greeting && cat greeting"})]),
    ModelTurn(
        output=[
            function_call("bash", {"command": "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT; cat greeting"})
        ]
    ),
]


def solve(url: str) -> str:
    """Have one agent work in a folder of its own, and return what it submits."""
    settings = {"model_class": "wspool.contrib.minisweagent.Model", "url": url, "policy": {"max_size": 4}}
    with tempfile.TemporaryDirectory() as folder:
        agent = DefaultAgent(
            get_model(MODEL, settings),
            LocalEnvironment(cwd=folder),
            system_template="To end, echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT and what you submit.",
            instance_template="{{task}}",
        )
        return agent.run("Write a greeting into a file, and submit it.")["submission"].strip()


if __name__ == "__main__":
    with endpoint(ScriptedModel(SCRIPT)) as where, ThreadPoolExecutor(4) as threads:
        for submission in threads.map(solve, [where.url] * 4):
            print("submitted:", submission)
