"""Doubt: whose trouble refusals are is found out by trying others; where there are none, nobody is blamed.

The pure parts that decide it, as a pool and a run put them together, on any schedule in virtual time.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Callable, Sequence

import attrs
import pytest
from hypothesis import example, given, strategies as st

from tests.searching import examples
from wspool.core.sending.blame import MOST, Suspicion
from wspool.core.sending.pace import LONGEST_WAIT, Pace
from wspool.core.sending.replay import FIRST_DELAY, LONGEST_DELAY
from wspool.rollout.doubt import ASK, LAST, Ceiling, nobody_can_tell

#: Seconds of a turn at most, and between two.
TURN, THINK = 20.0, 10.0
#: Longer than all outages together.
LONGER = 300_000.0
#: Seconds between two looks of a run.
LOOK = 5.0


@attrs.define(eq=False)
class Agent:
    """A task with so many turns; the endpoint stumbles over the last one if it is bad."""

    turns: int
    bad: bool
    suspicion: Suspicion = attrs.field(factory=Suspicion)
    doubtful: float = 0.0
    failed: bool = False

    @property
    def poison(self) -> bool:
        return self.bad and self.turns == 1


class Batch:
    """A run of agents on an endpoint that is down at times."""

    def __init__(
        self, agents: Sequence[Agent], ceiling: int, outages: Sequence[tuple[float, float]], seed: int
    ):
        self.pace = Pace()
        self.line: deque[Agent] = deque()
        self.owed = list(reversed(agents))
        self.good = sum(not agent.bad for agent in agents)
        self.running: set[Agent] = set()
        self.most = 0
        self.ceiling, self.outages, self.random = Ceiling(ceiling), outages, random.Random(seed)
        self.now = 0.0
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def later(self, seconds: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._due, (self.now + seconds, next(self._order), act))

    @property
    def is_down(self) -> bool:
        return any(begin <= self.now < end for begin, end in self.outages)

    def run(self) -> None:
        """Until none is left, or it ends because nobody can tell."""
        self.later(0.0, self.look)
        while self.running or self.owed:
            unclear = self.pace.unclear(self.now)
            if not self.owed and (nobody_can_tell(unclear, len(self.running)) or unclear > LONGER):
                return
            before, doubtful = self.now, not self.is_down and self.good
            self.now, _, act = heapq.heappop(self._due)
            if doubtful:
                for agent in self.running:
                    agent.doubtful += (self.now - before) * agent.poison
            act()
            self.serve()
            assert self.now < 3 * LONGER, "it holds for ever"

    def look(self) -> None:
        most = self.ceiling.now(self.pace.unclear(self.now), len(self.running))
        while self.owed and len(self.running) < most:
            agent = self.owed.pop()
            self.running.add(agent)
            self.most = max(self.most, len(self.running))
            self.ask(agent)
        self.later(LOOK, self.look)

    def ask(self, agent: Agent) -> None:
        self.line.append(agent)

    def serve(self) -> None:
        while (wait := self.pace.wait(self.now)) <= 0 and self.line:
            self.begin(self.line.popleft())
        if self.line and wait < math.inf:
            self.later(wait, lambda: None)

    def begin(self, agent: Agent) -> None:
        ticket = self.pace.begin(self.now)

        def arrive() -> None:
            if not self.is_down and not agent.poison:
                self.pace.answered(ticket)
                self.later(self.random.random() * TURN, end)
            elif agent.suspicion.refused(ticket.number, self.pace.latest):
                agent.failed = True
                self.pace.ended(ticket)
                self.leave(agent)
            else:
                self.pace.refused(ticket, self.now, rate=False, wait=0.0, jitter=self.random.random())
                pause = self.random.random() * min(LONGEST_DELAY, FIRST_DELAY * 2**agent.suspicion.times)
                self.later(pause, lambda: self.ask(agent))

        def end() -> None:
            self.pace.ended(ticket)
            agent.suspicion = Suspicion()
            agent.turns -= 1
            if agent.turns:
                self.later(self.random.random() * THINK, lambda: self.ask(agent))
            else:
                self.good -= not agent.bad
                self.leave(agent)

        self.later(self.random.random(), arrive)

    def leave(self, agent: Agent) -> None:
        self.running.discard(agent)


def bound(bad: int) -> float:
    """Seconds in which others can be tried, after which each of so many bad ones is given up."""
    # Until so many more run that one of them is good; then one is taken at a time, each after a while.
    pauses = (MOST + 1) * LONGEST_DELAY
    return (
        ASK * (bad + 1) * (bad + 2) / 2
        + (MOST + 1) * (ASK + (bad + 2) * LONGEST_WAIT + TURN + THINK)
        + pauses
    )


AGENTS = st.lists(st.builds(Agent, turns=st.integers(1, 4), bad=st.booleans()), min_size=1, max_size=24)
OUTAGES = st.lists(
    st.tuples(st.floats(0, 4000), st.sampled_from([1.0, 30.0, 600.0, 7200.0, 90_000.0])), max_size=3
)


@examples(200)
@given(agents=AGENTS, ceiling=st.sampled_from([1, 1, 2, 4, 16]), outages=OUTAGES, seed=st.integers(0, 99))
@example([Agent(1, bad=True), *(Agent(2, bad=False) for _ in range(9))], 1, [], 0)
@example([*(Agent(1, bad=True) for _ in range(6)), *(Agent(1, bad=False) for _ in range(9))], 2, [], 0)
def test_on_any_schedule(
    agents: list[Agent], ceiling: int, outages: list[tuple[float, float]], seed: int
) -> None:
    """No outage fails a good one; a bad one is given up while others can be tried."""
    agents = [attrs.evolve(agent, suspicion=Suspicion()) for agent in agents]
    bad = sum(agent.bad for agent in agents)
    batch = Batch(agents, ceiling, [(begin, begin + lasts) for begin, lasts in outages], seed)
    batch.run()
    assert not [agent for agent in agents if agent.failed and not agent.bad]
    assert max(agent.doubtful for agent in agents) <= bound(bad)
    if not outages:
        assert not [agent for agent in batch.running if not agent.bad]


def test_in_a_day_some_fifty_more_are_begun() -> None:
    ceiling, running = Ceiling(5), 5
    for second in range(0, 24 * 3600, 5):
        running = ceiling.now(second, running)
        assert running == 5 + sum(second >= ASK * step * (step + 1) / 2 for step in range(1, 99))
    assert 5 + 53 == running
    assert 5 == ceiling.now(0, running)
    assert 5 == ceiling.now(ASK - 1, running)
    assert running + 1 == ceiling.now(ASK, running), "those that are still refused take nobody's place"


@pytest.mark.parametrize(
    ("seconds", "left", "ends"), [(LAST, 7, True), (LAST - 1, 1, False), (24 * LAST, 8, False)]
)
def test_few_are_left_to_a_person_and_many_are_waited_for(seconds: float, left: int, ends: bool) -> None:
    assert ends is nobody_can_tell(seconds, left)
