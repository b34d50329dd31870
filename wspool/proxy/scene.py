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
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import attrs
import trio

from wspool.core.commands import CloseReason
from wspool.core.plain import plain
from wspool.core.statistics import CloseRecord, DialRecord, Move, PoolRecord, TurnInFlight, TurnRecord
from wspool.pool.instrument import Instrument
from wspool.proxy.record import Record
from wspool.proxy.sums import WRONG, Sums

__all__ = ["SPAN", "Look", "Scene"]

#: Seconds that the page looks back.
SPAN: Final = 300.0

#: Seconds of one beat of the line that is drawn of them.
BEAT: Final = 5.0

#: Turns that are kept for it: more than 2,000 a minute are not drawn one by one anyway.
_MOST_BARS: Final = 10_000
_MOST_NEWS: Final = 50
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
    record: TurnRecord
    request: Record | None = None


@attrs.define(eq=False)
class _Kind:
    """Errors of one kind."""

    count: int
    text: str
    at: float


@attrs.frozen
class _Ended:
    """What is kept of a request for the figures of the last minutes. `at` is trio's time."""

    at: float
    wait: float | None
    first: float | None
    delta: bool | None
    wrong: bool


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
        self._ended: deque[_Ended] = deque(maxlen=_MOST_BARS)
        self._turns: deque[Record] = deque(maxlen=_MOST_TURNS)
        self._news: deque[tuple[float, str]] = deque(maxlen=_MOST_NEWS)
        self._kinds: dict[str, _Kind] = {}
        self._last = Look()

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
            self._tell(f"A connection could not be opened: {record.failure}")
            return
        self._open[record.pool, record.connection] = trio.current_time()
        while len(self._open) > _MOST_CONNECTIONS:
            self._open.popitem(last=False)

    def connection_closed(self, record: CloseRecord) -> None:
        """It is gone, and why is news."""
        self._open.pop((record.pool, record.connection), None)
        code = "" if record.close_code is None else f" (close code {record.close_code})"
        self._tell(f"Connection {record.connection} ended after {_span(record.age)}: {_why(record)}{code}.")

    def conversation_moved(self, move: Move) -> None:
        """That it did is news."""
        self._tell(f"A turn moved from connection {move.before} to {move.after}: {_MOVED[move.reason]}.")

    def turn_ended(self, record: TurnRecord) -> None:
        """It is a bar on its lane."""
        if record.connection is None or record.lane is None:
            return
        key = _key(record.pool, record.connection, record.lane)
        slim = attrs.evolve(record, context=None, usage=None, input_transformations=())
        bar = _Bar(key, record.ended - record.duration, record.ended, slim)
        self._bars.append(bar)
        self._last = attrs.evolve(self._last, bars=self._last.bars + 1)
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
        self._tell(f"The endpoint is back after {_span(lasted)}.")

    def transport_changed(self, transport: str, message: str) -> None:
        """That is news."""
        way = "HTTP" if transport == "http" else "WebSocket"
        self._tell(f"Turns go by {way} from now on: {message}.")

    def _tell(self, text: str) -> None:
        self._news.append((trio.current_time(), plain(text, _LONGEST)))
        self._last = attrs.evolve(self._last, news=self._last.news + 1)

    # -- what happens to requests -----------------------------------------------------------------

    def hear(self, record: Record) -> None:
        """A request has begun or ended; a listener of `Records`."""
        if record.outcome is None:
            return
        self.sums.add(record)
        self._sums_of(record.token or record.client).add(record)
        self._turns.append(record)
        self._last = attrs.evolve(self._last, turns=self._last.turns + 1)
        if record.response_id is not None:
            bar = self._unnamed.pop(record.response_id, None)
            if bar is not None:
                bar.request = record
        now = trio.current_time()
        sent = record.items_sent is not None
        wait = None if record.line is None else record.line + (record.dial or 0.0)
        self._ended.append(
            _Ended(
                now,
                wait,
                record.first_event,
                record.why_full is None if sent else None,
                record.outcome in WRONG,
            )
        )
        if record.outcome in WRONG:
            self._count_error(record, now)

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
        last = self._last
        told = {
            "now": now + epoch,
            "up": now - self._since,
            "endpoint": self._endpoint,
            "version": self._version,
            "state": self._state(),
            "sums": self.sums.as_json(),
            "recent": self._recent(now),
            "beats": self._beats(now),
            "lanes": self._lanes(
                now, epoch, in_flight, {one.turn.response_id: one for one in running if one.turn is not None}
            ),
            "waiting": [
                {"number": one.number, "who": one.token or one.client, "since": one.began}
                for one in running
                if one.door != "http" and not one.sent
            ],
            "bars": [_bar(bar, epoch) for bar in _latest(self._bars, last.bars - since.bars)],
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
        while self._ended and self._ended[0].at < now - SPAN:
            self._ended.popleft()

    def _state(self) -> dict[str, str]:
        pools = [pool.statistics() for pool in self._pools.values()]
        pools = [pool for pool in pools if not pool.closed_pool]
        if any(pool.degraded for pool in pools):
            return {"word": "degraded", "text": "the endpoint is down"}
        held = max((pool.held for pool in pools), default=0.0)
        if held:
            why = next(pool.held_for for pool in pools if pool.held == held)
            return {"word": "held", "text": plain(f"waits for {_span(held)}: {why}", _LONGEST)}
        return {"word": "open", "text": "open"}

    def _recent(self, now: float) -> dict[str, Any]:
        ended = self._ended
        minute = sum(one.at > now - 60 for one in ended)
        told = [one.delta for one in ended if one.delta is not None]
        waits = sorted(one.wait for one in ended if one.wait is not None)
        firsts = sorted(one.first for one in ended if one.first is not None)
        age = min(max(now - self._since, 1.0), 60.0)
        return {
            "turns": len(ended),
            "rate": minute / age,
            "delta": sum(told) / len(told) if told else None,
            "wait50": _quantile(waits, 0.5),
            "wait95": _quantile(waits, 0.95),
            "first50": _quantile(firsts, 0.5),
            "first95": _quantile(firsts, 0.95),
        }

    def _beats(self, now: float) -> list[list[int]]:
        beats = [[0, 0] for _ in range(round(SPAN / BEAT))]
        for one in self._ended:
            beat = beats[-1 - min(int((now - one.at) / BEAT), len(beats) - 1)]
            beat[0] += 1
            beat[1] += one.wrong
        return beats

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
        for bar in self._bars:
            place = (bar.record.pool, bar.record.connection or 0)
            if bar.record.lane is not None:
                lanes.setdefault(place, set()).add(bar.record.lane)
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


_MOVED: Final[Mapping[str, str]] = {
    "rotation": "its connection was near the end of its life",
    "lost": "its connection was lost",
    "taken": "its lane was given to somebody else",
    "busy": "the turn before had not ended there",
    "refused": "the provider refused it there",
}


_ENDED: Final[Mapping[CloseReason, str]] = {
    CloseReason.LIFETIME: "its retirement was planned",
    CloseReason.IDLE: "nobody needed it",
    CloseReason.DIRTY: "what came on it could not be told apart",
    CloseReason.LIMIT: "the provider lets none live longer",
    CloseReason.LOST: "it was lost",
    CloseReason.POOL_CLOSED: "its pool was closed",
}


def _why(record: CloseRecord) -> str:
    return _ENDED.get(record.reason, record.reason.value.replace("_", " "))


def _key(pool: int, connection: int, lane: int) -> str:
    return f"{pool}.{connection}.{lane}"


def _latest(all: deque[Any], count: int) -> list[Any]:
    """Return the last *count* of those that are still there."""
    return list(all)[-count:] if count else []


def _bar(bar: _Bar, epoch: float) -> dict[str, Any]:
    record, request = bar.record, bar.request
    error = record.error_code or record.error
    return {
        "k": bar.key,
        "a": bar.began + epoch,
        "b": bar.ended + epoch,
        "o": {"rejected": "refused", "cancelled": "left"}.get(record.status, record.status),
        "d": "full" if record.full else "delta",
        "wait": record.waited,
        "w": None if request is None else request.token or request.client,
        "m": record.model,
        "why": None if request is None else request.why_full,
        "e": None if error is None else plain(error, _LONGEST),
    }


def _turn(record: Record) -> dict[str, Any]:
    told = record.as_json()
    usage = record.usage
    told["usage"] = None if usage is None else {"input": usage.input, "output": usage.output}
    return told


def _quantile(values: Sequence[float], share: float) -> float | None:
    return values[min(int(len(values) * share), len(values) - 1)] if values else None


def _span(seconds: float) -> str:
    """Return a length of time in words that people use."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
