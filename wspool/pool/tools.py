"""Making the calls that responses ask for: many at once, and what came of each is kept until it is history.

Rules of this module:

* A tool's exception becomes that call's output unless asked otherwise: the model can often go on, and one bad
  call must not cost the other calls of the turn. It is logged with its traceback and counted, or a bug of the
  caller's would be seen by the model alone.
* A model chooses how many calls there are. At most so many run at once, and no more tasks are started.
* What has run is never run again for the same call: its output is kept until it is part of the history, also
  if the turn that asked for it, or the one that was to carry it, was lost.
* But an output that no request can carry is of no use to anybody: it is dropped, and the call can be made
  again, or be closed.
* A call of which only a lost response knew, and that its retry does not repeat, is told to the model as what
  it was: a call with its output.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextvars import copy_context
from typing import Final, Protocol

import attrs
import trio
from trio.lowlevel import enable_ki_protection

from wspool.core.begun import ToolBegun
from wspool.core.calls import Opening, answer, described, open_calls, output_of, retold, tool_calls
from wspool.core.encoding import Encoded
from wspool.core.frames import encode
from wspool.core.items import Item
from wspool.core.plain import plain
from wspool.core.statistics import ToolRecord
from wspool.pool.calling import ToolErrors, bound
from wspool.pool.effects import Effects
from wspool.pool.instrument import Announcer
from wspool.pool.job import Job, Jobs
from wspool.pool.toolbox import Tool, ToolError
from wspool.pool.within import Within, added_to

__all__ = [
    "CallAccount",
    "CallRunner",
    "Job",
    "Tool",
    "ToolErrors",
    "call_tools",
    "open_calls",
    "tool_calls",
]

logger = logging.getLogger("wspool.pool")

#: Longest name of a tool that is told of, in characters: a model may write any.
_LONGEST_NAME: Final = 200


class CallAccount(Protocol):
    """Where the calls of a conversation are counted.

    Attributes:
        number: the number of the conversation, if it is one.
        tool_calls: calls made so far.
        tool_errors: of those, the ones that failed.
    """

    number: int | None
    tool_calls: int
    tool_errors: int


@attrs.define
class Apart:
    """The account of calls that no conversation makes."""

    number: int | None = None
    tool_calls: int = 0
    tool_errors: int = 0


class CallRunner:
    """Makes the calls of one conversation, and keeps what came of them until it is history.

    Args:
        account: where calls are counted.
        limit: calls that run at once at most.
        announcer: tells of each call, if anybody does.

    Attributes:
        tools: what to call, by name.
        tool_errors: what becomes of a tool's exception.
        nursery: where calls run beside everything else, while there is one.
        effects: notes calls where a crash does not reach them, if anybody asked for it.
    """

    def __init__(self, account: CallAccount, limit: int, announcer: Announcer | None = None) -> None:
        self._announcer = announcer
        self.tools: Mapping[str, Tool] = {}
        self.tool_errors: ToolErrors = "return"
        self.nursery: trio.Nursery | None = None
        self.effects: Effects | None = None
        self._account = account
        self._limit = limit
        self._jobs = Jobs()
        self._queue: deque[Job] = deque()
        self._running: dict[int, Job] = {}
        self._workers = 0
        self._failures: list[Exception] = []
        self._retold = 0
        #: The input of the turn that did not end well, if that was the last one.
        self._lost: list[Encoded] | None = None
        #: Woken whenever a job is over.
        self._news = trio.lowlevel.ParkingLot()

    def prepare(self, tools: Mapping[str, Tool], tool_errors: ToolErrors, effects: Effects | None) -> None:
        """A loop begins, with these."""
        self.tools, self.tool_errors, self.effects = tools, tool_errors, effects

    # -- what is known ------------------------------------------------------------------------

    def claim(self, calls: Sequence[Item]) -> list[Job]:
        """Return the job of each of *calls*: one that knows it, or one of a lost response, or a new one."""
        return self._jobs.claim(calls)

    def settle(self, calls: Sequence[Item]) -> None:
        """The open calls of the history are *calls*: what is known of others in it is of no use any more."""
        still = self.claim(calls)
        for job in still:
            job.counts = True
        keep = set(map(id, still))
        self._jobs.keep([job for job in self._jobs if id(job) in keep or not job.counts])

    def ended_well(self, calls: Sequence[Item]) -> None:
        """A turn has ended well, and left the open *calls*: nothing before it is to be taken again."""
        self._lost = None
        self.settle(calls)

    def hand_out(self, jobs: Sequence[Job]) -> list[Item]:
        """Return what answers *jobs*, to be sent with the next turn."""
        for job in jobs:
            job.sent = True
        return [job.answer for job in jobs]

    def recall(self, plan: Opening) -> None:
        """Ask the ledger, if there is one, what came of the calls of *plan*; see `Effects.recall`."""
        if self.effects is not None:
            self.effects.recall(self.claim(plan.run), self.tools, make=True)
            self.effects.recall(self.claim(plan.close), self.tools, make=False)

    def is_retry(self, new: Sequence[Encoded]) -> bool:
        """Whether a turn with the input *new* did not end well after calls of its response had been made."""
        return self._lost == [*new]

    def release(self, new: Sequence[Encoded]) -> None:
        """The turn with the input *new* did not end well: what its response asked for is kept for a retry."""
        self._lost = [*new]
        lost = self._uncounted()
        begun = [job.call for job in lost if job.begun and job.claimed]
        self._jobs.release(lost)
        if begun:
            logger.warning(
                "conversation %s: a response did not end well after calls of it were made: %s; "
                "what came of them is kept for the same calls",
                self._account.number,
                described(begun),
            )

    def drop_oversized(self, limit: int) -> None:
        """No request may have more than *limit* bytes: forget the largest outputs until the rest may fit."""
        sizes = [(len(encode(job.answer)), job) for job in self._jobs if job.sent]
        left = sum(size for size, _ in sizes)
        for size, job in sorted(sizes, key=lambda each: each[0], reverse=True):
            if left <= limit:
                return
            left -= size
            job.drop()
            logger.error(
                "conversation %s, %s: %d bytes of output are more than a request may have; they are dropped",
                self._account.number,
                described([job.call]),
                size,
            )

    def strays(self) -> list[Item]:
        """Return items that tell of the calls that were made and that no history has, and forget them."""
        items: list[Item] = []
        for job in self._uncounted():
            if job.begun:
                job.scope.cancel()
                self._retold += 1
                call = retold(job.call, self._retold)
                items += [call, answer(call, job.answer["output"])]
            elif job.state == "queued":
                job.state = "new"
        self._jobs.keep([job for job in self._jobs if job.counts])
        if items:
            logger.warning(
                "conversation %s: calls were made of which only a lost response knew: %s; the model is told",
                self._account.number,
                described(items[::2]),
            )
        return items

    def _uncounted(self) -> list[Job]:
        return [job for job in self._jobs if not job.counts]

    # -- making calls -------------------------------------------------------------------------

    def start(self, jobs: Sequence[Job]) -> None:
        """Have those of *jobs* made that were not begun, beside everything else. Never waits."""
        if self.nursery is None:
            raise AssertionError("bug: nowhere to start it")
        for job in jobs:
            if job.state == "new":
                self._spawn(job, self.nursery)

    async def answers(self, calls: Sequence[Item]) -> list[Job]:
        """Make *calls*, those that were not made yet; return their jobs, in their order, all over.

        A checkpoint. Cancelling cancels the async tools and waits for the threads of the others.

        Raises:
            Exception: what a tool raised, with `tool_errors="raise"`.
        """
        jobs = self.claim(calls)
        todo = [job for job in jobs if job.state == "new"]
        if self.nursery is not None:
            self.start(todo)
            for over in [job.over for job in jobs]:
                await over.wait()
        elif len(todo) == 1:  # the common case needs no tasks
            await self._make(self._begin(todo[0]))
        elif todo:
            async with trio.open_nursery() as nursery:
                for job in todo:
                    self._spawn(job, nursery)
        else:
            await trio.lowlevel.checkpoint()
        self.check()
        return jobs

    async def first(self, jobs: Sequence[Job]) -> None:
        """Wait until one of *jobs* has ended. A checkpoint. Raises what `answers` does."""
        await trio.lowlevel.checkpoint()
        while not (self._failures or any(job.state == "ended" for job in jobs)):
            await self._news.park()
        self.check()

    def check(self) -> None:
        """Raise what tools have raised, with `tool_errors="raise"`: bare, if it was one."""
        failures, self._failures = self._failures, []
        if len(failures) == 1:
            raise failures[0]
        if failures:
            raise ExceptionGroup("several tools failed", failures)

    @property
    def failing(self) -> bool:
        """Whether a tool has failed, and its exception is to be raised."""
        return bool(self._failures)

    def stop(self) -> None:
        """The loop is over: nothing is made any more, and what was not sent is still to be sent."""
        self.nursery = None
        self._failures = []
        self._drop_queue()
        for job in self._jobs:
            job.sent = False

    def _drop_queue(self) -> None:
        for job in self._queue:
            job.rest()
        self._queue.clear()

    def _spawn(self, job: Job, nursery: trio.Nursery) -> None:
        if self._workers < self._limit:
            self._workers += 1
            nursery.start_soon(self._work, self._begin(job))
        else:
            job.state = "queued"
            self._queue.append(job)

    @enable_ki_protection
    async def _work(self, job: Job) -> None:
        """Make *job*, then whatever waits."""
        try:
            await self._make(job)
            while self._queue:
                job = self._queue.popleft()
                if job.state == "queued":
                    await self._make(self._begin(job))
        finally:
            self._workers -= 1

    def _begin(self, job: Job) -> Job:
        job.state = "running"
        self._running[id(job)] = job
        self._account.tool_calls += 1
        return job

    async def _make(self, job: Job) -> None:
        if self._announcer is None or not self._announcer.sees_tools:
            await self._call(job)
            return
        job.error = "Cancelled"
        begun = ToolBegun(
            pool=self._announcer.pool,
            conversation=self._account.number,
            name=plain(str(job.call.get("name") or ""), _LONGEST_NAME),
            call_id=plain(str(job.call.get("call_id") or ""), _LONGEST_NAME),
            started=trio.current_time(),
            context=copy_context(),
        )
        if self._announcer.sees_tools_begin:
            self._announcer.calling(begun)
        try:
            with Within(added_to(begun.context)):
                await self._call(job)
        finally:
            record = ToolRecord(
                pool=begun.pool,
                conversation=begun.conversation,
                name=begun.name,
                call_id=begun.call_id,
                started=begun.started,
                duration=trio.current_time() - begun.started,
                error=job.error,
                context=begun.context,
            )
            self._announcer.called(record)

    async def _call(self, job: Job) -> None:
        try:
            with job.scope:
                try:
                    name, call = bound(job.call, self.tools)
                except Exception as error:
                    self._failed(job, error, by_model=True)
                    return
                if self.effects is not None and not await self._begun(self.effects, job):
                    return
                try:
                    job.output = output_of(await call(), name)
                    job.error = None
                except Exception as error:
                    self._failed(job, error, by_model=isinstance(error, ToolError))
                if self.effects is not None:
                    self._noted(self.effects.end, job)
        finally:
            del self._running[id(job)]
            job.rest()
            self._news.unpark_all()

    async def _begun(self, effects: Effects, job: Job) -> bool:
        """Note that a call is about to be made; return whether it may be. Else the loop ends."""
        if not self._noted(effects.begin, job):
            return False
        try:
            await effects.secure(job, self.tools)
        except Exception as error:
            if not self._failures:
                self._raise(job, error)
            return False
        return True

    def _noted(self, note: Callable[[Job], None], job: Job) -> bool:
        """Tell the ledger; return whether that went well. Else the loop ends."""
        try:
            note(job)
        except Exception as error:
            if not self._failures:  # the others fail with the same
                self._raise(job, error)
            return False
        return True

    def _raise(self, job: Job, error: Exception) -> None:
        """End the loop with *error*, of the call of *job*."""
        self._failures.append(error)
        for other in self._running.values():
            if other is not job:
                other.scope.cancel()
        self._drop_queue()

    def _failed(self, job: Job, error: Exception, *, by_model: bool) -> None:
        """The call of *job* has failed; *by_model* if nothing is wrong but what the model asked for."""
        self._account.tool_errors += 1
        job.failed, job.error = True, type(error).__name__
        if self.tool_errors == "raise":
            self._raise(job, error)
            return
        job.output = f"Error: {type(error).__name__}: {error}"
        if by_model:
            shown = plain(f"{type(error).__name__}: {error}")
            logger.info("conversation %s, %s: %s", self._account.number, described([job.call]), shown)
        else:
            logger.error(
                "conversation %s: a tool failed, and only the model is told so: %s",
                self._account.number,
                described([job.call]),
                exc_info=error,
            )


async def call_tools(
    calls: Sequence[Item], tools: Mapping[str, Tool], tool_errors: ToolErrors, limit: int = 256
) -> list[Item]:
    """Make *calls*, many at the same time; return the answering items in call order.

    A checkpoint. Cancelling cancels the async tools and waits for the threads of the others.

    Raises:
        Exception: what a tool raised, with `tool_errors="raise"`.
    """
    runner = CallRunner(Apart(), limit)
    runner.prepare(tools, tool_errors, None)
    return [job.answer for job in await runner.answers(calls)]
