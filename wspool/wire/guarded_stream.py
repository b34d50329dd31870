"""The network as trio-websocket sees it, with eyes for what it overlooks (see `wspool.wire.trio_websocket`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NoReturn

import trio

from wspool.wire.answer import MAX_HEAD, MAX_REJECT_BODY, is_head_too_long, may_be_http

__all__ = ["MAX_FRAGMENTS", "GuardedStream"]

#: Most fragments in one message, not counting those that merely arrived in pieces.
#: Looked at once per read, so up to one read's worth of empty frames may come on top.
MAX_FRAGMENTS: Final = 4096

# Close codes of RFC 6455 section 7.4.1, for what this side objects to.
_PROTOCOL_ERROR: Final = 1002
_MESSAGE_TOO_BIG: Final = 1009


class GuardedStream(trio.abc.Stream):
    """The network as trio-websocket sees it. Remembers what happened, closes without waiting."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        #: When bytes last came, on trio's clock.
        self.heard_at = trio.current_time()
        #: Cancelled when the stream ends; the upgrade waits inside it.
        self.upgrade = trio.CancelScope()
        #: What came so far, while the upgrade is going on; None afterwards.
        self.answer: bytearray | None = bytearray()
        #: The exception that ended the stream, None after a plain end.
        self.cause: Exception | None = None
        #: True once a write was cut short: the frame on the network may be incomplete.
        self.poisoned = False
        #: Close code and text when this side gave up on the peer.
        self.verdict: tuple[int, str] | None = None
        #: The fragments of the message that is being put together, as trio-websocket keeps them.
        self.fragments: Callable[[], list[bytes | str]] = list
        self._counted: list[bytes | str] = []
        self._reads = 0

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
        self._count_fragments()
        try:
            data = await self._stream.receive_some(max_bytes)
        except Exception as error:
            self._end(error)
            raise
        if not data:
            self._end(None)
            return data
        self.heard_at = trio.current_time()
        if self.answer is not None:
            self.answer += data
            if not may_be_http(self.answer):
                self._give_up(_PROTOCOL_ERROR, "the answer to the upgrade is not HTTP")
            if is_head_too_long(self.answer):
                self._give_up(_PROTOCOL_ERROR, "the answer to the upgrade has too many headers")
            if len(self.answer) > MAX_HEAD + MAX_REJECT_BODY:
                self._give_up(_PROTOCOL_ERROR, "the answer to the upgrade is too long")
        return data

    async def aclose(self) -> None:
        # trio-websocket calls this where a caller waits; there is nothing to wait for.
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(self._stream)

    def _end(self, cause: Exception | None) -> None:
        self.cause = self.cause or cause
        self.upgrade.cancel()

    def _count_fragments(self) -> None:
        """Give up on a message of too many fragments, called once before each read.

        A frame that arrives in several reads adds one piece per read, so reads are taken off.
        """
        pieces = self.fragments()
        if pieces is not self._counted:  # trio-websocket starts a new list for each message
            self._counted, self._reads = pieces, 0
        self._reads += 1
        if len(pieces) - self._reads > MAX_FRAGMENTS:
            self._give_up(_MESSAGE_TOO_BIG, f"a message of more than {MAX_FRAGMENTS} fragments")

    def _give_up(self, code: int, why: str) -> NoReturn:
        self.verdict = (code, why)
        error = trio.BrokenResourceError(why)
        self._end(error)
        raise error
