"""The player: an engine that answers from a cassette, and writes down what an endpoint answers.

It stands where the engine of a reference server does, so both transports, lanes and faults come with it.

1. A conversation that a request continues is looked up by the id of a response: one of the cassette, or of a
   recording. So a delta and a full request that mean the same are answered alike.
2. A warm-up says nothing, so it is neither recorded nor looked up.
3. What is recorded is asked in full: nothing of it depends on a connection to the endpoint.
4. A response says what was asked to continue now, not when it was recorded: clients check that.
5. A request without an answer is refused with a status that no client retries, and told to `problems`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs

from wspool.errors import ResponseFailedError, WsPoolError
from wspool.pool.pool import Pool
from wspool.server.echo import EchoModel
from wspool.server.engine import Engine, Send
from wspool.server.ledger import Ledger, Outcome
from wspool.server.models import Item, TurnError, is_object
from wspool.server.protocol.cache import not_found
from wspool.server.protocol.create import Create, TurnCut
from wspool.server.protocol.grammar import Event
from wspool.server.protocol.profiles import OPENAI
from wspool.server.protocol.requests import invalid_request
from wspool.server.protocol.response import response_object, usage_of
from wspool.testing.cassette import Cassette, Exchange, MismatchError
from wspool.testing.meaning import Meaning, items_of, sendable
from wspool.testing.redaction import Redaction

__all__ = ["Player", "refusal_of"]

#: As the endpoint, but as old as may be, and with room for everything that was recorded.
_PROFILE: Final = attrs.evolve(OPENAI, name="cassette", lifetime=float("inf"), max_message=64 * 1024 * 1024)

#: Of a request: what is said again by whoever sends it on.
_OURS: Final = frozenset(
    {"background", "input", "previous_response_id", "stream", "stream_id", "stream_options", "type"}
)

#: When a warm-up is said to have been, in Unix time: it is the same in each replay.
_RECORDED_AT: Final = 1_795_000_000

#: The conversation before a request that continues none.
_NEW: Final[Sequence[Item]] = ()

_OUTCOMES: Final[dict[str, Outcome]] = {
    "response.completed": "completed",
    "response.failed": "failed",
    "response.incomplete": "incomplete",
}


class Player(Engine):
    """Answers from a cassette; what is not in it is recorded, if there is an endpoint."""

    def __init__(self, cassette: Cassette, redaction: Redaction, endpoint: Pool | None = None) -> None:
        """Args:
        endpoint: a pool to record from; None replays only.
        """
        super().__init__(EchoModel(), _PROFILE, Ledger(None), lenient=True)
        self.cassette: Final = cassette
        self.problems: Final[list[str]] = []
        """What had no answer, in the order of asking."""
        self.recorded = 0
        """Exchanges that were added."""
        self._redaction = redaction
        self._endpoint = endpoint
        self._contexts: dict[str, Sequence[Item]] = dict(cassette.contexts())
        # By response id: what a recorded conversation is gone on with.
        self._snapshots: dict[str, Mapping[str, Any]] = {}
        self._warm_ups = 0

    async def perform(self, create: Create, send: Send, before: Send | None = None) -> TurnError | None:
        """Answer *create* as `Engine.perform` does."""
        self.active += 1
        try:
            if create.warm_up:
                answer = self._warm_up(create.body)
            else:
                answer = await self._answer(create.body)
            if answer.refusal is not None:
                refused = _turn_error(answer.refusal)
                self.settle(create, "rejected", refused)
                return refused
            last = len(answer.events) - 1
            for number, recorded in enumerate(answer.events):
                event = _as_asked(recorded, create)
                if before is not None:
                    await before(event)
                if number == last:
                    self.settle(create, _OUTCOMES.get(event["type"], "completed"))
                await send(event)
            return None
        except TurnCut:
            return None
        finally:
            self.active -= 1
            self.settle(create, "lost")

    def compact(self, body: Item) -> TurnError:
        """A cassette has none."""
        self.problems.append("a compaction was asked for; cassettes have none")
        return invalid_request(self.problems[-1], code="cassette_mismatch")

    async def _answer(self, body: Mapping[str, Any]) -> Exchange:
        safe: Mapping[str, Any] = self._redaction.value(body)
        parent = safe.get("previous_response_id")
        before = _NEW if parent is None else self._contexts.get(parent)
        try:
            return self.cassette.play(Meaning.of(safe, before))
        except MismatchError as mismatch:
            if self._endpoint is not None:
                return await self._record(self._endpoint, body, before)
            if before is None and all(exchange.parent != parent for exchange in self.cassette.exchanges):
                # What a provider would say; a client that has the conversation sends all of it then.
                return _refused_with(not_found(str(parent)))
            self.problems.append(str(mismatch))
            return _refused_with(invalid_request(str(mismatch), code="cassette_mismatch"))

    async def _record(
        self, endpoint: Pool, body: Mapping[str, Any], before: Sequence[Item] | None
    ) -> Exchange:
        exchange = Exchange.of(self._redaction.value(body), before)
        exchange.played = True
        self.cassette.exchanges.append(exchange)
        try:
            exchange.events = self._redaction.events(await self._ask(endpoint, body, before))
        except ResponseFailedError as error:
            exchange.refusal = self._redaction.value(refusal_of(error))
        except (WsPoolError, ValueError, TypeError) as error:
            self.problems.append(
                self._redaction.text(f"nothing was recorded: {type(error).__name__}: {error}")
            )
            return _refused_with(invalid_request(self.problems[-1]))
        finally:
            if exchange.refusal is None and exchange.response is None:
                self.cassette.exchanges.remove(exchange)
        self.recorded += 1
        if exchange.response is not None:
            self._contexts[str(exchange.response.get("id"))] = exchange.after()
        return exchange

    async def _ask(
        self, endpoint: Pool, body: Mapping[str, Any], before: Sequence[Item] | None
    ) -> list[dict[str, Any]]:
        """The events that the endpoint answers with."""
        fields = {name: value for name, value in body.items() if name not in _OURS}
        parent = body.get("previous_response_id")
        snapshot = self._snapshots.get(parent) if isinstance(parent, str) else None
        if parent is not None and before is None:
            # A stored response from before the recording.
            async with endpoint.lease() as lease:
                fields |= {"previous_response_id": parent, "input": body.get("input")}
                async with lease.create(**fields) as turn:
                    return [event.data async for event in turn]
        given: str | list[Item] = body.get("input") or []
        if before and snapshot is None:
            # Of a warm-up, or of the file: what is known of it is sent.
            given = [*map(sendable, before), *(items_of(given) if isinstance(given, str) else given)]
        async with endpoint.conversation(resume=snapshot) as conversation:
            async with conversation.turn(given, **fields) as turn:
                events = [event.data async for event in turn]
            if turn.response_id is not None:
                self._snapshots[turn.response_id] = conversation.snapshot()
            return events

    def _warm_up(self, body: Mapping[str, Any]) -> Exchange:
        parent = body.get("previous_response_id")
        self._warm_ups += 1
        response_id = f"resp_warm_up_{self._warm_ups}"
        answer = Exchange.of(body, _NEW if parent is None else self._contexts.get(parent))
        for number, status in enumerate(("in_progress", "completed")):
            kind = "response.completed" if number else "response.created"
            response = response_object(
                response_id=response_id,
                body=body,
                status=status,
                created_at=_RECORDED_AT,
                usage=usage_of(0, 0, 0) if number else None,
            )
            answer.events.append({"type": kind, "sequence_number": number, "response": response})
        self._contexts[response_id] = answer.context
        return answer


def _as_asked(event: Event, create: Create) -> Event:
    """The event as it is told to this request."""
    response = event.get("response")
    if isinstance(response, dict):
        parent = create.body.get("previous_response_id")
        event = event | {"response": response | {"previous_response_id": parent}}
    return event if create.lane is None else event | {"stream_id": create.lane}


def refusal_of(error: ResponseFailedError) -> dict[str, Any]:
    """Return a refusal as it is recorded."""
    said: Any = error.raw.get("error")
    fields: Mapping[str, Any] = said if is_object(said) else {"message": str(error), "code": error.code}
    kept = {name: value for name, value in fields.items() if name != "headers"}
    return {"status": error.status or 400, "error": kept}


def _refused_with(error: TurnError) -> Exchange:
    return Exchange({}, (), refusal={"status": error.status, "error": error.body()})


def _turn_error(refusal: Mapping[str, Any]) -> TurnError:
    """A recorded refusal as it is told."""
    error: Mapping[str, Any] = refusal["error"]
    return TurnError(
        message=str(error.get("message") or ""),
        code=error.get("code"),
        type=str(error.get("type") or "invalid_request_error"),
        param=error.get("param"),
        status=int(refusal.get("status") or 400),
    )
