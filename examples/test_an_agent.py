"""Tests of an agent, with what goes wrong: `pytest test_an_agent.py`. No key, no network, no mocks."""

import pytest

import wspool
from wspool.server import function_call
from wspool.testing import LocalServer


def read_file(name: str) -> str:
    """Read a file.

    Args:
        name: its name.
    """
    if name != "notes.txt":
        raise wspool.ToolError(f"there is no {name}")
    return "Buy bread."


def agent(url: str, task: str) -> str:
    """The agent that is tested."""
    with wspool.blocking.open_pool(url) as pool, pool.conversation(model="gpt-5.2") as conversation:
        return conversation.run(task, tools=[read_file], max_turns=4, retries=1).output_text


def test_it_reads_and_answers(wspool_server: LocalServer) -> None:
    """The model calls the tool, sees its output, and answers."""
    wspool_server.script(function_call("read_file", {"name": "notes.txt"}), "You should buy bread.")

    assert agent(wspool_server.url, "What is in my notes?") == "You should buy bread."
    assert wspool_server.requests[1].context[-1]["output"] == "Buy bread."
    wspool_server.expect(requests=2, continued=1, connections=1)


def test_it_is_told_what_is_not_there(wspool_server: LocalServer) -> None:
    """A tool's error is something that the model can work with."""
    wspool_server.script(function_call("read_file", {"name": "plans.txt"}), "You have no plans.")

    assert agent(wspool_server.url, "What are my plans?") == "You have no plans."
    assert "there is no plans.txt" in wspool_server.requests[1].context[-1]["output"]


def test_it_survives_a_lost_connection(wspool_server: LocalServer) -> None:
    """The turn is taken again, on another connection; the tool is not called again."""
    wspool_server.script(function_call("read_file", {"name": "notes.txt"}), "Bread.")
    wspool_server.fault("reset", request=2, at="delta")

    assert agent(wspool_server.url, "What is in my notes?") == "Bread."
    wspool_server.expect(requests=3, connections=2)


def test_it_gives_up_in_the_end(wspool_server: LocalServer) -> None:
    """A model that calls its tool for ever is stopped."""
    wspool_server.script(*[function_call("read_file", {"name": "notes.txt"})] * 4)

    with pytest.raises(wspool.MaxTurnsError):
        agent(wspool_server.url, "What is in my notes?")
