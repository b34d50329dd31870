"""Loop: turns of a conversation until the model calls no more tools.

Rules of this module:

* What is open in the history is seen to before anything else: see `wspool.core.calls`. What only the caller
  can answer is returned to the caller, before any tool has run.
* A call is made when its response counts. An eager one is made when it is sealed, that is when the server has
  said that the item is done and its arguments are there: never on a piece of them. If the response is lost
  then, or failed, what came of the call is kept for the same call of the next: it is not made again.
* The model goes on without the outputs of async calls. They are sent with the next turn after they have come;
  when nothing else is left to do, the loop waits for the next of them.
* Nothing of a loop outlives it: what still runs when it ends is cancelled.
* Whoever is given an event may change it. What the loop goes by was read before.
* That calls are tasks is nobody's business: what ends the program comes out of a loop as it would without.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeAlias, cast

import attrs
import trio
from trio.lowlevel import disable_ki_protection

from wspool.core.calls import is_others, is_ours, is_question, opening
from wspool.core.encoding import Encoded
from wspool.core.events.response import Response
from wspool.core.frames import Event, MalformedMessageError
from wspool.core.items import Item, encode_items
from wspool.core.sending.chain import Chain
from wspool.errors import (
    MaxTurnsError,
    OpenCallsError,
    RequestTooLargeError,
    ResponseFailedError,
    TurnLostError,
)
from wspool.pool.continuity import Continuity
from wspool.pool.job import Job
from wspool.pool.tools import CallRunner
from wspool.pool.turn import Turn
from wspool.pool.within import Within

__all__ = ["Limits", "OnEvent", "ToolLoop"]

#: What is given each event of each turn; waited for if it returns something to wait for.
OnEvent: TypeAlias = Callable[[Event], Awaitable[None] | None]

_SEALED: Final = "response.output_item.done"

#: What is said to the program, and not to whoever runs a loop.
_ORDERS: Final = (KeyboardInterrupt, SystemExit)


@attrs.frozen
class Limits:
    """How far a loop goes. See `Conversation.run`.

    Attributes:
        max_turns: turns at most, None for no limit.
        retries: turns that are taken again at most.
        eager: True to make a call as soon as it is sealed.
        waited_for: names of tools whose outputs the model does not wait for.
        on_event: what is given each event.
    """

    max_turns: int | None
    retries: int
    eager: bool
    waited_for: frozenset[str]
    on_event: OnEvent | None


class ToolLoop:
    """One `Conversation.run`.

    Args:
        continuity: the conversation's.
        runner: what makes its calls, with the tools to make them with.
        begin: prepares a turn with the given input.
        limits: how far it goes.
    """

    def __init__(
        self,
        continuity: Continuity[Chain],
        runner: CallRunner,
        begin: Callable[[Sequence[Encoded]], Turn],
        limits: Limits,
    ) -> None:
        self._continuity = continuity
        self._chain = continuity.chain
        self._runner = runner
        self._begin = begin
        self._limits = limits
        self._taken = self._retried = 0
        #: Whether nothing follows the latest response, whatever it calls.
        self._over = False
        #: Async calls that the history has, and whose outputs it has not.
        self._awaited: list[Job] = []

    async def run(self, given: Sequence[Item] | None) -> Response:
        """Take turns, the first with the input *given*; return the last response. See `Conversation.run`."""
        try:
            if self._limits.eager or self._limits.waited_for:
                return await self._beside_calls(given)
            return await self._run(given)
        except BaseExceptionGroup as group:
            if group.split(_ORDERS)[1] is not None:
                raise
            order = group
        raise _first(order)

    async def _beside_calls(self, given: Sequence[Item] | None) -> Response:
        failure: Exception | None = None
        response: Response | None = None
        async with trio.open_nursery() as nursery:
            self._runner.nursery = nursery
            try:
                response = await self._run(given)
            except Exception as error:
                failure = error  # it comes out as it is, in no group
            nursery.cancel_scope.cancel()
        if response is None:
            raise failure or AssertionError("bug: neither a response nor an error")
        return response

    async def _run(self, given: Sequence[Item] | None) -> Response:
        try:
            new = encode_items(await self._opened(given))
            while True:
                response = await self._turn(new)
                self._taken += 1
                calls = self._chain.open_calls
                mine = [call for call in calls if is_ours(call)]
                self._runner.ended_well(mine)
                self._runner.check()
                if self._over or not mine or len(mine) < len(calls):
                    return response
                if self._is_last(self._taken):
                    raise MaxTurnsError(self._taken)
                new = encode_items(await self._outputs(mine))
        finally:
            self._continuity.told_errors = 0
            self._runner.stop()

    def _is_last(self, taken: int) -> bool:
        """Whether no turn may come after so many."""
        return self._limits.max_turns is not None and taken >= self._limits.max_turns

    async def _opened(self, given: Sequence[Item] | None) -> list[Item]:
        """Return the input of the first turn: *given*, and before it what the history is still owed."""
        calls = self._chain.open_calls
        self._runner.settle([call for call in calls if is_ours(call)])
        if given is None and not calls:
            raise ValueError("there is nothing to go on with: no call in the history is without its output")
        plan = opening(calls, given)
        if plan.stuck:
            raise OpenCallsError(plan.stuck)
        self._runner.recall(plan)
        before = self._runner.hand_out(self._runner.claim(plan.close))
        if plan.run:
            before += await self._outputs(plan.run, wait=given is None)
        new = [*before, *(given or ())]
        return new if self._runner.is_retry(encode_items(new)) else [*self._runner.strays(), *new]

    async def _outputs(self, calls: Sequence[Item], *, wait: bool = True) -> list[Item]:
        """Make the open *calls*; return what to send next: all that has come, if need be after a wait."""
        now = [call for call in calls if not self._is_async(call)]
        later = [call for call in calls if self._is_async(call)]
        self._awaited = self._runner.claim(later)
        if later:
            self._runner.start(self._awaited)
        done = await self._runner.answers(now) if now else []
        if not now and wait:
            await self._runner.first(self._awaited)
        done += [job for job in self._awaited if job.state == "ended"]
        self._continuity.told_errors = sum(job.failed for job in done)
        return [*self._runner.strays(), *self._runner.hand_out(done)]

    def _is_async(self, call: Item) -> bool:
        return self._runner.nursery is not None and (
            call.get("async") is True or str(call.get("name")) in self._limits.waited_for
        )

    async def _turn(self, new: Sequence[Encoded]) -> Response:
        """Take one turn, again if it was lost and that may be."""
        while True:
            try:
                return await self._once(new)
            except (TurnLostError, ResponseFailedError) as error:
                self._runner.release(new)
                if self._retried == self._limits.retries or not (
                    isinstance(error, TurnLostError) or error.may_pass
                ):
                    raise
                self._retried += 1
                self._continuity.retries += 1
            except RequestTooLargeError as error:
                self._runner.release(new)
                self._runner.drop_oversized(error.limit)
                raise
            except BaseException:
                self._runner.release(new)
                raise

    async def _once(self, new: Sequence[Encoded]) -> Response:
        eager = self._limits.eager and not self._is_last(self._taken + 1)
        if eager or self._limits.on_event is not None:
            return await self._streamed(new, eager=eager)
        return await self._plain(new)

    async def _plain(self, new: Sequence[Encoded]) -> Response:
        async with self._begin(new) as turn:
            response = await turn.result()
            self._look(response)
            return response

    async def _streamed(self, new: Sequence[Encoded], *, eager: bool) -> Response:
        on_event = self._limits.on_event
        sealed: set[str] = set()
        async with self._begin(new) as turn:
            async for event in turn:
                if eager and event.type == _SEALED:
                    eager = self._seal(event, sealed)
                if turn.ended:
                    self._look(turn.response)
                if on_event is not None:
                    with Within(turn.added):
                        told = _tell(on_event, event)
                        if told is not None and inspect.isawaitable(told):
                            await _wait(told)
            return await turn.result()

    def _look(self, response: Response) -> None:
        """See whether anything can follow *response*, which nobody else has seen yet."""
        self._over = response.status != "completed" or any(is_question(item) for item in response.output)

    def _seal(self, event: Event, sealed: set[str]) -> bool:
        """Make the call that is done, if it is one; return whether others may follow."""
        try:
            data = Event(event.type, event.raw).data  # anew: the caller may change what it is given
        except MalformedMessageError:
            return True
        item: Any = data.get("item")
        if not isinstance(item, dict) or "agent" in data:
            return True
        call = cast("Item", item)
        if is_others(call) or self._runner.failing:
            return False  # what only the caller can answer leaves the rest to the caller too
        if not is_ours(call):
            return True
        name = call.get("call_id")
        final = call.get("arguments") or call.get("input")
        if isinstance(name, str) and name not in sealed and final and call.get("status") != "incomplete":
            sealed.add(name)
            self._runner.start(self._runner.claim([call]))
        return True


def _first(error: BaseException) -> BaseException:
    """Return *error*, or the first exception in it that is no group."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    return _first(cast("BaseExceptionGroup[BaseException]", error).exceptions[0])


# An interrupt may come where the caller's own frames are.
@disable_ki_protection
def _tell(on_event: OnEvent, event: Event) -> Awaitable[None] | None:
    return on_event(event)


@disable_ki_protection
async def _wait(told: Awaitable[None]) -> None:
    await told
