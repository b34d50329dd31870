"""The play: takes the steps of a fault while a turn runs.

1. A step before an event is taken before the request is settled by it, so a turn that is cut just before its
   last event did not end well in the ledger either.
2. A step that ends the connection ends the turn with it, as if the client had hung up, and the ledger says so
   before the client can know.
3. The place of a fault that never comes is the turn's last event, that of its successor if it was steered.
"""

import json
from typing import Final, assert_never

import trio

from wspool.server.engine import Engine
from wspool.server.faults.script import Fault
from wspool.server.faults.steps import (
    Change,
    Close,
    Cut,
    Encode,
    Finish,
    Frames,
    Freeze,
    Handshake,
    Ignore,
    IgnoreClose,
    LatePongs,
    Moment,
    PrecedeClose,
    Reset,
    Say,
    Slice,
    Step,
    Treat,
    Wait,
    Write,
)
from wspool.server.line import CLOSE, TEXT, Line, frame
from wspool.server.models import Item
from wspool.server.protocol.create import Create, TurnCut
from wspool.server.protocol.grammar import Event, is_end

__all__ = ["Play", "Stage"]

#: Longest time that a client may take to answer a close frame, in seconds.
_CLOSE_TIMEOUT: Final = 2.0


class Stage:
    """What a play works on: one connection. `hang_up` drops it without a close frame."""

    def __init__(self, line: Line, nursery: trio.Nursery, engine: Engine) -> None:
        self.line: Final = line
        self.nursery: Final = nursery
        self.engine: Final = engine

    async def say(self, text: str) -> None:
        """Send a text frame."""
        await self.line.write(frame(TEXT, text.encode("utf-8", "backslashreplace")))

    def hang_up(self) -> None:
        """Drop the connection."""
        self.nursery.cancel_scope.cancel()


