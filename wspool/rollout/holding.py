"""Holding: the conversation about one task, from its first turn to its result.

Whatever a task raises is its result. What is no result of it leaves it owed, and says what becomes of the
run: an endpoint that cannot be reached ends it, because every other task would only find out the same, and so
do turns and calls that cannot be noted; a budget that is spent lets the others finish.

A run that finishes what runs (`Holder.drain`) puts back what has sent nothing yet, and what the endpoint
keeps waiting: nobody knows for how long. At once if nothing is lost with it, and after a moment if turns are,
as many refusals are over by then. What has a request on its way, or a tool at work, is waited for.
"""

import math
import time
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, Final, cast

import attrs
import trio

import wspool
from wspool.core.begun import ToolBegun, TurnBegun
from wspool.core.calls import described
from wspool.core.effects import UNKNOWN
from wspool.core.statistics import PoolStatistics, ToolRecord
from wspool.core.usage import Budget
from wspool.errors import BudgetExceededError, UnknownEffectsError
from wspool.pool.effects import EffectLedger
from wspool.rollout.checkpoints import Checkpoints
from wspool.rollout.intake import Intake
from wspool.rollout.limits import Limits
from wspool.rollout.method import Method
from wspool.rollout.outcomes import answer_of, ends_run
from wspool.rollout.scoring import Score
from wspool.rollout.summary import Meter
from wspool.rollout.tasks import Failure, Outcome, Result, Task, behind
from wspool.rollout.tools import NoFilesError

__all__ = ["Held", "Holder"]

#: Seconds for which a task that has taken turns is left to wait for the endpoint, once the run shall end.
_A_MOMENT: Final = 5.0


@attrs.frozen
class Held:
    """What came of a task.

    Attributes:
      result: how it ended; None if it is owed.
      drain: why the run has to begin no other task, or None.
      stop: why it has to end at once, or None.
      waited: for what of the endpoint it waited when it was put back, or None.
    """

    result: Result | None = None
    drain: str | None = None
    stop: str | None = None
    waited: str | None = None


@attrs.define(eq=False)
class _Begun:
    """A task that was begun."""

    task: Task
    conversation: wspool.Conversation
    scope: trio.CancelScope
    #: Its conversation, and the branches of that.
    numbers: set[int | None]
    #: How many of its calls run.
    tools: int = 0
    #: Since when the endpoint keeps it waiting, as somebody saw who looked.
    withheld_since: float = math.inf
    waited: str | None = None


#: The task in whose context something happens.
_BEGUN: ContextVar[_Begun] = ContextVar("_BEGUN")


