"""Mutants: small faults put into the core and the shell on purpose, which the specification must see.

A mutant is one edit of one module. Its old text must occur there exactly once, so that mutants
cannot rot. Each is tried in an interpreter of its own, in which the module is loaded with the
edit, with a fixed seed. `python -m tests.spec.mutants` tries all and prints what killed them.

What a pool learns from how connections end shows in hours, not in steps. Its specification are the storms of
`tests.core.test_storms` and the tests of what is learnt (`HOURS`), and its mutants are tried on those. So are
those of rules beside the pool's core (pace, fallback, what an endpoint takes) on tests of theirs.

An equivalent mutant is listed with the reason why nobody could tell; it must survive.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import importlib.abc
import importlib.machinery
import importlib.util
import json
import linecache
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import attrs

ROOT = Path(__file__).parent.parent.parent

#: Runs of the machine for one mutant and one seed: on the core, and on the real pool.
EXAMPLES = {"core": 250, "pool": 100}
#: Fixed seeds, tried in turn. A search that went astray goes on astray; another one may not.
SEEDS = range(1, 21)
#: Seconds after which nothing will kill a mutant: the slowest takes 100 s of CPU, and is not alone.
LONGEST = 1200.0

WHOLE = "wspool.core.lending.whole"
POOL, ROSTER, OUTAGE = "wspool.core.lending.pool", "wspool.core.lending.roster", "wspool.core.outage"
ALLOCATION, LIVES = "wspool.core.lending.allocation", "wspool.core.lending.lives"
LINE, AFFINITY = "wspool.core.lending.line", "wspool.core.lending.affinity"
LEASES, ALARMS = "wspool.core.lending.leases", "wspool.core.lending.alarms"
ENDINGS, AGES = "wspool.core.lending.endings", "wspool.core.lending.ages"
CALENDAR = "wspool.core.lending.calendar"
PACE, TAKES = "wspool.core.sending.pace", "wspool.core.sending.takes"
FALLBACK, CLASSIFY = "wspool.core.fallback", "wspool.core.events.classify"
DOUBT, ASSEMBLY = "wspool.core.events.doubt", "wspool.core.events.assembly"
SHELL, CONNECTION, LEASE = "wspool.pool.shell", "wspool.pool.connection", "wspool.pool.lease"
ROUTER, CLOCK = "wspool.pool.router", "wspool.pool.clock"


#: The specification of what is learnt from how connections end.
HOURS = ("ages", "outage", "calendar", "lives", "pool", "storms")


@attrs.frozen
class Mutant:
    """One fault.

    Attributes:
        what: what it does wrong, in a few words.
        module: where.
        old: the text it replaces.
        new: what it says instead.
        equivalent: why nobody can tell, if so.
        hours: True if it shows in hours only.
        tests: the tests of `tests.core` that must see it, where no part of the machine has what it changes.
    """

    what: str
    module: str
    old: str
    new: str
    equivalent: str | None = None
    hours: bool = False
    tests: tuple[str, ...] = ()

    @property
    def driver(self) -> str:
        """What the specification must be run on to see it: the core alone, for hours, or the real pool."""
        if self.hours:
            return "hours"
        if self.tests:
            return "tests"
        return "core" if self.module.startswith("wspool.core") else "pool"

    def source(self) -> str:
        """Return the text of the module with the fault in it."""
        path = ROOT.joinpath(*self.module.split(".")).with_suffix(".py")
        source = path.read_text(encoding="utf-8")
        if source.count(self.old) != 1:
            raise ValueError(f"{self.what!r}: {self.module} has {source.count(self.old)} times {self.old!r}")
        return source.replace(self.old, self.new)


@attrs.frozen
class Verdict:
    """How a mutant fared: what killed it (None: nothing did), and in how many seconds."""

    mutant: Mutant
    killed_by: str | None
    seconds: float

    @property
    def as_it_should(self) -> bool:
        """Whether it was killed, or survived as an equivalent one must."""
        return (self.killed_by is None) is (self.mutant.equivalent is not None)

    def __str__(self) -> str:
        fate = self.killed_by or "SURVIVED"
        if self.mutant.equivalent is not None:
            fate = f"equivalent: {self.mutant.equivalent}" if self.as_it_should else f"NOT EQUIVALENT: {fate}"
        return f"{self.mutant.what:<55} {self.seconds:5.1f} s  {fate}"


MUTANTS = [
    # -- waiters --
    Mutant(
        "close forgets the waiters",
        WHOLE,
        "self._allocation.refuse_all(RefuseReason.CLOSED, commands)",
        "pass",
    ),
    Mutant(
        "a cancelled waiter stays in line and is granted",
        POOL,
        "self._allocation.waiters.pop(waiter, None) is None:",
        "waiter not in self._allocation.waiters:",
    ),
    Mutant(
        "a newcomer overtakes",
        ALLOCATION,
        "        self.stand(waiter, wanted)\n",
        "        self.stand(waiter, wanted)\n        self.waiters.move_to_end(waiter, last=False)\n",
    ),
    Mutant(
        "who comes back goes to the end of the line",
        LINE,
        "            waiters.move_to_end(other, last=False)\n",
        "            pass\n",
    ),
    Mutant(
        "who comes back goes before those who were there first",
        LINE,
        "for other in (waiter, *reversed(before)):",
        "for other in (waiter,):",
    ),
    Mutant(
        "one waiter is granted twice in one step",
        LINE,
        "commands.append(Grant(waiter, lease, connection.id, lane.id))",
        "commands += [Grant(waiter, lease, connection.id, lane.id)] * 2",
    ),
    Mutant(
        "one lane is granted twice in one step",
        ROSTER,
        "        connection.free.remove(lane)\n        self.affinity.discard(lane)\n",
        "",
    ),
    Mutant(
        "granted while paused",
        LINE,
        "while waiters and not self.paused and (",
        "while waiters and (",
    ),
    Mutant(
        "the line may be one longer than allowed",
        ALLOCATION,
        "len(self.waiters) > limit:",
        "len(self.waiters) > limit + 1:",
    ),
    Mutant(
        "the asked remaining life is ignored",
        LINE,
        "            if wanted.min_remaining:",
        "            if False:",
    ),
    Mutant(
        "acquire_nowait stays in line",
        LINE,
        "            if found is not None:\n                self._grant(waiter, *found, now, commands)\n\n",
        "            if found is not None:\n"
        "                self._grant(waiter, *found, now, commands)\n"
        "                return\n"
        "        self.waiters[waiter] = Waiter()\n"
        "\n",
    ),
    # -- dials --
    Mutant(
        "the wake-up is lost after a failed dial",
        POOL,
        "  # mark: refuse: a dial failed\n        return self._allocation.settle(now, commands)\n",
        "\n        return commands\n",
    ),
    Mutant(
        "nobody wakes the prober",
        ALLOCATION,
        "            deadline = probe_at if self._wants_dial() or self._wants_place() else math.inf\n",
        "            pass\n",
    ),
    Mutant(
        "dials that run are not counted",
        ALLOCATION,
        "return need > coming * self.lanes",
        "return need > 0",
    ),
    Mutant(
        "as many dials at once as are needed",
        ALLOCATION,
        "self._wants_dial() and self._roster.dialing < outage.dial_limit and",
        "self._wants_dial() and",
    ),
    Mutant(
        "one connection too many",
        ALLOCATION,
        "if self.closing or self._roster.size >= self.policy.max_size:",
        "if self.closing or self._roster.size > self.policy.max_size:",
    ),
    Mutant(
        "a closing connection does not count although it should",
        ROSTER,
        "        if self._count_closing:\n",
        "        if False:\n",
    ),
    Mutant(
        "a closing connection is free to be granted",
        ROSTER,
        "        if connection.free and connection.usable:\n            self._remove_available(connection)",
        "        if connection.free and connection.usable:\n            pass",
    ),
    Mutant("the whole herd probes in an outage", OUTAGE, "            self.dial_limit = 1\n", ""),
    Mutant(
        "jitter only makes it longer",
        OUTAGE,
        "max(waited_for * self._bound,",
        "max((1 + jitter) * self._bound,",
    ),
    Mutant("Retry-After is ignored", OUTAGE, "failure.hold", "0.0"),
    Mutant(
        "a refused key leaves its waiters hoping",
        OUTAGE,
        "return self.failure.permanent or now >= self.give_up_at",
        "return now >= self.give_up_at",
    ),
    Mutant(
        "dials that were deferred are forgotten",
        ALLOCATION,
        "        if self._deferring and self._defers_dials() and roster.size < self.policy.max_size:\n",
        "        if False:\n",
    ),
    Mutant(
        "dials are deferred although nothing is open",
        ALLOCATION,
        "return self._deferring and self._roster.usable > 0",
        "return self._deferring",
    ),
    Mutant("an outage begins again and again", OUTAGE, " and not self.degraded\n", "\n"),
    Mutant(
        "who knows better is not believed",
        OUTAGE,
        "        self._useless = False\n        self._withered = 0\n        self._probe(now)\n",
        "        self._probe(now)\n",
    ),
    Mutant(
        "an announced end counts twice",
        ENDINGS,
        "        if connection.noticed and not connection.lent:\n            return",
        "        if False:\n            return",
    ),
    Mutant(
        "what this process lacks is asked for as rarely as a key",
        OUTAGE,
        "            share = 0.0\n",
        "            pass\n",
        tests=("shortage",),
    ),
    Mutant("a shortage is an outage", OUTAGE, "failure.kind is FailureKind.LOCAL\n", "False\n"),
    # -- retirement --
    Mutant(
        "a mover gets no replacement",
        ALLOCATION,
        "self.policy.min_idle + self._roster.movers - spare",
        "self.policy.min_idle - spare",
    ),
    Mutant(
        "retired without replacement",
        ALLOCATION,
        "            if roster.affinity.fresh < self.policy.min_idle and (\n",
        "            if roster.affinity.fresh < 0 and (\n",
    ),
    Mutant(
        "a leaver goes for what is on its way",
        ALLOCATION,
        "                or not self._needs_dial(coming)\n",
        "",
    ),
    Mutant(
        "the deadline is looked at only when a lane comes back",
        LINE,
        "            if now < connection.grant_end:\n                return connection",
        "            if True:\n                return connection",
    ),
    Mutant(
        "nothing happens at the last start",
        LIVES,
        "                case _Alarm.GRANT_END:\n                    self.end_grants(connection, commands)",
        "                case _Alarm.GRANT_END:\n                    pass",
    ),
    Mutant(
        "a turn starts that may not finish",
        LEASES,
        "        if now >= connection.last_start:\n",
        "        if now >= connection.expires_at:\n",
    ),
    Mutant(
        "after its last turn an expired connection stays",
        LEASES,
        "        self._lives.check_end(connection, now, commands)\n",
        "",
    ),
    Mutant(
        "retirements bunch",
        "wspool.core.lending.calendar",
        "if index == len(times) or times[index] >= when + gap:",
        "if True:",
    ),
    Mutant(
        "a late holder is not told to finish",
        LINE,
        "            commands.append(Expiring(lease))",
        "            pass",
    ),
    Mutant(
        "an unexpected limit says nothing about older ones",
        POOL,
        "if reason is CloseReason.LIMIT:",
        "if False:",
    ),
    Mutant(
        "an alarm that is due now rings never",
        ALARMS,
        "self.next > now",
        "self.next >= now",
    ),
    # -- leases and lanes --
    Mutant(
        "a given up turn leaves its connection in use",
        LEASES,
        'if len(connection.lanes) == 1 and (self._on_cancel == "hang_up" or not sent):',
        "if len(connection.lanes) == 1 and not sent:",
    ),
    Mutant(
        "what was cut in two is awaited to its end",
        LEASES,
        'if len(connection.lanes) == 1 and (self._on_cancel == "hang_up" or not sent):',
        'if len(connection.lanes) == 1 and self._on_cancel == "hang_up":',
    ),
    Mutant(
        "a lane with the rest of a turn on it is free",
        "wspool.core.states",
        "_LI.RELEASE: _L.QUARANTINED",
        "_LI.RELEASE: _L.IDLE",
    ),
    Mutant(
        "a lane is lost after its warm-up or tail",
        LEASES,
        "        if lane.state is _IDLE:  # a warm-up, or a tail whose holder has left\n",
        "        if False:\n",
    ),
    Mutant(
        "the rest of a turn is awaited for ever",
        LIVES,
        "                    self._check_tails(connection, now, commands)",
        "                    pass",
    ),
    Mutant(
        "releasing twice counts twice",
        POOL,
        "        if not self._roster.is_live(lease):\n            return commands\n",
        "        if not self._roster.is_live(lease):\n"
        "            self._tally.released += 1\n"
        "            return commands\n",
    ),
    Mutant(
        "leases lost with their connection are not counted",
        LIVES,
        "        self._tally.lost_leases += self._roster.end_all(connection)",
        "        self._roster.end_all(connection)",
    ),
    Mutant(
        "a dead lease leaks",
        ROSTER,
        "        self.unreported.pop(lease, None)\n",
        "",
    ),
    Mutant(
        "a parked lane is taken at once",
        LINE,
        "        return min(max(now, since + self.keeping.patience()), self._passed_until(wanted))\n",
        "        return now\n",
    ),
    Mutant(
        "who was passed over for long waits until what is parked is ripe",
        LINE,
        "return min(max(now, since + self.keeping.patience()), self._passed_until(wanted))",
        "return max(now, since + self.keeping.patience())",
        tests=("pool",),
    ),
    Mutant(
        "others go on before the first in line for as long as they like",
        LINE,
        "            return first.skipped_at + MAX_SKIPS * full_send\n",
        "            return math.inf\n",
    ),
    Mutant(
        "others go on before the first in line as often as they like",
        LINE,
        "        if first.skips < MAX_SKIPS:\n",
        "        if True:\n",
    ),
    Mutant(
        "who is served in a moment takes the lane of who would go on there",
        LINE,
        "if not self._roster.dialing or self._outage.down:",
        "if True:",
    ),
    Mutant(
        "others go on before the first in line for as long as a dial takes",
        LINE,
        "return min(first.skipped_at, self._roster.dialed_at) + full_send",
        "return first.skipped_at + MAX_SKIPS * full_send",
    ),
    Mutant(
        "others go on before the first in line for as long as dials begin",
        LINE,
        "return min(first.skipped_at, self._roster.dialed_at) + full_send",
        "return self._roster.dialed_at + full_send",
        tests=("pool",),  # the machine has it by luck: a dial in each of many moments
    ),
    Mutant(
        "others go on before the first in line while all that is hoped for is a prober",
        LINE,
        "if not self._roster.dialing or self._outage.down:",
        "if not self._roster.dialing:",
        tests=("pool",),
    ),
    Mutant(
        "how long others go on before the first in line counts from the last of them",
        LINE,
        "        if not first.skips:\n            first.skipped_at = now\n",
        "        first.skipped_at = now\n",
    ),
    Mutant(
        "the holder of a parked lane goes on, and who is in line was not passed over",
        LINE,
        "        if not self._was_passed_over(first, now):\n"
        "            self._pass_over(first, now)\n"
        "            return False\n",
        "        if not self._was_passed_over(first, now):\n            return False\n",
    ),
    Mutant(
        "the lane parked last is taken",
        LINE,
        "        for lease, since in self._roster.parked.items():\n",
        "        for lease, since in reversed(self._roster.parked.items()):\n",
    ),
    Mutant(
        "the lane of a turn that has ended stays its holder's",
        LEASES,
        "elif lane.lease is not None and lane.movable:",
        "elif False:",
    ),
    Mutant(
        "a lane that is not to be moved is parked",
        LEASES,
        "elif lane.lease is not None and lane.movable:",
        "elif lane.lease is not None:",
    ),
    Mutant(
        "nobody wakes up to take a parked lane",
        ALLOCATION,
        "                deadline = min(deadline, parked[0])\n",
        "                pass\n",
    ),
    Mutant(
        "who waits takes parked lanes that do not serve it",
        LINE,
        "            if _suits(self._roster.leases[lease][0], wanted, ripe):\n",
        "            if True:\n",
    ),
    Mutant(
        "room is made again and again for one fresh connection",
        LINE,
        "or roster.size < self.policy.max_size or self._coming():",
        "or roster.size < self.policy.max_size:",
    ),
    Mutant(
        "room is made although a parked lane will do",
        LINE,
        "        if self._parked_for(wanted, now) is not None:\n            return None\n",
        "",
        tests=("pool",),
    ),
    Mutant(
        "room is made from under what is at work",
        LINE,
        "            if connection.busy == len(parked):\n",
        "            if parked:\n",
    ),
    Mutant(
        "nobody looks again at whose place a fresh one needs",
        ALLOCATION,
        "            elif (room := self._room_for(wanted, self._settled_at)) is not None:\n",
        "            elif (room := None) is not None:\n",
    ),
    Mutant(
        "nobody looks again at whose place a fresh one needs once it may be dialled",
        ALLOCATION,
        "max(room[0], outage.dial_at(waited_for=True))",
        "math.inf if outage.down else room[0]",
    ),
    Mutant(
        "who was passed over takes what does not serve it",
        LINE,
        "        if not _suits(connection, first, now):\n            return False\n",
        "",
    ),
    Mutant(
        "while nothing is granted holders lose their lanes",
        LINE,
        "        if not self.waiters or self.paused:\n            return False\n",
        "        if not self.waiters:\n            return False\n",
    ),
    Mutant(
        "acquire_nowait takes what is parked",
        LINE,
        "            found = self._suitable(Waiter(), now, commands)\n"
        "            if found is not None:\n"
        "                self._grant(waiter, *found, now, commands)\n",
        "            self.waiters[waiter] = Waiter()\n"
        "            self._match(now, commands)\n"
        "            self.waiters.pop(waiter, None)\n",
    ),
    # -- what is remembered --
    Mutant(
        "what a lane remembers is forgotten when it is given back",
        LEASES,
        "        roster.move_lane(lane, _RELEASE)\n",
        "        roster.move_lane(lane, _RELEASE)\n        roster.affinity.forget(lane)\n",
    ),
    Mutant(
        "a lane remembers what another turn has pushed out",
        LEASES,
        "        self._roster.affinity.forget(lane)\n",
        "        pass\n",
    ),
    Mutant(
        "what ended with its connection is remembered",
        ROSTER,
        "        self.move_lane(lane, LaneInput.END)\n        self.affinity.forget(lane)\n",
        "        self.move_lane(lane, LaneInput.END)\n",
    ),
    Mutant(
        "an id that two lanes hold stands for the latter",
        AFFINITY,
        "            other, self.held[response] = self.held[response], None\n",
        "            other, self.held[response] = None, (connection, lane)\n",
    ),
    Mutant(
        "an id that two lanes held stands for the one that is left",
        AFFINITY,
        "        if holders == 1:\n            del self.held[response]\n",
        "        if holders == 1 or self.held[response] is None:\n            del self.held[response]\n",
    ),
    Mutant(
        "nobody is granted what it prefers",
        LINE,
        "            if (held := self._preferred(wanted, now)) is not None and held[1].state is _IDLE:\n"
        "                return held\n",
        "",
        tests=("affinity",),
    ),
    Mutant(
        "who prefers a lane waits in line for it",
        LINE,
        "        if (held := self._preferred(wanted, now)) is None or self.paused:\n",
        "        if (held := self._preferred(wanted, now)) is None or self.paused or self.waiters:\n",
    ),
    Mutant(
        "who prefers a lane goes on past those in line for ever",
        LINE,
        "            if self._was_passed_over(self._first(), now):\n                return False\n",
        "",
    ),
    Mutant(
        "who is passed over for a lane that somebody prefers is not counted",
        LINE,
        "            self._pass_over(self._first(), now)\n        if",
        "            pass\n        if",
    ),
    Mutant(
        "what is preferred is granted while nothing is",
        LINE,
        "(held := self._preferred(wanted, now)) is None or self.paused:",
        "(held := self._preferred(wanted, now)) is None:",
    ),
    Mutant(
        "what is preferred is granted without the life that is asked for",
        LINE,
        "stays and _suits(connection, wanted, now):",
        "stays:",
        tests=("affinity",),
    ),
    Mutant(
        "what is preferred is granted although it goes soon",
        LINE,
        "stays = connection.state is _OPEN or not roster.affinity.fresh",
        "stays = True",
        tests=("affinity",),
    ),
    Mutant(
        "a parked lane is not given up to whoever goes on from it",
        LINE,
        "        if (lane.state is _IDLE or kept) and stays",
        "        if lane.state is _IDLE and stays",
    ),
    Mutant(
        "newcomers are given what is of most use to others",
        AFFINITY,
        "        use, _, number, lane = idle[index]\n",
        "        use, _, number, lane = idle[-1]\n",
    ),
    Mutant(
        "a warm lane is for anybody",
        AFFINITY,
        "        if warm:\n            index =",
        "        if True:\n            index =",
    ),
    Mutant(
        "a warm lane is for nobody",
        AFFINITY,
        "        if warm:\n            index =",
        "        if False:\n            index =",
    ),
    Mutant(
        "that a conversation is over changes nothing",
        AFFINITY,
        "        lane.over = True\n",
        "        pass\n",
    ),
    Mutant(
        "who waits is not looked at when a conversation is over",
        POOL,
        "return self._allocation.settle(now, []) if self._roster.affinity.over(response) else []",
        "self._roster.affinity.over(response)\n        return []",
        tests=("affinity",),
    ),
    Mutant(
        "who waits for a dial that has to wait is not starving",
        OUTAGE,
        "return self._failures > 0 or self._useless\n",
        "return self._failures > 0\n",
        tests=("affinity",),
    ),
    Mutant(
        "who starves is not dialled for when what is free proves too old",
        ALLOCATION,
        "            if roster.size == size:\n                break\n",
        "            break\n",
        tests=("pool",),
    ),
    Mutant(
        "a lane that was used lately goes before one that was not",
        AFFINITY,
        "            use, by = _CLAIMED if lane.movable else _REMEMBERED, lane.used_at\n",
        "            use, by = _CLAIMED if lane.movable else _REMEMBERED, -lane.used_at\n",
    ),
    Mutant(
        "what a conversation may come back to is given away though there is room",
        LINE,
        "                if missed and self.waiters and not self._is_starving():\n",
        "                if False:\n",
    ),
    Mutant(
        "what a conversation may come back to is never given away",
        LINE,
        "                if missed and self.waiters and not self._is_starving():\n",
        "                if missed and self.waiters:\n",
    ),
    Mutant(
        "what a conversation may come back to is spare",
        AFFINITY,
        "        if use < _CLAIMED:\n            self.fresh += 1\n",
        "        if use <= _CLAIMED:\n            self.fresh += 1\n",
    ),
    Mutant(
        "after an answer a lane is kept",
        LEASES,
        "            if before is _IN_FLIGHT and (calls or not completed):\n",
        "            if before is _IN_FLIGHT:\n",
    ),
    Mutant(
        "a lane is not kept while tools run",
        LEASES,
        "            if before is _IN_FLIGHT and (calls or not completed):\n",
        "            if False:\n",
    ),
    Mutant(
        "who has its lane no more is not told",
        LEASES,
        "        commands.append(Returned(lease))\n",
        "",
    ),
    Mutant(
        "what was given up is remembered as what somebody wants",
        LEASES,
        "before in _TAILS\n",
        "False\n",
    ),
    # -- what is over --
    Mutant(
        "an ended connection leaves its alarms",
        LIVES,
        "            self.alarms.cancel((connection, alarm))\n",
        "            pass\n",
    ),
    Mutant(
        "a failed or lost connection keeps its place in the calendar",
        LIVES,
        "        self.calendar.free(connection.retire_at)\n",
        "        if what is ConnectionInput.HANG_UP:\n            self.calendar.free(connection.retire_at)\n",
    ),
    Mutant(
        "a life without end has a place in the calendar",
        "wspool.core.lending.calendar",
        "        if earliest == math.inf:\n            return earliest\n",
        "",
    ),
    Mutant(
        "a retirement that came early comes again",
        LIVES,
        "        self.alarms.cancel((connection, _Alarm.RETIRE))\n",
        "",
    ),
    Mutant(
        "a loss that is told twice counts twice",
        POOL,
        "        if found is None or found.state is ConnectionState.CLOSING:\n"
        "            return commands\n"
        "        found.jitter = jitter\n",
        "        if found is None or found.state is ConnectionState.CLOSING:\n"
        "            self._tally.closed[CloseReason.LOST] += 1\n"
        "            return commands\n"
        "        found.jitter = jitter\n",
    ),
    Mutant(
        "the late end of a turn is a bug",
        LEASES,
        "        if connection.state is _CLOSING:\n            return False\n",
        "",
    ),
    Mutant(
        "a peer that is gone is pinged again",
        POOL,
        "        if found is not None and found.usable:\n",
        "        if found is not None:\n",
    ),
    # -- the whole pool --
    Mutant("spare is closed as surplus", LIVES, "if due <= now and surplus:", "if due <= now:"),
    Mutant(
        "what leaves is collected where everything leaves",
        LIVES,
        "            others += affinity.leaving_since(connection.left_after)\n",
        "            pass\n",
    ),
    Mutant(
        "what leaves goes for what left before it",
        ROSTER,
        "        connection.left_after = self._last_connection\n",
        "        connection.left_after = ConnectionId(0)\n",
    ),
    Mutant(
        "who has used what leaves keeps it idle",
        LIVES,
        "        if not connection.idle_alarm and not connection.busy:\n",
        "        if not connection.idle_alarm and not connection.busy and connection.state is _OPEN:\n",
    ),
    Mutant(
        "the peer is pinged once",
        POOL,
        "            self._lives.heard(found, heard_at, now)\n",
        "            pass\n",
    ),
    Mutant(
        "what is leased survives a clear",
        LIVES,
        "            self._clear(connection, now, commands, CloseReason.CLEARED)",
        "            self.end_grants(connection, commands)",
    ),
    Mutant(
        "what was cleared goes for its age",
        LIVES,
        "            self.hang_up(connection, connection.leaves_for, commands)",
        "            self.hang_up(connection, CloseReason.LIFETIME, commands)",
    ),
    Mutant(
        "what was not trusted goes for what a caller wants of it later",
        LIVES,
        "        if connection.cleared_at == math.inf:  # else",
        "        if True:  # else",
        hours=True,
    ),
    Mutant(
        "a smaller pool keeps its spare",
        ALLOCATION,
        "        while roster.size > self.policy.max_size and index < len(roster.available):\n",
        "        while False:\n",
    ),
    Mutant(
        "the order of a connection's free lanes",
        ROSTER,
        "connection.free += new[::-1]",
        "connection.free += new",
        equivalent="no rule says which free lane of a connection is granted",
    ),
    Mutant(
        "a connection has lanes that nobody has proved",
        POOL,
        "self._allocation.lanes if self.naming is Naming.NAMED else 1",
        "self._allocation.lanes",
    ),
    Mutant(
        "proved lanes are not opened",
        POOL,
        "        self._roster.widen(found, self._allocation.lanes)\n",
        "",
    ),
    Mutant(
        "lanes are opened that nothing can start on",
        POOL,
        "if found is None or not found.usable or now >= found.grant_end:",
        "if found is None or not found.usable:",
    ),
    Mutant(
        "an endpoint without lanes is believed to have some",
        POOL,
        "        self._allocation.lanes = 1\n        self.naming = Naming.NONE\n",
        "        self.naming = Naming.NONE\n",
    ),
    Mutant(
        "a newcomer is granted what is about to go",
        ROSTER,
        "        connection.key = (-math.inf, connection.id)\n",
        "",
    ),
    Mutant(
        "a tail that comes too late is taken for something else",
        LEASES,
        "        if lane.state is _DEAD:\n",
        "        if False:\n",
    ),
    # -- what is learnt from how connections end --
    Mutant(
        "whatever ends young and unused is forgiven",
        ENDINGS,
        "            if young and (reason",
        "            if False and (reason",
        hours=True,
    ),
    Mutant(
        "a turn that was given up unheard says nothing",
        ENDINGS,
        "        if not connection.proven:\n            self.noted.append((connection, None))",
        "        pass",
        hours=True,
    ),
    Mutant(
        "an end that was announced says nothing when it comes",
        ENDINGS,
        "theirs = reason in _THEIRS or (connection.noticed and reason is CloseReason.LIFETIME)",
        "theirs = reason in _THEIRS",
        hours=True,
    ),
    Mutant(
        "what goes because another one has met the limit speaks against the endpoint",
        ENDINGS,
        "        if reason is CloseReason.LIMIT and connection.leaves_for is CloseReason.LIMIT:\n",
        "        if False:\n",
        hours=True,
    ),
    Mutant(
        "an idle timeout is taken for a lifetime",
        ENDINGS,
        "        if not connection.proven or not (in_turn or now - connection.touched_at < age / 2):\n",
        "        if not connection.proven:\n",
        hours=True,
    ),
    Mutant(
        "what was of no use teaches a lifetime",
        ENDINGS,
        "        if not connection.proven or not (",
        "        if not (",
        hours=True,
    ),
    Mutant(
        "a storm is forgiven for ever",
        OUTAGE,
        "return self._strikes > FORGIVEN and self.relapsed(",
        "return False and self.relapsed(",
        hours=True,
    ),
    Mutant(
        "nothing is forgiven",
        OUTAGE,
        "return self._strikes > FORGIVEN and self.relapsed(",
        "return self.relapsed(",
        hours=True,
    ),
    Mutant(
        "those that end together count each",
        OUTAGE,
        "        if dial <= self._counted:\n            return False\n",
        "",
        hours=True,
    ),
    Mutant(
        "spare that ends together counts each",
        OUTAGE,
        "        if dial <= self._spare_counted:\n            return False\n",
        "",
        hours=True,
    ),
    Mutant(
        "a handshake ends a storm",
        OUTAGE,
        "        self._useless = self._useless or counts\n",
        "",
        hours=True,
    ),
    Mutant(
        "the count begins anew with each handshake",
        OUTAGE,
        "            self._failures = self._before\n",
        "            self._failures = 0\n",
        hours=True,
    ),
    Mutant(
        "spare that ends is always replaced at once",
        OUTAGE,
        "        if self._withered > 1:  # the first is replaced at once\n",
        "        if False:\n",
        hours=True,
    ),
    Mutant(
        "a completed turn proves nothing",
        OUTAGE,
        "        self.doubtful = self._strikes > 0\n        self._useless = False\n",
        "        self.doubtful = self._strikes > 0\n",
        hours=True,
    ),
    Mutant(
        "dials of a storm follow at once",
        OUTAGE,
        "        if self._useless:\n            self.probe_at = max(",
        "        if False:\n            self.probe_at = max(",
        hours=True,
    ),
    Mutant(
        "who waits is served as slowly as nobody",
        OUTAGE,
        "        if share is not None:\n",
        "        if False:\n",
        hours=True,
    ),
    Mutant(
        "a lifetime is learnt from two", AGES, "if len(same) < SAME:", "if len(same) < SAME - 1:", hours=True
    ),
    Mutant(
        "those that end in one moment teach a lifetime",
        AGES,
        "        if now < self._moment + _MOMENT:\n",
        "        if False:\n",
        hours=True,
    ),
    Mutant(
        "what lives longer disproves nothing",
        AGES,
        "        self._disprove(oldest)\n",
        "",
        hours=True,
    ),
    Mutant("the young teach a lifetime", AGES, "if age < YOUNGEST or age >", "if age >", hours=True),
    Mutant(
        "what outlives its lifetime is not seen",
        POOL,
        "        if now > found.opened_at + self._endings.ages.outlived_at:\n",
        "        if False:\n",
        hours=True,
    ),
    Mutant(
        "nobody plans with a lifetime that was learnt",
        WHOLE,
        "        self._lives.replan(self.schedule, learned=lifetime is not None)\n",
        "",
        hours=True,
    ),
    Mutant(
        "who wants more life than is left to have waits for ever",
        WHOLE,
        "            waiter.min_remaining = min(waiter.min_remaining, self.schedule.retire_from)\n",
        "            pass\n",
        hours=True,
    ),
    Mutant(
        "a lifetime that was learnt makes us dial",
        LIVES,
        "                    if self._learned:  # on the word of a server, which must not make us dial\n",
        "                    if False:\n",
        hours=True,
    ),
    Mutant(
        "the calendar forgets nobody",
        CALENDAR,
        "        del self._times[index]\n",
        "        pass\n",
    ),
    Mutant(
        "a late tail takes its siblings along",
        LIVES,
        "        if late and connection.busy == len(late):\n",
        "        if late:\n",
    ),
    # -- the pool as a whole --
    Mutant(
        "a hold is made shorter by the next",
        WHOLE,
        "self._held_until = max(self._held_until, now + seconds)",
        "self._held_until = now + seconds",
    ),
    Mutant(
        "a hold outlives who knows better",
        WHOLE,
        "        self._outage.retry_now(now)\n        self._held_until = -math.inf\n",
        "        self._outage.retry_now(now)\n",
    ),
    Mutant(
        "a closing pool keeps what nobody has",
        WHOLE,
        "            if connection.state is not ConnectionState.CLOSING and not connection.leased:\n",
        "            if False:\n",
    ),
    Mutant(
        "what is at work survives an interrupt",
        LIVES,
        "or (interrupt and connection.usable):",
        "or False:",
    ),
    Mutant(
        "what is forced to end says goodbye",
        WHOLE,
        "self._lives.hang_up(connection, CloseReason.POOL_CLOSED, commands, polite=False)",
        "self._lives.hang_up(connection, CloseReason.POOL_CLOSED, commands)",
    ),
    # -- the shell --
    Mutant(
        "nobody says that the lanes are proved",
        ROUTER,
        "            self._link.report(self._link.host.core.widen)",
        "            pass",
    ),
    Mutant(
        "every event is for the first lane",
        ROUTER,
        "            return self._by_name.get(name)",
        "            return self._link.lanes[0]",
    ),
    Mutant(
        "a cancelled waiter is not reported",
        SHELL,
        "        self.step(self.core.abandon, waiter)\n",
        "",
    ),
    Mutant(
        "a checkpoint between the grant and the body",
        SHELL,
        "        return self._noted(lease)\n",
        "        await trio.lowlevel.checkpoint()\n        return self._noted(lease)\n",
    ),
    Mutant(
        "the lease is handed over beside the wake-up",
        SHELL,
        "        lease: Lease = await wait_task_rescheduled(partial(self._abandon, waiter))\n",
        "        box = self.__dict__.setdefault('_box', {})\n"
        "        event = box[waiter] = trio.Event()\n"
        "        try:\n"
        "            await event.wait()\n"
        "        except trio.Cancelled:\n"
        "            if waiter in self._parked:\n"
        "                self._abandon(waiter, None)\n"
        "            raise\n"
        "        lease = box.pop(waiter)\n",
    ),
    Mutant(
        "a decision is performed a moment later",
        SHELL,
        "                self._do(self._todo.popleft())",
        "                trio.lowlevel.current_trio_token().run_sync_soon(self._do, self._todo.popleft())",
    ),
    Mutant(
        "who is granted a lane is not woken",
        SHELL,
        "                reschedule(self._parked.pop(waiter), outcome.Value(lease))\n",
        "                pass\n",
    ),
    Mutant(
        "the other commands of a question are dropped",
        SHELL,
        "                del commands[index]\n",
        "                del commands[index:]\n",
    ),
    Mutant("the timekeeper is not woken", CLOCK, "            self._wake_up.set()\n", "            pass\n"),
    Mutant(
        "the timekeeper asks without telling",
        CLOCK,
        "self._perform(self._core.tick(max(deadline, self._clock.now())))",
        "self._core.tick(max(deadline, self._clock.now()))",
    ),
    Mutant(
        "a lease is not released when its body crashes",
        LEASE,
        "        self._lease.release()\n",
        "        if not isinstance(error[1], Exception):\n            self._lease.release()\n",
    ),
    Mutant(
        "the holder is not told that its time is up",
        SHELL,
        "self._leases[lease].expiring = True",
        "pass",
    ),
    Mutant(
        "closing does not end the pool's tasks",
        SHELL,
        "            # else would stop the pool's tasks.\n            self.stop()\n",
        "            # else would stop the pool's tasks.\n            pass\n",
    ),
    Mutant(
        "every connection draws the same retirement",
        CONNECTION,
        "link.report(link.host.core.connected, jitter=link.host.jitter())",
        "link.report(link.host.core.connected, jitter=0.0)",
    ),
    Mutant(
        "a hang-up ignores a dial that runs",
        CONNECTION,
        "        if not self.link.connected and self.link.nursery is not None:\n",
        "        if False:\n",
    ),
    Mutant(
        "the end of a turn is not reported",
        ROUTER,
        "                step(finished, link.id, lane.id, answered=link.stateless, **said)\n",
        "                pass\n",
    ),
    Mutant(
        "the reader swallows the end",
        CONNECTION,
        "            self.link.note_close(error)\n        finally:\n            self.link.lose()",
        "            await trio.sleep_forever()",
    ),
    Mutant(
        "a stray event does no harm",
        ROUTER,
        "self._link.poison(CloseReason.DIRTY)  # mark: dirty: for no turn",
        "pass",
    ),
    Mutant(
        "a turn may follow on a connection of which a lane is not clean",
        LIVES,
        "        connection.last_start = min(connection.last_start, now)\n",
        "",
    ),
    Mutant(
        "a connection is trusted again when a lifetime is learnt",
        LIVES,
        "min(born + schedule.last_start, connection.distrusted_at)",
        "born + schedule.last_start",
        tests=("lives",),
    ),
    Mutant(
        "what is not clean takes what is in flight beside it along",
        ROUTER,
        "if self.naming is not Naming.NAMED or not link.is_shared(attempt):",
        "if True:",
    ),
    Mutant(
        "the server's announcement is not heard",
        ROUTER,
        "                self._link.report(self._link.host.core.retire)\n            case Reception.CUT:",
        "                pass\n            case Reception.CUT:",
    ),
    Mutant(
        "gone before the stream is closed",
        CONNECTION,
        "        finally:\n            await wire.abort()",
        "        finally:\n            pass",
    ),
    Mutant(
        "a turn that was given up is not reported",
        LEASE,
        "            self._owner.step(self._owner.core.give_up, self._id, heard=attempt.begun, sent=sent)",
        "            pass",
    ),
    Mutant(
        "an end is reported when it is wound up",
        CONNECTION,
        "self.link.note_close(error)\n        finally:\n            self.link.lose()",
        "self.link.note_close(error)\n        finally:\n            self.link.ending = True",
    ),
    Mutant(
        "an end is reported a round later",
        CONNECTION,
        "self.link.note_close(error)\n        finally:\n            self.link.lose()",
        "self.link.note_close(error)\n        finally:\n            self.link.ending = True\n"
        "            await trio.lowlevel.checkpoint()\n            self.link.lose()",
    ),
    # -- rules beside the core of the pool --
    Mutant(
        "nobody waits as long as the server asks",
        PACE,
        "        if now < self.held_until:\n",
        "        if False:\n",
        tests=("pace",),
    ),
    Mutant(
        "the known limit is never tried again",
        PACE,
        "if self._calm >= (CALM if self._step == 1.0 else self.room):",
        "if False:",
        tests=("pace",),
    ),
    Mutant(
        "a limit that falls is met one turn at a time",
        PACE,
        "takes *= SHRINK**self._waves",
        "takes *= 1.0",
        tests=("pace",),
    ),
    Mutant(
        "in trouble what it took before is forgotten",
        PACE,
        "                self._limit = self._took\n",
        "                pass\n",
        tests=("pace",),
    ),
    Mutant(
        "an answer does not end the trouble",
        PACE,
        "self._strikes, self._try = 0, None",
        "self._try = None",
        tests=("pace",),
    ),
    Mutant(
        "what had begun when more was thought to be taken shrinks room as well",
        PACE,
        "if ticket.number > self._shrunk_at:",
        "if True:",
        tests=("pace",),
    ),
    Mutant(
        "HTTP is for ever",
        FALLBACK,
        "if self.until is None or (now >= self.until and not self._probing):",
        "if self.until is None:",
        tests=("fallback",),
    ),
    Mutant(
        "many look at once whether WebSockets are back",
        FALLBACK,
        "(now >= self.until and not self._probing)",
        "(now >= self.until)",
        tests=("fallback",),
    ),
    Mutant(
        "the look for WebSockets never gets rarer",
        FALLBACK,
        "self._pause = min(2 * self._pause, PROBE_MOST)",
        "pass",
        tests=("fallback",),
    ),
    Mutant(
        "who cannot be reached offers no WebSocket",
        FALLBACK,
        "            return self._go_on(now)\n",
        "            return self._was_useless(now)\n",
        tests=("fallback",),
    ),
    Mutant(
        "a connection that opens and closes was of use",
        FALLBACK,
        "        else:\n            self._was_useless(now)\n",
        "",
        tests=("fallback",),
    ),
    Mutant(
        "one refused parent speaks for all",
        TAKES,
        "STRIKES: Final = 2",
        "STRIKES: Final = 1",
        tests=("takes",),
    ),
    Mutant(
        "a parent that was taken says nothing",
        TAKES,
        "        self._taken = True\n",
        "        pass\n",
        tests=("takes",),
    ),
    Mutant(
        "a call id that is too long speaks against parents",
        TAKES,
        "            return False\n        self._strikes += held\n",
        "        self._strikes += held\n",
        tests=("takes",),
    ),
    Mutant(
        "what is not taken is said each time",
        TAKES,
        "return known and not self.parents",
        "return not self.parents",
        tests=("takes",),
    ),
    Mutant(
        "a response that was here before begins by the short way",
        CLASSIFY,
        " and name != known.parent and not known.past.knows(name) else None",
        " and name != known.parent else None",
        tests=("usual",),
    ),
    Mutant(
        "an end with a wrong number goes the short way",
        CLASSIFY,
        "    if event.sequence_number != known.next or event.stream_id != known.lane:\n",
        "    if event.stream_id != known.lane:\n",
        tests=("usual",),
    ),
    Mutant(
        "an end with a parent that was not sent is an answer",
        DOUBT,
        "    elif not known.is_anothers_child(response) and (",
        "    elif (",
        tests=("doubt",),
    ),
    Mutant(
        "what was only announced is no sign of a mixture",
        ASSEMBLY,
        "{name for name, _ in announced}.union(map(name_of, items))",
        "set(map(name_of, items))",
        tests=("assembly",),
    ),
    Mutant(
        "of two items of one id only the last is kept",
        ASSEMBLY,
        "(place in done and name_of(done[place]) == name)",
        "False",
        tests=("assembly",),
    ),
    Mutant(
        "two items of one place are both ours",
        ASSEMBLY,
        "ours == len(said) >= len(places) and not crowded",
        "ours == len(said) >= len(places)",
        tests=("assembly",),
    ),
    Mutant(
        "what was cleared is trusted again when a lifetime is learnt",
        LIVES,
        "connection.grant_end = min(connection.last_start, connection.cleared_at)",
        "connection.grant_end = connection.last_start",
        hours=True,
    ),
    Mutant(
        "whoever loses the last hope is not told",
        ALLOCATION,
        "if self.waiters and not roster.dialing and self.is_hopeless(now):",
        "if False:",
        tests=("pool",),
    ),
    Mutant(
        "nobody looks again when it becomes hopeless",
        ALLOCATION,
        "            and self.is_hopeless(outage.give_up_at)\n",
        "            and False\n",
        tests=("pool",),
    ),
]


# -- in the interpreter of one mutant ---------------------------------------------------------------


class _Loader(importlib.machinery.SourceFileLoader):
    """Loads a module with a fault in it."""

    def __init__(self, name: str, path: str, source: str) -> None:
        super().__init__(name, path)
        self._source = source

    def get_code(self, fullname: str) -> CodeType:
        return compile(self._source, self.path, "exec", dont_inherit=True)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the one module that has a fault."""

    def __init__(self, mutant: Mutant) -> None:
        self._mutant = mutant
        self._source = mutant.source()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._mutant.module:
            return None
        file = str(ROOT.joinpath(*fullname.split(".")).with_suffix(".py"))
        loader = _Loader(fullname, file, self._source)
        return importlib.util.spec_from_file_location(fullname, file, loader=loader)


