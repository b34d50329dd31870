"""Many conversations for minutes, with short connections and every fault there is: do both sides agree?

200 conversations of at least 20 turns share 32 connections that live 10 s. Two requests in a hundred get a
fault of the server's catalogue, two handshakes in a hundred are turned down, and two turns in a hundred are
cancelled by their own callers. Nothing is tolerated all the same:

* every request that the server got belongs to a turn of the client, and its model saw exactly the history
  that the client had when it sent it, item for item;
* no turn ran twice, unless the server had refused it before;
* what the client was told of a turn is what the server wrote down: completed with the same id, failed,
  refused, or lost, and then only as far as `delivery` says;
* a parent was always the latest response of its connection, which never had two unfinished requests.

`python -m benchmarks soak --minutes 2` says in JSON how much of what happened; the exit code is 1 if any rule
was broken.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal, get_args

import attrs
import trio

import wspool
from benchmarks.harness import Row
from wspool.server import (
    EVERY_FAULT,
    EchoModel,
    Entry,
    Fault,
    FaultRule,
    FaultScript,
    Item,
    Rejection,
    Server,
    context_digest,
    open_server,
)

__all__ = ["main", "run"]

Wire = Literal["auto", "trio-websocket", "websockets"]

CONVERSATIONS: Final = 200
CONNECTIONS: Final = 32
TURNS: Final = 20
LIFETIME: Final = 10.0
RATE: Final = 0.02
#: Virtual model seconds per word, so that turns overlap with the ends of connections.
DELAY_PER_TOKEN: Final = 0.004
#: Seconds after which a turn that has not ended is a rule broken.
STUCK: Final = 60.0

#: Faults that are as hard in small: what they need is not to be large but to be larger than allowed.
_SMALLER: Final[dict[str, dict[str, Any]]] = {
    "oversized_message": {"size": 3 * 2**20},
    "many_events": {"count": 5_000},
    "rate_limited": {"retry_after": 0.3},
}


@attrs.define(eq=False, kw_only=True)
class Turn:
    """One turn as its caller saw it."""

    text: str
    #: Of everything that the model has to see.
    digest: str
    outcome: str = "open"
    delivery: str = "not_sent"
    response_id: str | None = None
    answer: str = ""
    requests: list[Entry] = attrs.field(factory=list[Entry])


class Account(wspool.Instrument):
    """The client's side of everything."""

    def __init__(self) -> None:
        self.turns: list[Turn] = []
        self.records: list[wspool.TurnRecord] = []
        self.moves: Counter[str] = Counter()
        self.finished = 0

    def turn_ended(self, record: wspool.TurnRecord) -> None:
        self.records.append(record)

    def conversation_moved(self, move: wspool.Move) -> None:
        self.moves[move.reason] += 1


def faults() -> list[Fault]:
    """One of every kind that tells the client something."""
    return [Fault(fault.name, **_SMALLER.get(fault.name, {})) for fault in EVERY_FAULT]


