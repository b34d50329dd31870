"""World: what the outside of a pool core looks like, kept by the simplest means.

It performs nothing. It takes the commands of each step, checks that each makes sense now, and
remembers what is owed: dials without an answer, hang-ups without an end, turns without a
terminal event. Lists and rescans on purpose: it must be right at a glance.
"""

from __future__ import annotations

import enum
import math

import attrs

from wspool.core.commands import (
    CloseReason,
    Command,
    ConnectionId,
    Degraded,
    Dial,
    Expiring,
    Grant,
    HangUp,
    LaneId,
    Leaking,
    LeaseId,
    LifetimeLearned,
    Ping,
    Recovered,
    Refuse,
    Returned,
    Stolen,
    WaiterId,
    Warm,
)
from wspool.core.lending.affinity import Use
from wspool.core.lending.line import MAX_SKIPS
from wspool.core.policy import PoolPolicy, Provider


class On(enum.Enum):
    """What is on a lane."""

    NOTHING = "nothing"
    WARM_UP = "warm-up"
    TURN = "turn"
    TAIL = "tail"


@attrs.define(eq=False)
class Lane:
    lease: LeaseId | None = None
    on: On = On.NOTHING
    dead: bool = False
    #: The rest of a turn was not waited for any longer, and may still come.
    late: bool = False
    parked_at: float | None = None
    tail_until: float = math.inf
    #: The turn on it was begun by a holder who can go on elsewhere.
    movable: bool = False
    #: Its turn has ended in this step, and asks for nothing more.
    returning: bool = False
    #: The response of the turn on it, if that was heard to have begun.
    created: int | None = None
    #: What it remembers: a response, of a warm-up or not, since when, and whether its conversation is over.
    response: int | None = None
    warm: bool = False
    over: bool = False
    used_at: float = -math.inf

    def is_late(self, now: float) -> bool:
        """Whether the rest of a turn has taken so long that the lane ends, with its lease."""
        return self.on is On.TAIL and now >= self.tail_until


@attrs.define(eq=False)
class Connection:
    id: ConnectionId
    born: float
    dialing: bool = True
    closing: bool = False
    retiring: bool = False
    pinged: bool = False
    #: No answer has come yet that names its lane, or names none.
    trial: bool = False
    #: Its end was announced; somebody has had a lane of it.
    announced: bool = False
    lent: bool = False
    #: The latest dial when it began to retire.
    left_after: int = 0
    #: Since when it is idle, and more than the spare that is asked for.
    surplus_since: float | None = None
    retire_at: float = math.inf
    cleared_at: float = math.inf
    #: Why it was cleared, which it will go for.
    cleared_for: CloseReason | None = None
    #: Since when no turn may be started on it.
    distrusted_at: float = math.inf
    ping_at: float = math.inf
    lanes: list[Lane] = attrs.field(factory=list)
    #: Ids of the responses that it has carried: none comes twice.
    carried: set[int] = attrs.field(factory=set)

    @property
    def usable(self) -> bool:
        return not self.dialing and not self.closing

    @property
    def leased(self) -> bool:
        return any(lane.lease is not None for lane in self.lanes)


