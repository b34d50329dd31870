"""Checkpoints: a finished turn is taken once, however often the run is killed."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import trio

import wspool
from tests.rollout.batches import run_batch
from wspool.rollout.bundled import bundled_tasks
from wspool.rollout.checkpoints import EFFECTS, TURNS, Checkpoints, open_checkpoints
from wspool.rollout.method import Agent, Method
from wspool.rollout.results import ResultsError
from wspool.rollout.summary import Meter, Summary
from wspool.rollout.tasks import Task
from wspool.rollout.tools import Tools
from wspool.server.echo import EchoModel
from wspool.server.ledger import Entry
from wspool.server.lookup import LookupModel
from wspool.server.models import Model
from wspool.server.server import open_server

A, B = (Task(id=id, body={"input": id}, source={"id": id}) for id in "ab")


def snapshot(*texts: str, parent: str = "r") -> dict[str, Any]:
    """What a conversation with these items is."""
    items = [{"content": text} for text in texts]
    return {"version": 1, "defaults": {"model": "m"}, "items": items, "replay_from": 0, "parent": parent}


def grown(before: Mapping[str, Any], *texts: str) -> dict[str, Any]:
    """The same conversation, longer."""
    return {**before, "items": [*before["items"], *snapshot(*texts)["items"]]}


#: A history keeps each of its items as one object of bytes.
ENCODED: dict[str, bytes] = {}


def append(checkpoints: Checkpoints, id: str, snapshot: Mapping[str, Any]) -> None:
    """Append what `Conversation.checkpoint` gives for *snapshot*."""
    items = [json.dumps(item) for item in snapshot["items"]]
    checkpoints.append(
        id, {**snapshot, "items": None}, [ENCODED.setdefault(item, item.encode()) for item in items]
    )


def test_what_was_appended_is_there_after_a_crash(tmp_path: Path) -> None:
    """Each conversation as it was last, and how many turns that took."""
    with open_checkpoints(tmp_path, [A, B]) as checkpoints:
        first = snapshot("1", "2")
        append(checkpoints, "a", first)
        append(checkpoints, "b", snapshot("x"))
        second = {**grown(first, "3", "4"), "parent": "r2"}
        append(checkpoints, "a", second)
        lines = (tmp_path / TURNS).read_bytes()
        assert 2 == len(json.loads(lines.splitlines()[2])["items"]), "only what is new is written"

    (tmp_path / TURNS).write_bytes(lines + b'{"id": "b", "tu')
    for _ in range(2):  # and it stays there
        with open_checkpoints(tmp_path, [A, B]) as checkpoints:
            assert {"a", "b"} == set(checkpoints.owed)
            assert (2, second) == (checkpoints.owed["a"].turns, checkpoints.owed["a"].snapshot)
            assert 1 == checkpoints.owed["b"].turns


def test_a_history_that_was_compacted_is_written_anew(tmp_path: Path) -> None:
    """What is before the compaction is not there any more."""
    with open_checkpoints(tmp_path, [A]) as checkpoints:
        append(checkpoints, "a", snapshot("1", "2"))
        append(checkpoints, "a", snapshot("packed"))
    with open_checkpoints(tmp_path, [A]) as checkpoints:
        assert snapshot("packed") == checkpoints.owed["a"].snapshot


def test_only_the_same_task_goes_on(tmp_path: Path) -> None:
    """One that has its result, or says something else by now, begins anew."""
    with open_checkpoints(tmp_path, [A, B]) as checkpoints:
        append(checkpoints, "a", snapshot("1"))
        append(checkpoints, "b", snapshot("2"))
    changed = Task(id="b", body={"input": "other"}, source={"id": "b", "input": "other"})

    with open_checkpoints(tmp_path, [changed], {"a"}) as checkpoints:
        assert {} == checkpoints.owed
    assert b"" == (tmp_path / TURNS).read_bytes()


def test_what_is_of_others_stays(tmp_path: Path) -> None:
    """Who was not chosen, or has failed, goes on where it was as soon as it is run again."""
    with open_checkpoints(tmp_path, [A, B]) as checkpoints:
        append(checkpoints, "a", snapshot("1"))
        append(checkpoints, "b", snapshot("2"))
    for tasks in ([B], []):
        with open_checkpoints(tmp_path, tasks) as checkpoints:
            assert {task.id for task in tasks} == checkpoints.owed.keys()
    with open_checkpoints(tmp_path, [A, B]) as checkpoints:
        assert snapshot("1") == checkpoints.owed["a"].snapshot
        assert snapshot("2") == checkpoints.owed["b"].snapshot


@pytest.mark.parametrize(
    "line", ["[]", "3", "{}", '{"id": "a", "task": "t", "turns": 2, "kept": 1, "items": [], "state": {}}']
)
def test_a_file_of_something_else_is_not_touched(tmp_path: Path, line: str) -> None:
    """It is named, and the number of the line with it."""
    (tmp_path / TURNS).write_text(f"{line}\n")
    with pytest.raises(ResultsError, match=f"{TURNS}:1: not a checkpoint"), open_checkpoints(tmp_path, [A]):
        pass
    assert f"{line}\n" == (tmp_path / TURNS).read_text()


def test_a_task_that_begins_anew_has_no_effects_yet(tmp_path: Path) -> None:
    """A server may give its calls the names that they had."""
    with open_checkpoints(tmp_path, [A, B]) as checkpoints:
        append(checkpoints, "a", snapshot("1"))
        for id in "ab":
            checkpoints.ledger(id).begin("k", {})
    with open_checkpoints(tmp_path, [A, B]) as checkpoints:
        noted = [checkpoints.ledger(id).past("k") for id in "ab"]
    assert [wspool.Effect(), None] == noted


def test_another_ledger_is_not_touched(tmp_path: Path) -> None:
    """It is named."""
    (tmp_path / EFFECTS).write_text("[]\n")
    with pytest.raises(ResultsError, match=f"{EFFECTS}:1: no line"), open_checkpoints(tmp_path, [A]):
        pass


# -- with a run -------------------------------------------------------------------------------------


class Killer(Meter):
    """Ends a run after so many turns."""

    def __init__(self, turns: float, scope: trio.CancelScope) -> None:
        super().__init__()
        self._limit = turns
        self._scope = scope

    def turn_ended(self, record: wspool.TurnRecord) -> None:
        super().turn_ended(record)
        if self.turns >= self._limit:
            self._scope.cancel()


async def run(
    batch: list[Task],
    model: Model,
    checkpoints: Checkpoints,
    *,
    agent: Agent | None = None,
    ledger: list[Entry],
    turns: float = math.inf,
    delay: float = 0,
    seed: int = 0,
) -> tuple[Summary | None, list[Mapping[str, Any]]]:
    """One run, killed after so many turns; None and what had ended if it was."""
    lines: list[Mapping[str, Any]] = []
    policy = wspool.PoolPolicy(max_size=4, min_idle=0)
    async with open_server(model, ledger=ledger, delay_per_token=delay, seed=seed) as server:
        summary: Summary | None = None
        with trio.CancelScope() as scope:
            meter = Killer(turns, scope)
            async with wspool.open_pool(server.url, policy=policy, instrument=meter) as pool:
                summary = await run_batch(
                    pool,
                    batch,
                    Method(
                        agent=agent,
                        tools={} if agent is not None else Tools().callables(),
                        repeatable=True,  # they only read
                        defaults={"model": "lookup"},
                    ),
                    meter=meter,
                    sink=lines.append,
                    checkpoints=checkpoints,
                    quiet=True,
                )
    return summary, lines


@pytest.mark.network
async def test_a_killed_run_loses_no_finished_turn(tmp_path: Path) -> None:
    """However often it is killed, the server is asked for each turn until it is finished, and no more."""
    batch = bundled_tasks()[:8]
    owed, ends, ledger = batch, [], list[Entry]()
    saved = 0
    for seed, turns in enumerate((10, 15, 20, math.inf)):
        with open_checkpoints(tmp_path, owed) as checkpoints:
            summary, lines = await run(
                owed, LookupModel(), checkpoints, ledger=ledger, turns=turns, delay=0.002, seed=seed
            )
        ends += lines
        owed = [task for task in owed if task.id not in {line["id"] for line in ends}]
        saved += summary.saved_turns if summary is not None else 0
    assert ({"right"}, 8) == ({line["outcome"] for line in ends}, len(ends))
    assert saved > 0

    alone: list[Entry] = []
    with open_checkpoints(tmp_path / "..", batch) as checkpoints:
        await run(batch, LookupModel(), checkpoints, ledger=alone)
    finished = sum(entry["outcome"] == "completed" for entry in ledger)
    # A turn that ended on the wire in the moment of the kill was not finished for the run.
    assert len(alone) <= finished <= len(alone) + 3 * 4


@pytest.mark.network
async def test_an_agent_sees_where_it_is(tmp_path: Path) -> None:
    """It is given the conversation as it was; what it does then is its own business."""
    seen: list[int] = []

    async def agent(conversation: wspool.Conversation, task: dict[str, Any]) -> object:
        seen.append(len(conversation.items))
        for _ in range(len(conversation.items) // 2, 3):
            answer = await conversation.respond("go on")
        if len(seen) == 1:
            await trio.sleep_forever()
        return answer.output_text

    ledger: list[Entry] = []
    with open_checkpoints(tmp_path, [A]) as checkpoints:
        await run([A], EchoModel(), checkpoints, agent=agent, ledger=ledger, turns=3)
    lines = (tmp_path / TURNS).read_bytes().splitlines(keepends=True)
    (tmp_path / TURNS).write_bytes(b"".join(lines[:2]))  # as if it had been killed after two turns
    with open_checkpoints(tmp_path, [A]) as checkpoints:
        summary, _ = await run([A], EchoModel(), checkpoints, agent=agent, ledger=ledger, seed=1)

    assert [0, 4] == seen
    assert summary is not None
    assert (2, 1) == (summary.saved_turns, summary.turns)