class Play:
    """One fault on its way, for one request or for a connection as a whole."""

    def __init__(self, fault: Fault, stage: Stage, create: Create | None = None) -> None:
        self._fault = fault
        self._stage = stage
        self._create = create
        self._left = fault.occurrence
        self._done = False
        self._hit = False
        self._cut = False
        self._event: Event = {}
        self._response: Item = {}
        self._sequence = 0
        self._change: Change | None = None
        self._encode: Encode | None = None

    async def at_receipt(self) -> None:
        """The request was read.

        Raises:
          TurnCut: nothing more is to be done with it.
        """
        if self._fault.at == "receipt":
            await self._begin()

    async def before(self, event: Event) -> None:
        """The engine is about to settle and send *event*.

        Raises:
          TurnCut: it must not; the request is settled.
          trio.BrokenResourceError: the connection is gone.
        """
        self._event, self._sequence = event, event["sequence_number"]
        self._hit = False
        kind: str = event["type"]
        if kind == "response.created" and "agent" not in event:
            self._response = {}
        if self._done or self._fault.at in ("receipt", "idle") or "agent" in event:
            return
        self._left -= self._fault.matches(kind)
        create = self._current()
        goes_on = kind == "response.incomplete" and create is not None and create.steers
        if self._left == 0 or (is_end(event) and not goes_on):
            self._done = self._hit = True
            if not self._fault.after:
                await self._begin()

    async def send(self, event: Event) -> None:
        """Send *event*, or what the fault makes of it.

        Raises:
          trio.BrokenResourceError: the connection is gone.
        """
        frames: Frames = [event]
        if self._change is not None:
            frames = self._change.make(self._moment())
            if not self._change.every:
                self._change = None
        for one in frames:
            await self._send(one)
        self._encode = None
        if "agent" not in event:
            self._response = event.get("response") or self._response
        self._sequence += 1
        if self._hit and self._fault.after:
            self._hit = False
            await self._begin()
        if self._fault.at == "idle" and is_end(event) and not self._done:
            self._done = True
            self._stage.nursery.start_soon(self.in_background)

    async def in_background(self) -> None:
        """Take the steps now, beside whatever else the connection does."""
        try:
            await self._begin()
        except (trio.BrokenResourceError, trio.ClosedResourceError, TurnCut):
            return  # the reader finds out by itself

    async def _send(self, one: Event | str) -> None:
        text = one if isinstance(one, str) else json.dumps(one, separators=(",", ":"), allow_nan=False)
        if self._encode is None:
            await self._stage.say(text)
        else:
            await self._stage.line.write(self._encode.encode(text.encode("utf-8", "backslashreplace")))

    def _current(self) -> Create | None:
        """The request that is not settled yet: the one that was sent, or one that continues it by itself."""
        create = self._create
        while create is not None and create.settled:
            create = create.successor
        return create

    def _moment(self) -> Moment:
        create = self._create
        return Moment(
            event=self._event,
            response=self._response,
            body=create.body if create else {},
            lane=create.lane if create else None,
            sequence=self._sequence,
        )

    async def _begin(self) -> None:
        self._done = True
        if self._fault.delay > 0:
            await trio.sleep(self._fault.delay)
        for step in self._fault.steps:
            await self._take(step)
        code = self._stage.engine.profile.close_after_error
        if code is not None and any(isinstance(step, Cut) and step.error for step in self._fault.steps):
            await self._take(Close(code.to_bytes(2)))
        if self._cut:
            raise TurnCut

    async def _take(self, step: Step) -> None:
        line, stage = self._stage.line, self._stage
        match step:
            case Reset():
                self._lose()
                await line.reset()
                raise trio.BrokenResourceError
            case Finish():
                self._lose()
                await line.finish()
                stage.hang_up()
                raise trio.BrokenResourceError
            case Close():
                self._lose()
                await line.write(frame(CLOSE, step.payload))
                line.seal()
                await trio.sleep(_CLOSE_TIMEOUT)  # the reader ends all this when the client has answered
                stage.hang_up()
                raise trio.BrokenResourceError
            case Wait():
                await trio.sleep(step.seconds)
            case Freeze():
                if step.reading:
                    line.stop_reading()
                if step.writing:
                    line.stop_writing()
                if step.seconds > 0:
                    await trio.sleep(step.seconds)
                    stage.hang_up()
                    raise trio.BrokenResourceError
            case Write():
                if step.background:
                    stage.nursery.start_soon(self._write_all, step)
                else:
                    await self._write(step)
            case Slice():
                line.slice(step.size, step.gap)
            case LatePongs():
                line.delay_pongs(step.delay, stage.nursery)
            case PrecedeClose():
                line.precede_close(step.data)
            case IgnoreClose():
                line.ignore_close()
            case Say():
                for one in step.make(self._moment()):
                    await self._send(one)
            case Change():
                self._change = step
            case Encode():
                self._encode = step
            case Cut():
                self._settle(step)
            case Ignore():
                self._cut = True
            case Treat():
                self._treat(step)
            case Handshake():
                pass  # taken while the connection was opened
            case _:
                assert_never(step)

    def _lose(self) -> None:
        create = self._current()
        if create is not None:
            self._stage.engine.settle(create, "lost")

    def _settle(self, step: Cut) -> None:
        self._cut = True
        create = self._current()
        if create is not None:
            rejected = not self._response
            if rejected:
                # There is no response yet, whatever id was kept for it.
                create.response_id = None
            outcome = step.outcome or ("rejected" if rejected else "failed")
            self._stage.engine.settle(create, outcome, step.error)

    def _treat(self, step: Treat) -> None:
        assert self._create is not None, "bug: Fault.needs_event did not see it"
        if step.response_id is not None:
            self._create.given_id = step.response_id
        if step.warm_up is not None:
            self._create.warm_up = step.warm_up

    async def _write(self, step: Write) -> None:
        for _ in range(step.times):
            await self._stage.line.write(step.data)
            if step.gap > 0:
                await trio.sleep(step.gap)

    async def _write_all(self, step: Write) -> None:
        try:
            await self._write(step)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return  # the reader finds out by itself