class World:
    """The outside of one core."""

    def __init__(self, policy: PoolPolicy, provider: Provider) -> None:
        self.policy, self.provider = policy, provider
        #: Lanes that a connection has, once the endpoint has proved that it knows them.
        self.lanes = min(policy.lanes, provider.lanes)
        self.proved = self.lanes == 1
        #: The connection that something comes from.
        self.answering: Connection | None = None
        self.schedule = policy.schedule(provider)
        self.connections: dict[ConnectionId, Connection] = {}
        self.waiters: list[WaiterId] = []
        self.leases: dict[LeaseId, tuple[Connection, LaneId]] = {}
        self.dead_leases: list[LeaseId] = []
        self.expiring: set[LeaseId] = set()
        self.leaking: set[LeaseId] = set()
        self.wanted: dict[WaiterId, float] = {}
        #: How often others went on before who was first in line then, and since when they did.
        self.skips: dict[WaiterId, tuple[int, float]] = {}
        #: Of each in line: the place that it began at, and how often it was passed over since.
        self.places: dict[WaiterId, tuple[int, int]] = {}
        self.preferred: dict[WaiterId, int | None] = {}
        #: Who was granted each lease.
        self.holders: dict[LeaseId, WaiterId] = {}
        self.warms: set[WaiterId] = set()
        #: Who asks in this step.
        self.asking: WaiterId | None = None
        #: Responses that several lanes remember, or did and one does still.
        self.ambiguous: set[int] = set()
        self.degraded = self.paused = False
        #: Whether a dial has failed and none was answered since.
        self.down = False
        self.stolen = 0
        #: What was taken in this step, and whether it had what the first in line asks for.
        self.taken: list[tuple[Connection, Lane, bool]] = []
        self.closing = False
        #: When the last dial began.
        self.dialed_at = -math.inf
        #: For how long a parked lane is kept now, and what a full send costs, in seconds.
        self.patience = self.full_send = policy.patience
        self.highest_connection = 0
        self.highest_lease = 0
        self.granted = self.released = self.lost = self.refused = 0
        self.dialed = self.closed = 0

    # -- commands -----------------------------------------------------------------------------

    def take(self, commands: list[Command], now: float) -> None:
        """Check and remember what the core asked for in one step."""
        size, self.taken = self.size, []
        for command in commands:
            match command:
                case Dial(number):
                    assert not self.closing, "a dial after close"
                    assert number > self.highest_connection, "a connection id was used twice"
                    self.highest_connection = number
                    self.connections[number] = Connection(number, now)
                    self.dialed += 1
                    self.dialed_at = now
                case HangUp(number, reason, polite):
                    connection = self.connections[number]
                    assert not connection.closing, "hung up twice"
                    assert not (polite and connection.dialing), "a goodbye to nobody"
                    if reason is CloseReason.UNSUITABLE:
                        self.check_room(connection, now)
                    if reason is CloseReason.LIFETIME and now < self.expiry(connection):
                        assert connection.cleared_for is None, "what was cleared goes under another name"
                    if reason is CloseReason.CLEARED and not connection.dialing:
                        assert connection.cleared_for is not None, "nobody has cleared it"
                    if reason in (CloseReason.IDLE, CloseReason.LIFETIME) and now < self.expiry(connection):
                        for track in connection.lanes:
                            useless = track.parked_at is not None and now >= self.grant_end(connection)
                            late = track.is_late(now)
                            assert track.lease is None or useless or late, "closed under a lease"
                    self.end(connection)
                    connection.closing = True
                    self.closed += 1
                case Grant(waiter, lease, number, lane):
                    connection = self.connections[number]
                    if self.waiters[0] != waiter:
                        self.check_overtaking(waiter, connection, connection.lanes[lane], now)
                    self.check_choice(waiter, connection, connection.lanes[lane], now)
                    self.waiters.remove(waiter)
                    assert connection.usable, "granted on a connection that is not there"
                    assert now < self.grant_end(connection), "granted too close to the lifetime limit"
                    track = connection.lanes[lane]
                    assert track.lease is None, "a lane with two holders"
                    assert not track.dead, "a dead lane was granted"
                    assert track.on is On.NOTHING, "a dirty lane was granted"
                    if connection.retiring and not self.wanted.get(waiter):
                        assert not self.newer(now), "moved at once"
                    assert lease > self.highest_lease, "a lease id was used twice"
                    self.highest_lease = lease
                    self.preferred.pop(waiter, None)
                    self.holders[lease] = waiter
                    wanted = self.wanted.pop(waiter, 0.0)
                    assert not wanted or now + wanted <= connection.retire_at, "less life than was asked for"
                    assert not self.paused, "granted while paused"
                    track.lease = lease
                    connection.lent = True
                    self.leases[lease] = (connection, lane)
                    self.granted += 1
                case Refuse(waiter):
                    self.waiters.remove(waiter)
                    self.refused += 1
                case Warm(number, lane):
                    track = self.connections[number].lanes[lane]
                    assert track.lease is None
                    assert track.on is On.NOTHING
                    track.on = On.WARM_UP
                case Ping(number):
                    connection = self.connections[number]
                    assert connection.usable
                    assert not connection.pinged
                    connection.pinged = True
                case Stolen(lease):
                    connection, track = self.leases[lease][0], self.track(lease)
                    assert track.parked_at is not None, "a lane in use was stolen"
                    assert self.waiters, "stolen for nobody"
                    assert not self.paused, "stolen although nothing is granted"
                    if self.is_for_asking(connection, track, now):
                        self.taken.append((connection, track, True))
                        self.drop(lease)
                        self.stolen += 1
                        continue
                    assert now >= self.ripens(track, now), "stolen at once"
                    suits = self.suits(connection, now)
                    if suits and not self.is_due(self.waiters[0], now):
                        parked = [lane for where, lane in self.parked if self.suits(where, now)]
                        oldest = min(lane.parked_at for lane in parked if lane.parked_at is not None)
                        assert track.parked_at == oldest, "not the one parked longest"
                    self.taken.append((connection, track, suits))
                    self.drop(lease)
                    self.stolen += 1
                case Returned(lease):
                    track = self.track(lease)
                    assert track.returning, "a lane was taken from its holder"
                    self.drop(lease)
                    self.released += 1
                case Leaking(lease):
                    assert lease in self.leases, "a dead lease leaks"
                    assert lease not in self.leaking, "a leak is reported once"
                    self.leaking.add(lease)
                case Degraded():
                    assert not self.degraded, "an outage began twice"
                    self.degraded = True
                case Recovered(lasted):
                    assert self.degraded, "an outage ended that never began"
                    assert lasted >= 0
                    self.degraded = False
                case LifetimeLearned(seconds):
                    known = (
                        self.provider
                        if seconds is None
                        else attrs.evolve(self.provider, max_lifetime=seconds)
                    )
                    self.schedule = self.policy.schedule(known)
                    for waiter, wanted in self.wanted.items():
                        self.wanted[waiter] = min(wanted, self.schedule.retire_from)
                case Expiring(lease):
                    assert lease in self.leases, "a dead lease is expiring"
                    self.expiring.add(lease)
        for connection, track, suits in self.taken:
            shrunk = connection.closing and size > self.policy.max_size
            served = track.lease is not None if suits else connection.closing
            assert served or shrunk, "what was taken does not serve who was first in line"

    def check_overtaking(self, waiter: WaiterId, connection: Connection, track: Lane, now: float) -> None:
        """Who goes on where it is remembered may pass those in line, so many times."""
        first = self.waiters[0]
        assert self.asking == waiter, "somebody overtook"
        assert self.holder(self.preferred.get(waiter)) == (connection, track), "somebody overtook"
        assert not self.is_due(first, now), "the first in line was passed over too often"
        self.pass_over(waiter, now)

    def join(self, waiter: WaiterId) -> None:
        """It asks, and is in line for as long as that takes: where it was, if it was there before."""
        self.waiters = sorted([*self.waiters, waiter])
        place = self.waiters.index(waiter) + 1
        for behind in self.waiters[place:]:
            before, passed = self.places[behind]
            self.places[behind] = before + 1, passed
        self.places[waiter] = place, 0
        self.skips.pop(waiter, None)

    def pass_over(self, by: WaiterId | None, now: float) -> None:
        """Somebody goes on where it is remembered, before all who are in line."""
        first = self.waiters[0]
        skips, since = self.skips.get(first, (0, now))
        self.skips[first] = skips + 1, since
        if now < self.hopes_until(first):
            return  # a dial ends in a moment: that does not count
        for waiter in self.waiters:
            if waiter != by:
                place, passed = self.places[waiter]
                assert passed < place * MAX_SKIPS, "somebody was passed over too often"
                self.places[waiter] = place, passed + 1

    def is_due(self, first: WaiterId, now: float) -> bool:
        """Whether the first in line was passed over as much as it may be."""
        return now >= self.due_at(first)

    def due_at(self, first: WaiterId) -> float:
        """From when on nobody may go on before the first in line."""
        skips, since = self.skips.get(first, (0, math.inf))
        return self.hopes_until(first) if skips >= MAX_SKIPS else since + MAX_SKIPS * self.full_send

    def hopes_until(self, first: WaiterId) -> float:
        """Until when a dial is thought to serve the first in line sooner than a full send is worth."""
        _, since = self.skips.get(first, (0, math.inf))
        return min(since, self.dialed_at) + self.full_send if self.dials and not self.down else -math.inf

    def check_choice(self, waiter: WaiterId, connection: Connection, track: Lane, now: float) -> None:
        """It is the lane that the waiter prefers, or the one that is of least use to others."""
        free = [
            (other, lane)
            for other in self.open
            if now < self.grant_end(other)
            for lane in other.lanes
            if self.is_free(lane)
        ]
        wanted = self.wanted.get(waiter, 0.0)
        held = self.holder(self.preferred.get(waiter))
        if held in free and not (held[0].retiring and self.newer(now)):
            enough = not held[0].retiring and now + wanted <= held[0].retire_at
            if not wanted or enough:
                assert held == (connection, track), "it was not granted the lane that remembers it"
                return
        if wanted:
            return
        uses = {each[1]: self.use(*each) for each in free}
        least = min(uses.values())
        if waiter in self.warms:
            least = min((use for use in uses.values() if use[0] is Use.WARM), default=least)
        assert uses[track] == least, "something was forgotten that was of more use"
        if uses[track][0] is Use.CLAIMED and waiter in self.wanted:  # else it never waits
            full = self.size >= self.policy.max_size
            assert full or self.down, "something was forgotten though there was room"

    def check_room(self, connection: Connection, now: float) -> None:
        """It goes for a fresh one: because the first in line needs that, and nothing else will do."""
        assert self.waiters
        assert self.wanted.get(self.waiters[0]), "room for somebody who takes anything"
        assert self.size >= self.policy.max_size, "there was room"
        assert not self.dials, "another one is on its way"
        assert not (self.policy.count_closing and any(c.closing for c in self.connections.values()))
        # A rest that takes too long ends its lane, with the lease, in the step that makes room as well.
        held = [lane for lane in connection.lanes if lane.lease is not None and not lane.is_late(now)]
        assert not held, "room was made under a lease"
        assert not any(self.free(each) and self.suits(each, now) for each in self.open), "one would do"
        if any(taken is connection for taken, _, _ in self.taken):  # spare goes before what is parked
            # One that is parked must still do when it may be taken.
            ripe = [self.suits(each, self.ripens(track, now)) for each, track in self.parked]
            assert not any(ripe), "one will do in a moment"

    # -- what the outside knows without being told ----------------------------------------------

    def connect(self, connection: Connection) -> None:
        connection.dialing = False
        connection.trial = not self.proved
        connection.lanes = [Lane() for _ in range(self.lanes if self.proved else 1)]

    def answer(self, connection: Connection, now: float, *, names: bool) -> None:
        """The first answer on a connection on trial: with the name of its lane, or without."""
        connection.trial = False
        self.proved = True
        if not names:
            self.lanes = 1
        elif now < self.grant_end(connection):
            connection.lanes += [Lane() for _ in range(len(connection.lanes), self.lanes)]

    def remember(self, track: Lane, response: int | None, now: float, *, warm: bool = False) -> None:
        """A turn or a warm-up has ended on it: what the server holds there from now on."""
        if response is not None and any(lane.response == response for _, lane in self.tracks):
            self.ambiguous.add(response)
        track.created, track.response = None, response
        track.warm, track.over, track.used_at = warm, False, now

    def began(self, lease: LeaseId, *, movable: bool) -> None:
        """A turn has begun on it."""
        track = self.track(lease)
        track.on, track.movable, track.parked_at = On.TURN, movable, None
        self.forget(track)

    def forget(self, track: Lane) -> None:
        """Another turn begins on it, or it ends."""
        track.response = None
        self.ambiguous &= {lane.response for _, lane in self.tracks if lane.response is not None}

    def end(self, connection: Connection) -> None:
        """Its leases die with it."""
        for track in connection.lanes:
            self.forget(track)
            if track.lease is not None:
                self.drop(track.lease)
                self.lost += 1
            track.on = On.NOTHING
            track.dead = True

    def bury(self, connection: Connection, track: Lane, now: float) -> None:
        """A lane of a live connection is used no more: too old for another turn, or never drained."""
        self.forget(track)
        if track.on is On.TAIL:
            assert now >= track.tail_until, "a tail was given up too early"
            track.late = True
        else:
            assert now >= self.grant_end(connection), "a usable lane was thrown away"
            assert track.on is On.NOTHING
            assert track.lease is None or track.parked_at is not None
        if track.lease is not None:
            self.drop(track.lease)
            self.lost += 1
        track.on = On.NOTHING
        track.dead = True

    def drop(self, lease: LeaseId) -> None:
        connection, lane = self.leases.pop(lease)
        connection.lanes[lane].lease = None
        connection.lanes[lane].parked_at = None
        self.dead_leases.append(lease)
        self.expiring.discard(lease)

    def track(self, lease: LeaseId) -> Lane:
        connection, lane = self.leases[lease]
        return connection.lanes[lane]

    def last_start(self, connection: Connection) -> float:
        return min(connection.born + self.schedule.last_start, connection.distrusted_at)

    def grant_end(self, connection: Connection) -> float:
        return min(self.last_start(connection), connection.cleared_at)

    @staticmethod
    def clear(connection: Connection, why: CloseReason, now: float) -> None:
        """It is not trusted from now on; it goes for what it was cleared for first."""
        connection.cleared_at = min(connection.cleared_at, now)
        connection.cleared_for = connection.cleared_for or why

    def expiry(self, connection: Connection) -> float:
        return connection.born + self.schedule.lifetime

    def note_surplus(self, now: float) -> None:
        """A step is over: nobody needs what is idle beside as much spare as is asked for."""
        for connection in self.open:
            idle = not any(lane.lease is not None or lane.on is not On.NOTHING for lane in connection.lanes)
            others = [other for other in self.open if other is not connection]
            if not idle or self.instead(connection, others) < self.policy.min_idle:
                connection.surplus_since = None
            elif connection.surplus_since is None:
                connection.surplus_since = now

    # -- queries --------------------------------------------------------------------------------

    def instead(self, connection: Connection, others: list[Connection]) -> int:
        """How many free lanes of *others* are as good as those of *connection* ahead of demand.

        For one that retires what was dialled since, though it retires, too.
        """
        if not connection.retiring:
            return sum(map(self.fresh, others))
        newer = [other for other in others if other.retiring and other.id > connection.left_after]
        return sum(map(self.fresh, others)) + sum(map(self.free, newer))

    def suits(self, connection: Connection, now: float) -> bool:
        """Whether a lane of *connection* would serve the first in line."""
        wanted = self.wanted.get(self.waiters[0], 0.0)
        enough = not connection.retiring and now + wanted <= connection.retire_at
        return now < self.grant_end(connection) and (not wanted or enough)

    def ripens(self, track: Lane, now: float) -> float:
        """From when on a parked lane may be taken for the first in line."""
        first = self.waiters[0]
        if track.parked_at is None or self.is_due(first, now):
            return now
        return min(max(now, track.parked_at + self.patience), self.due_at(first))

    def those(self, *, dialing: bool = False, closing: bool = False) -> list[Connection]:
        return [
            connection
            for connection in self.connections.values()
            if connection.dialing is dialing and connection.closing is closing
        ]

    @property
    def dials(self) -> list[Connection]:
        return self.those(dialing=True)

    @property
    def open(self) -> list[Connection]:
        return self.those()

    @property
    def size(self) -> int:
        closing = sum(connection.closing for connection in self.connections.values())
        return len(self.dials) + len(self.open) + (closing if self.policy.count_closing else 0)

    @property
    def parked(self) -> list[tuple[Connection, Lane]]:
        return [(c, t) for c in self.open for t in c.lanes if t.parked_at is not None]

    @property
    def tracks(self) -> list[tuple[Connection, Lane]]:
        return [(c, t) for c in self.connections.values() for t in c.lanes]

    def holder(self, response: int | None) -> tuple[Connection, Lane] | None:
        """Return the lane that an id stands for."""
        if response is None or response in self.ambiguous:
            return None
        return next((each for each in self.tracks if each[1].response == response), None)

    def use(self, connection: Connection, track: Lane) -> tuple[Use, float]:
        """Of what use a free lane is to others; what is of the least use goes first, then the freshest."""
        if connection.retiring:
            return Use.RETIRING, -connection.id
        if track.response is None:
            return Use.NOTHING, -connection.retire_at
        if track.warm:
            return Use.WARM, -connection.retire_at
        if track.over or track.response in self.ambiguous:
            return Use.OVER, -connection.retire_at
        return Use.CLAIMED if track.movable else Use.REMEMBERED, track.used_at

    def newer(self, now: float) -> bool:
        """Whether something is free that does not go soon."""
        others = [other for other in self.open if self.fresh(other)]
        return any(now < self.grant_end(other) for other in others)

    def is_for_asking(self, connection: Connection, track: Lane, now: float) -> bool:
        """Whether who asks in this step prefers just that."""
        if self.asking is None or self.asking not in self.waiters:
            return False
        first = self.waiters[0]
        if first != self.asking and self.is_due(first, now):
            return False
        wanted = self.wanted.get(self.asking, 0.0)
        if wanted and (connection.retiring or now + wanted > connection.retire_at):
            return False  # it is too old
        return self.holder(self.preferred.get(self.asking)) == (connection, track)

    def may_go_on(self, waiter: WaiterId, now: float) -> bool:
        """Whether *waiter*, who is about to ask, has to be granted the lane that it prefers at once."""
        held, wanted = self.holder(self.preferred.get(waiter)), self.wanted[waiter]
        if held is None or self.paused or self.closing or self.size > self.policy.max_size:
            return False
        connection, track = held
        if not (self.is_free(track) or track.parked_at is not None) or now >= self.grant_end(connection):
            return False
        if connection.retiring and (self.newer(now) or wanted):
            return False
        first = self.waiters[0]
        passed = first == waiter or not self.is_due(first, now)
        return passed and (not wanted or now + wanted <= connection.retire_at)

    def fresh(self, connection: Connection) -> int:
        """How many of its lanes are spare."""
        free = [track for track in connection.lanes if self.is_free(track)]
        return sum(self.use(connection, track)[0] < Use.CLAIMED for track in free)

    @staticmethod
    def is_free(track: Lane) -> bool:
        return track.lease is None and track.on is On.NOTHING and not track.dead

    def free(self, connection: Connection) -> int:
        return sum(self.is_free(track) for track in connection.lanes)

    def count(self, on: On, *, held: bool | None = None) -> int:
        return sum(
            track.on is on and (held is None or held is (track.lease is not None))
            for connection in self.open
            for track in connection.lanes
        )
