"""What a run came to: counted while it runs, told once at the end.

Every number is counted once, where it is known best: outcomes by the runner, requests and bytes by the
conversations, times by the pool's instrument, connections by the pool."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import attrs

import wspool
from wspool.core.begun import LeaseRecord, ToolBegun, TurnBegun
from wspool.core.plain import plain
from wspool.core.statistics import (
    CloseRecord,
    ConversationStatistics,
    DialRecord,
    PoolStatistics,
    ToolRecord,
    TurnRecord,
)
from wspool.core.usage import Usage
from wspool.rollout.phases import Phases
from wspool.rollout.tasks import OUTCOMES, WELL

__all__ = ["Meter", "Summary", "percentile"]


#: How a turn ends that becomes part of the history.
_WELL = ("completed", "incomplete")
#: What is no news in a summary, and looks as if the command had crashed.
_HEADING: Final = "Traceback (most recent call last):"
#: What a meter does not count.
_TOLD = ("on_begin", "on_free", "on_tool", "on_turn", "outage", "phases")


def percentile(values: Sequence[float], percent: float) -> float | None:
    """The smallest of *values* that at least *percent* of them do not exceed; None if there are none."""
    if not values:
        return None
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


class Meter(wspool.Instrument):
    """Sees every turn of the pool as it ends, and every conversation as it is given up.

    Attributes:
      turns: turns that ended, however they ended; one of which nothing was sent is none.
      on_begin: called when a turn is asked for.
      on_free: called when a lane may have become free.
      on_tool: called when a call of a tool is about to be made, and when it has ended.
      on_turn: called with the number of a conversation when a turn of it has ended well.
      durations: seconds from request to end, of turns that came to an end.
      waits: seconds in line for a connection, whenever a conversation had to get one.
      outage: why no connection could be made when that was last so.
      phases: where the time of each task goes.
    """

    def __init__(self) -> None:
        self.turns = 0
        self.on_begin: Callable[[TurnBegun], None] | None = None
        self.on_free: Callable[[], None] | None = None
        self.on_tool: Callable[[ToolBegun | ToolRecord], None] | None = None
        self.on_turn: Callable[[int], None] | None = None
        self.durations: list[float] = []
        self.waits: list[float] = []
        self.tool_calls = 0
        self.delta_turns = 0
        self.full_turns = 0
        self.bytes_sent = 0
        self.bytes_saved = 0
        self.moves = 0
        self.retries = 0
        self.usage = Usage()
        self.outage = ""
        self.phases = Phases()

    def pool_degraded(self, message: str) -> None:
        """Note why."""
        self.outage = message

    def dial_ended(self, record: DialRecord) -> None:
        """Note how long it took."""
        self.phases.dialed(record)

    def connection_closed(self, record: CloseRecord) -> None:
        """Forget it."""
        self.phases.closed(record)

    def turn_begun(self, record: TurnBegun) -> None:
        """Tell it."""
        if self.on_begin is not None and record.conversation is not None:
            self.on_begin(record)

    def lease_ended(self, record: LeaseRecord) -> None:
        """Tell it."""
        if self.on_free is not None:
            self.on_free()

    def tool_begun(self, record: ToolBegun) -> None:
        """Tell it."""
        if self.on_tool is not None:
            self.on_tool(record)

    def tool_ended(self, record: ToolRecord) -> None:
        """Note how long it took."""
        self.phases.called(record)
        if self.on_tool is not None:
            self.on_tool(record)

    def turn_ended(self, record: TurnRecord) -> None:
        """Count a turn."""
        self.turns += record.requests > 0
        self.phases.turned(record)
        self.usage += Usage.of(record.usage)
        if record.status in ("completed", "incomplete", "failed"):
            self.durations.append(record.duration)
        # A delta goes to the connection that the conversation has: no wait of zero seconds, but none.
        if record.full and (record.requests or record.waited):
            self.waits.append(record.waited)
        if self.on_turn is not None and record.conversation is not None and record.status in _WELL:
            self.on_turn(record.conversation)

    def take(self) -> dict[str, Any]:
        """What was counted since it was last taken; for the meter of many (`add`)."""
        fresh = vars(Meter())
        taken = {name: getattr(self, name) for name in fresh if name not in _TOLD}
        vars(self).update({name: fresh[name] for name in taken})
        return taken

    def add(self, taken: Mapping[str, Any]) -> None:
        """Count what another meter has counted (`take`)."""
        for name, value in taken.items():
            counted: Any = getattr(self, name)
            counted += value  # a list grows where it is
            setattr(self, name, counted)

    def conversation_ended(self, statistics: ConversationStatistics) -> None:
        """Count what a conversation sent; the runner tells."""
        self.tool_calls += statistics.tool_calls
        self.delta_turns += statistics.delta_turns
        self.full_turns += statistics.full_turns
        self.bytes_sent += statistics.bytes_sent
        self.bytes_saved += statistics.bytes_saved
        self.moves += statistics.moves
        self.retries += statistics.retries


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.0f} ms" if seconds < 10 else f"{seconds:.1f} s"


@attrs.frozen(kw_only=True)
class Summary:
    """A run in numbers. Times are seconds; what this run did not touch is only in `skipped`.

    Attributes:
      tasks: tasks of the batch, those with earlier results included.
      right: answers that are the known one.
      wrong: answers that are not.
      done: tasks that ended and whose answer nobody checked.
      called: tasks whose answer is a call of a tool that nobody here can run.
      truncated: tasks whose answer was cut off.
      filtered: tasks whose answer a content filter cut off.
      refused: tasks that the model refused.
      unanswered: tasks to which the model said nothing.
      failed: tasks that ended with an error.
      owed: tasks that have not ended, because the run was interrupted or the endpoint could not be reached.
      skipped: tasks that had a result before this run.
      turns: turns that ended, however they ended; one of which nothing was sent is none.
      saved_turns: turns of an earlier run that need not be taken again.
      unknown_calls: calls of an earlier run of which the model was told that their outcome is unknown.
      delta_turns: requests that carried only what was new.
      full_turns: requests that carried the whole history.
      bytes_saved: bytes of history that the delta requests did not have to carry.
      dialed: connections dialed.
      max_connections: the most connections that the pool may have.
      peak_connections: the most that it had.
      moves: times a conversation went on on another connection.
      retries: turns that were lost, or failed for a moment, and were taken again.
      interrupted: somebody pressed Ctrl-C.
      problem: why the run ended before its tasks did, or None.
      input_tokens: tokens of all turns of this run, those of failed tasks included; of the input
      cached_tokens: those from the cache; and
      output_tokens: of the output
      reasoning_tokens: those of reasoning.
      cost: what that costs, None if nobody said a price.
      errors: the commonest errors, with their counts and one traceback each.
      score: the mean score of the batch, what an earlier run has scored included; None if nothing has one.
      samples: attempts at each task; `tasks` and the outcomes count attempts.
      pass_at: the share of tasks of which one of k attempts is right, by k.
      hint: how answers had better be compared, if most are wrong only as they were; None if not.
    """

    tasks: int
    right: int = 0
    wrong: int = 0
    done: int = 0
    called: int = 0
    truncated: int = 0
    filtered: int = 0
    refused: int = 0
    unanswered: int = 0
    failed: int = 0
    owed: int = 0
    skipped: int = 0
    turns: int = 0
    saved_turns: int = 0
    unknown_calls: int = 0
    tool_calls: int = 0
    delta_turns: int = 0
    full_turns: int = 0
    bytes_sent: int = 0
    bytes_saved: int = 0
    dialed: int = 0
    max_connections: int
    peak_connections: int = 0
    moves: int = 0
    retries: int = 0
    wait_p50: float | None = None
    wait_p95: float | None = None
    turn_p50: float | None = None
    turn_p95: float | None = None
    seconds: float = 0.0
    interrupted: bool = False
    problem: str | None = None
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cost: float | None = None
    errors: Sequence[Mapping[str, Any]] = ()
    score: float | None = None
    samples: int = 1
    pass_at: Mapping[str, float] = attrs.field(factory=dict[str, float])
    hint: str | None = None

    @classmethod
    def of(cls, meter: Meter, pool: PoolStatistics, **fields: Any) -> "Summary":
        """Put together what *meter* and *pool* counted, and what the runner knows."""
        return cls(
            input_tokens=meter.usage.input,
            cached_tokens=meter.usage.cached,
            output_tokens=meter.usage.output,
            reasoning_tokens=meter.usage.reasoning,
            turns=meter.turns,
            tool_calls=meter.tool_calls,
            delta_turns=meter.delta_turns,
            full_turns=meter.full_turns,
            bytes_sent=meter.bytes_sent,
            bytes_saved=meter.bytes_saved,
            moves=meter.moves,
            retries=meter.retries,
            dialed=pool.dialed,
            max_connections=pool.max_size,
            wait_p50=percentile(meter.waits, 50),
            wait_p95=percentile(meter.waits, 95),
            turn_p50=percentile(meter.durations, 50),
            turn_p95=percentile(meter.durations, 95),
            **fields,
        )

    @property
    def not_well(self) -> int:
        """Tasks that this run ended and that did not go well."""
        return sum(getattr(self, name) for name in OUTCOMES if name not in WELL)

    def as_json(self) -> dict[str, Any]:
        """One flat JSON object."""
        return attrs.asdict(self)

    @property
    def _scores(self) -> str:
        several = {k: share for k, share in self.pass_at.items() if len(self.pass_at) > 1}
        return f"mean {self.score:.4f}" + "".join(f", pass@{k} {share:.4f}" for k, share in several.items())

    def __str__(self) -> str:
        """A table, for people."""
        outcomes: list[tuple[int, str]] = [(getattr(self, name), name) for name in OUTCOMES]
        each = f" ({self.samples} attempts at each)" if self.samples > 1 else ""
        outcomes += [(self.owed, "owed"), (self.skipped, "done before")]
        counts = ", ".join(f"{count} {name}" for count, name in outcomes if count)
        rows = [
            ("tasks", f"{self.tasks}{each}: {counts}"),
            *([("score", self._scores)] if self.score is not None else []),
            *([("hint", self.hint)] if self.hint is not None else []),
            (
                "turns",
                f"{self.turns}, with {self.tool_calls} tool calls"
                + (f", {self.retries} taken again" if self.retries else "")
                + (f"; {self.saved_turns} more were saved by an earlier run" if self.saved_turns else ""),
            ),
            (
                "requests",
                f"{self.delta_turns} with only the news, {self.full_turns} with the whole history",
            ),
            (
                "tokens",
                f"{self.input_tokens:,} in ({self.cached_tokens:,} cached), {self.output_tokens:,} out "
                f"({self.reasoning_tokens:,} of reasoning)"
                + (f", cost {self.cost:,.4f}" if self.cost is not None else ""),
            ),
            ("bytes", f"{self.bytes_sent:,} sent, {self.bytes_saved:,} saved"),
            (
                "connections",
                f"{self.dialed} dialed, {self.peak_connections} at once (limit {self.max_connections}), "
                f"{self.moves} moves of conversations",
            ),
            ("wait for one", f"p50 {_ms(self.wait_p50)}, p95 {_ms(self.wait_p95)}"),
            ("turn", f"p50 {_ms(self.turn_p50)}, p95 {_ms(self.turn_p95)}"),
            ("time", f"{self.seconds:.1f} s"),
        ]
        lines = [f"{name:<14}{value}" for name, value in rows]
        for error in self.errors:
            words = f"{error['count']} x {error['type']}: {error['message']} (first: {error['task']!r})"
            lines.append(f"{'error':<14}{plain(words)}")
        if self.errors and (trace := self.errors[0]["traceback"]):
            lines += ["", *(plain(line) for line in trace.splitlines() if line != _HEADING)]
        return "\n".join(lines)
