"""Scene: what the live page shows, as it is now and as it was in the last minutes.

It watches the pools (it is their `Instrument`) and the records of requests, and keeps what fits. Rules of
this module:

* Everything that is kept is bounded: in number, in age, and texts in length. Names that clients choose are
  counted up to a number, and the rest of them as one.
* Nothing is worked out for nobody: what it takes is done when somebody looks.
* No text of a conversation and no key: numbers, names, and errors as they may be shown.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import attrs
import trio

from wspool.core.plain import plain
from wspool.core.statistics import CloseRecord, DialRecord, Move, PoolRecord, TurnInFlight, TurnRecord
from wspool.pool.instrument import Instrument
from wspool.proxy.page.news import closed, moved, not_dialed, span
from wspool.proxy.records.record import Record
from wspool.proxy.records.sums import WRONG, Sums

__all__ = ["SPAN", "Look", "Scene"]

#: Seconds that the page looks back.
SPAN: Final = 300.0

#: Seconds of one beat of the line that is drawn of them.
BEAT: Final = 5.0

#: Turns that are kept for it: more than 2,000 a minute are not drawn one by one anyway.
_MOST_BARS: Final = 10_000
_MOST_NEWS: Final = 50
#: Requests whose times are looked at for percentiles: of more, the latest say the same.
_MOST_WAITS: Final = 2000
#: Bars that are told in one go: more would keep everybody else waiting.
_AT_ONCE: Final = 500
_MOST_TURNS: Final = 100
_MOST_NAMES: Final = 200
_MOST_KINDS: Final = 50
_MOST_CONNECTIONS: Final = 1000
_MOST_ENDED: Final = 64
_LONGEST: Final = 300

_REST: Final = "all others"


@attrs.define(eq=False)
class _Bar:
    """One turn on one lane. Times are trio's."""

    key: str
    began: float
    ended: float
    status: str
    full: bool
    waited: float
    model: str | None
    error: str | None
    who: str | None = None
    why_full: str | None = None


@attrs.define(eq=False)
class _Kind:
    """Errors of one kind."""

    count: int
    text: str
    at: float


@attrs.define(eq=False)
class _Beat:
    """Requests that have ended within one beat."""

    turns: int = 0
    wrong: int = 0
    delta: int = 0
    full: int = 0


_NOTHING: Final = _Beat()


@attrs.frozen
class Look:
    """How far somebody has seen; 0: nothing yet. Numbers of what came last."""

    bars: int = 0
    turns: int = 0
    news: int = 0


