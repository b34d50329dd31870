"""The effect ledger: what was begun is noted before, what came of it after, and nothing is made twice."""

from __future__ import annotations

import json
import os
import stat
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from trio.testing import MockClock

import wspool
from tests.pool.tooling import FarEnd, Says, call, outputs, talking
from wspool.core.effects import UNKNOWN
from wspool.pool import durable

TWO = Says([(0, call("quick", "q")), (0, call("slow", "s"))])


class Tools:
    """A quick tool and one that does not end, and how often each was called."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.ends = False

    async def quick(self) -> str:
        """Do something at once."""
        self.calls.append("quick")
        await trio.lowlevel.checkpoint()
        return "done"

    async def slow(self) -> str:
        """Do something."""
        self.calls.append("slow")
        await trio.sleep(0 if self.ends else 60)
        return "done at last"

    def named(self, *, repeatable: bool = False) -> dict[str, Any]:
        return {"quick": self.quick, "slow": wspool.tool(self.slow, repeatable=repeatable)}


async def crashed(ledger: wspool.EffectLedger, tools: Tools, says: Says = TWO) -> dict[str, Any]:
    """The history that is kept of a process that ends in the middle of its calls."""
    async with talking(says) as (_, pool, conversation):
        with trio.move_on_after(1):
            await conversation.run("go", tools=tools.named(), ledger=ledger)
        assert pool.statistics().size
        return conversation.snapshot()


async def gone_on(
    snapshot: Mapping[str, Any], ledger: wspool.EffectLedger, tools: Mapping[str, Any], **options: Any
) -> tuple[FarEnd, wspool.Response]:
    """What another process does with it."""
    async with (
        talking() as (far, pool, _),
        pool.conversation(resume={**snapshot, "parent": None}) as conversation,
    ):
        response = await conversation.run(options.pop("given", None), tools=tools, ledger=ledger, **options)
        return far, response


@pytest.fixture
def autojump_clock() -> MockClock:
    """Virtual time that waits for the disk: what runs in a thread is no time of this clock."""
    return MockClock(autojump_threshold=0.1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "effects.jsonl"


async def test_what_has_ended_is_not_made_again(autojump_clock, path: Path) -> None:
    """Its output is sent; of what had not ended the model is told that nobody knows."""
    tools = Tools()
    with wspool.FileLedger(path) as ledger:
        snapshot = await crashed(ledger.of("a"), tools)
    assert ["quick", "slow"] == sorted(tools.calls)
    with wspool.FileLedger(path) as ledger:
        far, _ = await gone_on(snapshot, ledger.of("a"), tools.named())

    assert {"q": "done", "s": UNKNOWN} == outputs(far.requests[-1])
    assert ["quick", "slow"] == sorted(tools.calls)


async def test_what_is_repeatable_is_made_again(autojump_clock, path: Path) -> None:
    """If it had not ended."""
    tools = Tools()
    with wspool.FileLedger(path) as ledger:
        snapshot = await crashed(ledger.of("a"), tools)
        tools.ends = True
        far, _ = await gone_on(snapshot, ledger.of("a"), tools.named(repeatable=True))

    assert {"q": "done", "s": "done at last"} == outputs(far.requests[-1])
    assert ["quick", "slow", "slow"] == sorted(tools.calls)


async def test_a_person_can_look_first(autojump_clock, path: Path) -> None:
    """Nothing is sent or made, however often it is tried; and then the model is told after all."""
    tools = Tools()
    with wspool.FileLedger(path) as ledger:
        snapshot = await crashed(ledger.of("a"), tools)
        for _ in range(2):
            async with (
                talking() as (far, pool, _),
                pool.conversation(resume={**snapshot, "parent": None}) as conversation,
            ):
                with pytest.raises(wspool.UnknownEffectsError, match=r"function_call 'slow' \(s\)") as caught:
                    await conversation.run(
                        None, tools=tools.named(), ledger=ledger.of("a"), unknown_effects="stop"
                    )
            assert ["s"] == [one["call_id"] for one in caught.value.calls]
            assert [] == far.requests
        far, _ = await gone_on(snapshot, ledger.of("a"), tools.named())

    assert {"q": "done", "s": UNKNOWN} == outputs(far.requests[-1])


async def test_a_message_closes_what_is_known(autojump_clock, path: Path) -> None:
    """With what is known of it; nothing is made, whatever is repeatable."""
    tools = Tools()
    with wspool.FileLedger(path) as ledger:
        snapshot = await crashed(ledger.of("a"), tools)
        named = tools.named(repeatable=True)
        far, _ = await gone_on(snapshot, ledger.of("a"), named, given="never mind", unknown_effects="stop")

    assert {"q": "done", "s": UNKNOWN} == outputs(far.requests[-1])
    assert ["quick", "slow"] == sorted(tools.calls)


async def test_what_was_not_begun_is_made(autojump_clock, path: Path) -> None:
    """As by a process that ended between the turn and its calls, or for another conversation."""
    tools = Tools()
    with wspool.FileLedger(path) as ledger:
        snapshot = await crashed(ledger.of("a"), tools)
        tools.ends = True
        far, _ = await gone_on(snapshot, ledger.of("b"), tools.named(), unknown_effects="stop")

    assert {"q": "done", "s": "done at last"} == outputs(far.requests[-1])


async def test_a_call_is_noted_before_it_is_made(autojump_clock, path: Path) -> None:
    """And what the model is told of a failure is its output; a call that cannot be made is not noted."""
    seen: list[str] = []

    async def fails() -> str:
        await trio.lowlevel.checkpoint()
        seen.extend(map(bytes.decode, lines_of(path)))
        raise wspool.ToolError("no such thing")

    says = Says([(0, call("fails", "f")), (0, call("nobody", "n"))])
    with wspool.FileLedger(path) as ledger:
        async with talking(says) as (_, _, conversation):
            await conversation.run("go", tools={"fails": fails}, ledger=ledger.of("a"))

    (begun,) = [json.loads(line) for line in seen]
    assert ("a", "fails", "f") == (begun["conversation"], begun["call"]["name"], begun["call"]["call_id"])
    lines = [json.loads(line) for line in lines_of(path)]
    assert [None, "Error: ToolError: no such thing"] == [line.get("output") for line in lines]
    assert 1 == len({line["key"] for line in lines})


class Rude:
    """A ledger that changes what it gets, and later what it has given."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.outputs: dict[str, list[dict[str, Any]]] = {}

    def past(self, key: str) -> wspool.Effect | None:
        output = self.outputs.get(key)
        return None if output is None else wspool.Effect(output)

    def begin(self, key: str, call: Any) -> None:
        for given in self.outputs.values():
            given.clear()
        self.keys.append(key)
        call.clear()

    async def secure(self) -> None:
        await trio.lowlevel.checkpoint()

    def end(self, key: str, output: Any) -> None:
        self.keys.append(key)
        if isinstance(output, list):
            output.clear()


