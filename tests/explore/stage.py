"""Stage: a pool to explore, a far end that keeps books, and the rules that hold after each step.

The beginning (a first connection) and the end (all lanes can be leased, a turn is answered, nothing is left)
run first in, first out: what is explored is what happens between.
"""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import Any

import trio

import wspool
from tests.helpers import (
    FakeConnector,
    FakeWire,
    assert_conserved,
    assert_empty,
    completed,
    created,
    delta,
    fake_manager,
    policy,
)
from wspool.testing.explore import always, fixed

__all__ = ["FarEnd", "Stage", "ask", "staged", "traced"]

#: Virtual seconds within which a pool must show that it is whole.
_SOON = 100.0


#: What is given the trace of each pool.
_trace: Callable[[str], None] | None = None


@contextmanager
def traced(write: Callable[[str], None]) -> Generator[None, None, None]:
    """Give the lines of the traces of the pools of the block to *write*."""
    global _trace
    _trace = write
    try:
        yield
    finally:
        _trace = None


class FarEnd:
    """Answers each request in a task of its own, with what was asked; and takes steers as a server does.

    Attributes:
        connector: gives wires to it.
        sent: the texts of the requests that it has received, in order.
        answered: those that it has answered, in order.
        refusals: error frames, one for each of the next requests.
    """

    def __init__(self, nursery: trio.Nursery) -> None:
        self.connector = FakeConnector(self._take)
        self.answered: list[str] = []
        self.refusals: list[dict[str, Any]] = []
        self.sent: list[str] = []
        self._nursery = nursery
        self._running: dict[tuple[FakeWire, str], str] = {}
        self._steered: dict[str, str] = {}
        self._count = 0

    def _take(self, wire: FakeWire, request: dict[str, Any]) -> None:
        if request["type"] == "response.steer":
            self._steer(wire, request)
        else:
            self.sent.append(request["input"][-1]["content"][0]["text"])
            if self.refusals:
                wire.push(self.refusals.pop(0))
            else:
                self._nursery.start_soon(self._answer, wire, request)

    async def _answer(self, wire: FakeWire, request: dict[str, Any]) -> None:
        self._count += 1
        name, text = f"resp_{self._count}", request["input"][-1]["content"][0]["text"]
        stream = request.get("stream_id")
        lane = {} if stream is None else {"stream_id": stream}
        key = wire, str(stream)
        assert key not in self._running, f"{text!r} was sent while {self._running[key]!r} is answered"
        self._running[key] = name
        await trio.lowlevel.checkpoint()
        wire.push({**created(name), **lane})
        await trio.lowlevel.checkpoint()
        wire.push({**delta("..."), **lane})
        await trio.lowlevel.checkpoint()
        del self._running[key]
        if (steer := self._steered.get(name)) is not None:
            response = {"id": name, "status": "incomplete", "output": []}
            wire.push({"type": "response.incomplete", "response": response, **lane})
            begun = created(f"{name}_next")
            begun["response"]["previous_response_id"] = name
            wire.push({**begun, **lane})
            await trio.lowlevel.checkpoint()
            name, text = f"{name}_next", steer
        self.answered.append(text)
        wire.push({**completed(name, f"re: {text}"), **lane})

    def _steer(self, wire: FakeWire, request: dict[str, Any]) -> None:
        target = request["previous_response_id"]
        about: dict[str, Any] = {"previous_response_id": target}
        if target not in self._running.values() or target in self._steered:
            error = {"code": "response_not_active", "message": "No.", "type": "invalid_request_error"}
            wire.push({"type": "response.steer.failed", "steer": about, "error": error})
            return
        self._steered[target] = request["input"][0]["content"][0]["text"]
        wire.push({"type": "response.steer.accepted", "steer": {**about, "id": f"steer_{target}"}})