async def soak(seconds: float, seed: int, wire: Wire = "auto") -> tuple[dict[str, Any], list[str]]:
    """Run for *seconds*, then until the last conversations have ended; return figures and broken rules."""
    choice = random.Random(seed)
    ledger: list[Entry] = []
    account = Account()
    odd_connections = [
        FaultRule(Fault(choice.choice(["ping_after_close", "late_pong", "dribble"])), connection=number)
        for number in range(1, 10_000)
        if choice.random() < RATE
    ]
    script = FaultScript(*odd_connections, rate=RATE, seed=seed, faults=faults())
    policy = wspool.PoolPolicy(
        max_size=CONNECTIONS,
        min_idle=2,
        max_lifetime=LIFETIME,
        max_message_size=2**21,
        ping_interval=5,
        ping_timeout=5,
    )
    began = trio.current_time()
    async with open_server(
        EchoModel(),
        ledger=ledger,
        faults=script,
        lifetime=LIFETIME,
        delay_per_token=DELAY_PER_TOKEN,
        seed=seed,
    ) as server:
        async with wspool.open_pool(server.url, policy=policy, instrument=account, wire=wire) as pool:
            async with trio.open_nursery() as nursery:
                for number in range(CONVERSATIONS):
                    talker = _Talker(pool, account, number, random.Random(choice.getrandbits(64)))
                    nursery.start_soon(talker.talk, began + seconds)
                nursery.start_soon(_turn_down_some, server, choice, began + seconds)
            statistics = pool.statistics()
        failures = server.statistics().failures
    took = trio.current_time() - began
    broken = _compare(account, ledger)
    if failures:
        broken.append(f"the server itself failed {failures} times")
    s = statistics
    if s.granted != s.released + s.lost_leases + s.stolen + s.leased:
        broken.append(f"leases are not conserved: {s}")
    records = account.records
    outcomes = Counter(turn.outcome for turn in account.turns)
    figures: dict[str, Any] = {
        "seconds": round(took, 1),
        "conversations": account.finished,
        "turns": len(account.turns),
        "outcomes": dict(outcomes.most_common()),
        "lost_by_delivery": dict(
            Counter(turn.delivery for turn in account.turns if turn.outcome == "TurnLostError").most_common()
        ),
        "requests": sum(record.requests for record in records),
        "resends": sum(record.requests - 1 for record in records if record.requests),
        "full": sum(record.full for record in records),
        "moves": dict(account.moves.most_common()),
        "bytes_sent": sum(record.bytes_sent for record in records),
        "bytes_saved": sum(record.bytes_saved for record in records),
        "dialed": s.dialed,
        "dial_failures": s.dial_failures,
        "closed": {str(reason): count for reason, count in s.closed.items()},
        "faults": dict(sorted(Counter(e["fault"] for e in ledger if e["fault"] is not None).items())),
        "ledger": len(ledger),
        "rules_broken": len(broken),
    }
    return figures, broken


async def _turn_down_some(server: Server, choice: random.Random, until: float) -> None:
    """Two handshakes in a hundred are refused, in every way."""
    while trio.current_time() < until:
        await trio.sleep(choice.expovariate(1))
        if choice.random() < CONNECTIONS * RATE:
            server.reject_handshakes(
                choice.choice(
                    [
                        Rejection(status=503, headers={"Retry-After": "1"}),
                        Rejection(status=429),
                        Rejection(status=502, body=b"<html>"),
                        Rejection(status=101, close_code=1013),
                    ]
                )
            )


class _Talker:
    """Holds one conversation after the other."""

    def __init__(self, pool: wspool.Pool, account: Account, number: int, choice: random.Random) -> None:
        self._pool = pool
        self._account = account
        self._number = number
        self._choice = choice

    async def talk(self, until: float) -> None:
        generation = 0
        while generation == 0 or trio.current_time() < until:
            generation += 1
            async with self._pool.conversation(model="m", store=False) as conversation:
                taken = attempts = 0
                while taken < TURNS:
                    attempts += 1
                    text = f"conversation {self._number}.{generation} turn {taken} attempt {attempts}"
                    taken += await self._take(conversation, text)
                    await trio.sleep(self._choice.expovariate(1 / 0.05))  # its tools
            self._account.finished += 1

    async def _take(self, conversation: wspool.Conversation, text: str) -> bool:
        """Take one turn; return whether it became part of the history."""
        said: Item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}
        turn = Turn(text=text, digest=context_digest([*conversation.items, said]))
        self._account.turns.append(turn)
        patience = self._choice.random() * 0.1 if self._choice.random() < RATE else STUCK
        streaming = conversation.turn(text)
        try:
            with trio.move_on_after(patience) as scope:
                async with streaming:
                    response = await streaming.result()
                    turn.outcome, turn.response_id = response.status, response.id
                    turn.answer = response.output_text
            if scope.cancelled_caught:
                turn.outcome = "stuck" if patience == STUCK else "cancelled"
        except wspool.WsPoolError as error:
            turn.outcome = type(error).__name__
        turn.delivery = streaming.delivery
        return turn.outcome in ("completed", "incomplete")