def try_here(mutant: Mutant) -> str | None:
    """Run the specification against *mutant* in this interpreter; return what killed it."""
    sys.meta_path.insert(0, _Finder(mutant))

    if mutant.hours or mutant.tests:
        return _first_red(mutant.tests or HOURS)

    import logging

    from hypothesis import HealthCheck, Phase, seed, settings
    from hypothesis.stateful import run_state_machine_as_test

    from tests.spec.machine import PoolMachine
    from tests.spec.test_trio_pool import TrioPoolMachine

    logging.disable()
    machine: Any = PoolMachine if mutant.driver == "core" else TrioPoolMachine
    budget = settings(
        max_examples=EXAMPLES[mutant.driver],
        database=None,
        deadline=None,
        phases=[Phase.generate],  # the first failure is enough
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    for number in SEEDS:
        try:
            run_state_machine_as_test(seed(number)(machine), settings=budget)
        except BaseException as error:
            return _name(error)
    return None


def _first_red(names: Sequence[str]) -> str | None:
    """Run the tests of those names; return the first that fails."""
    import pytest

    red: list[str] = []

    class Ear:
        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            if report.failed:
                red.append(report.nodeid.rpartition("/")[2])

    tests = [str(ROOT / "tests" / "core" / f"test_{name}.py") for name in names]
    pytest.main(["-x", "-q", "-n0", "-p", "no:cacheprovider", "--hypothesis-seed=1", *tests], plugins=[Ear()])
    return red[0] if red else None


def _name(error: BaseException) -> str:
    """Say in a few words which part of the specification has failed."""
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if "spec" in Path(frame.filename).parts
    ]
    frame = frames[-1]
    if isinstance(error, AssertionError):
        said = (
            str(error).splitlines()[0] if str(error) else linecache.getline(frame.filename, frame.lineno or 0)
        )
        return f"{frame.name}: {said.strip()}"
    return f"{frame.name}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