class Scene(Instrument):
    """What the page shows. Used in one trio run.

    Args:
        endpoint: what it is called.
        version: of this package.

    Attributes:
        sums: of all requests.
        names: of the requests of each token; where there are none, of each program.
    """

    def __init__(self, endpoint: str, version: str) -> None:
        self.sums = Sums()
        self.names: dict[str, Sums] = {}
        self._endpoint, self._version = endpoint, version
        self._since = trio.current_time()
        self._pools: dict[int, PoolRecord] = {}
        #: Connections that are open, and when they were; by pool and number.
        self._open: OrderedDict[tuple[int, int], float] = OrderedDict()
        self._bars: deque[_Bar] = deque(maxlen=_MOST_BARS)
        #: Those whose request has not ended, by response.
        self._unnamed: OrderedDict[str, _Bar] = OrderedDict()
        #: Which lanes were used, and when last; by pool and number of the connection.
        self._used: dict[tuple[int, int], dict[int, float]] = {}
        #: By their number since trio's clock began.
        self._beats: OrderedDict[int, _Beat] = OrderedDict()
        #: When requests have ended, how long they were in line, and how long to their first event.
        self._waits: deque[tuple[float, float | None, float | None]] = deque(maxlen=_MOST_WAITS)
        self._turns: deque[Record] = deque(maxlen=_MOST_TURNS)
        self._news: deque[tuple[float, str]] = deque(maxlen=_MOST_NEWS)
        self._kinds: dict[str, _Kind] = {}
        #: How many of each there were so far.
        self._count_bars = self._count_turns = self._count_news = 0

    # -- what happens in the pools ----------------------------------------------------------------

    def pool_opened(self, record: PoolRecord) -> None:
        """Remember it."""
        self._pools = {
            number: pool for number, pool in self._pools.items() if not pool.statistics().closed_pool
        }
        self._pools[record.pool] = record

    def dial_ended(self, record: DialRecord) -> None:
        """A connection is there, or it is news that it is not."""
        if record.failure is not None:
            self._tell(not_dialed(record))
            return
        self._open[record.pool, record.connection] = trio.current_time()
        while len(self._open) > _MOST_CONNECTIONS:
            self._open.popitem(last=False)

    def connection_closed(self, record: CloseRecord) -> None:
        """It is gone, and why is news."""
        self._open.pop((record.pool, record.connection), None)
        self._tell(closed(record))

    def conversation_moved(self, move: Move) -> None:
        """That it did is news."""
        self._tell(moved(move))

    def turn_ended(self, record: TurnRecord) -> None:
        """It is a bar on its lane."""
        if record.connection is None or record.lane is None:
            return
        key = _key(record.pool, record.connection, record.lane)
        bar = _Bar(
            key,
            record.ended - record.duration,
            record.ended,
            record.status,
            record.full,
            record.waited,
            record.model,
            record.error_code or record.error,
        )
        self._bars.append(bar)
        self._count_bars += 1
        self._used.setdefault((record.pool, record.connection), {})[record.lane] = record.ended
        if record.response_id is not None:
            self._unnamed[record.response_id] = bar
            if len(self._unnamed) > _MOST_TURNS:
                self._unnamed.popitem(last=False)

    def endpoint_unchained(self, message: str) -> None:
        """That is news."""
        self._tell(f"The endpoint goes on from no response; all turns are sent in full: {message}")

    def pool_degraded(self, message: str) -> None:
        """That is news."""
        self._tell(f"The endpoint is down: {message}")

    def pool_recovered(self, lasted: float) -> None:
        """That is news."""
        self._tell(f"The endpoint is back after {span(lasted)}.")

    def transport_changed(self, transport: str, message: str) -> None:
        """That is news."""
        way = "HTTP" if transport == "http" else "WebSocket"
        self._tell(f"Turns go by {way} from now on: {message}.")

    def _tell(self, text: str) -> None:
        self._news.append((trio.current_time(), plain(text, _LONGEST)))
        self._count_news += 1

    # -- what happens to requests -----------------------------------------------------------------

    def hear(self, record: Record) -> None:
        """A request has begun or ended; a listener of `Records`."""
        if record.outcome is None:
            return
        self.sums.add(record)
        self._sums_of(record.token or record.client).add(record)
        self._turns.append(record)
        self._count_turns += 1
        if record.response_id is not None:
            bar = self._unnamed.pop(record.response_id, None)
            if bar is not None:
                bar.who, bar.why_full = record.token or record.client, record.why_full
        now = trio.current_time()
        wait = None if record.line is None else record.line + (record.dial or 0.0)
        self._waits.append((now, wait, record.first_event))
        beat = self._beats.setdefault(int(now / BEAT), _Beat())
        beat.turns += 1
        if record.items_sent is not None:
            beat.delta += record.why_full is None
            beat.full += record.why_full is not None
        if record.outcome in WRONG:
            beat.wrong += 1
            self._count_error(record, now)
        while len(self._beats) > 2 * SPAN / BEAT:
            self._beats.popitem(last=False)

    def _sums_of(self, name: str) -> Sums:
        if name not in self.names and len(self.names) >= _MOST_NAMES:
            name = _REST
        return self.names.setdefault(name, Sums())

    def _count_error(self, record: Record, now: float) -> None:
        kind = plain(record.error or str(record.outcome), _LONGEST)
        if kind not in self._kinds and len(self._kinds) >= _MOST_KINDS:
            kind = _REST
        known = self._kinds.setdefault(kind, _Kind(0, "", now))
        known.count += 1
        known.at = now
        known.text = plain(record.said or "", _LONGEST)

    # -- what is shown ----------------------------------------------------------------------------

    def seen(
        self, running: Iterable[Record], in_flight: Mapping[int, Sequence[TurnInFlight]], since: Look
    ) -> tuple[dict[str, Any], Look]:
        """Return what there is to see now, as a JSON object, and how far that goes.

        Args:
            running: requests that have not ended.
            in_flight: turns in flight, by the number of their pool.
            since: what was seen before; only what came after it is told again.
        """
        now = trio.current_time()
        epoch = time.time() - now
        self._forget(now)
        running = list(running)
        last = Look(self._count_bars, self._count_turns, self._count_news)
        told = {
            "now": now + epoch,
            "up": now - self._since,
            "endpoint": self._endpoint,
            "version": self._version,
            "state": self._state(),
            "sums": self.sums.as_json(),
            "recent": self._recent(now),
            "beats": self._line(now),
            "lanes": self._lanes(
                now, epoch, in_flight, {one.turn.response_id: one for one in running if one.turn is not None}
            ),
            "waiting": [
                {"number": one.number, "who": one.token or one.client, "since": one.began}
                for one in running
                if one.door != "http" and not one.sent
            ],
            "bars": [_bar(bar, epoch) for bar in _latest(self._bars, min(last.bars - since.bars, _AT_ONCE))],
            "turns": [_turn(one) for one in _latest(self._turns, last.turns - since.turns)],
            "news": [
                {"at": at + epoch, "text": text} for at, text in _latest(self._news, last.news - since.news)
            ],
            "errors": [
                {"kind": kind, "count": one.count, "text": one.text, "at": one.at + epoch}
                for kind, one in sorted(self._kinds.items(), key=lambda item: -item[1].at)
            ],
            "tokens": [
                {"name": name, **sums.as_json()}
                for name, sums in sorted(self.names.items(), key=lambda item: -item[1].turns)
            ],
        }
        return told, last

    def _forget(self, now: float) -> None:
        while self._bars and self._bars[0].ended < now - SPAN:
            self._bars.popleft()
        for place, lanes in list(self._used.items()):
            kept = {lane: at for lane, at in lanes.items() if at >= now - SPAN or place in self._open}
            if kept:
                self._used[place] = kept
            else:
                del self._used[place]

    def _state(self) -> dict[str, str]:
        pools = [pool.statistics() for pool in self._pools.values()]
        pools = [pool for pool in pools if not pool.closed_pool]
        if any(pool.degraded for pool in pools):
            return {"word": "degraded", "text": "the endpoint is down"}
        said: list[str] = []
        if held := max((pool.held for pool in pools), default=0.0):
            why = next(pool.held_for for pool in pools if pool.held == held)
            said.append(f"waits for {span(held)}: {why}")
        if unclear := max((pool.unclear for pool in pools), default=0.0):
            requests = sum(pool.suspects for pool in pools)
            whose = f"the endpoint is at fault or one of {requests} requests"
            said.append(f"unclear for {span(unclear)} if {whose}")
        if said:
            return {"word": "held", "text": plain("; ".join(said), _LONGEST)}
        return {"word": "open", "text": "open"}

    def _recent(self, now: float) -> dict[str, Any]:
        beats = self._span(now)
        latest = [one for one in self._waits if one[0] >= now - SPAN]
        waits = sorted(wait for _, wait, _ in latest if wait is not None)
        firsts = sorted(first for _, _, first in latest if first is not None)
        age = min(max(now - self._since, 1.0), 60.0)
        delta, full = sum(beat.delta for beat in beats), sum(beat.full for beat in beats)
        return {
            "turns": sum(beat.turns for beat in beats),
            "rate": sum(beat.turns for beat in beats[-round(60 / BEAT) :]) / age,
            "delta": delta / (delta + full) if delta + full else None,
            "wait50": _quantile(waits, 0.5),
            "wait95": _quantile(waits, 0.95),
            "first50": _quantile(firsts, 0.5),
            "first95": _quantile(firsts, 0.95),
        }

    def _span(self, now: float) -> list[_Beat]:
        """Return the beats of the last minutes, oldest first."""
        last = int(now / BEAT)
        return [
            self._beats.get(number, _NOTHING) for number in range(last - round(SPAN / BEAT) + 1, last + 1)
        ]

    def _line(self, now: float) -> list[list[int]]:
        return [[beat.turns, beat.wrong] for beat in self._span(now)]

    def past(self, since: Look) -> Iterator[list[dict[str, Any]]]:
        """Yield the bars before those that `seen` has told first, the latest first, some at a time."""
        epoch = time.time() - trio.current_time()
        told = list(self._bars)[: max(len(self._bars) - (self._count_bars - since.bars) - _AT_ONCE, 0)]
        for start in range(len(told), 0, -_AT_ONCE):
            yield [_bar(bar, epoch) for bar in told[max(start - _AT_ONCE, 0) : start]]

    def _lanes(
        self,
        now: float,
        epoch: float,
        in_flight: Mapping[int, Sequence[TurnInFlight]],
        running: Mapping[str | None, Record],
    ) -> list[dict[str, Any]]:
        """Return a row for each lane: at least one for each connection, and one for each that was used."""
        lanes: dict[tuple[int, int], set[int]] = {place: {0} for place in self._open}
        busy: dict[str, TurnInFlight] = {}
        for pool, turns in in_flight.items():
            for turn in turns:
                lanes.setdefault((pool, turn.connection), set()).add(turn.lane)
                busy[_key(pool, turn.connection, turn.lane)] = turn
        for place, used in self._used.items():
            lanes.setdefault(place, set()).update(used)
        rows: list[dict[str, Any]] = []
        # Those that have ended come last, the latest first, for as long as a bar of theirs is seen.
        ended = sorted((place for place in lanes if place not in self._open), reverse=True)[:_MOST_ENDED]
        for pool, connection in (*sorted(place for place in lanes if place in self._open), *ended):
            numbers = lanes[pool, connection]
            for lane in sorted(numbers):
                key = _key(pool, connection, lane)
                row: dict[str, Any] = {"key": key, "pool": pool, "connection": connection, "lane": lane}
                state = "idle" if (pool, connection) in self._open else "ended"
                row |= {"lanes": len(numbers), "state": state, "since": None, "who": None, "model": None}
                opened = self._open.get((pool, connection))
                row["age"] = None if opened is None else now - opened
                if (at_work := busy.get(key)) is not None:
                    name = at_work.response_id
                    one = running.get(name) if name is not None else None
                    row |= {"state": "running", "since": now - at_work.since + epoch}
                    if one is not None:
                        row |= {"who": one.token or one.client, "model": one.model}
                rows.append(row)
        return rows


def _key(pool: int, connection: int, lane: int) -> str:
    return f"{pool}.{connection}.{lane}"


def _latest(all: deque[Any], count: int) -> list[Any]:
    """Return the last *count* of those that are still there."""
    return list(all)[-count:] if count else []


def _bar(bar: _Bar, epoch: float) -> dict[str, Any]:
    return {
        "k": bar.key,
        "a": bar.began + epoch,
        "b": bar.ended + epoch,
        "o": {"rejected": "refused", "cancelled": "left"}.get(bar.status, bar.status),
        "d": "full" if bar.full else "delta",
        "wait": bar.waited,
        "w": bar.who,
        "m": bar.model,
        "why": bar.why_full,
        "e": None if bar.error is None else plain(bar.error, _LONGEST),
    }


def _turn(record: Record) -> dict[str, Any]:
    told = record.as_json()
    usage = record.usage
    told["usage"] = None if usage is None else {"input": usage.input, "output": usage.output}
    return told


def _quantile(values: Sequence[float], share: float) -> float | None:
    return values[min(int(len(values) * share), len(values) - 1)] if values else None
