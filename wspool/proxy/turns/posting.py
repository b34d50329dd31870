"""Posting: a turn that is not for WebSocket goes by HTTP as it came, and is answered as any other.

Such are responses in the background, conversations that the provider keeps, and clients whose credential is
no bearer's. Rules of this module:

* Its body goes as its client wrote it, to where the proxy was started for, on a connection of its own.
* Its answer ends with the end of its response, or with an error that says what is known.
* What is known of it is what its last event says.
* The limits of the pool's policy hold for it as for any turn, see `wspool.pool.silence`: those of silence
  where its answer is streamed, for one JSON body has no events to wait for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

import trio

from wspool.core.frames import Event, encode_received, parse_event, read_object
from wspool.core.plain import plain
from wspool.core.policy import PoolPolicy
from wspool.core.server_error import parse_error
from wspool.core.usage import Usage
from wspool.errors import (
    DialFailedError,
    PoolClosedError,
    ResponseFailedError,
    TurnLostError,
    TurnTimeoutError,
)
from wspool.pool.exchange import JSON, Entry, Outlet, Writer, mended
from wspool.pool.outcome import server_failure
from wspool.proxy.notices import Notices
from wspool.proxy.records.record import Outcome, Record
from wspool.wire.http_wire import LAST, HttpConnector, HttpWire
from wspool.wire.wire import ConnectError, Endpoint, WireClosedError

__all__ = ["Post"]

#: What came while the program was busy is read within this time, in seconds, before it counts as silence.
_MOMENT: Final = 0.05

#: What a response says of how it ended.
_ENDS: Final[Mapping[str, Outcome]] = {
    "completed": "completed",
    "incomplete": "incomplete",
    "failed": "failed",
}


class Post:
    """One turn, as one request by HTTP.

    Args:
        connector: makes its connection.
        endpoint: where it goes.
        headers: all that goes with it.
        body: its body, as it came.
        policy: its limits.

    Attributes:
        events: all that came of it, if its outlet keeps that (`Outlet.keeps`).
    """

    def __init__(
        self,
        connector: HttpConnector,
        endpoint: Endpoint,
        headers: Sequence[tuple[str, str]],
        body: bytes,
        policy: PoolPolicy,
    ) -> None:
        self.events: list[Event] = []
        self._connector = connector
        self._endpoint = endpoint
        self._headers = headers
        self._body = body
        self._policy = policy

    async def perform(
        self, record: Record, notices: Notices, outlet: Outlet, write: Writer | None, enter: Entry
    ) -> None:
        """Take the turn, and write its answer to *outlet*. A checkpoint; raises no `Exception`.

        Args:
            record: where is written down what is known of it.
            notices: are told the headers of its answer.
            outlet: where that goes; with `Outlet.error` if it has another end than its response's.
            write: writes the events of an answer that is streamed; None for one JSON body.
            enter: what it waits for before it has a connection.

        Cancelling it ends its connection.
        """
        record.way, record.items_sent = "http", record.items_given
        outlet.dials = True  # it has a connection of its own
        try:
            with outlet.scope:
                await enter(False)
                wire = await self._connector.open(self._endpoint, self._headers)
                try:
                    record.requests, record.bytes_sent = 1, len(self._body)
                    outlet.sent_at = trio.current_time()
                    await self._send(wire)
                    await self._answer(wire, record, notices, outlet, write)
                finally:
                    with trio.CancelScope(shield=True):
                        await wire.abort()
            outlet.end()
        except ConnectError as error:
            record.outcome = "lost"
            outlet.end(DialFailedError(f"the endpoint cannot be reached: {error}", phase=error.phase))
        except WireClosedError as error:
            record.outcome = "lost"
            outlet.end(_lost(error, begun=outlet.head is not None))
        except Exception as error:
            record.outcome = "refused" if isinstance(error, ResponseFailedError) else "lost"
            outlet.end(error)
        finally:
            outlet.end(PoolClosedError("the turn was given up"))

    async def _send(self, wire: HttpWire) -> None:
        seconds = self._policy.send_timeout
        with trio.move_on_after(seconds) as scope:
            await wire.post(self._body)
        if scope.cancelled_caught:
            how = f"its request was not taken within send_timeout={seconds:g} s"
            raise TurnLostError(f"turn lost: {how}", delivery="ambiguous")

    async def _answer(
        self, wire: HttpWire, record: Record, notices: Notices, outlet: Outlet, write: Writer | None
    ) -> None:
        """Write what comes of the turn, up to the last event of its response."""
        coming = _Coming(wire, self._policy, streamed=write is not None)
        while True:
            events = await coming.events()
            if record.status is None:
                notices.answered(wire.headers)
            last = next((n for n, event in enumerate(events) if event.type in LAST), None)
            if record.response_id is None:  # if it is cut, its client asks for it by that
                record.response_id = _begun(events)
            if outlet.keeps:
                self.events += events if last is None else events[: last + 1]
            if write is not None and events[:last]:
                if outlet.head is None:
                    outlet.begin_with(200, ())
                await outlet.write(write(events[:last], None))
            if last is None:
                continue
            response = _ended(events[last], record)
            if write is not None:
                if outlet.head is None:
                    outlet.begin_with(200, ())
                outlet.write_last(write([mended(events[last], response)], response))
            else:
                data = encode_received(response)
                outlet.write_last(data)
                outlet.begin_with(200, [JSON, ("content-length", str(len(data)))])
            return


class _Coming:
    """What comes of one turn, as long as that is within its limits."""

    def __init__(self, wire: HttpWire, policy: PoolPolicy, *, streamed: bool) -> None:
        self._wire = wire
        self._policy = policy
        self._first = (policy.first_event_timeout if streamed else None) or math.inf
        self._later = (policy.silence_timeout if streamed else None) or math.inf
        self._begun = False
        #: Seconds that are left for an event of the response.
        self._left = self._first
        self._count = self._size = 0

    async def events(self) -> list[Event]:
        """Return what has come. A checkpoint.

        Raises:
            TurnTimeoutError: nothing came of the response for too long.
            TurnLostError: more has come of it than a turn may have.
            WireClosedError: nothing comes any more.
        """
        since = trio.current_time()
        events = [parse_event(message) for message in await self._receive()]
        self._count += len(events)
        self._size += sum(len(event.raw) for event in events)
        policy = self._policy
        if self._count > policy.max_turn_events or self._size > policy.max_turn_bytes:
            self._begun = True
            raise self._lost("it has too many events (max_turn_events, max_turn_bytes)")
        if any(event.type.startswith("response.") for event in events):
            self._begun, self._left = True, self._later
        else:
            self._left -= trio.current_time() - since
        return events

    async def _receive(self) -> Sequence[str | bytes]:
        for seconds in (max(self._left, 0.0), _MOMENT):
            with trio.move_on_after(seconds):
                return await self._wire.receive()
        name, limit = (
            ("silence_timeout", self._later) if self._begun else ("first_event_timeout", self._first)
        )
        raise self._lost(f"nothing came of it for {name}={limit:g} s", TurnTimeoutError)

    def _lost(self, how: str, kind: type[TurnLostError] = TurnLostError) -> TurnLostError:
        return kind(f"turn lost: {how}", delivery="accepted" if self._begun else "ambiguous")


def _begun(events: Sequence[Event]) -> str | None:
    """Return the id of the response that begins with one of *events*, None if none does."""
    first = next((event for event in events if event.type == "response.created"), None)
    response: object = None if first is None else read_object(first.raw).get("response")
    name = cast("dict[str, Any]", response).get("id") if isinstance(response, dict) else None
    return name[:200] if isinstance(name, str) else None


def _ended(event: Event, record: Record) -> dict[str, Any]:
    """Return the response that ends with *event*, and write down what it says. Raises what refuses it."""
    said = event.data
    response: object = said.get("response")
    if event.type == "error" or not isinstance(response, dict):
        raise server_failure(parse_error(said), "ambiguous")
    known = cast("dict[str, Any]", response)
    record.usage = None if known.get("usage") is None else Usage.of(known["usage"])
    record.response_id = str(known.get("id"))[:200]
    # One in the background is answered before it has ended.
    record.outcome = _ENDS.get(str(known.get("status")), "completed")
    if isinstance(error := known.get("error"), dict):
        error = cast("dict[str, Any]", error)
        record.error = str(error.get("code") or error.get("type"))[:100]
    return known


def _lost(error: WireClosedError, *, begun: bool) -> TurnLostError:
    how = f"the answer was cut ({plain(error.reason)})" if error.reason else "the answer was cut"
    return TurnLostError(f"turn lost: {how}", delivery="accepted" if begun else "ambiguous")
