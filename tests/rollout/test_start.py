"""What is in the way at the start is one line, and what others say or print disturbs nobody."""

import os
from pathlib import Path

import pytest

import wspool
from tests.rollout.command import Saying, command, place, rollout, write
from wspool.cli import examine
from wspool.core.providers import header_of
from wspool.testing import local_server

__all__ = ["place"]  # a fixture

pytestmark = [pytest.mark.network, pytest.mark.usefixtures("place")]

MINE = """
import sys
sys.stdout.reconfigure(errors="replace")
print("imported")
async def agent(conversation, task):
    print("working")
    sys.stdout.flush()
    sys.stdout.buffer.write(b"as bytes\\n")
    return await conversation.respond(task["input"])
"""


def test_what_an_agent_prints_is_not_what_was_asked_for() -> None:
    """It goes to standard error, at its import and in its work."""
    Path("mine.py").write_text(MINE)
    write("tasks.jsonl", {"id": "a", "input": "x"})

    ended = rollout("tasks.jsonl", "--local", "--agent", "./mine.py:agent")

    assert (0, 1) == (ended.code, ended.summary["done"])
    assert "imported\nworking\nas bytes\n" == ended.err


LOOKING = """
async def agent(conversation, task):
    return (await conversation.respond(task["input"])).output_text
async def watches(conversation, task):
    async with conversation.turn(task["input"]) as turn:
        async for event in turn:
            pass
    return turn.response.output_text
"""


@pytest.mark.parametrize(("agent", "retries", "code"), [("agent", 2, 0), ("agent", 0, 1), ("watches", 2, 1)])
def test_a_turn_that_an_agent_has_lost(agent: str, retries: int, code: int) -> None:
    """It is taken again, unless the agent has seen something of it, or nothing shall be paid twice."""
    Path("mine.py").write_text(LOOKING)
    write("tasks.jsonl", {"id": "a", "input": "a few words to be cut off"})
    with local_server() as server:
        server.fault("reset", request=1, at="delta", after=True)
        where = ("--url", server.url, "--model", "m", "--agent", f"./mine.py:{agent}")
        ended = rollout("tasks.jsonl", *where, "--retries", retries)

    assert code == ended.code
    assert (2 if code == 0 else 1) == len(server.ledger)
    if code:
        assert "TurnLostError" == ended.results[0]["error"]["type"]


def test_a_headers_value_may_be_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes with the upgrade request, and is never shown or written down."""
    monkeypatch.setenv("TEAM", "very-secret")
    write("tasks.jsonl", {"id": "a", "input": "x"})
    with local_server(model=Saying(), api_key="very-secret", profile="azure") as server:
        ended = rollout("tasks.jsonl", "--url", server.url, "--header", "Authorization: Bearer x")
        assert (2, "") == (ended.code, ended.out)
        assert "not as a header" in ended.err
    with local_server() as server:
        ended = rollout(
            "tasks.jsonl", "--url", server.url, "--header", "X-Team: $TEAM", "--header", "X-A:${TEAM}"
        )
        checked = command("doctor", "--url", server.url, "--header", "X-Team: $TEAM")

    assert (0, 0) == (ended.code, checked.code)
    assert "very-secret" not in ended.out + ended.err + checked.out + checked.err
    assert "very-secret" not in Path("out/run.json").read_text()


@pytest.mark.parametrize(
    ("header", "named"),
    [
        ("very-secret", "must be NAME:VALUE"),
        ("X-Team:", "must be NAME:VALUE"),
        ("X-Team: $NOBODY", "there is no environment variable NOBODY"),
        ("Sec-WebSocket-Key: very-secret", "belongs to the handshake itself"),
        ("X-Te am: very-secret", "header"),
    ],
)
def test_a_header_that_cannot_be_sent(header: str, named: str) -> None:
    """Is named beforehand, and its value never."""
    write("tasks.jsonl", {"id": "a", "input": "x"})
    for arguments in (("rollout", "tasks.jsonl", "--out", "out"), ("doctor",), ("probe", "--model", "m")):
        ended = command(*arguments, "--url", "ws://localhost:1/", "--header", header)

        assert (2, "") == (ended.code, ended.out)
        assert named in ended.err
        assert "secret" not in ended.err or header == "very-secret"


def test_what_is_in_the_way_of_the_files_is_one_line() -> None:
    """A pipe, a link or a directory where a file belongs; a place that is gone."""
    write("tasks.jsonl", {"id": "a", "input": "x"})
    options = ("tasks.jsonl", "--local", "--checkpoint-turns")
    for name in ("results.jsonl", "run.json", "turns.jsonl", "effects.jsonl"):
        for plant in (os.mkfifo, os.mkdir, lambda path: os.symlink("/nowhere", path)):
            Path("out").mkdir()
            plant(Path("out") / name)
            ended = rollout(*options)
            # A file that is written anew takes the place of what was there.
            assert ended.code in ((2,) if name == "results.jsonl" else (0, 2)), (name, plant)
            assert ended.err.startswith("wspool: ") or 0 == ended.code
            Path("out").rename(f"kept-{name}-{id(plant)}")
    place = Path("gone").absolute()
    place.mkdir()
    os.chdir(place)
    place.rmdir()
    ended = command("rollout", place.parent / "tasks.jsonl", "--local")
    assert 2 == ended.code
    assert ended.err.startswith("wspool: ")
    os.chdir(place.parent)


def test_the_doctor_looks_as_a_provider_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key goes into the header of that provider; one that there is not is named."""
    seen: list[str] = []

    def noted(key: str, provider: wspool.Provider) -> tuple[str, str]:
        seen.append(provider.name)
        return header_of(key, provider)

    monkeypatch.setattr(examine, "header_of", noted)
    monkeypatch.setenv("KEY", "very-secret")
    options = ("--model", "m", "--api-key-env", "KEY")
    with local_server(api_key="very-secret", profile="azure") as server:
        for more in ((), ("--provider", "azure")):
            assert 0 == command("doctor", "--url", server.url, *options, *more).code
        unknown = command("doctor", "--url", server.url, *options, "--provider", "bedrock")

    assert ["unknown", "azure"] == seen
    assert (2, True) == (unknown.code, "--provider 'bedrock': there are azure" in unknown.err)
