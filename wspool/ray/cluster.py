"""The actors on a Ray cluster: who they are, where they run, and what becomes of those that die."""

import asyncio
import importlib
import os
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import attrs
import trio

from wspool.core.statistics import PoolStatistics
from wspool.ray.sharing import Orders, Report, Sharing
from wspool.ray.team import ActorLostError, lead
from wspool.ray.working import Job, Part, open_part
from wspool.rollout.holding import Held
from wspool.rollout.method import Method
from wspool.rollout.summary import Summary
from wspool.rollout.tasks import Failure, Task
from wspool.runtime import Residence, Runtime

__all__ = ["connect", "disconnect", "run_on_actors"]

#: Seconds to see whether anybody listens at an address: Ray itself tries for many minutes.
_REACH_WITHIN: Final = 5.0
#: Seconds for which pools may say goodbye.
_GOODBYE: Final = 3.0
#: Calls of an actor at once at least: a run may have more tasks for a while than its concurrency says
#: (`wspool.rollout.doubt`), and then an actor still has to hear what else there is.
_CALLS: Final = 1000
#: Characters of what Ray says of it.
_LONGEST: Final = 300


def connect(address: str | None = None) -> int:
    """Connect this process to a Ray cluster, unless it is, and return how many nodes there are. It blocks.

    Args:
      address: of the cluster, HOST:PORT, or "auto" for the one that runs here; if not given, that of
        RAY_ADDRESS or the one that runs here, else one is started on this machine.

    Raises:
      ImportError: Ray is not installed.
      ConnectionError: there is no cluster.
    """
    try:
        ray: Any = importlib.import_module("ray")
    except ImportError as problem:
        raise ImportError("Ray is not installed: pip install 'wspool[ray]'") from problem
    if not ray.is_initialized():
        host, _, port = (address or os.environ.get("RAY_ADDRESS", "")).rpartition(":")
        try:
            if host and port.isdecimal():
                socket.create_connection((host, int(port)), _REACH_WITHIN).close()
            ray.init(address, include_dashboard=False, logging_level="ERROR")
        except (OSError, ValueError, RuntimeError) as problem:
            where = f"at {address}" if address else "here"
            words = getattr(problem, "strerror", None) or str(problem).partition("\n")[0]
            raise ConnectionError(f"there is no Ray cluster {where}: {words}") from problem
    return sum(node["Alive"] for node in ray.nodes())


def disconnect() -> None:
    """Leave the cluster, so that Ray prints no more; one that `connect` has started ends. It blocks."""
    importlib.import_module("ray").shutdown()


async def run_on_actors(
    endpoint: Mapping[str, Any],
    policy: Any,
    tasks: Sequence[Task],
    method: Method,
    *,
    actors: int,
    concurrency: int,
    options: Mapping[str, Any] | None = None,
    **led: Any,
) -> Summary:
    """Have *tasks* done by so many actors of the cluster that this process is connected to.

    Args:
      endpoint: what pools are opened with.
      policy: of all of them together: `max_size` is divided.
      tasks, method, concurrency: as for `run_batch`.
      actors: how many, each with a pool.
      options: of the actors, as for Ray; by default they take no CPU and are spread over the nodes.
      **led: the others of `lead`.

    A checkpoint. Cancelling it leaves what runs without a result.

    Raises:
      ValueError: there are fewer connections or tasks at once than actors.
    """
    for what, number in (("max_connections", policy.max_size), ("concurrency", concurrency)):
        if number < actors:
            raise ValueError(f"{what} is {number}, less than one for each of {actors} actors")
    parts = [
        Job(
            endpoint=endpoint,
            policy=attrs.evolve(policy, max_size=_part(policy.max_size, number, actors)),
            method=method,
            limits=led["limits"],
        )
        for number in range(actors)
    ]
    options = {"num_cpus": 0, "scheduling_strategy": "SPREAD"} if options is None else options
    cluster = _Cluster(parts, {**options, "max_concurrency": max(_CALLS, 2 * concurrency)})
    try:
        return await lead(
            cluster, tasks, actors=actors, concurrency=concurrency, max_size=policy.max_size, **led
        )
    finally:
        with trio.move_on_after(_GOODBYE, shield=True):
            await cluster.end()


def _part(whole: int, number: int, count: int) -> int:
    return whole // count + (number < whole % count)