# -- in the parent ----------------------------------------------------------------------------------


def try_apart(mutant: Mutant) -> Verdict:
    """Try *mutant* in an interpreter of its own."""
    # What runs there is not the library, so it must not count as covering it.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    began = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "tests.spec.mutants", "--one", mutant.what],
            cwd=ROOT,
            env={**environment, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "0"},
            capture_output=True,
            text=True,
            timeout=LONGEST,
        )
    except subprocess.TimeoutExpired:
        return Verdict(mutant, None, LONGEST)
    if done.returncode:
        raise RuntimeError(f"{mutant.what!r} could not be tried: {done.stderr}")
    killed_by: str | None = json.loads(done.stdout.splitlines()[-1])
    return Verdict(mutant, killed_by, time.monotonic() - began)


def try_all(mutants: Sequence[Mutant], at_once: int = 2) -> Iterator[Verdict]:
    """Try *mutants*, a few at a time; how each fared is told when its turn comes."""
    with concurrent.futures.ThreadPoolExecutor(at_once) as executor:
        yield from executor.map(try_apart, mutants)


def main() -> int:
    """Try all mutants, or one by its name in this interpreter; print how they fared."""
    parser = argparse.ArgumentParser(prog="python -m tests.spec.mutants", description=__doc__)
    parser.add_argument("--one", metavar="WHAT", help="try this one here and print what killed it, as JSON")
    parser.add_argument("--only", metavar="TEXT", default="", help="only those that have TEXT in their name")
    parser.add_argument("--at-once", type=int, default=2, metavar="N", help="how many at a time")
    options = parser.parse_args()
    if options.one is not None:
        (mutant,) = [mutant for mutant in MUTANTS if mutant.what == options.one]
        print(json.dumps(try_here(mutant)), flush=True)  # noqa: T201
        os._exit(0)  # a broken pool may leave threads that never end
    wanted, wrong = [mutant for mutant in MUTANTS if options.only in mutant.what], 0
    for verdict in try_all(wanted, options.at_once):
        print(verdict, flush=True)  # noqa: T201
        wrong += not verdict.as_it_should
    print(f"{len(wanted)} mutants, {wrong} not as they should be")  # noqa: T201
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
