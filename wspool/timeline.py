"""Timeline: an `Instrument` that writes what happened as a trace, to be looked at (Perfetto, chrome://tracing).

    timeline = wspool.timeline.Timeline()
    async with wspool.open_pool(instrument=timeline) as pool: ...
    timeline.save("run.json")

Format: the JSON object format of "Trace Event Format" (Chrome, 2016), which https://ui.perfetto.dev opens.
Rules of this module:

* A pool is a process, and each lane of each connection a row of it. On its row a connection is dialled, with
  the phases of the dial; then come its turns, with the time until the first event and the time of streaming.
  What is on a row never overlaps but where one holds the other.
* What is not on a connection is beside the rows: tasks in line, and calls of tools. These may overlap.
* A conversation that goes on on another connection is an arrow from its last turn there to its next.
* Times are whole microseconds since the first event: viewers add a start and a duration to find an end, and
  with fractions a part would now and then end after the whole.
* No content: numbers, names of models and tools, and codes.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

import attrs
import trio

from wspool.core.plain import plain
from wspool.core.statistics import CloseRecord, DialRecord, Move, PoolRecord, ToolRecord, TurnRecord
from wspool.pool.instrument import Instrument

__all__ = ["MOST", "Timeline"]

#: Records that are kept at most; what comes after is counted only. A turn makes some six events of 300 bytes.
MOST: Final = 500_000

#: Rows of one connection: more lanes than any provider has.
_LANES: Final = 64
#: Shortest slice that an arrow can begin and end in, in microseconds.
_SHORT: Final = 1

_Event: TypeAlias = dict[str, Any]


@attrs.define(eq=False)
class _Turn:
    """What is kept of the record of a turn: the rest may be content, or hold on to much. Seconds."""

    pool: int
    conversation: int | None
    connection: int | None
    lane: int
    started: float
    sent: float | None
    first: float | None
    end: float
    waited: float
    args: dict[str, Any]


_Record: TypeAlias = CloseRecord | DialRecord | Move | ToolRecord | _Turn


@attrs.define(eq=False)
class _Slice:
    """One turn, or one dial, on its row. Seconds."""

    name: str
    kind: str
    start: float
    end: float
    record: _Turn | DialRecord
    #: What it consists of, one after another: name, start, end.
    phases: list[tuple[str, float, float]] = attrs.field(factory=list[tuple[str, float, float]])


class Timeline(Instrument):
    """Watches pools, and keeps what a trace of them shows.

    Attributes:
        dropped: records that were not kept, since there were `MOST` of them.

    Methods that return the trace may be called at any time; from the pools' thread only.
    """

    def __init__(self) -> None:
        self.dropped = 0
        #: What each pool is called, by its number. Its record would keep the pool.
        self._pools: dict[int, str] = {}
        self._records: list[_Record] = []
        #: Outages: when each began, and what it was or how long it lasted.
        self._marks: list[tuple[float, str, str]] = []

    # -- what pools tell ----------------------------------------------------------------------

    def pool_opened(self, record: PoolRecord) -> None:
        """Keep its name."""
        self._pools[record.pool] = f"pool {record.pool}: {record.host}:{record.port}"

    def dial_ended(self, record: DialRecord) -> None:
        """Keep it."""
        self._keep(record)

    def connection_closed(self, record: CloseRecord) -> None:
        """Keep it."""
        self._keep(record)

    def turn_ended(self, record: TurnRecord) -> None:
        """Keep what is shown of it."""
        first = record.first_event
        kept = _Turn(
            record.pool,
            record.conversation,
            record.connection,
            record.lane or 0,
            record.started,
            record.sent,
            None if first is None else record.ended - record.duration + first,
            record.ended if record.heard is None else record.heard,
            record.waited,
            _of_turn(record),
        )
        self._keep(kept)

    def conversation_moved(self, move: Move) -> None:
        """Keep it."""
        self._keep(move)

    def tool_ended(self, record: ToolRecord) -> None:
        """Keep it."""
        self._keep(attrs.evolve(record, context=None))

    def pool_degraded(self, message: str) -> None:
        """Mark it."""
        self._marks.append((trio.current_time(), "the endpoint is down", plain(message)))

    def pool_recovered(self, lasted: float) -> None:
        """Mark it."""
        self._marks.append((trio.current_time(), "the endpoint is back", f"after {lasted:.1f} s"))

    def _keep(self, record: _Record) -> None:
        if len(self._records) < MOST:
            self._records.append(record)
        else:
            self.dropped += 1

    # -- what it shows ------------------------------------------------------------------------

    def trace(self) -> dict[str, Any]:
        """Return the trace as JSON values: `traceEvents` and what goes with them."""
        return {
            "traceEvents": list(self._events()),
            "displayTimeUnit": "ms",
            "otherData": {"producer": "wspool", "dropped": self.dropped},
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the trace to *path*. The file is whole or not there: it is written beside it first.

        Raises:
            OSError: it cannot be written.
        """
        target = Path(path)
        draft = target.with_name(f"{target.name}.part")
        with draft.open("w", encoding="utf-8") as file:
            json.dump(self.trace(), file, separators=(",", ":"))
        draft.replace(target)

    def _events(self) -> Iterator[_Event]:
        rows = self._rows()
        zero = self._zero()
        yield from self._names(rows)
        numbers = itertools.count(1)
        for (pool, row), slices in rows.items():
            for each in slices:
                yield from _shown(each, pool, row, zero)
        for record in self._records:
            match record:
                case _Turn():
                    yield from _in_line(record, zero, numbers)
                case ToolRecord():
                    yield from _tool(record, zero, numbers)
                case CloseRecord():
                    yield _closed(record, zero)
                case DialRecord() | Move():
                    pass
        yield from self._arrows(rows, zero, numbers)
        for when, name, text in self._marks:
            yield {
                "name": name,
                "cat": "pool",
                "ph": "i",
                "s": "g",
                "ts": _us(when, zero),
                "pid": next(iter(self._pools), 0),
                "tid": 0,
                "args": {"text": text},
            }

    def _zero(self) -> float:
        starts = [start for record in self._records if (start := _begin(record)) is not None]
        return min([*starts, *(mark[0] for mark in self._marks)], default=0.0)

    def _names(self, rows: Iterable[tuple[int, int]]) -> Iterator[_Event]:
        for pool, name in self._pools.items():
            yield {"name": "process_name", "ph": "M", "pid": pool, "tid": 0, "args": {"name": name}}
        for pool, row in rows:
            connection, lane = divmod(row, _LANES)
            for what, value in (
                ("thread_name", {"name": f"connection {connection}, lane {lane}"}),
                ("thread_sort_index", {"sort_index": row}),
            ):
                yield {"name": what, "ph": "M", "pid": pool, "tid": row, "args": value}

    def _rows(self) -> dict[tuple[int, int], list[_Slice]]:
        """Return what is on each row, in order, cut so that nothing overlaps."""
        rows: dict[tuple[int, int], list[_Slice]] = {}
        for record in self._records:
            if isinstance(record, DialRecord):
                found = _dial(record)
                rows.setdefault((record.pool, _row(record.connection, 0)), []).append(found)
            elif isinstance(record, _Turn) and (turn := _turn(record)) is not None:
                where = record.pool, _row(record.connection or 0, record.lane)
                rows.setdefault(where, []).append(turn)
        for slices in rows.values():
            slices.sort(key=lambda each: (each.start, each.end))
            for one, other in itertools.pairwise(slices):
                # A turn that its caller holds on to is over for its lane, and so may the next begin there.
                one.end = min(one.end, other.start)
            for each in slices:
                each.phases = [
                    (name, start, min(end, each.end)) for name, start, end in each.phases if start <= each.end
                ]
        return dict(sorted(rows.items()))

    def _arrows(
        self, rows: Mapping[tuple[int, int], list[_Slice]], zero: float, numbers: Iterator[int]
    ) -> Iterator[_Event]:
        """Return an arrow for each move whose two turns are there."""
        turns: dict[tuple[int, int], list[tuple[int, _Slice]]] = {}
        for (pool, row), slices in rows.items():
            for each in slices:
                if isinstance(each.record, _Turn) and each.record.conversation is not None:
                    turns.setdefault((pool, each.record.conversation), []).append((row, each))
        for move in self._records:
            if not isinstance(move, Move) or move.conversation is None:
                continue
            its = turns.get((move.pool, move.conversation), [])
            before = [at for at in its if at[0] // _LANES == move.before and at[1].start <= move.moved]
            after = [at for at in its if at[0] // _LANES == move.after and at[1].end >= move.moved]
            if not before or not after:
                continue  # a turn that was sent again elsewhere has no end of its own there
            (source, one), (target, other) = max(before, key=_start), min(after, key=_start)
            shared = {
                "name": f"move: {move.reason}",
                "cat": "move",
                "id": next(numbers),
                "pid": move.pool,
                "args": {"reason": move.reason},
            }
            start, end = _us(one.start, zero), max(_us(one.end, zero) - _SHORT, _us(one.start, zero))
            yield {**shared, "ph": "s", "ts": max(start, end), "tid": source}
            yield {**shared, "ph": "f", "bp": "e", "ts": max(end, _us(other.start, zero)), "tid": target}


def _start(place: tuple[int, _Slice]) -> float:
    return place[1].start


def _row(connection: int, lane: int) -> int:
    return connection * _LANES + min(lane, _LANES - 1)


def _us(when: float, zero: float) -> int:
    """Return *when* as microseconds after *zero*. What was not before another is not now."""
    return round((when - zero) * 1e6)


def _begin(record: _Record) -> float | None:
    match record:
        case _Turn() | DialRecord() | ToolRecord():
            return record.started
        case CloseRecord():
            return record.closed
        case Move():
            return record.moved


def _dial(record: DialRecord) -> _Slice:
    end = record.started + record.duration
    found = _Slice("dial" if record.failure is None else "dial failed", "dial", record.started, end, record)
    at = record.started
    for name, seconds in record.phases.items():
        found.phases.append((name, at, min(at + seconds, end)))
        at = min(at + seconds, end)
    return found


def _turn(record: _Turn) -> _Slice | None:
    if record.sent is None or record.connection is None:
        return None  # it was never on a connection
    end = max(record.end, record.sent)
    name = "turn" if record.conversation is None else f"conversation {record.conversation}"
    found = _Slice(name, "turn", record.sent, end, record)
    if record.first is not None and record.sent <= record.first <= end:
        found.phases = [
            ("until the first event", record.sent, record.first),
            ("streaming", record.first, end),
        ]
    return found


def _shown(each: _Slice, pool: int, row: int, zero: float) -> Iterator[_Event]:
    record = each.record
    args = _of_dial(record) if isinstance(record, DialRecord) else record.args
    shared = {"ph": "X", "pid": pool, "tid": row}
    start, end = _us(each.start, zero), _us(each.end, zero)
    yield {
        **shared,
        "name": each.name,
        "cat": each.kind,
        "ts": start,
        "dur": max(0, end - start),
        "args": args,
    }
    for name, begin, stop in each.phases:
        at, until = max(_us(begin, zero), start), min(_us(stop, zero), end)
        yield {**shared, "name": name, "cat": "phase", "ts": at, "dur": max(0, until - at)}


def _of_dial(record: DialRecord) -> dict[str, Any]:
    return {"connection": record.connection, "transport": record.transport, "failure": record.failure}


def _of_turn(record: TurnRecord) -> dict[str, Any]:
    tokens = record.tokens
    return {
        "conversation": record.conversation,
        "model": record.model,
        "status": record.status,
        "delivery": record.delivery,
        "response": record.response_id,
        "history": "full" if record.full else "delta",
        "items given": record.items_given,
        "items sent": record.items_sent,
        "bytes sent": record.bytes_sent,
        "bytes saved": record.bytes_saved,
        "requests": record.requests,
        "events": record.events,
        "waited": record.waited,
        "finish reason": record.finish_reason,
        "error": record.error,
        "code": record.error_code,
        "tokens": {
            "input": tokens.input,
            "cached": tokens.cached,
            "output": tokens.output,
            "reasoning": tokens.reasoning,
        },
    }


def _aside(
    name: str, kind: str, pool: int, start: int, end: int, number: int, args: dict[str, Any]
) -> Iterator[_Event]:
    """Return what may overlap: its begin and its end."""
    shared = {"name": name, "cat": kind, "id": number, "pid": pool, "tid": 0}
    yield {**shared, "ph": "b", "ts": start, "args": args}
    yield {**shared, "ph": "e", "ts": max(start, end)}


def _in_line(record: _Turn, zero: float, numbers: Iterator[int]) -> Iterator[_Event]:
    if record.waited <= 0:
        return
    # Whoever waited more than once did so from the start at first; who got nothing waited to the end.
    start = record.started if record.sent is not None else record.end - record.waited
    begin, end = _us(start, zero), _us(start + record.waited, zero)
    yield from _aside("in line", "line", record.pool, begin, end, next(numbers), record.args)


def _tool(record: ToolRecord, zero: float, numbers: Iterator[int]) -> Iterator[_Event]:
    args = {"conversation": record.conversation, "call": record.call_id, "error": record.error}
    begin, end = _us(record.started, zero), _us(record.started + record.duration, zero)
    yield from _aside(f"tool {record.name}", "tool", record.pool, begin, end, next(numbers), args)


def _closed(record: CloseRecord, zero: float) -> _Event:
    return {
        "name": f"closed: {record.reason.value}",
        "cat": "connection",
        "ph": "i",
        "s": "t",
        "ts": _us(record.closed, zero),
        "pid": record.pool,
        "tid": _row(record.connection, 0),
        "args": {"age": record.age, "code": record.close_code},
    }
