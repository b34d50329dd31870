"""Record: what is known of one request, whatever door it came through, and where the records go.

Rules of this module:

* One kind of record for all: server-sent events, one JSON body, WebSocket, and what is passed on by HTTP.
* Nothing is estimated: what is not known is None. Tokens are those that the provider has counted.
* The tokens of a response count once. Who asks for one that there is already is told them again, each time;
  they are those of that request only if nobody was told before, as of a response in the background.
* No key, no token and no text of a conversation is in it; a session's name is, as the client gave it.
* What is kept is bounded. Whoever wants all of them listens.
"""

from __future__ import annotations

import json
import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any, Final, Literal

import attrs

from wspool.core.plain import plain
from wspool.core.statistics import TurnRecord
from wspool.core.usage import Usage
from wspool.errors import DialFailedError
from wspool.listening.errors import RequestError
from wspool.pool.http_answer import error_answer
from wspool.pool.turn import Turn

__all__ = ["KEPT", "Door", "Listener", "Outcome", "Record", "Records"]

logger: Final = logging.getLogger("wspool.proxy")

#: Characters of an error's code, and of its text.
_LONGEST_CODE: Final = 100
_LONGEST: Final = 300

#: Records that are kept of requests that have ended.
KEPT: Final = 1000

#: Responses of which it is kept that their tokens are not known.
_UNCOUNTED: Final = 4096

#: How the client asked: for server-sent events, for one JSON body, over a WebSocket, or for something else
#: that was passed on by HTTP.
Door = Literal["sse", "json", "websocket", "http"]

#: How it ended. `completed`, `incomplete` and `failed` are what the response says; `refused` by the provider,
#: `rejected` by the proxy, `lost` on the way; `left`: the client went away before the end.
Outcome = Literal["completed", "incomplete", "failed", "refused", "rejected", "lost", "left"]

#: What a turn that was sent comes to.
_ENDS: Final[Mapping[str, Outcome]] = {
    "completed": "completed",
    "incomplete": "incomplete",
    "failed": "failed",
    "rejected": "refused",
    "lost": "lost",
    "cancelled": "left",
}


@attrs.define(kw_only=True, eq=False)
class Record:
    """One request. It is filled while the request goes on; `outcome` is None until it has ended.

    Attributes:
        number: of the request, from 1.
        door: how the client asked.
        token: name of the token that it showed; empty where none is asked for.
        client: what tells it from other clients: the name of its token, or where it comes from.
        agent: the program, as it calls itself.
        session: name of its conversation or rollout, if it gave one.
        method, path: of the request.
        model: the model that it asked for.
        began: when it came, in seconds since the epoch.
        own: seconds that the proxy itself took before it was in line.
        line: seconds in line for a lane.
        dial: seconds of waiting for a connection, where there was none at all.
        first_event: seconds from the request that was sent to its first event, or head.
        stream: seconds from there to the end.
        total: seconds from its first byte to the end.
        way: what carried it to the provider.
        why_full: why all of its items were sent, see `wspool.core.sending.brought.FULL_REASONS`.
        items_given: items of its input.
        items_sent: items that were sent to the provider.
        bytes_in: of its body, as it came.
        bytes_sent: of what was sent to the provider.
        bytes_saved: of history that was not.
        bytes_out: of its answer.
        requests: how often it was sent, by whatever way.
        usage: tokens, as the provider has counted them.
        outcome: how it ended.
        status: HTTP status of its answer.
        error: code of the error, if there is one.
        said: its text, as it may be shown.
        response_id: id of the response.
        request_id: of the provider's answer (`x-request-id`).
        joined: number of the request that it was a repetition of, and was answered with.
        turn: its turn, once it is there and until it has ended.
        drained: True if its turn was read to its end after the client had left.
    """

    number: int
    door: Door
    token: str = ""
    client: str = ""
    agent: str | None = None
    session: str | None = None
    method: str = "POST"
    path: str = ""
    model: str | None = None
    began: float = 0.0
    own: float | None = None
    line: float | None = None
    dial: float | None = None
    first_event: float | None = None
    stream: float | None = None
    total: float | None = None
    way: Literal["websocket", "http"] | None = None
    why_full: str | None = None
    items_given: int | None = None
    items_sent: int | None = None
    bytes_in: int = 0
    bytes_sent: int | None = None
    bytes_saved: int | None = None
    bytes_out: int = 0
    requests: int = 0
    usage: Usage | None = None
    outcome: Outcome | None = None
    status: int | None = None
    error: str | None = None
    said: str | None = None
    response_id: str | None = None
    request_id: str | None = None
    joined: int | None = None
    drained: bool = False
    turn: Turn | None = attrs.field(default=None, repr=False)

    def learn(self, turn: TurnRecord) -> None:
        """Take over what the pool knows of its turn, which has ended: nothing, if it was never sent.

        Where it went on by HTTP after it was sent there are two: both count, the last says how it went.
        """
        if not turn.requests:
            return
        self.outcome = _ENDS.get(turn.status)
        self.way = "http" if turn.transport == "http" else "websocket"
        self.why_full = turn.why_full
        self.items_given, self.items_sent = turn.items_given, turn.items_sent
        self.bytes_sent = (self.bytes_sent or 0) + turn.bytes_sent
        self.bytes_saved = turn.bytes_saved
        self.requests += turn.requests
        self.response_id = turn.response_id
        if turn.usage is not None:
            self.usage = Usage.of(turn.usage)

    def fail(self, error: Exception) -> None:
        """It went wrong, by *error*. After `learn`, if anything was sent."""
        about: dict[str, Any]
        if isinstance(error, RequestError):
            status, about = error.error.status, error.error.body()
        else:
            status, _, content = error_answer(error)
            about = json.loads(content)["error"] or {}
        self.status = status if self.status is None else self.status
        self.error = str(about.get("code") or about.get("type"))[:_LONGEST_CODE]
        self.said = plain(str(error), _LONGEST)
        if self.outcome is None:
            self.outcome = "rejected"
            if isinstance(error, DialFailedError):
                self.outcome = "lost" if error.status is None else "refused"

    @property
    def sent(self) -> bool:
        """Whether its request may have left already."""
        return self.turn is not None and self.turn.delivery != "not_sent"

    def as_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        told = attrs.asdict(self, recurse=False, filter=lambda field, _: field.name != "turn")
        told["usage"] = None if self.usage is None else attrs.asdict(self.usage)
        return told