class Stage:
    """What a scene plays on.

    Attributes:
        pool: the pool.
        far: its far end.
        told: the errors that users were told of.
    """

    def __init__(self, manager: Any, far: FarEnd) -> None:
        self.manager = manager
        self.far = far
        self.pool: wspool.Pool
        self.told: list[Exception] = []

    @property
    def shell(self) -> Any:
        """What performs."""
        return self.manager._shell

    def check(self) -> None:
        """What holds after each step."""
        shell = self.shell
        statistics = shell.core.statistics()
        assert_conserved(statistics)
        assert statistics.waiting == len(shell._parked), "the line is not those who wait"
        assert not (statistics.waiting and statistics.idle), "somebody waits, and a lane is idle"
        keeper = shell._timekeeper
        slept_over = keeper._sleeping_until > shell.core.next_deadline() and not keeper._wake_up.is_set()
        assert not slept_over, "the timekeeper sleeps longer than it may"
        links = [connection.link for connection in shell._connections.values()]
        late = [link.id for link in links if link.ending and not (link.told or link.over)]
        assert not late, "the end of a connection is seen, and not told"
        held = [(lease.connection, lease.lane.id) for lease in shell._leases.values() if lease.alive]
        assert len(held) == len(set(held)), "a lane has two holders"

    async def prove_whole(self, lanes: int) -> None:
        """Lease all lanes at once, and take a turn."""
        with trio.move_on_after(_SOON) as scope:
            leases = [await self.pool.acquire() for _ in range(lanes)]
            for lease in leases:
                lease.release()
            await ask(self, "is all well?")
        assert not scope.cancelled_caught, f"not all lanes can be had: {self.pool.statistics()}"


@asynccontextmanager
async def staged(
    *,
    lanes: int = 1,
    size: int = 1,
    lanes_each: int = 1,
    warm: bool = True,
    provider: wspool.Provider = wspool.AZURE,
    **limits: Any,
) -> AsyncGenerator[Stage, None]:
    """Open a pool with a connection, let the rules hold, and prove in the end that all is well.

    Args:
        lanes: that must be there in the end, 0 if the scene itself closes the pool.
        size: connections at most.
        lanes_each: lanes of a connection.
        warm: False for a pool that has not dialed yet.
        provider: the far end's profile; by default one without lanes.
        **limits: of its policy.
    """
    with ExitStack() as calm, no_complaints():
        calm.enter_context(fixed())
        async with trio.open_nursery() as nursery:
            far = FarEnd(nursery)
            mine = policy(max_size=size, lanes=lanes_each, **limits)
            manager = fake_manager(far.connector, limits=mine, provider=provider, trace=_trace)
            stage = Stage(manager, far)
            async with manager as stage.pool:
                stage.shell.jitter = random.Random(0).random
                stage.shell._timekeeper._clock._suspended = lambda: 0.0
                always(stage.check)
                if warm:
                    await ask(stage, "is somebody there?")
                    await trio.testing.wait_all_tasks_blocked()
                calm.close()
                yield stage
                calm.enter_context(fixed())
                if lanes:
                    await stage.prove_whole(lanes)
            assert_empty(stage.shell.core.statistics())
            assert not stage.shell._connections, "a connection is left"
            assert not stage.shell._leases, "a lease is left"
            assert not any(wire.open for wire in far.connector.wires), "a socket is left open"
            nursery.cancel_scope.cancel()


async def ask(stage: Stage, text: str, *, conversation: wspool.Conversation | None = None) -> None:
    """Take a turn; what comes must be the answer to *text*."""
    if conversation is not None:
        response = await conversation.respond(text)
    else:
        content = [{"type": "input_text", "text": text}]
        item = {"type": "message", "role": "user", "content": content}
        async with stage.pool.lease() as lease, lease.create(model="m", input=[item]) as turn:
            response = await turn.result()
    assert response.output_text == f"re: {text}", f"{text!r} was told {response.output_text!r}"


@contextmanager
def no_complaints() -> Generator[None, None, None]:
    """Fail if the pool says that something crashed."""
    complaints: list[str] = []

    class _Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            complaints.append(record.getMessage())

    logger, ear = logging.getLogger("wspool"), _Ear(logging.ERROR)
    logger.addHandler(ear)
    try:
        yield
    finally:
        logger.removeHandler(ear)
    assert not complaints, complaints
