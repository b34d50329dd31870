"""Talk: the conversations of a world, and what each of their callers must find true.

A caller keeps its own account of what it was told: the input and the output of each turn whose end it was
given. The history must be that at any time, whatever became of the turns between, and each request must show
the model that and what is new.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Generator
from typing import Any, Literal

import attrs
import trio

from tests.simulation.journal import Journal, Turn
from tests.simulation.odd import closed, open_calls, uncompacted
from wspool import LeaseRefusedError, Pool, PoolClosedError, ResponseFailedError, TurnLostError
from wspool.core.items import Output, read_items
from wspool.pool.conversation import Conversation
from wspool.server import Item
from wspool.server.models import text_of

__all__ = ["Place", "Taking", "Talk", "as_given"]

#: Where a turn is: about to begin, in line, in a hold or a pause, on a lane.
Place = Literal["begin", "line", "hold", "flight"]

_VERBS = ("say", "call", "fail", "reject", "full", "stop")


@attrs.define(eq=False, kw_only=True)
class Taking:
    """A turn that somebody takes just now."""

    turn: Turn
    conversation: Conversation
    asked: Any
    #: Sleeps between events, so that it is told late.
    slow: bool = False
    #: It waits, and must be told by then that it does so no more.
    told_by: float | None = None

    @property
    def place(self) -> Place:
        """Where it is."""
        driver = self.asked._driver
        errand = driver._errand
        if errand is None:
            return "begin"
        if errand.scope is not None:
            allowed = self.conversation._continuity.owner.errands.allows(errand)
            return "line" if allowed else "hold"
        return "begin" if driver.attempt is None or driver.attempt.ended else "flight"


class Talk:
    """The conversations of one world.

    Attributes:
        scopes: of whatever may be cancelled.
        takings: the turns that are taken just now.
        stories: what each conversation was in the end, and what its caller was told.
    """

    def __init__(self, pool: Pool, journal: Journal, turns: int, *, odd: bool) -> None:
        self.scopes: list[trio.CancelScope] = []
        self.takings: list[Taking] = []
        self.stories: dict[int, tuple[dict[str, Any], list[Item]]] = {}
        self._odd = odd
        self._pool = pool
        self._journal = journal
        self._turns = turns

    async def converse(self, number: int, choice: random.Random) -> None:
        """Hold one conversation, perhaps until it is cancelled, or closed by somebody else."""
        await trio.sleep(choice.random() * choice.choice((0.0, 1.0, 30.0)))
        told: list[Item] = []
        with trio.CancelScope() as scope:
            if choice.random() < 0.15:
                scope.deadline = trio.current_time() + choice.expovariate(1 / 20)
            self.scopes.append(scope)
            # What is stored goes along to any connection, so only half of the journal's rules hold for
            # it; `tests/pool/test_continuity.py` has its own.
            async with self._pool.conversation(model="m", store=False) as conversation:
                with self._kept(number, conversation, told):
                    for count in range(self._turns):
                        await self._speak(conversation, told, f"w{number}x{count}", number, choice)
                        await trio.sleep(choice.random() * choice.choice((0.0, 1.0, 10.0, 60.0)))
            if choice.random() < 0.3:  # closed or not, its history is there to go on from
                async with self._pool.conversation(resume=conversation.snapshot()) as resumed:
                    with self._kept(number, resumed, told):
                        await self._speak(resumed, told, f"r{number}", number, choice)
        if not scope.cancelled_caught:
            self.scopes.remove(scope)

    @contextlib.contextmanager
    def _kept(self, number: int, conversation: Conversation, told: list[Item]) -> Generator[None, None, None]:
        """Keep what *conversation* is in the end, whatever that is."""
        try:
            yield
        finally:
            self.stories[number] = conversation.snapshot(), told
            self._journal.changed |= conversation._continuity.chain.notes

    async def _speak(
        self, conversation: Conversation, told: list[Item], word: str, number: int, choice: random.Random
    ) -> None:
        """Say something; if the model calls for a tool, work and say what came out."""
        verb = choice.choices(_VERBS, (69, 20, 3, 3, 2, 3))[0]
        delay = round(choice.random() * choice.choice((0.0, 0.1, 5.0, 100.0)), 3)
        words = " ".join([word] * choice.choice((1, 1, 3, 20)))
        scope = trio.CancelScope()
        if choice.random() < 0.15:
            scope.deadline = trio.current_time() + choice.expovariate(1 / 5)
        given: str | list[Item] = f"{verb} {delay} {words}"
        if (calls := open_calls(told)) and self._odd and choice.random() < 0.5:
            # Its caller goes on without their outputs, as after a turn that somebody else has taken.
            # What it puts in is all of the history then, whatever a compaction stood for.
            went_on = [*as_given(word), {"role": "assistant", "content": word}]
            with contextlib.suppress(PoolClosedError):
                conversation.edit([*uncompacted(told), *went_on])
            told[:] = conversation.items
        elif calls:
            # The turn that was to bring their outputs did not count.
            given = [*(closed(call, "nothing") for call in calls), *as_given(given)]
        with scope:
            await self.take(conversation, told, given, words, word, number, choice)
        if calls := open_calls(told):
            await trio.sleep(choice.random() * choice.choice((1.0, 60.0)))
            output = [closed(call, f"{word} tool") for call in calls]
            await self.take(conversation, told, output, f"{word} tool", f"{word}t", number, choice)

    async def take(
        self,
        conversation: Conversation,
        told: list[Item],
        given: str | list[Item],
        answer: str,
        word: str,
        number: int,
        choice: random.Random,
    ) -> None:
        """Take one turn, note what came of it, and add it to what was *told* if it counts."""
        turn = self._journal.turns[word] = Turn(word=word, conversation=number, answer=answer)
        asked = conversation.turn(given, metadata={"turn": word})
        taking = Taking(turn=turn, conversation=conversation, asked=asked, slow=choice.random() < 0.1)
        scope = trio.CancelScope()
        self.scopes.append(scope)
        self.takings.append(taking)
        self._journal.note("take", word)
        known = [*told, *as_given(given)]
        # What an odd server has said is another thing than what the client was shown.
        turn.context = None if self._odd else known
        try:
            with scope:
                await self._take(taking, choice)
        finally:
            self.scopes.remove(scope)
            self.takings.remove(taking)
            self._journal.note("end", word, turn.outcome, turn.delivery)
            self._account(taking, known, told)

    async def _take(self, taking: Taking, choice: random.Random) -> None:
        turn, asked = taking.turn, taking.asked
        try:
            async with asked as streaming:
                await self._read(taking, streaming, choice)
                response = await streaming.result()
                turn.response_id = response.id
            turn.end(response.status, asked.delivery)
        except trio.Cancelled:
            turn.end("cancelled", asked.delivery)
            raise
        except ResponseFailedError as error:
            turn.response_id = error.response_id
            turn.end("failed" if error.response_id else "rejected", error.delivery)
        except (TurnLostError, LeaseRefusedError, PoolClosedError) as error:
            turn.end(type(error).__name__, error.delivery)

    async def _read(self, taking: Taking, streaming: Any, choice: random.Random) -> None:
        """Read the events of a turn, perhaps slowly, and look whose they are."""
        turn, said = taking.turn, ""
        async for event in streaming:
            named = event.data.get("response", {}).get("id", streaming.response_id)
            if named != streaming.response_id:
                self._journal.violate(f"{turn.word} got an event of {named}")
            if event.type == "response.output_text.delta":
                said += event.data["delta"]
                if not turn.answer.startswith(said):
                    self._journal.violate(f"{turn.word} heard {said!r}")
            if taking.slow:
                await trio.sleep(choice.random())

    def _account(self, taking: Taking, known: list[Item], told: list[Item]) -> None:
        """The turn is over for its caller: the history is what it was, or has the turn that counted."""
        turn, now = taking.turn, trio.current_time()
        if taking.told_by is not None and now > taking.told_by and turn.outcome != "cancelled":
            self._journal.violate(f"{turn.word} was told {turn.outcome} {now - taking.told_by} s late")
        response = taking.asked.response if taking.asked._response is not None else None
        if response is not None and response.status in ("completed", "incomplete"):
            # Also of one that was cancelled after that.
            turn.response_id = response.id
            told[:] = [*known, *read_items(Output.of(response.output).items)]
            said = next(item for item in response.output if item["type"] in ("message", "function_call"))
            text = str(said.get("content") if self._odd else text_of(said))
            text = text if said["type"] == "message" else f'"{turn.answer}"'
            if turn.answer not in text or (len(text) > len(turn.answer) + 2 and not self._odd):
                self._journal.violate(f"{turn.word}: answered with {text!r}")
        elif turn.outcome in ("completed", "incomplete"):
            self._journal.violate(f"{turn.word} is {turn.outcome} and has no response")
        if taking.conversation.items != told:
            self._journal.violate(
                f"{turn.word} ({turn.outcome}): the history is not what its caller was told"
            )


def as_given(given: str | list[Item]) -> list[Item]:
    """The items that an input becomes."""
    if isinstance(given, list):
        return given
    return [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": given}]}]
