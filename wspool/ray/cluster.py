"""The actors on a Ray cluster: who they are, where they run, and what becomes of those that die."""

import importlib
import itertools
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import attrs
import trio

from wspool.ray.leading import lead
from wspool.ray.sharing import News, Orders, Report, Sharing
from wspool.ray.working import Job, work
from wspool.rollout.method import Method
from wspool.rollout.summary import Summary
from wspool.rollout.tasks import Failure, Task

__all__ = ["connect", "disconnect", "run_on_actors"]

#: Seconds to see whether anybody listens at an address: Ray itself tries for many minutes.
_REACH_WITHIN: Final = 5.0
#: Actors that may die, for each that there is: more is no accident.
_DEATHS: Final = 3
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
      policy: of all of them together: `max_size` is divided, as *concurrency* is.
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
            concurrency=_part(concurrency, number, actors),
        )
        for number in range(actors)
    ]
    team = _Team(parts, options or {"num_cpus": 0, "scheduling_strategy": "SPREAD"})
    return await lead(team, tasks, concurrency=concurrency, max_size=policy.max_size, **led)


def _part(whole: int, number: int, count: int) -> int:
    return whole // count + (number < whole % count)


class _Team:
    """Each of *jobs* is done by one actor after another, as long as they die."""

    def __init__(self, jobs: Sequence[Job], options: Mapping[str, Any]) -> None:
        self._ray: Any = importlib.import_module("ray")
        where: Any = importlib.import_module("ray.util.scheduling_strategies")
        node = self._ray.get_runtime_context().get_node_id()
        # Here, so that it dies with nobody but the driver.
        here = where.NodeAffinitySchedulingStrategy(node, soft=False)
        self._sharing = self._ray.remote(Sharing).options(num_cpus=0, scheduling_strategy=here).remote()
        self._actor: Any = self._ray.remote(_Actor).options(**options)
        self._jobs = jobs
        self._numbers = itertools.count()
        self._deaths = 0

    async def news(self, tasks: Sequence[Task], *, drain: bool, stop: bool) -> News:
        news: News = await self._shared(self._sharing.news.remote(tasks, drain=drain, stop=stop))
        return news

    async def _shared(self, call: Any) -> Any:
        try:
            return await _got(call)
        except self._ray.exceptions.RayError as error:
            raise ConnectionError(f"what the actors share is lost: {_words(error)}") from error

    async def work(self, problem: Callable[[str], None]) -> None:
        async with trio.open_nursery() as nursery:
            for job in self._jobs:
                nursery.start_soon(self._keep, job, problem)

    async def _keep(self, job: Job, problem: Callable[[str], None]) -> None:
        errors = self._ray.exceptions
        pickled = self._ray.cloudpickle.dumps(job)  # opened there when the paths are known
        while True:
            number = next(self._numbers)
            try:
                actor = self._actor.remote()
                await _got(actor.work.remote(number, self._sharing, os.getcwd(), sys.path, pickled))
                return
            except errors.RayError as error:
                died = isinstance(error, errors.RayActorError)
                self._deaths += died
                try:
                    is_wanted = await self._shared(self._sharing.lost.remote(number))
                except ConnectionError as lost:
                    problem(str(lost))
                    return
                if not died:
                    problem(f"an actor cannot work: {_words(getattr(error, 'cause', None) or error)}")
                elif is_wanted and self._deaths > _DEATHS * len(self._jobs):
                    problem(f"{self._deaths} actors have died, the last because: {_words(error)}")
                elif is_wanted:
                    continue
                return


class _Actor:
    """A process of its own somewhere in the cluster."""

    def work(self, number: int, sharing: Any, directory: str, paths: Sequence[str], pickled: bytes) -> None:
        """Work until there is no more to do. It blocks."""
        with suppress(OSError):  # it need not be there
            os.chdir(directory)
        sys.path += [path for path in paths if path not in sys.path]
        job: Job = importlib.import_module("ray").cloudpickle.loads(pickled)

        async def exchange(report: Report) -> Orders:
            orders: Orders = await _got(sharing.exchange.remote(number, report))
            return orders

        trio.run(work, job, exchange)


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