def _compare(account: Account, ledger: Sequence[Entry]) -> list[str]:
    """Return every rule that was broken."""
    broken: list[str] = []
    turns = {turn.digest: turn for turn in account.turns}
    if len(turns) != len(account.turns):
        broken.append("two turns had the same context")
    for entry in sorted(ledger, key=lambda entry: entry["received_order"]):
        what = f"request {entry['sequence']} of connection {entry['connection']} ({entry['fault']})"
        if entry["unfinished_on_lane"] != 1:
            broken.append(f"{what}: {entry['unfinished_on_lane']} unfinished requests on its lane")
        if entry["error_code"] == "previous_response_not_found" and entry["fault"] is None:
            broken.append(f"{what}: its parent was not there")
        # A request can be refused before anybody looks for its parent.
        looked = entry["outcome"] != "rejected"
        if looked and entry["previous_response_id"] is not None and not entry["parent_was_latest"]:
            broken.append(f"{what}: its parent was not the latest response")
        digest = entry["context_sha256"]
        if digest is None:
            if entry["outcome"] != "rejected":
                broken.append(f"{what}: {entry['outcome']} without a context")
        elif (turn := turns.get(digest)) is None:
            broken.append(f"{what}: the model saw what no conversation had said")
        else:
            turn.requests.append(entry)
    for turn in account.turns:
        broken += [f"{turn.text} ({turn.outcome}, {turn.delivery}): {what}" for what in _judge(turn)]
    return broken


def _judge(turn: Turn) -> list[str]:
    """Return what does not fit together in one turn."""
    ran = [entry for entry in turn.requests if entry["outcome"] != "rejected"]
    found = [(entry["outcome"], entry["response_id"], entry["fault"]) for entry in turn.requests]
    wrong: list[str] = []
    if len(ran) > 1:
        wrong.append(f"ran {len(ran)} times: {found}")
    match turn.outcome:
        case "completed" | "incomplete":
            ends = [entry for entry in ran if entry["response_id"] == turn.response_id]
            if not ends or ends[0]["outcome"] != turn.outcome:
                wrong.append(f"the server says {found}")
            if turn.text not in turn.answer and turn.outcome == "completed":
                wrong.append(f"answered {turn.answer!r}")
        case "stuck" | "open":
            wrong.append("it never ended")
        case _ if turn.delivery == "not_sent" and ran:
            wrong.append(f"the server ran what was not sent: {found}")
        case _:
            pass
    return wrong


def run(*, quick: bool) -> list[Row]:
    """Soak for a quarter of a minute or for two; broken rules are rows of their own."""
    figures, broken = trio.run(soak, 15.0 if quick else 120.0, 1)
    for what in broken:
        print(what, file=sys.stderr)
    return [
        Row(metric="soak: rules broken", value=len(broken), unit="", most=0),
        Row(metric="soak: turns", value=figures["turns"], unit=""),
        Row(metric="soak: moves", value=sum(figures["moves"].values()), unit=""),
    ]


def main(arguments: Sequence[str]) -> int:
    """Soak as long as *arguments* say; print the figures as JSON, and what is wrong beside them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=2.0, help="how long")
    parser.add_argument("--seed", type=int, default=1, help="of everything that is chosen")
    parser.add_argument("--wire", choices=get_args(Wire), default="auto", help="what carries it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    options = parser.parse_args(arguments)
    logging.getLogger("wspool").addHandler(logging.NullHandler())
    figures, broken = trio.run(soak, options.minutes * 60, options.seed, options.wire)
    text = json.dumps(figures, indent=1)
    print(text)
    if options.json is not None:
        options.json.write_text(text, encoding="utf-8")
    for what in broken[:50]:
        print(what, file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