async def test_what_a_ledger_does_to_what_it_gets_changes_nothing(autojump_clock) -> None:
    """Neither what is sent, nor under which key the end of a call is noted."""
    part = {"type": "input_text", "text": "seen"}
    ledger = Rude()
    async with talking(Says([(0, call("look", "l"))])) as (far, _, conversation):
        await conversation.run("go", tools={"look": lambda: [part]}, ledger=ledger)
        assert {"l": [part]} == outputs(far.requests[-1])
        assert 2 == len(ledger.keys)
        assert 1 == len(set(ledger.keys))


async def test_what_a_ledger_has_given_is_its_own(autojump_clock, path: Path) -> None:
    """It may be another by the time that it is sent."""
    tools = Tools()
    with wspool.FileLedger(path) as file:
        snapshot = await crashed(file.of("a"), tools)
        (quick,) = [key for key, effect in file.noted("a").items() if effect.output == "done"]
    ledger = Rude()
    ledger.outputs[quick] = [{"type": "input_text", "text": "done"}]
    tools.ends = True
    far, _ = await gone_on(snapshot, ledger, tools.named())

    assert [{"type": "input_text", "text": "done"}] == outputs(far.requests[-1])["q"]


def lines_of(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines()


class Noting:
    """A ledger that notes what it is told in *told*, and fails where it is said to."""

    def __init__(self, told: list[str], breaks: str = "") -> None:
        self.told = told
        self._breaks = breaks

    def past(self, key: str) -> None:
        return None

    def begin(self, key: str, call: Mapping[str, Any]) -> None:
        self._note("begin")

    async def secure(self) -> None:
        await trio.lowlevel.checkpoint()
        self._note("secure")

    def end(self, key: str, output: object) -> None:
        self._note("end")

    def _note(self, what: str) -> None:
        self.told.append(what)
        if what == self._breaks:
            raise OSError(28, "no room")


@pytest.mark.parametrize("breaks", ["begin", "secure", "end"])
async def test_what_cannot_be_noted_ends_the_loop(autojump_clock, breaks: str) -> None:
    """And is not made, if that was not noted; the error is bare, however many calls there were."""
    tools = Tools()
    tools.ends = True
    async with talking(Says([(0, call("quick", "1")), (0, call("quick", "2"))])) as (far, _, conversation):
        with pytest.raises(OSError, match="no room"):
            await conversation.run("go", tools=tools.named(), ledger=Noting([], breaks))
    assert bool(tools.calls) == (breaks == "end")
    assert 1 == len(far.requests)


@pytest.mark.parametrize("repeatable", [False, True])
async def test_a_call_waits_for_the_disk_unless_it_is_repeatable(autojump_clock, repeatable: bool) -> None:
    """It is noted first, and made last."""
    told: list[str] = []

    async def act() -> str:
        """Do something."""
        told.append("made")
        await trio.lowlevel.checkpoint()
        return "done"

    async with talking(Says([(0, call("act", "1"))])) as (_, _, conversation):
        tools = [wspool.tool(act, repeatable=repeatable)]
        await conversation.run("go", tools=tools, ledger=Noting(told))
    assert ["begin", *([] if repeatable else ["secure"]), "made", "end"] == told


async def test_who_waits_for_the_disk_shares_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for the first, and once for all who came meanwhile; who comes later is not served by that."""
    started, go_on = threading.Semaphore(0), threading.Semaphore(0)
    syncs: list[int] = []

    def slowly(descriptor: int) -> None:
        syncs.append(descriptor)
        started.release()
        go_on.acquire()

    monkeypatch.setattr(durable, "_sync", slowly)
    file = durable.Durable(7)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(file.secure)
        await trio.to_thread.run_sync(started.acquire)
        for _ in range(20):
            nursery.start_soon(file.secure)
        await trio.testing.wait_all_tasks_blocked()
        go_on.release(2)
    assert [7, 7] == syncs
    go_on.release()
    await file.secure()
    assert [7, 7, 7] == syncs


async def test_what_is_too_large_to_be_sent_is_not_made_again(autojump_clock, path: Path) -> None:
    """The model is told so instead."""
    calls: list[str] = []

    async def large() -> str:
        calls.append("large")
        await trio.lowlevel.checkpoint()
        return "x" * 10_000

    provider = attrs.evolve(wspool.OPENAI, max_request=5_000)
    says = Says([(0, call("large", "l"))])
    with wspool.FileLedger(path) as ledger:
        async with talking(says, provider=provider) as (far, _, conversation):
            with pytest.raises(wspool.RequestTooLargeError):
                await conversation.run("go", tools={"large": large}, ledger=ledger.of("a"))
            await conversation.run(None, tools={"large": large}, ledger=ledger.of("a"))

    assert ["large"] == calls
    assert "too large to be sent" in outputs(far.requests[-1])["l"]


async def test_arguments_that_do_not_fit(autojump_clock, path: Path) -> None:
    """Are named at the call."""
    async with talking() as (far, _, conversation):
        with wspool.FileLedger(path) as ledger:
            with pytest.raises(ValueError, match="eager=True do not go together"):
                await conversation.run("go", tools={}, ledger=ledger.of("a"), eager=True)
            with pytest.raises(ValueError, match="must be 'tell' or 'stop'"):
                await conversation.run("go", tools={}, unknown_effects="ask")  # type: ignore[arg-type]
    assert [] == far.requests


def test_a_tool_stays_repeatable_under_another_name() -> None:
    """However it is named."""

    @wspool.tool
    def reads() -> str:
        """Read."""
        return ""

    again = wspool.tool(reads, repeatable=True)
    assert (False, True) == (reads.repeatable, again.repeatable)
    decorated = wspool.tool(name="looks", repeatable=True)(reads)
    assert ("looks", True) == (decorated.name, decorated.repeatable)
    assert wspool.tool(again, name="other").repeatable


# -- the file ---------------------------------------------------------------------------------------


def test_a_file_is_private_and_only_added_to(path: Path) -> None:
    """Whatever was there stays, but for a torn last line; and what comes next does not stick to that."""
    with wspool.FileLedger(path) as ledger:
        ledger.of("a").begin("1", {"name": "f"})
        ledger.of("a").end("1", "x")
        ledger.of("a").begin("2", {"name": "f"})
    assert 0o600 == stat.S_IMODE(path.stat().st_mode)
    before = path.read_bytes()

    for torn in (b"{", b'{"conversation": "a", "key": "2", "output": "y"}'):
        path.write_bytes(before + torn)
        with wspool.FileLedger(path) as ledger:
            part = ledger.of("a")
            assert (wspool.Effect("x"), wspool.Effect(), None) == tuple(map(part.past, "123"))
            part.begin("3", {})
        assert path.read_bytes().startswith(before)
        with wspool.FileLedger(path) as ledger:
            assert wspool.Effect() == ledger.of("a").past("3")


def test_a_disk_that_is_full(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes a line whole or not at all: what comes next does not stick to a half."""
    write = os.write
    with wspool.FileLedger(path) as ledger:
        ledger.of("a").begin("1", {})
        before = path.read_bytes()
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", lambda file, data: write(file, data[:7]))
            with pytest.raises(OSError, match="no room"):
                ledger.of("a").begin("2", {})
        assert before == path.read_bytes()
        assert ledger.of("a").past("2") is None


def test_what_is_forgotten_counts_no_more(path: Path) -> None:
    """Now and after; what nobody has noted needs no line."""
    with wspool.FileLedger(path) as ledger:
        for name in ("a", "b"):
            ledger.of(name).begin("1", {})
        ledger.forget("a")
        ledger.forget("c")
        assert ledger.of("a").past("1") is None
    assert 3 == len(path.read_bytes().splitlines())
    with wspool.FileLedger(path) as ledger:
        assert (None, wspool.Effect()) == (ledger.of("a").past("1"), ledger.of("b").past("1"))


@pytest.mark.parametrize(
    "line", ["3", "[]", "{}", '{"conversation": "a"}', '{"conversation": "a", "key": "1", "output": 3}']
)
def test_another_file_is_not_touched(path: Path, line: str) -> None:
    """It is named, with the number of its line."""
    path.write_text(f"{line}\n")
    with pytest.raises(ValueError, match=r"effects.jsonl:1: no line of an effect ledger"):
        wspool.FileLedger(path)
    assert f"{line}\n" == path.read_text()


def test_no_link_is_followed(path: Path) -> None:
    """And a pipe or a directory is no ledger; one that is closed takes nothing."""
    path.symlink_to(path.with_name("elsewhere"))
    with pytest.raises(OSError, match="symbolic"):
        wspool.FileLedger(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(OSError, match="no regular file"):
        wspool.FileLedger(path)
    path.unlink()
    ledger = wspool.FileLedger(path)
    ledger.close()
    ledger.close()
    with pytest.raises(OSError, match="closed"):
        ledger.of("a").begin("1", {})
    assert b"" == path.read_bytes()
