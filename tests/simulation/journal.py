"""Journal: both sides of every request, and the rules that the two must agree with.

The client's side is a wire that notes what is handed to it and what it hands out. The server's side is its
ledger. Both know the link, and requests of one link arrive in order, so the n-th request that the server got
on a link is the n-th that was handed to it. The rules, checked by `check`:

* every turn ends in exactly one outcome, and what the caller was told about it is true;
* the server got no request without a turn of a client, and no turn had more than one request that may have
  run, unless the replay policy says so;
* a reply belongs to its conversation: the words, the history, and the server's digest of what the model saw;
* a lane never held two unfinished requests, a connection never more than it has lanes, nor got it one too
  late in its life;
* `previous_response_id` only ever named the latest response of its lane;
* nothing was sent while the server wanted all to wait, nor for a turn that somebody had ended.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final

import attrs
import trio

from tests.simulation.odd import rewritten
from wspool import PoolPolicy
from wspool.server import Entry, Item, context_digest
from wspool.wire.wire import Wire

__all__ = ["Journal", "Request", "TappedWire", "Turn"]

_TERMINAL: Final = frozenset({"response.completed", "response.incomplete", "response.failed"})

#: An id as the server makes it, and as a client is shown it that is told counted ones.
_ID: Final = re.compile(r"resp_[0-9a-f]+x[0-9a-f]+")
_NAME: Final = re.compile(rb"(?<=\")resp_[0-9]+(?=\")")


@attrs.define(eq=False, kw_only=True)
class Turn:
    """One turn as its caller saw it."""

    word: str
    conversation: int
    #: What the model will say.
    answer: str
    #: `completed`, `incomplete`, `cancelled`, or the class of the error. Set once.
    outcome: str | None = None
    delivery: str | None = None
    response_id: str | None = None
    #: What the model must have seen, of a turn that has a response.
    context: list[Item] | None = None

    def end(self, outcome: str, delivery: str) -> None:
        """It is over for its caller."""
        assert self.outcome is None, f"turn {self.word} ended twice: {self.outcome}, then {outcome}"
        self.outcome, self.delivery = outcome, delivery


@attrs.define(eq=False, kw_only=True)
class Request:
    """One request as it was handed to a wire, and what came back."""

    link: int
    lane: str | None
    word: str | None
    parent: str | None
    input_items: int
    at: float
    #: Which of all requests; some are sent at the same time.
    order: int
    created: str | None = None
    ended: str | None = None
    output: bool = False

    @property
    def provably_did_not_run(self) -> bool:
        """Whether the server refused it, or its connection before there was any output."""
        return self.ended == "refused" or (self.ended == "limit" and not self.output)


class TappedWire:
    """A wire that notes what passes.

    Args:
        wire: the real one.
        journal: where it is noted, with the ids that the server gave.
        link: its number.
        counted: None to leave the ids alone; else the client sees `resp_1`, `resp_2` ... of each connection,
            and with a number the count begins anew after so many.
        odd: True to rewrite items on their way to the client.
    """

    def __init__(
        self, wire: Wire, journal: Journal, link: int, counted: int | None = None, *, odd: bool = False
    ) -> None:
        self.headers = wire.headers
        self._wire = wire
        self._journal = journal
        self._link = link
        self._counted = counted
        self._odd = odd
        self._count = 0
        self._names = journal.names[link]

    @property
    def heard_at(self) -> float:
        return self._wire.heard_at

    async def send(self, message: bytes) -> None:
        if self._counted is not None:
            # The last that had the name: a server that restarts its count has forgotten the others.
            ids = {name: real for real, name in self._names.items()}
            message = _NAME.sub(lambda found: ids.get(found[0].decode(), "resp_x0").encode(), message)
        self._journal.hand(self._link, json.loads(message))
        await self._wire.send(message)

    async def receive(self) -> Sequence[str | bytes]:
        messages = await self._wire.receive()
        sure = True
        for event in map(json.loads, messages):
            self._journal.hear(self._link, event, sure=sure)
            # Either may end the connection, and what came in one read with it is not heard any more.
            sure = sure and event["type"] not in ("error", "response.created")
        if self._counted is None and not self._odd:
            return messages
        texts = [message if isinstance(message, str) else message.decode() for message in messages]
        if self._odd:
            texts = [rewritten(text) for text in texts]
        return texts if self._counted is None else [_ID.sub(self._name, text) for text in texts]

    def _name(self, found: re.Match[str]) -> str:
        if found[0] not in self._names:
            self._count = self._count % (self._counted or sys.maxsize) + 1
            self._names[found[0]] = f"resp_{self._count}"
            if sum(name == f"resp_{self._count}" for name in self._names.values()) > 1:
                self._journal.note("restart", self._link)
        return self._names[found[0]]

    async def ping(self) -> None:
        await self._wire.ping()

    async def aclose(self) -> None:
        await self._wire.aclose()

    async def abort(self) -> None:
        await self._wire.abort()


class Journal:
    """What happened in one world, in order."""

    def __init__(self, policy: PoolPolicy, last_start: float) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.turns: dict[str, Turn] = {}
        self.ledger: dict[int, list[Entry]] = defaultdict(list)
        self.requests: dict[int, list[Request]] = defaultdict(list)
        self.dialed_at: dict[int, float] = {}
        #: What the server still has to remember of each link and lane.
        self.latest: dict[tuple[int, str | None], str | None] = defaultdict(lambda: None)
        #: The names of each link's ids, where the client is shown others than the server gave.
        self.names: dict[int, dict[str, str]] = defaultdict(dict)
        #: The turns that somebody has ended: nothing is sent for them any more.
        self.closed: set[str] = set()
        #: When a conversation may send, as far as the server has said.
        self.held_until = -math.inf
        #: What of histories had to be changed for them to be sent.
        self.changed: set[str] = set()
        #: How often somebody went on before others who waited for a lane.
        self.passed_over = 0
        #: The pool is closed.
        self.over = False
        #: Broken rules. Kept until the end, since an error inside a connection is the end of that only.
        self.violations: list[str] = []
        self._policy = policy
        self._last_start = last_start

    def note(self, *event: Any) -> None:
        """Add to the log that two runs of one seed have in common."""
        self.events.append((round(trio.current_time(), 9), *event))

    def violate(self, rule: str) -> None:
        """A rule is broken."""
        self.note("VIOLATION", rule)
        self.violations.append(rule)

    def lift(self) -> None:
        """The client was told not to heed what the server asked to wait."""
        self.held_until = -math.inf

    # -- the client's side --------------------------------------------------------------------

    def hand(self, link: int, body: dict[str, Any]) -> None:
        """A request is handed to a wire."""
        word = (body.get("metadata") or {}).get("turn")
        parent, lane = body.get("previous_response_id"), body.get("stream_id")
        now = trio.current_time()
        request = Request(
            link=link,
            lane=lane,
            word=word,
            parent=parent,
            input_items=len(body["input"]),
            at=now,
            order=sum(map(len, self.requests.values())),
        )
        self.note("hand", link, lane, word, parent, request.input_items)
        if (word is None) != (body.get("generate") is False):
            self.violate(f"request without a turn on link {link}")
        open_ones = self.unfinished(link)
        for other in open_ones:
            if lane is None or other.lane in (None, lane):
                self.violate(f"link {link}: {word} was sent before {other.word} had ended")
        if len(open_ones) >= self._policy.lanes:
            self.violate(f"link {link}: {word} is one more than it has lanes")
        if parent is not None and parent != self.latest[link, lane]:
            self.violate(f"link {link}: {word} continues {parent}, the latest is {self.latest[link, lane]}")
        if now >= self.dialed_at[link] + self._last_start:
            self.violate(f"link {link}: {word} was sent {now - self.dialed_at[link]} s after the dial")
        if word is not None and now < self.held_until:
            self.violate(f"link {link}: {word} was sent {self.held_until - now} s before it may be")
        if word in self.closed or self.over:
            self.violate(f"link {link}: {word} was sent after it was ended")
        self.requests[link].append(request)

    def unfinished(self, link: int) -> list[Request]:
        """What was handed to a link and has not ended."""
        return [request for request in self.requests[link] if request.ended is None]

    def hear(self, link: int, event: dict[str, Any], *, sure: bool) -> None:
        """An event comes out of a wire; it is not *sure* that anybody looks at it."""
        kind, lane = event["type"], event.get("stream_id")
        response: dict[str, Any] = event.get("response") or {}
        self.note("hear", link, lane, kind, response.get("id"))
        requests = [each for each in self.unfinished(link) if lane in (None, each.lane)]
        code = event["error"].get("code") if kind == "error" else None
        if code == "connection_expiring":
            return  # a notice, which ends nothing
        if code == "websocket_connection_limit_reached":
            for request in requests:
                request.ended = "limit" if request.created else "refused"
                self.latest[link, request.lane] = None
            return
        if len(requests) != 1:
            return  # about the connection; whether it may be there is the pool's business
        (request,) = requests
        if kind == "response.created":
            request.created = response["id"]
        elif kind in _TERMINAL:
            request.ended = kind
            self.latest[link, lane] = None if kind == "response.failed" else response["id"]
        elif kind == "error":
            if sure:
                self._hear_hint(event)
            if request.created is None:
                request.ended = "refused"
                self.latest[link, lane] = None  # it may have evicted its parent
        elif kind not in ("response.in_progress", "response.queued"):
            request.output = True

    def _hear_hint(self, event: dict[str, Any]) -> None:
        """An error may say how long all are to wait."""
        headers = {**event.get("headers", {}), **event["error"].get("headers", {})}
        seconds = headers.get("Retry-After", headers.get("retry-after"))
        if seconds is not None:
            self.held_until = max(self.held_until, trio.current_time() + float(seconds))

    # -- the rules ----------------------------------------------------------------------------

    def check(self) -> None:
        """Compare both sides. Everything is over."""
        by_word: dict[str, list[tuple[Request, Entry | None]]] = defaultdict(list)
        for link, requests in self.requests.items():
            entries = self.ledger[link] = sorted(self.ledger[link], key=lambda entry: entry["sequence"])
            for index, request in enumerate(requests):
                entry = entries[index] if index < len(entries) else None
                if entry is not None:
                    self._check_pair(request, entry)
                if request.word is not None:
                    by_word[request.word].append((request, entry))
        for link, entries in self.ledger.items():
            if len(entries) > len(self.requests[link]):
                self.violate(f"link {link}: the server got {len(entries)} requests, more than were sent")
            if [entry["sequence"] for entry in entries] != [*range(1, len(entries) + 1)]:
                self.violate(f"link {link}: the ledger is not complete")
        for word in by_word:
            if word not in self.turns:
                self.violate(f"a request for {word}, which nobody asked for")
        for turn in self.turns.values():
            self._check_turn(turn, sorted(by_word[turn.word], key=lambda pair: pair[0].order))
        assert not self.violations, "\n".join(self.violations)

    def _check_pair(self, request: Request, entry: Entry) -> None:
        where = f"link {request.link}, {request.word}"
        if entry["unfinished_on_lane"] != 1:
            self.violate(f"{where}: {entry['unfinished_on_lane']} unfinished requests")
        if entry["lane"] not in (None, request.lane):
            self.violate(f"{where}: handed over for {request.lane}, arrived on {entry['lane']}")
        if request.parent != entry["previous_response_id"]:
            self.violate(f"{where}: arrived with parent {entry['previous_response_id']}")
        if entry["previous_response_id"] and not entry["parent_was_latest"] and not entry["error_code"]:
            self.violate(f"{where}: the server found its parent in {entry['parent_from']}")
        if request.created is not None and request.created != entry["response_id"]:
            self.violate(f"{where}: {request.created} came back, the server made {entry['response_id']}")
        if request.ended in _TERMINAL and request.ended != f"response.{entry['outcome']}":
            self.violate(f"{where}: {request.ended} came back, the server says {entry['outcome']}")

    def _check_turn(self, turn: Turn, tries: list[tuple[Request, Entry | None]]) -> None:
        # An error frame before anything was created is a refusal, whatever the server was about to do.
        ran = [
            (request, entry)
            for request, entry in tries
            if entry is not None and entry["outcome"] != "rejected" and request.ended != "refused"
        ]
        say = f"turn {turn.word} ({turn.outcome}, {turn.delivery})"
        if turn.outcome is None:
            self.violate(f"{say} has no outcome")
        if self._policy.replay == "proven":
            for request, _ in tries[:-1]:
                if not request.provably_did_not_run:
                    self.violate(f"{say} was sent again though it may have run on link {request.link}")
        if len(tries) > 5:  # one, three elsewhere, one in full
            self.violate(f"{say} was sent {len(tries)} times")
        if turn.delivery == "not_sent" and ran:
            self.violate(f"{say} reached the server")
        # A limit may be announced to a request that crosses it and does not arrive: that is a refusal too.
        heard = any(entry is not None or request.ended == "refused" for request, entry in tries)
        if turn.delivery in ("accepted", "terminal") and not heard:
            self.violate(f"{say} never reached the server")
        if turn.response_id is None:
            return
        # A connection that counts its ids may have used this one for an earlier try.
        found = [
            entry
            for request, entry in ran
            if request is tries[-1][0] and self._shown(request, entry) == turn.response_id
        ]
        if len(found) != 1:
            self.violate(f"{say}: {len(found)} lines of the ledger have its response")
        elif turn.context is not None and found[0]["context_sha256"] != context_digest(turn.context):
            self.violate(f"{say}: the model did not see its conversation")
        if found and turn.outcome not in (found[0]["outcome"], "cancelled"):  # it may have been told before
            self.violate(f"{say}: the server says {found[0]['outcome']}")

    def _shown(self, request: Request, entry: Entry) -> str | None:
        """The id of the response as the client was shown it."""
        real = entry["response_id"] or ""
        return self.names[request.link].get(real, real)
