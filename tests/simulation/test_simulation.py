"""Three hundred small worlds, each a seed; any number by hand with `python -m tests.simulation`."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

import attrs
import pytest
import trio

from tests.simulation.journal import Journal
from tests.simulation.world import LARGE, deterministic, simulate
from wspool.core.sending import sendable
from wspool.core.sending.chain import Chain

#: Worlds of one test; small enough that the tests spread over workers, and a failure is found soon.
_BATCH = 25
_SEEDS = 300
#: Of those, the first are looked at for what happens in them.
_LOOKED_AT = 50
#: Some that are odd: each rule below shows in two of them at least.
_ODD = (37, 19, 10)


def simulated(seed: int) -> Journal:
    """The journal of a small world; a failure says how to replay it."""
    try:
        return simulate(seed)
    except BaseException as error:
        error.add_note(f"seed {seed}; replay it with: python -m tests.simulation --first {seed} --seeds 1")
        raise


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    """A world is full of outages; their log lines are made for people."""
    caplog.set_level(logging.CRITICAL, "wspool")


def test_trio_can_be_scheduled_by_a_seed() -> None:
    """The private names of trio that make a run repeatable are there and do what they did."""
    run: Any = trio._core._run
    assert isinstance(run._ALLOW_DETERMINISTIC_SCHEDULING, bool)

    async def order(number: int, seen: list[int]) -> None:
        await trio.lowlevel.checkpoint()
        seen.append(number)

    async def main() -> list[int]:
        seen: list[int] = []
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(order, number, seen)
        return seen

    orders = []
    for seed in (1, 2, 1):
        state = run._r.getstate()
        with deterministic(seed):
            orders.append(trio.run(main))
        assert state == run._r.getstate()

    assert orders[0] == orders[2] != orders[1]


@pytest.mark.parametrize("first", range(_LOOKED_AT, _SEEDS, _BATCH))
def test_small_worlds(first: int) -> None:
    """In every world both sides of every request agree, and nothing is left of the pool.

    So it is in the first ones: see `test_worlds_are_worth_it`.
    """
    for seed in range(first, first + _BATCH):
        simulated(seed)


@pytest.mark.parametrize("seed", [0, 11])
def test_a_large_world(seed: int) -> None:
    """The same for two hundred conversations on thirty-two connections."""
    journal = simulate(seed, LARGE)

    assert len(journal.turns) > 500


def test_a_seed_replays_exactly() -> None:
    """The same seed gives the same run, event by event."""
    for seed in (3, 8):
        first, second = simulated(seed).events, simulated(seed).events

        assert len(first) > 200
        assert first == second


def _without(module: Any, name: str, instead: Callable[..., Any]) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda monkeypatch: monkeypatch.setattr(module, name, instead)


_REPLAY = Chain.replay
_LOOK = sendable._look

#: Rules of what is sent in full, each broken.
_BROKEN = {
    "the last item is left out": _without(
        Chain, "replay", lambda self, new=(), **how: [*_REPLAY(self, (), **how)[:-1], *new]
    ),
    "what is new is left out": _without(
        Chain, "replay", lambda self, new=(), **how: _REPLAY(self, new, **how)[: -len(new) or None]
    ),
    "it is sent as it came": _without(
        Chain, "replay", lambda self, new=(), **how: [*self._items[self._replay_from :], *new]
    ),
    "what is in a compaction is sent as well": _without(
        Chain,
        "replay",
        lambda self, new=(), **how: self._sendable.of(self._items, new, [False] * len(self._items)),
    ),
    "reasoning is always sent": _without(
        sendable, "_with_followers", lambda looks, fixed, stored, notes: [True] * len(looks)
    ),
    "reasoning is never sent": _without(
        sendable,
        "_with_followers",
        lambda looks, fixed, stored, notes: [look.kind != "reasoning" for look in looks],
    ),
    "bare reasoning is taken for whole": _without(
        sendable, "_look", lambda item: attrs.evolve(_LOOK(item), bare=False)
    ),
    "ids are there twice": _without(sendable, "_unique", lambda name, kind, seen, numbers: name),
    "calls have ids of any length": _without(sendable, "_short", lambda call: call),
    "items have any shape": _without(sendable, "_mended", lambda kind, item: {}),
    "calls are left open": _without(sendable, "_passed", lambda history: 0),
}


@pytest.mark.odd_requests
@pytest.mark.parametrize("what", _BROKEN)
def test_a_broken_replay_is_seen(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A history that is sent in a form that is not taken, or not all of it, breaks a world."""
    _BROKEN[what](monkeypatch)
    with pytest.raises(AssertionError, match=r"the history of|does not come back to life"):
        list(map(simulate, _ODD))


def test_worlds_are_worth_it() -> None:
    """Over the first worlds every kind of trouble happens, and every way for a turn to end."""
    outcomes: Counter[str | None] = Counter()
    what: Counter[str] = Counter()
    kinds: Counter[tuple[str | None, bool]] = Counter()
    ended: Counter[tuple[Any, ...]] = Counter()
    resent = passed = 0
    changed: set[str] = set()
    for seed in range(_LOOKED_AT):
        journal = simulated(seed)
        outcomes.update(turn.outcome for turn in journal.turns.values())
        what.update(event[1] for event in journal.events)
        changed |= journal.changed
        ended.update(event[1:3] for event in journal.events if event[1] in ("close", "aclose"))
        words: Counter[str | None] = Counter()
        for requests in journal.requests.values():
            kinds.update((request.ended, request.parent is not None) for request in requests)
            words.update(request.word for request in requests)
        passed += journal.passed_over
        resent += sum(count > 1 for word, count in words.items() if word is not None)

    ends = ["completed", "incomplete", "failed", "rejected", "cancelled", "TurnLostError", "PoolClosedError"]
    trouble = [
        "resize",
        "drain",
        "clear",
        "interrupt",
        "pause",
        "retry",
        "cut",
        "cancel",
        "reject",
        "restart",
    ]
    assert [] == [end for end in ends if not outcomes[end]]
    assert [] == [name for name in (*trouble, "restart") if not what[name]]
    # In full and as a continuation; ended well, refused, cut at the limit, and never ended.
    assert kinds["response.completed", True] > 100
    assert kinds["response.completed", False] > 100
    assert [] == [end for end in ("refused", "limit", None) if not kinds[end, True] + kinds[end, False]]
    assert resent > 5
    # Whatever a history may hold that cannot be sent as it is, but an output without its call.
    assert {
        sendable.LOSSY,
        sendable.DANGLING,
        sendable.BARE,
        sendable.DOUBLE,
        sendable.CALLS,
        sendable.SHAPES,
        sendable.UNANSWERED,
    } <= changed
    assert passed > 5
    # Conversations are closed wherever a turn can be, and the pool under those who wait for either.
    places = [("close", place) for place in ("line", "hold", "flight")]
    places += [("aclose", place) for place in ("line", "hold")]
    assert [] == [place for place in places if not ended[place]], ended
