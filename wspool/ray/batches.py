"""`Conversations`: what Ray Data's `map_batches` calls, with a pool that outlives the batches."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final

import wspool
from wspool import aio
from wspool.rollout.tasks import Failure

__all__ = ["Conversations"]

#: Seconds for which a refusal is waited out by default.
_PATIENCE: Final = 3600.0


class Conversations:
    """Holds a conversation for every row of a batch; rows come back as they end, so that none waits.

    ::

        dataset.map_batches(
            wspool.ray.Conversations,
            fn_constructor_kwargs={"fields": {"model": "gpt-5.2"}, "url": url},
            compute=ray.data.ActorPoolStrategy(size=4),
            batch_size=64,
        )

    Args:
      agent: async function of a `wspool.aio.Conversation` and a row, on asyncio, that returns the answer; by
        default *column* is answered in one turn.
      column: of the rows, with the input.
      policy: of the pool of this actor, as *endpoint* is; by default refusals are waited out for an hour.
      fields: of every request, such as `model`.
      **endpoint: what the pool is opened with, as for `wspool.open_pool`: `url`, `api_key` ...

    A row gets two columns: `answer`, and `error`, which is empty if there is an answer. What an agent raises
    is the error of its row. The pool is closed with the actor.
    """

    def __init__(
        self,
        agent: Callable[[aio.Conversation, Mapping[str, Any]], Awaitable[object]] | None = None,
        *,
        column: str = "input",
        policy: wspool.PoolPolicy | None = None,
        fields: Mapping[str, Any] | None = None,
        **endpoint: Any,
    ) -> None:
        self._agent, self._column, self._fields = agent, column, fields or {}
        policy = policy or wspool.PoolPolicy(refusal_patience=_PATIENCE)
        self._manager = aio.open_pool(policy=policy, **endpoint)
        self._pool: aio.Pool | None = None
        self._opening = asyncio.Lock()

    async def __call__(self, batch: Mapping[str, Any]) -> AsyncIterator[Mapping[str, Any]]:
        """Yield the rows of a *batch*, columns by name, as they end."""
        async with self._opening:
            if self._pool is None:
                self._pool = await self._manager.__aenter__()
        count = len(next(iter(batch.values()), ()))
        rows = [{name: values[number] for name, values in batch.items()} for number in range(count)]
        for row in asyncio.as_completed([self._held(self._pool, row) for row in rows]):
            yield {name: [value] for name, value in (await row).items()}

    async def _held(self, pool: aio.Pool, row: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            async with pool.conversation(**self._fields) as conversation:
                if self._agent is not None:
                    return {**row, "answer": await self._agent(conversation, row), "error": ""}
                response = await conversation.respond(str(row[self._column]))
                return {**row, "answer": response.output_text, "error": ""}
        except GeneratorExit:  # the loop has ended
            raise
        except BaseException as error:  # noqa: ASYNC103  # a row's trouble is its own, but for a cancellation
            if isinstance(error, asyncio.CancelledError) and _is_cancelled():
                raise
            failure = Failure.of(error)
            said = f"{failure.type}: {failure.message}"
            return {**row, "answer": None, "error": said}  # noqa: ASYNC104  # a cancellation is raised above


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
