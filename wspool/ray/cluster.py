"""The actors on a Ray cluster: who they are, where they run, and what becomes of those that die."""

import importlib
import os
import socket
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from typing import Any, Final

import trio

import wspool
from wspool.rollout.limits import Limits
from wspool.rollout.method import Method
from wspool.rollout.summary import Meter
from wspool.rollout.tasks import Failure
from wspool.rollout.team.exchange import Orders
from wspool.rollout.team.part import divided, open_part
from wspool.rollout.team.process import Process
from wspool.rollout.team.team import ActorLostError, Team, open_team

__all__ = ["connect", "disconnect", "on_actors"]

#: Seconds to see whether anybody listens at an address: Ray itself tries for many minutes.
_REACH_WITHIN: Final = 5.0
#: Seconds for which pools may say goodbye.
_GOODBYE: Final = 3.0
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


def on_actors(
    endpoint: Mapping[str, Any],
    policy: wspool.PoolPolicy,
    method: Method,
    limits: Limits,
    *,
    actors: int,
    meter: Meter,
    options: Mapping[str, Any] | None = None,
) -> AbstractAsyncContextManager[Team]:
    """Return what begins so many actors, each with a pool, of the cluster that this process is connected to.

    Args:
      endpoint: what pools are opened with.
      policy: of all of them together: `max_size` is divided.
      method: how tasks are done.
      limits: of the run.
      actors: how many.
      meter: counts turns.
      options: of the actors, as for Ray; by default they take no CPU and are spread over the nodes.
    """
    ray: Any = importlib.import_module("ray")
    jobs = [
        ray.cloudpickle.dumps(partial(open_part, endpoint, each, method, limits))
        for each in divided(policy, actors)
    ]
    options = {"num_cpus": 0, "scheduling_strategy": "SPREAD"} if options is None else options
    remote: Any = ray.remote(Process).options(**options)

    @asynccontextmanager
    async def begin(part: int) -> AsyncGenerator[Callable[[Orders], Awaitable[Any]], None]:
        process = remote.remote(os.getcwd(), sys.path, jobs[part])
        try:
            yield partial(_exchanged, process)
        finally:
            with trio.move_on_after(_GOODBYE, shield=True), suppress(ActorLostError, RuntimeError):
                await _exchanged(process, Orders(end=True))
            ray.kill(process)

    return open_team(begin, actors=actors, max_size=policy.max_size, meter=meter)


async def _exchanged(process: Any, orders: Orders) -> Any:
    """Have an actor take *orders*; return its report. A checkpoint; cancelling leaves the call alone."""
    errors: Any = importlib.import_module("ray").exceptions
    token, came = trio.lowlevel.current_trio_token(), trio.Event()

    def come(_: object) -> None:
        with suppress(trio.RunFinishedError):
            token.run_sync_soon(came.set)

    future = process.exchange.remote(orders).future()
    future.add_done_callback(come)
    await came.wait()
    try:
        return future.result()
    except errors.RayActorError as error:
        raise ActorLostError(_words(error)) from error
    except errors.RayError as error:
        raise RuntimeError(_words(getattr(error, "cause", None) or error)) from error


def _words(error: BaseException) -> str:
    failure = Failure.of(error)
    lines = [line.strip() for line in failure.message.splitlines() if line.strip()]
    return f"{failure.type}: {lines[-1][:_LONGEST] if lines else ''}"  # where Ray says why
