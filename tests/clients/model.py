"""What answers the clients: it has something done with the tools that it is offered, and thinks before."""

from __future__ import annotations

from typing import Any, Final

from wspool.server import Item, ModelRequest, ModelTurn, function_call, message
from wspool.server.models import text_of

__all__ = ["ANSWER", "LINES", "Tasks"]

ANSWER: Final = "It is sunny."

#: How mini-swe-agent is told that its task is done: by a command that says so.
SUBMIT: Final = "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"

#: How many lines an agent that has a shell is told to write.
LINES: Final = 3


class Tasks:
    """Asks for the weather where a tool says it, or for lines in a file where there is a shell; else answers.

    Attributes:
        problems: what was asked that is not as it should be.
    """

    def __init__(self) -> None:
        self.problems: list[str] = []

    def respond(self, request: ModelRequest) -> ModelTurn:
        names = {str(tool.get("name") or tool.get("type")) for tool in request.body.get("tools") or ()}
        done = [item for item in request.context if str(item.get("type")).endswith("call_output")]
        said: list[Item] = [_thought(len(request.context))]
        if "weather" in names:
            if not done:
                return ModelTurn(output=[*said, function_call("weather", {"city": "Paris"})])
            if "sunny" not in str(done[-1]["output"]):
                self.problems.append(f"a tool answered {done[-1]['output']!r}")
            return ModelTurn(output=[*said, message(ANSWER)])
        command = f"echo {len(done)} >> lines.txt" if len(done) < LINES else SUBMIT
        call = _shell(names, command)
        if call is not None and (len(done) < LINES or names == {"bash"}):
            return ModelTurn(output=[*said, call])
        if call is not None:
            return ModelTurn(output=[*said, message(ANSWER)])
        asked = [text_of(item) for item in request.context if item.get("role") == "user"]
        return ModelTurn(output=[*said, message(f"heard {asked[-1]}")])


def _thought(number: int) -> dict[str, Any]:
    return {
        "type": "reasoning",
        "summary": [{"type": "summary_text", "text": "I think."}],
        "encrypted_content": f"gAAAA{number}",
    }


def _shell(names: set[str], command: str) -> Item | None:
    """The call that has a shell do *command*, for a client that has one."""
    if "exec_command" in names:
        return function_call("exec_command", {"cmd": command})
    if "bash" in names:
        return function_call("bash", {"command": command})
    if "run_commands" in names:
        return function_call("run_commands", {"commands": [command]})
    return None
