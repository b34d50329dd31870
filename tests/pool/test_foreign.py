"""Use in the wrong place: another thread, another trio run. Refused at once, and nothing has changed."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

import wspool
from tests.helpers import FakeConnector, assert_conserved, echo, fake_pool, policy
from wspool.pool.ways import Held

#: What only looks at something, or makes a value; it may be called from anywhere.
HARMLESS = {
    "Pool": {"statistics", "lease", "lease_nowait", "conversation"},  # entering the last three is refused
    "Lease": {"check_size", "prepare"},
    "Turn": {"__aiter__"},
    "Conversation": {"prepare", "statistics", "snapshot"},
}

#: What is given to those that want something.
ARGUMENTS: dict[str, Callable[[dict[str, Any]], tuple[tuple[Any, ...], dict[str, Any]]]] = {
    "resize": lambda _: ((), {"max_size": 1, "min_idle": 0}),
    "create": lambda _: ((), {"model": "m", "input": "x"}),
    "begin": lambda _: ((), {"movable": False}),
    "heed_size": lambda at: ((at["attempt"], 1), {}),
    "send": lambda at: ((b"{}", at["attempt"]), {}),
    "Lease.steer": lambda at: (([], at["attempt"]), {}),
    "steer": lambda _: (("more",), {}),
    "give_up": lambda at: ((at["attempt"],), {}),
    "turn": lambda _: (("x",), {}),
    "respond": lambda _: (("x",), {}),
    "edit": lambda _: (([],), {}),
    "run": lambda _: (("x",), {"tools": {}}),
    "__aexit__": lambda _: ((None, None, None), {}),
}


def entries(kind: type) -> list[str]:
    """The public methods of *kind*, with those that `async with` and `async for` call."""
    return [
        name
        for name, what in vars(kind).items()
        if inspect.isfunction(inspect.unwrap(what))
        and (not name.startswith("_") or name in ("__aenter__", "__aexit__", "__anext__", "__aiter__"))
        and name not in HARMLESS[kind.__name__]
    ]


KINDS = (wspool.Pool, wspool.Lease, wspool.Turn, wspool.Conversation)
ENTRIES = [(kind.__name__, name) for kind in KINDS for name in entries(kind)]
ENTRIES += [("Pool", name) for name in ("lease", "lease_nowait", "conversation")]


async def entered(returned: Any) -> None:
    """Go on with what a method returned: await it, or enter its block."""
    if inspect.isawaitable(returned):
        await returned
    elif isinstance(returned, Held):
        with returned:
            pass
    elif hasattr(returned, "__aenter__"):
        async with returned:
            pass


def call_in_a_thread(method: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Call it as a thread without trio would; only what it returns gets a trio run of its own."""
    trio.run(entered, method(*args, **kwargs))


def call_in_another_run(method: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Call it inside another trio run."""

    async def main() -> None:
        await entered(method(*args, **kwargs))

    trio.run(main)


@pytest.mark.parametrize("call", [call_in_a_thread, call_in_another_run])
@pytest.mark.parametrize(("kind", "name"), ENTRIES)
async def test_every_entry_is_refused_elsewhere(kind, name, call, mock_clock) -> None:
    """`ForeignUseError`, before anything has changed: all goes on as if nobody had called."""
    connector = FakeConnector()
    limits = policy(max_size=3, min_idle=1)
    async with fake_pool(connector, limits=limits) as pool, pool.lease() as lease, pool.lease() as free:
        async with lease.create(model="m", input="x") as turn, pool.conversation(model="m") as conversation:
            await trio.testing.wait_all_tasks_blocked()
            held = lease if name in ("send", "steer", "give_up") else free
            attempt = lease.lane.attempt
            which = {"Pool": pool, "Lease": held, "Turn": turn, "Conversation": conversation}[kind]
            make = ARGUMENTS.get(f"{kind}.{name}", ARGUMENTS.get(name, lambda _: ((), {})))
            args, kwargs = make({"attempt": attempt, "pool": pool})

            def state() -> Any:
                return pool.statistics(), pool._shell.core.states(), repr(free), repr(turn), connector.dials

            before = state()
            with pytest.raises(wspool.ForeignUseError, match="open one there"):
                await trio.to_thread.run_sync(call, getattr(which, name), args, kwargs)

            await trio.testing.wait_all_tasks_blocked()
            assert before == state()
            assert attempt is not None
            assert not attempt.given_up
            connector.on_request = echo
            echo(connector.wires[lease.connection - 1], {})
            assert "completed" == (await turn.result()).status
            assert "ok" == (await conversation.respond("x")).output_text
        async with free.create(model="m", input="x") as turn:
            assert "completed" == (await turn.result()).status
        assert_conserved(pool.statistics())


async def test_a_pool_is_left_where_it_was_entered(mock_clock) -> None:
    """Leaving the block elsewhere is refused, and it can still be left where it belongs."""
    connector = FakeConnector(echo)
    async with fake_pool(connector) as pool:
        manager = wspool.open_pool("ws://localhost/", api_key="key", wire=connector)
        other = await manager.__aenter__()

        with pytest.raises(wspool.ForeignUseError):
            await trio.to_thread.run_sync(call_in_another_run, manager.__aexit__, (None, None, None), {})

        async with other.lease():
            pass
        await manager.__aexit__(None, None, None)
        assert other.statistics().closed_pool
        assert not pool.statistics().closed_pool


@pytest.mark.parametrize("name", ["batch", "result", "__anext__"])
async def test_a_reader_without_any_trio_is_told_so(name: str, mock_clock: object) -> None:
    """Not by an error of trio, which knows nothing of pools."""
    async with fake_pool(FakeConnector(echo)) as pool, pool.lease() as lease, lease.create(model="m") as turn:
        read = getattr(turn, name)

        def elsewhere() -> None:
            with pytest.raises(wspool.ForeignUseError):
                read().send(None)

        await trio.to_thread.run_sync(elsewhere)
        assert "ok" == (await turn.result()).output_text