class Holder:
    """Holds the conversations of one pool.

    Args:
      pool: opened with *meter* as its instrument.
      method: how each is held.
      meter: counts turns.
      limits: what each task may take.
      budget: of the run.
      checkpoints: where each finished turn is kept, if that is wanted.

    Attributes:
      saved_turns: turns that an earlier run has left, and that need not be taken again.
      unknown_calls: calls of an earlier run of which the model was told that their outcome is unknown.
      unknown: what a person has to look at before some of the tasks can go on, or None.
    """

    def __init__(
        self,
        pool: "wspool.Pool",
        method: Method,
        *,
        meter: Meter,
        limits: Limits,
        budget: Budget,
        checkpoints: Checkpoints | None = None,
    ) -> None:
        self._pool = pool
        self._method = method
        self._meter = meter
        self._limits = limits
        self._budget = budget
        self._checkpoints = checkpoints
        #: By the numbers of their conversations.
        self._running: dict[int, _Begun] = {}
        self._stopped: list[str] = []
        self._unwritten: str | None = None
        self._draining = False
        self._intake = Intake(pool.statistics)
        self.saved_turns = self.unknown_calls = 0
        self.unknown: str | None = None
        meter.on_begin, meter.on_free = self._asked, self._intake.changed
        meter.on_tool = self._called
        if checkpoints is not None:
            meter.on_turn = self._turn_ended

    @property
    def spent(self) -> str | None:
        """Why no task may be begun any more, or None."""
        return self._budget.problem

    def statistics(self) -> PoolStatistics:
        """Of the pool."""
        return self._pool.statistics()

    def drain(self) -> None:
        """Begin no other, and put those back that need not end, as of now: to be called again and again.

        Never waits.
        """
        self._draining = True
        self._intake.end()
        withheld = self._pool.withheld()
        at_work = {turn.conversation for turn in self._pool.turns()} if withheld else set[int | None]()
        for begun in self._running.values():
            statistics = begun.conversation.statistics()
            if not statistics.full_turns + statistics.delta_turns:
                begun.scope.cancel()  # it is still in line, and nothing was sent
            elif withheld & begun.numbers and not begun.tools and not at_work & begun.numbers:
                self._put_back(begun, statistics.turns)

    def _put_back(self, begun: _Begun, turns: int) -> None:
        """The endpoint keeps *begun* waiting, which has taken so many *turns*."""
        now, pool = trio.current_time(), self._pool.statistics()
        begun.withheld_since = min(begun.withheld_since, now)
        patience = _A_MOMENT if turns and self._checkpoints is None else 0.0
        if now + pool.held >= begun.withheld_since + patience:
            begun.waited = pool.held_for or ("a connection" if self._pool.failure else "the endpoint")
            begun.scope.cancel()

    async def room(self, task: Task) -> None:
        """Wait until *task* may begin (`wspool.rollout.intake`). A checkpoint."""
        await self._intake.room(task.key)

    async def hold(self, task: Task) -> Held:
        """Hold the conversation of *task*, for which there was `room`.

        A checkpoint; cancelling leaves it without a result.
        """
        if self._draining:
            self._intake.ended(task.key)
            return Held()
        if task.refused is not None:
            self._intake.ended(task.key)
            return Held(_refused(task))
        return await self._hold(task)

    async def _hold(self, task: Task) -> Held:
        began, began_at = trio.current_time(), time.time()
        conversation: wspool.Conversation | None = None
        returned = answer = cast("Any", None)
        response: Mapping[str, Any] | None = None
        failure: Failure | None = None
        outcome: Outcome = "failed"
        score: Score | None = None
        begun: _Begun | None = None
        scope = trio.CancelScope()

        def give_up(problem: NoFilesError) -> None:
            nonlocal failure
            failure = Failure.of(problem)
            scope.cancel()

        try:
            with scope:
                snapshot = self._resumed(task)
                resumed = snapshot is not None
                fields: Mapping[str, Any] = {"resume": snapshot} if resumed else self._method.fields(task)
                budget, limit = self._limits.of_task(self._budget), self._limits.task_timeout
                with trio.move_on_after(math.inf if limit is None else limit) as clock:
                    async with self._pool.conversation(budget=budget, **fields) as conversation:
                        begun = _Begun(task, conversation, scope, {conversation.number})
                        self._begin(begun)
                        returned = await self._method.hold(
                            conversation, task, give_up, resumed=resumed, ledger=self._ledger(task)
                        )
                if clock.cancelled_caught:
                    raise trio.TooSlowError(f"the task took longer than {limit:g} s")
            if scope.cancel_called and failure is None:
                return self._put_back_by(begun)
            if failure is None:
                answer, response = answer_of(returned)
                items = conversation.items if conversation is not None else ()
                outcome, score = await self._method.judge(task, answer, response, items)
        except BaseException as error:  # noqa: ASYNC103  # raised again by the next line, if it is not the task's
            _let_pass(error)
            if scope.cancel_called and failure is None:
                return self._put_back_by(begun)  # noqa: ASYNC104  # the same
            if (owed := self._owed_after(task, error)) is not None:
                return owed  # noqa: ASYNC104  # the same
            failure = failure or Failure.of(error)
        finally:
            self._intake.ended(task.key)
            if conversation is not None:
                del self._running[conversation.number]
                self._meter.conversation_ended(conversation.statistics())
        items = conversation.items if conversation is not None else ()
        self.unknown_calls += sum(item.get("output") == UNKNOWN for item in items)
        result = Result(
            task=task,
            outcome=outcome,
            answer=answer,
            response=response,
            failure=failure,
            items=items,
            statistics=conversation.statistics() if conversation is not None else None,
            seconds=trio.current_time() - began,
            began=began_at,
            model=_model(response, self._method.fields(task)),
            price=self._limits.price,
            score=score.value if score is not None else None,
            scores=score.parts if score is not None else None,
            better=score.better if score is not None else None,
            phases=self._meter.phases.take(conversation.number) if conversation is not None else None,
        )
        return Held(result, drain=self.spent)

    async def ended(self, result: Result) -> None:
        """*result* is written: nothing goes on with its conversation. A checkpoint, where there are any.

        Raises:
          OSError: that could not be written.
        """
        if self._checkpoints is not None and result.failure is None:
            await self._checkpoints.ended(result.task.key)

    def _resumed(self, task: Task) -> Mapping[str, Any] | None:
        """What an earlier run has left of the conversation, if it can be gone on with."""
        checkpoint = self._checkpoints.owed.get(task.key) if self._checkpoints is not None else None
        if checkpoint is None or not self._method.goes_on(checkpoint.snapshot["items"]):
            return None  # with no call to answer it had ended, in the moment before its result was written
        self.saved_turns += checkpoint.turns
        return checkpoint.snapshot

    def _ledger(self, task: Task) -> EffectLedger | None:
        return self._checkpoints.ledger(task.key) if self._checkpoints is not None else None

    def _owed_after(self, task: Task, error: BaseException) -> Held | None:
        """What follows if *error* is no result of *task*, but of the run, or something to look at first."""
        # An agent may have made an error of its own of it.
        unknown = behind(error, lambda each: isinstance(each, UnknownEffectsError))
        if isinstance(unknown, UnknownEffectsError):
            self._left_to_a_person(task, unknown)
            return Held()
        spent = self._budget.problem
        if spent is not None and behind(error, lambda each: isinstance(each, BudgetExceededError)):
            return Held(drain=spent)
        if (ending := behind(error, ends_run)) is not None:
            return Held(stop=Failure.of(ending).message)
        if isinstance(error, OSError) and self._method.agent is None and self._checkpoints is not None:
            # The model is told of what tools raise.
            return Held(stop=f"a call of a tool could not be noted: {error}")
        return None

    def _left_to_a_person(self, task: Task, error: UnknownEffectsError) -> None:
        """The task stays owed; the others go on."""
        self._stopped.append(f"{task.id}: {described(error.calls)}")
        more = f", and {len(self._stopped) - 1} tasks more" if len(self._stopped) > 1 else ""
        self.unknown = (
            f"nobody knows what came of calls that were begun before (task {self._stopped[0]}{more}); see "
            "what they did, then go on with --unknown-effects tell"
        )

    def _begin(self, begun: _Begun) -> None:
        self._running[begun.conversation.number] = begun
        _BEGUN.set(begun)
        self._meter.phases.begin(begun.conversation.number)

    def _asked(self, record: TurnBegun) -> None:
        begun = record.context.get(_BEGUN)
        if begun is not None and begun.conversation.number in self._running:
            begun.numbers.add(record.conversation)
            begun.withheld_since = math.inf
            self._intake.asked(begun.task.key)

    def _called(self, record: ToolBegun | ToolRecord) -> None:
        if record.context is not None and (begun := record.context.get(_BEGUN)) is not None:
            begun.tools += 1 if isinstance(record, ToolBegun) else -1

    def _turn_ended(self, number: int) -> None:
        begun = self._running.get(number)  # a branch that an agent has made is not the task's conversation
        if begun is not None and self._checkpoints is not None:
            task = begun.task
            state, items = begun.conversation.checkpoint()
            if not self._method.goes_on_from(items):
                return  # it has ended: should its result be lost, only this turn is taken again
            try:
                self._checkpoints.append(task.key, state, items)
            except OSError as error:
                self._unwritten = f"a finished turn could not be written: {error}"
                begun.scope.cancel()

    def _put_back_by(self, begun: _Begun | None) -> Held:
        return Held(stop=self._unwritten, waited=begun.waited if begun is not None else None)


