"""The network as trio-websocket sees it, with eyes for what that overlooks.

Rules of this module:

* trio-websocket gets no byte of a frame that is refused, and everything that came before.
* Of the answer to the upgrade it gets a 101, as `wspool.wire.answer` has read it; no interim answer, and no
  refusal.
* It gets nothing that came behind the 101 until there is a wire: the two would run a race.
* The first reason for the end stays the reason.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, NoReturn

import trio

from wspool.wire.answer import AnswerReader, NotHttpError
from wspool.wire.gauge import STEP, Gauge
from wspool.wire.heads import FrameHeads

__all__ = ["GuardedStream"]

_SWITCHING_PROTOCOLS: Final = 101

# Close code of RFC 6455 section 7.4.1.
_PROTOCOL_ERROR: Final = 1002


class GuardedStream(trio.abc.Stream):
    """Remembers what happened, refuses bad frames, closes without waiting.

    Args:
        stream: the network.
        max_message_size: bytes of a message.
    """

    def __init__(self, stream: trio.abc.Stream, max_message_size: int) -> None:
        self._stream = stream
        #: When bytes last came, on trio's clock.
        self.heard_at = trio.current_time()
        #: Cancelled when the stream ends; the upgrade waits inside it.
        self.upgrade = trio.CancelScope()
        #: What came so far, while the upgrade is going on; None afterwards.
        self.answer: AnswerReader | None = AnswerReader()
        #: The exception that ended the stream, None after a plain end.
        self.cause: Exception | None = None
        #: True once a write was cut short: the frame on the network may be incomplete.
        self.poisoned = False
        #: Close code and text when this side gave up on the peer.
        self.verdict: tuple[int, str] | None = None
        self.gauge = Gauge()
        self._heads = FrameHeads(max_message_size)
        #: What came behind the 101, until there is a wire.
        self._behind: bytes | bytearray = b""
        self._opened = trio.Event()
        self._say_goodbye: Callable[[int, str], Awaitable[None]] | None = None

    def open(self, say_goodbye: Callable[[int, str], Awaitable[None]]) -> None:
        """There is a wire now; *say_goodbye* tells its peer the code and the text of a refusal."""
        self._say_goodbye = say_goodbye
        self.answer = None
        self._opened.set()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self.poisoned:
            raise trio.BrokenResourceError("an earlier write was cut short")
        # Cancelled here means that nothing was written, which leaves the stream usable.
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            await self._stream.send_all(data)
        except BaseException as error:
            self.poisoned = True
            if isinstance(error, Exception):
                self._end(error)
            raise

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        if self._heads.refused is not None:
            await self._refuse()
        if self.answer is not None and self.answer.status == _SWITCHING_PROTOCOLS:
            await self._opened.wait()
        if self._behind:
            behind, self._behind = self._behind, b""
            return await self._judge(behind)
        if self.answer is not None:
            return await self._take_answer(self.answer, max_bytes)
        data = await self._read(max_bytes)
        return await self._judge(data) if data else data

    async def _read(self, max_bytes: int | None) -> bytes | bytearray:
        try:
            data = await self._stream.receive_some(max_bytes)
        except Exception as error:
            self._end(error)
            raise
        if data:
            self.heard_at = trio.current_time()
        else:
            self._end(None)
        return data

    async def aclose(self) -> None:
        # trio-websocket calls this where a caller waits; there is nothing to wait for.
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(self._stream)

    async def _take_answer(self, answer: AnswerReader, max_bytes: int | None) -> bytes | bytearray:
        """Read the answer to the upgrade; return what trio-websocket is told of it, nothing if that is no."""
        while data := await self._read(max_bytes):
            try:
                complete = answer.feed(data)
            except NotHttpError as error:
                self._give_up(_PROTOCOL_ERROR, str(error))
            if answer.status == _SWITCHING_PROTOCOLS:
                self._behind = answer.rest
                return answer.handshake
            if complete:
                self._end(None)
                break
        return b""

    async def _judge(self, data: bytes | bytearray) -> bytes | bytearray:
        """Return what of *data* may be used; what may not ends the wire at the next call."""
        used = self._heads.feed(data)
        self.gauge.partial = self._heads.held
        if self._heads.held >= STEP:
            self.gauge.check()
        if used == len(data):
            return data
        if not used:
            await self._refuse()
        return data[:used]

    async def _refuse(self) -> NoReturn:
        refused = self._heads.refused
        assert refused is not None
        assert self._say_goodbye is not None
        self.verdict = (refused.code, refused.reason)
        await self._say_goodbye(refused.code, refused.reason)
        self._give_up(refused.code, refused.reason)

    def _end(self, cause: Exception | None) -> None:
        self.cause = self.cause or cause
        self.upgrade.cancel()

    def _give_up(self, code: int, why: str) -> NoReturn:
        self.verdict = (code, why)
        error = trio.BrokenResourceError(why)
        self._end(error)
        raise error
