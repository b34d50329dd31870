"""A far end for tool loops: what it says, and when, is written down; it refuses what a strict server does."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal

import attrs
import trio

import wspool
from tests.helpers import FakeConnector, FakeWire, created, error_frame, fake_pool, policy, said
from wspool.core.calls import open_calls
from wspool.core.items import Item

__all__ = ["FarEnd", "Says", "call", "outputs", "talking"]


def call(name: str, call_id: str, arguments: Any = "{}", **more: Any) -> Item:
    """A call of a function."""
    return {"type": "function_call", "name": name, "call_id": call_id, "arguments": arguments, **more}


def outputs(request: Mapping[str, Any]) -> dict[str, Any]:
    """What the input of a request answers, by call id."""
    return {item["call_id"]: item["output"] for item in request["input"] if "output" in item}


@attrs.frozen
class Says:
    """One response.

    Attributes:
        items: its output, each with the second when it is done, counted from the request.
        ends: the second when it ends.
        how: how it ends.
        final: its output as its last event has it, if that is another one.
    """

    items: Sequence[tuple[float, Item]] = ((0.0, said("ok")),)
    ends: float = 0.0
    how: Literal["completed", "incomplete", "failed", "lost"] = "completed"
    final: Sequence[Item] | None = None


class FarEnd(FakeConnector):
    """Says one thing after the other, and `ok` from then on.

    Attributes:
        requests: what it was asked, each with the time.
        refused: the ids of calls for which it has refused requests.
    """

    def __init__(self, nursery: trio.Nursery, *script: Says) -> None:
        super().__init__(self._hear)
        self.requests: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.refused: list[str] = []
        self._nursery = nursery
        self._script = list(script)
        self._contexts: dict[str, list[Item]] = {}

    def _hear(self, wire: FakeWire, request: dict[str, Any]) -> None:
        self.requests.append(request)
        self.times.append(trio.current_time())
        given = request["input"]
        parent = request.get("previous_response_id")
        context = [*self._contexts.get(parent or "", ()), *given]
        left = [one["call_id"] for one in open_calls(context) if not one.get("async")]
        if left:
            self.refused += left
            wire.push(error_frame(None, message=f"No tool output found for function call {left[0]}."))
            return
        self._nursery.start_soon(self._say, wire, self._script.pop(0) if self._script else Says(), context)

    async def _say(self, wire: FakeWire, says: Says, context: list[Item]) -> None:
        name, since = f"resp_{len(self.requests)}", trio.current_time()
        wire.push(created(name))
        for index, (at, item) in enumerate(says.items):
            await trio.sleep_until(since + at)
            shared = {"output_index": index, "item": item}
            # A piece of it first, which nobody may take for the whole.
            piece = {**item, "arguments": '{"half'} if "arguments" in item else item
            wire.push(
                {"type": "response.output_item.added", "output_index": index, "item": piece},
                {"type": "response.output_item.done", **shared},
            )
        await trio.sleep_until(since + says.ends)
        output = [item for _, item in says.items] if says.final is None else [*says.final]
        if says.how == "lost":
            wire.hang_up()
            return
        whole = [*context, *output]
        kinds = [item["type"] for item in whole]
        start = len(kinds) - 1 - kinds[::-1].index("compaction") if "compaction" in kinds else 0
        self._contexts[name] = whole[start:]
        response: dict[str, Any] = {"id": name, "status": says.how, "output": output}
        if says.how == "failed":
            response["error"] = {"code": "server_error", "message": "no"}
        wire.push({"type": f"response.{says.how}", "response": response})


@asynccontextmanager
async def talking(
    *script: Says, limits: wspool.PoolPolicy | None = None, **options: Any
) -> AsyncGenerator[tuple[FarEnd, wspool.Pool, wspool.Conversation], None]:
    """A conversation with a far end that follows *script*."""
    async with trio.open_nursery() as nursery:
        far = FarEnd(nursery, *script)
        limits = limits or policy(max_size=2, max_resends=0)
        async with (
            fake_pool(far, limits=limits, **options) as pool,
            pool.conversation(model="m", store=False) as conversation,
        ):
            yield far, pool, conversation
        nursery.cancel_scope.cancel()