#: Is told of each request when it begins, and when it has ended (`Record.outcome`).
Listener = Callable[[Record], None]


class Records:
    """The records of one proxy. Used in one trio run.

    Attributes:
        running: requests that have not ended, by number.
        ended: the latest that have, oldest first.
        count: requests so far.
    """

    def __init__(self, kept: int = KEPT) -> None:
        self.running: dict[int, Record] = {}
        self.ended: deque[Record] = deque(maxlen=kept)
        self.count = 0
        self._listeners: list[Listener] = []
        #: Responses whose tokens are not known yet, each with the token of who asked for it, oldest first.
        self._uncounted: OrderedDict[tuple[str, str], None] = OrderedDict()

    def begin(self, door: Door, **fields: Any) -> Record:
        """Return the record of a request that begins, with what is known of it. Never waits."""
        self.count += 1
        record = Record(number=self.count, door=door, **fields)
        self.running[record.number] = record
        self._tell(record)
        return record

    def end(self, record: Record, outcome: Outcome | None = None) -> None:
        """It has ended. Twice is once. Never waits.

        Args:
            outcome: how, unless that is known already.
        """
        if self.running.pop(record.number, None) is None:
            return
        record.turn = None  # which has all of its events
        record.outcome = record.outcome or outcome or "lost"
        self._count_once(record)
        self.ended.append(record)
        self._tell(record)

    def _count_once(self, record: Record) -> None:
        if record.response_id is None:
            return
        response = record.token, record.response_id
        if record.door == "http" and record.response_id in record.path.split("/"):  # it was there before
            if response not in self._uncounted:
                record.usage = None
            elif record.usage is not None:
                del self._uncounted[response]
        elif record.usage is None:
            self._uncounted[response] = None
            if len(self._uncounted) > _UNCOUNTED:
                self._uncounted.popitem(last=False)

    def add(self, listener: Listener) -> None:
        """Have *listener* called from now on, as in `listen`."""
        self._listeners.append(listener)

    @contextmanager
    def listen(self, listener: Listener) -> Generator[None]:
        """Have *listener* called while the body runs. It must not wait; what it raises is logged."""
        self._listeners.append(listener)
        try:
            yield
        finally:
            self._listeners.remove(listener)

    def _tell(self, record: Record) -> None:
        for listener in list(self._listeners):
            try:
                listener(record)
            except Exception:
                logger.exception("a listener to the records failed; the request is not affected")