def _let_pass(error: BaseException) -> None:
    """Raise what is not the task's own: a cancellation of the run.

    In a group, as of an agent's nursery that was cancelled while something in it failed, only that counts: a
    task that was cancelled has no result. Whatever else comes is what the agent has raised: Ctrl-C is heard
    by the run (`wspool.rollout.signals`) and raises nothing in a task, nor is there any on another machine.
    """
    if trio.current_effective_deadline() > -math.inf:
        return  # nobody has cancelled it: a cancellation is an old one, which the agent had kept
    if isinstance(error, trio.Cancelled):
        raise error
    if isinstance(error, BaseExceptionGroup):
        ours, _ = cast("BaseExceptionGroup[BaseException]", error).split(trio.Cancelled)
        if ours is not None:
            raise ours from None


def _refused(task: Task) -> Result:
    """What came of a task that cannot be sent."""
    return Result(
        task=task,
        outcome="failed",
        answer=None,
        response=None,
        failure=Failure(type="ValueError", message=str(task.refused)),
        items=(),
        statistics=None,
        seconds=0.0,
        began=time.time(),
    )


def _model(response: Mapping[str, Any] | None, fields: Mapping[str, Any]) -> str | None:
    said = (response or {}).get("model", fields.get("model"))
    return said if isinstance(said, str) else None