class _Cluster:
    """One of *jobs* is for each actor; and one actor has what they share."""

    def __init__(self, jobs: Sequence[Job], options: Mapping[str, Any]) -> None:
        ray: Any = importlib.import_module("ray")
        where: Any = importlib.import_module("ray.util.scheduling_strategies")
        self._ray, self._errors = ray, ray.exceptions
        # Here, so that it dies with nobody but the driver.
        here = where.NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._sharing = ray.remote(Sharing).options(num_cpus=0, scheduling_strategy=here).remote()
        self._remote: Any = ray.remote(_Process).options(**options)
        self._jobs = [ray.cloudpickle.dumps(job) for job in jobs]  # opened there when the paths are known
        self._processes: dict[int, Any] = {}
        self._opening: dict[int, Any] = {}

    def begin(self, number: int, part: int) -> None:
        given = (self._sharing, os.getcwd(), sys.path, self._jobs[part])
        process = self._processes[number] = self._remote.remote(number, *given)
        self._opening[number] = process.open.remote()

    async def opened(self, number: int) -> None:
        await self._done(self._opening[number])

    async def hold(self, number: int, task: Task) -> tuple[Held, Mapping[str, Any]]:
        held: tuple[Held, Mapping[str, Any]] = await self._done(self._processes[number].hold.remote(task))
        return held

    async def _done(self, reference: Any) -> Any:
        try:
            return await _got(reference)
        except self._errors.RayActorError as error:
            raise ActorLostError(_words(error)) from error
        except self._errors.RayError as error:
            raise RuntimeError(_words(getattr(error, "cause", None) or error)) from error

    def drain(self, number: int) -> None:
        self._processes[number].drain.remote()

    def lost(self, number: int) -> None:
        self._sharing.lost.remote(number)  # its process stays listed: a task may be about to ask it

    async def look(self) -> PoolStatistics:
        pools: PoolStatistics = await _shared(self._sharing.look.remote())
        return pools

    async def end(self) -> None:
        """Have all pools closed, and end the actors. A checkpoint; cancelling ends them at once."""

        async def close(process: Any) -> None:
            with suppress(self._errors.RayError):
                await _got(process.close.remote())

        try:
            async with trio.open_nursery() as nursery:
                for process in self._processes.values():
                    nursery.start_soon(close, process)
        finally:
            for process in (*self._processes.values(), self._sharing):
                self._ray.kill(process)


class _Process:
    """An actor, as it is in a process of its own somewhere in the cluster."""

    def __init__(self, number: int, sharing: Any, directory: str, paths: Sequence[str], job: bytes) -> None:
        self._number, self._sharing, self._job = number, sharing, job
        self._directory, self._paths = directory, paths
        self._block: Residence[Part] | None = None
        self._part: Part | None = None
        self._draining = False

    async def open(self) -> None:
        """Open the pool."""
        self._part = await _there(self._open)

    async def hold(self, task: Task) -> tuple[Held, Mapping[str, Any]]:
        """See `Part.hold`."""
        if self._draining or self._part is None:
            return Held(), {}
        done: tuple[Held, Mapping[str, Any]] = await _there(self._part.hold, task)
        return done

    async def _open(self) -> Part:
        with suppress(OSError):  # it need not be there
            os.chdir(self._directory)
        sys.path += [path for path in self._paths if path not in sys.path]
        job: Job = importlib.import_module("ray").cloudpickle.loads(self._job)

        async def exchange(report: Report) -> Orders:
            orders: Orders = await _shared(self._sharing.exchange.remote(self._number, report))
            return orders

        self._block = Residence(lambda: open_part(job, exchange))
        return await self._block.enter()

    async def drain(self) -> None:
        """See `Holder.drain`."""
        self._draining = True
        if self._part is not None:
            Runtime.shared().soon(self._part.drain)

    async def close(self) -> None:
        """Close the pool."""
        if self._block is not None:
            await _there(self._block.leave)


async def _shared(reference: Any) -> Any:
    """As `_got`. Raises ConnectionError: the actor is lost that all share."""
    try:
        return await _got(reference)
    except importlib.import_module("ray").exceptions.RayError as error:
        raise ConnectionError(f"what the actors share is lost: {_words(error)}") from error


async def _there(function: Callable[..., Awaitable[Any]], *args: Any) -> Any:
    """Return what an async function returns that is called in the trio run of this process, from asyncio."""
    ended, loop = asyncio.Event(), asyncio.get_running_loop()

    def end() -> None:
        loop.call_soon_threadsafe(ended.set)

    call = Runtime.shared().start(function, *args, notify=end)
    await ended.wait()
    return call.result()


async def _got(reference: Any) -> Any:
    """Return what a call of an actor returns. A checkpoint; cancelling leaves the call alone."""
    token, came = trio.lowlevel.current_trio_token(), trio.Event()

    def come(_: object) -> None:
        with suppress(trio.RunFinishedError):
            token.run_sync_soon(came.set)

    future = reference.future()
    future.add_done_callback(come)
    await came.wait()
    return future.result()


def _words(error: BaseException) -> str:
    failure = Failure.of(error)
    lines = [line.strip() for line in failure.message.splitlines() if line.strip()]
    return f"{failure.type}: {lines[-1][:_LONGEST] if lines else ''}"  # where Ray says why
