"""The runner: many tasks, one pool, and no task's trouble is another's.

1. A task is one conversation. It waits in the pool's line at its first turn, so more tasks may run than
   there are connections; `concurrency` only bounds how many are started.
2. Whatever a task raises is its result. Two things end the run instead: an endpoint that cannot be reached,
   because every other task would only find out the same, and results that cannot be written.
3. What did not end is owed: it has no result, and the next run does it.
4. The first Ctrl-C, SIGTERM or SIGHUP starts no other task, puts those back that have sent nothing yet, and
   lets the others finish. The second cancels them, and the third ends the process (`signals.py`).
"""

import math
import sys
import time
from collections.abc import AsyncIterable, Callable, Mapping, Sequence
from typing import Any, cast

import trio

import wspool
from wspool.core.calls import described
from wspool.core.usage import Budget
from wspool.errors import BudgetExceededError, UnknownEffectsError
from wspool.pool.effects import EffectLedger
from wspool.rollout.checkpoints import Checkpoints
from wspool.rollout.limits import Limits
from wspool.rollout.method import Method
from wspool.rollout.outcomes import answer_of, ends_run
from wspool.rollout.progress import Progress, show_progress
from wspool.rollout.samples import Samples, take_samples
from wspool.rollout.scoring import Score
from wspool.rollout.signals import heard_signals
from wspool.rollout.standing import Standing
from wspool.rollout.summary import Meter, Summary
from wspool.rollout.tally import Tally
from wspool.rollout.tasks import Failure, Outcome, Result, Task
from wspool.rollout.tools import NoFilesError

__all__ = ["Run", "run_batch"]


async def run_batch(
    pool: "wspool.Pool",
    tasks: Sequence[Task],
    method: Method,
    *,
    meter: Meter,
    sink: Callable[[Mapping[str, Any]], None],
    concurrency: int = 128,
    total: int | None = None,
    checkpoints: Checkpoints | None = None,
    limits: Limits | None = None,
    tally: Tally | None = None,
    samples: Samples | None = None,
    quiet: bool = False,
) -> Summary:
    """Hold a conversation for every task.

    Args:
      pool: opened with *meter* as its instrument.
      tasks: what is to be done.
      method: how each is done.
      meter: counts turns.
      sink: takes the result line of each task as it ends.
      concurrency: tasks running at once, those waiting for a connection included.
      total: tasks of the whole batch, those with earlier results included.
      checkpoints: where each finished turn is kept, and what an earlier run has left to go on with. An
        agent of the caller's then has to look at `conversation.items` to see where it is.
      limits: what the run and each task may take.
      tally: of the scores of earlier runs, to go on with.
      samples: where it is noted how many connections there were.
      quiet: no progress.

    Returns:
      the numbers, with `problem` set if the run ended before its tasks did.

    Cancellation: running tasks are cancelled and have no result.
    """
    run = Run(
        pool, tasks, method, meter=meter, sink=sink, checkpoints=checkpoints, limits=limits, tally=tally
    )
    async with trio.open_nursery() as watchers:
        await watchers.start(run.watch_signals)
        watchers.start_soon(run.watch_clock)
        if samples is not None:
            watchers.start_soon(take_samples, run.progress, samples)
        if not quiet:
            watchers.start_soon(show_progress, run.progress, sys.stderr)
        try:
            await run.all(concurrency)
        finally:
            watchers.cancel_scope.cancel()
    return run.summary(len(tasks) if total is None else total)


class Run:
    """One run's state. Invariant: every started task is in flight, or counted in its standing, or owed.

    Args:
      tasks: what is to be done; if it comes one by one, `all` goes on until no more comes.
      budget: of the run, if it is kept with others; by default that of *limits*.

    The others are those of `run_batch`.
    """

    def __init__(
        self,
        pool: "wspool.Pool",
        tasks: Sequence[Task] | AsyncIterable[Task],
        method: Method,
        *,
        meter: Meter,
        sink: Callable[[Mapping[str, Any]], None],
        checkpoints: Checkpoints | None = None,
        limits: Limits | None = None,
        budget: Budget | None = None,
        tally: Tally | None = None,
    ) -> None:
        self._pool = pool
        self._tasks = tasks
        self._method = method
        self._meter = meter
        self._sink = sink
        self._in_flight = 0
        self._peak = 0
        self._draining = self._interrupted = False
        self._limits = limits or Limits()
        self._standing = Standing(self._limits, tally or Tally())
        self._budget = budget or self._limits.of_run()
        self._scope = trio.CancelScope()
        self._conversations: dict[wspool.Conversation, trio.CancelScope] = {}
        self._checkpoints = checkpoints
        self._running: dict[int, tuple[Task, wspool.Conversation]] = {}
        self._saved_turns = 0
        self._stopped: list[str] = []
        self._unknown: str | None = None
        if checkpoints is not None:
            meter.on_turn = self._turn_ended
        #: Why it ends before its tasks do, or None.
        self.problem: str | None = None

    async def watch_signals(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        with heard_signals(self._heard):
            task_status.started()
            await trio.sleep_forever()

    def _heard(self) -> None:
        if self._interrupted:
            self._scope.cancel()
        self._interrupted = True
        self.drain()

    async def watch_clock(self) -> None:
        if self._limits.max_seconds is not None:
            await trio.sleep(self._limits.max_seconds)
            self.drain(f"{self._limits.max_seconds:g} s have passed")

    def drain(self, problem: str | None = None) -> None:
        """Begin no other task, put those back that have sent nothing yet, and let the others finish."""
        self.problem = self.problem or problem
        self._draining = True
        for conversation, scope in self._conversations.items():
            statistics = conversation.statistics()
            if not statistics.full_turns + statistics.delta_turns:
                scope.cancel()  # it is still in line, and nothing was sent

    async def all(self, concurrency: int) -> None:
        """Run the tasks, so many at once. A checkpoint. Cancelling leaves those that run without a result."""
        limiter = trio.CapacityLimiter(concurrency)
        tasks = _OneByOne(self._tasks) if isinstance(self._tasks, Sequence) else self._tasks
        with self._scope:
            async with trio.open_nursery() as nursery:
                async for task in tasks:
                    await limiter.acquire_on_behalf_of(task.key)
                    if (spent := self._budget.problem) is not None:
                        self.drain(spent)
                    if self._draining:
                        break
                    nursery.start_soon(self._one, task, limiter)

    async def _one(self, task: Task, limiter: trio.CapacityLimiter) -> None:
        self._in_flight += 1
        try:
            result = await self._hold(task)
            if result is not None:
                self._sink(result.as_line())
                problem = self._standing.add(task.id, result.outcome, result.score, result.failure)
                if problem is not None:
                    self.drain(problem)
                if self._checkpoints is not None and result.failure is None:
                    await self._checkpoints.ended(task.key)
        except OSError as error:
            self.stop(f"a result could not be written: {error}")
        finally:
            self._in_flight -= 1
            self._peak = max(self._peak, self._pool.statistics().size)
            limiter.release_on_behalf_of(task.key)

    async def _hold(self, task: Task) -> Result | None:
        """Hold the conversation of *task*; None if it is owed after all."""
        began, began_at = trio.current_time(), time.time()
        conversation: wspool.Conversation | None = None
        answer: Any = None
        response: Mapping[str, Any] | None = None
        failure: Failure | None = None
        returned: object = None
        outcome: Outcome = "failed"
        score: Score | None = None
        scope = trio.CancelScope()

        def give_up(problem: NoFilesError) -> None:
            nonlocal failure
            failure = Failure.of(problem)
            scope.cancel()

        try:
            with scope:
                snapshot = self._resumed(task)
                fields: Mapping[str, Any] = (
                    {"resume": snapshot} if snapshot is not None else self._method.fields(task)
                )
                budget = self._limits.of_task(self._budget)
                limit = self._limits.task_timeout
                with trio.move_on_after(math.inf if limit is None else limit) as clock:
                    async with self._pool.conversation(budget=budget, **fields) as conversation:
                        self._conversations[conversation] = scope
                        self._running[conversation.number] = (task, conversation)
                        self._meter.phases.begin(conversation.number)
                        resumed = snapshot is not None
                        returned = await self._method.hold(
                            conversation, task, give_up, resumed=resumed, ledger=self._ledger(task)
                        )
                if clock.cancelled_caught:
                    raise trio.TooSlowError(f"the task took longer than {limit:g} s")
            if scope.cancel_called and failure is None:
                return None
            if failure is None:
                answer, response = answer_of(returned)
                items = conversation.items if conversation is not None else ()
                outcome, score = await self._method.judge(task, answer, response, items)
        except BaseException as error:  # noqa: ASYNC103  # raised again by the next line, if it is not the task's
            _let_pass(error)
            if scope.cancel_called and failure is None:
                return None  # noqa: ASYNC104  # the same
            if self._is_owed_after(task, error):
                return None  # noqa: ASYNC104  # the same
            failure = failure or Failure.of(error)
        finally:
            if conversation is not None:
                del self._conversations[conversation], self._running[conversation.number]
                self._meter.conversation_ended(conversation.statistics())
        return Result(
            task=task,
            outcome=outcome,
            answer=answer,
            response=response,
            failure=failure,
            items=conversation.items if conversation is not None else (),
            statistics=conversation.statistics() if conversation is not None else None,
            seconds=trio.current_time() - began,
            began=began_at,
            model=_model(response, self._method.fields(task)),
            price=self._limits.price,
            score=score.value if score is not None else None,
            scores=score.parts if score is not None else None,
            phases=self._meter.phases.take(conversation.number) if conversation is not None else None,
        )

    def _resumed(self, task: Task) -> Mapping[str, Any] | None:
        """What an earlier run has left of the conversation, if it can be gone on with."""
        checkpoint = self._checkpoints.owed.get(task.key) if self._checkpoints is not None else None
        if checkpoint is None or not self._method.goes_on(checkpoint.snapshot["items"]):
            return None  # with no call to answer it had ended, in the moment before its result was written
        self._saved_turns += checkpoint.turns
        return checkpoint.snapshot

    def _ledger(self, task: Task) -> EffectLedger | None:
        return self._checkpoints.ledger(task.key) if self._checkpoints is not None else None

    def _is_owed_after(self, task: Task, error: BaseException) -> bool:
        """Whether *error* is no result of *task*: it is the run's, or there is something to look at first."""
        if isinstance(error, UnknownEffectsError):
            self._left_to_a_person(task, error)
            return True
        if isinstance(error, BudgetExceededError) and (spent := self._budget.problem) is not None:
            self.drain(spent)
            return True
        if isinstance(error, OSError) and self._method.agent is None and self._checkpoints is not None:
            self.stop(
                f"a call of a tool could not be noted: {error}"
            )  # the model is told of what tools raise
            return True
        if ends_run(error):
            self.stop(Failure.of(error).message)
            return True
        return False

    def _left_to_a_person(self, task: Task, error: UnknownEffectsError) -> None:
        """The task stays owed; the others go on."""
        self._stopped.append(f"{task.id}: {described(error.calls)}")
        more = f", and {len(self._stopped) - 1} tasks more" if len(self._stopped) > 1 else ""
        self._unknown = (
            f"nobody knows what came of calls that were begun before (task {self._stopped[0]}{more}); see "
            "what they did, then go on with --unknown-effects tell"
        )

    def _turn_ended(self, number: int) -> None:
        running = self._running.get(number)  # a branch that an agent has made is not the task's conversation
        if running is not None and self._checkpoints is not None:
            task, conversation = running
            state, items = conversation.checkpoint()
            if not self._method.goes_on_from(items):
                return  # it has ended: should its result be lost, only this turn is taken again
            try:
                self._checkpoints.append(task.key, state, items)
            except OSError as error:
                self.stop(f"a finished turn could not be written: {error}")

    def stop(self, problem: str | None) -> None:
        """Cancel the tasks that run: they are owed. Never waits."""
        self.problem = self.problem or problem
        self._draining = True
        self._scope.cancel()

    @property
    def _count(self) -> int:
        return len(self._tasks) if isinstance(self._tasks, Sequence) else 0

    def progress(self) -> Progress:
        return self._standing.progress(
            self._pool.statistics(),
            total=self._count,
            in_flight=self._in_flight,
            turns=self._meter.turns,
            draining=self._draining,
        )

    def summary(self, total: int) -> Summary:
        return self._standing.summary(
            self._meter,
            self._pool.statistics(),
            tasks=total,
            owed=self._count - self._standing.ended,
            skipped=total - self._count,
            saved_turns=self._saved_turns,
            peak_connections=self._peak,
            interrupted=self._interrupted,
            problem=self.problem or self._unknown,
        )


class _OneByOne:
    """Tasks that are all there, as if they came. No generator: leaving one before its end is reported."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._tasks = iter(tasks)

    def __aiter__(self) -> "_OneByOne":
        return self

    async def __anext__(self) -> Task:  # noqa: ASYNC124 # as those that come
        for task in self._tasks:
            return task
        raise StopAsyncIteration


def _let_pass(error: BaseException) -> None:
    """Raise what is not the task's own: a cancellation, or Ctrl-C.

    In a group, as of an agent's nursery that was cancelled while something in it failed, only that counts: a
    task that was cancelled has no result.
    """
    if isinstance(error, KeyboardInterrupt | trio.Cancelled):
        raise error
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        ours, _ = group.split((KeyboardInterrupt, trio.Cancelled))
        if ours is not None:
            raise ours from None


def _model(response: Mapping[str, Any] | None, fields: Mapping[str, Any]) -> str | None:
    said = (response or {}).get("model", fields.get("model"))
    return said if isinstance(said, str) else None
