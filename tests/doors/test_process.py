"""Processes: forks, pickles, pools of processes, and the end of the interpreter in the middle of a turn."""

from __future__ import annotations

import importlib
import os
import pickle
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable

import pytest
import trio

import wspool
from tests.doors.conftest import Far
from wspool import aio, blocking
from wspool.errors import ForeignUseError
from wspool.runtime import Runtime


def program(text: str, *args: str) -> subprocess.CompletedProcess[str]:
    """Run a program of its own."""
    return subprocess.run(
        [sys.executable, "-W", "always", "-c", textwrap.dedent(text), *args],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_call_that_enters_a_scope_itself_is_cancelled_by_that() -> None:
    """It needs no second one around it."""
    runtime, scope, ended = Runtime(), trio.CancelScope(), threading.Event()

    async def wait() -> None:
        with scope:
            await trio.sleep_forever()

    call = runtime.start(wait, notify=ended.set, scope=scope)
    try:
        call.cancel()
        assert ended.wait(10)
        assert call.cancelled
        assert call.result() is None
    finally:
        runtime.close()


def test_a_runtime_that_cannot_begin_says_why_and_may_begin_later() -> None:
    """Who called it first waited for ever, and so did all others, where no file descriptor was left."""
    ended = program(
        """
        import faulthandler, os, resource
        from wspool.runtime import Runtime

        faulthandler.dump_traceback_later(30, exit=True)
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        held = []
        try:
            while True:
                held.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            pass

        async def answer():
            return "begun"

        runtime = Runtime()
        for _ in range(2):
            try:
                runtime.run(answer)
            except OSError as error:
                print(error.strerror)
        for file in held:
            os.close(file)
        print(runtime.run(answer))
        runtime.close()
        """
    )
    assert ended.stdout.splitlines() == ["Too many open files"] * 2 + ["begun"], ended.stderr
    assert not ended.stderr


@pytest.mark.parametrize(
    ("where", "name", "stands_in", "advice"),
    [
        ("_thread", "start_new_thread", lambda *_: None, "wspool proxy"),
        ("select", "select", lambda *_: None, "wspool proxy"),
        ("_thread", "daemon_threads_allowed", lambda: False, "a process of its own"),
    ],
)
def test_a_process_without_threads_that_a_runtime_could_be_is_told(
    monkeypatch: pytest.MonkeyPatch, where: str, name: str, stands_in: Callable[..., object], advice: str
) -> None:
    """gevent and eventlet patch these; a sub-interpreter has none. The call ended as a deadlock, or not."""
    runtime = Runtime()
    monkeypatch.setattr(importlib.import_module(where), name, stands_in, raising=False)
    with pytest.raises(ForeignUseError, match=advice):
        runtime.run_sync(int)
    monkeypatch.undo()
    assert runtime.run_sync(int) == 0
    runtime.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_is_told_and_can_open_its_own(far: Far) -> None:
    ended = program(
        """
        import os, sys, wspool
        from wspool import blocking
        with blocking.open_pool(sys.argv[1]) as pool, pool.conversation(model="m") as talk:
            talk.respond("parent")
            if (child := os.fork()) == 0:
                try:
                    talk.respond("child")
                except wspool.ForeignUseError as error:
                    print("told:", error, flush=True)
                with blocking.open_pool(sys.argv[1]) as mine, mine.conversation(model="m") as own:
                    print("own:", own.respond("child").output_text, flush=True)
                os._exit(0)
            os.waitpid(child, 0)
            print("parent:", talk.respond("again").output_text)
        """,
        far.url,
    )
    lines = dict(line.split(": ", 1) for line in ended.stdout.splitlines())
    assert "forked" in lines["told"]
    assert (lines["own"], lines["parent"]) == ("child", "again")
    assert ended.returncode == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_what_a_forked_child_was_left_half_read_says_so(far: Far) -> None:
    """It waits for nothing of the parent's, forgets it without a word, and leaves the parent's alone."""
    pytest.importorskip("httpx2", reason="httpx2 is not installed")
    ended = program(
        """
        import gc, os, sys, warnings, wspool, wspool.http
        from wspool import blocking
        body, key = {"model": "m", "input": "wait", "stream": True}, {"authorization": "Bearer key"}
        with (
            blocking.open_pool(sys.argv[1]) as pool,
            pool.lease() as lease,
            lease.create(model="m", input="wait") as turn,
            wspool.http.client() as client,
            client.stream("POST", sys.argv[2], json=body, headers=key) as response,
        ):
            # Of any fork beside a thread Python says that it may hang.
            with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
                child = os.fork()
            if child == 0:
                for read in (turn, response.iter_raw()):
                    try:
                        list(read)
                    except wspool.ForeignUseError as error:
                        print("told:", error, flush=True)
                response.close()
                client.close()
                del turn, response, client, read
                gc.collect()
                os._exit(0)
            os.waitpid(child, 0)
            print("open:", client.is_closed, turn.delivery)
        """,
        far.url,
        far.url.replace("ws://", "http://"),
    )
    assert "" == ended.stderr
    lines = ended.stdout.splitlines()
    assert [True, True] == ["forked" in line for line in lines[:2]]
    assert ["open: False accepted"] == lines[2:]


@pytest.mark.parametrize("door", ["aio", "blocking", "thread", "client"])
def test_the_interpreter_ends_in_the_middle_of_a_turn(far: Far, door: str) -> None:
    """A thread that it does not wait for is told nothing: it could but print that."""
    bodies = {
        "aio": """
        import asyncio
        async def main():
            pool = await wspool.aio.open_pool(sys.argv[1]).__aenter__()
            talk = await pool.conversation(model="m").__aenter__()
            turn = await talk.turn("wait").__aenter__()
            sys.exit(3)
        asyncio.run(main())
        """,
        "blocking": """
        pool = wspool.blocking.open_pool(sys.argv[1]).__enter__()
        talk = pool.conversation(model="m").__enter__()
        turn = talk.turn("wait").__enter__()
        sys.exit(3)
        """,
        "thread": """
        import threading
        pool = wspool.blocking.open_pool(sys.argv[1]).__enter__()
        def work():
            with pool.conversation(model="m") as talk:
                talk.respond("wait")
        threading.Thread(target=work, daemon=True).start()
        while not pool.statistics().in_flight:
            pass
        sys.exit(3)
        """,
        "client": """
        import threading, wspool.http
        url, client = "http" + sys.argv[1].removeprefix("ws"), wspool.http.client()
        post = {"json": {"model": "m", "input": "wait"}, "headers": {"authorization": "Bearer x"}}
        def work():
            client.post(url, **post).raise_for_status()
        threading.Thread(target=work, daemon=True).start()
        def busy():
            pools = client._transport._pools
            return pools and any(pool.statistics().in_flight for pool in pools.open.values())
        while not wspool.Runtime.shared().run_sync(busy):
            pass
        sys.exit(3)
        """,
    }
    ended = program("        import sys, wspool\n" + bodies[door], far.url)
    assert (ended.returncode, ended.stdout, ended.stderr) == (3, "", "")


BLOCKS = {
    "aio": """
    import asyncio, sys, wspool
    from contextlib import AsyncExitStack
    async def main():
        async with AsyncExitStack() as stack:
            enter = stack.enter_async_context
            pool = await enter(wspool.aio.open_pool(sys.argv[1]))
            await enter(pool.lease())
            talk = await enter(pool.conversation(model="m"))
            await enter(talk.fork())
            await enter(talk.turn("wait"))
            wspool.Runtime.shared().close()
        print("left")
    asyncio.run(main())
    """,
    "blocking": """
    import sys, wspool
    from contextlib import ExitStack
    with ExitStack() as stack:
        enter = stack.enter_context
        pool = enter(wspool.blocking.open_pool(sys.argv[1]))
        with pool.lease():
            pass
        enter(pool.lease_nowait())  # the one that was just given back: it need not be dialled
        enter(pool.lease())
        talk = enter(pool.conversation(model="m"))
        enter(talk.fork())
        enter(talk.turn("wait"))
        wspool.Runtime.shared().close()
    print("left")
    """,
}


def test_a_pool_that_a_program_never_leaves_ends_with_it(far: Far) -> None:
    """In silence, whatever is taken apart first; and it is there as long as what was made from it."""
    ended = program(
        """
        import gc, sys
        from wspool import blocking
        def pool(): return blocking.open_pool(sys.argv[1]).__enter__()
        kept, said = pool(), []
        with pool().conversation(model="m") as talk:
            gc.collect()
            said.append(talk.respond("one").output_text)
            with talk.fork() as fork: said.append(fork.respond("two").output_text)
            turn = talk.turn("three")
        del talk, fork
        with pool().conversation(model="m").__enter__().turn("four") as turn:
            for _ in turn: gc.collect()
            said.append(turn.response.output_text)
        for lease in (pool().lease().__enter__(), pool().acquire()):
            gc.collect()
            with lease.create(model="m", input="five") as turn: said.append(turn.result().output_text)
        print(said)
        open_turn = kept.conversation(model="m").__enter__().turn("six").__enter__()
        """,
        far.url,
    )

    assert ("", 0) == (ended.stderr, ended.returncode)
    assert ended.stdout == f"{['one', 'two', 'four', 'five', 'five']}\n"


@pytest.mark.parametrize("door", BLOCKS)
def test_blocks_are_left_whose_runtime_has_ended(far: Far, door: str) -> None:
    """As they are by threads that the interpreter does not wait for: all of it ended with the runtime."""
    ended = program(BLOCKS[door], far.url)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "left\n", "")


LATE = {
    "pool": "late = wspool.aio.open_pool(sys.argv[1]).__aenter__()",
    "lease": "pool = await wspool.aio.open_pool(sys.argv[1]).__aenter__()\n    late = pool.acquire()",
    "turn": """
    pool = await wspool.aio.open_pool(sys.argv[1]).__aenter__()
    talk = await pool.conversation(model="m").__aenter__()
    late = talk.turn("wait").__aenter__()""",
}
#: As long as it has not come.
WAITS = {
    "pool": "runtime._calls",
    "lease": "runtime._calls",
    "turn": "not pool.statistics().in_flight",
}


@pytest.mark.parametrize("what", LATE)
def test_who_is_cancelled_when_the_runtime_has_ended_is_cancelled(far: Far, what: str) -> None:
    """It had got something that nobody can give back any more, since that has ended, too."""
    ended = program(
        f"""
import asyncio, sys, threading, time, wspool
async def main():
    {LATE[what].strip()}
    async def wait():
        try:
            await late
        except asyncio.CancelledError:
            return "cancelled"
    runtime = wspool.Runtime.shared()
    runtime.run_sync(int)
    waits = threading.Event()
    runtime.soon(waits.wait)  # before that, nothing comes
    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    waits.set()
    while {WAITS[what]}:  # what it waits for comes, which this loop does not look at
        time.sleep(0.01)
    runtime.close()
    task.cancel()
    print(await task)
asyncio.run(main())
""",
        far.url,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "cancelled\n", "")


def test_what_belongs_to_a_process_is_not_pickled(far: Far) -> None:
    with blocking.open_pool(far.url) as pool, pool.conversation(model="m") as talk:
        for thing in (pool, talk, wspool.Runtime.shared()):
            with pytest.raises(TypeError, match="each process"):
                pickle.dumps(thing)


def test_nor_is_what_belongs_to_a_pool_on_trio(far: Far) -> None:
    async def main() -> None:
        async with (
            wspool.open_pool(far.url) as pool,
            pool.conversation(model="m") as talk,
            pool.lease() as lease,
            talk.turn("hi") as turn,
        ):
            for thing in (pool, talk, lease, turn):
                with pytest.raises(TypeError, match="each process"):
                    pickle.dumps(thing)
            await turn.result()

    trio.run(main)


def test_a_pool_of_processes_each_with_its_own(far: Far) -> None:
    ended = program(
        """
        import sys, wspool
        from concurrent.futures import ProcessPoolExecutor
        from multiprocessing import get_context
        def work(number):
            with wspool.blocking.open_pool(sys.argv[1]) as pool, pool.conversation(model="m") as talk:
                return talk.respond(str(number)).output_text
        if __name__ == "__main__":
            with ProcessPoolExecutor(2, mp_context=get_context("fork")) as workers:
                print(*workers.map(work, range(4)))
        """,
        far.url,
    )
    assert (ended.returncode, ended.stdout.split()) == (0, ["0", "1", "2", "3"]), ended.stderr


def test_the_doors_cost_nothing_who_does_not_take_them() -> None:
    ended = program(
        """
        import sys, wspool
        print([name for name in sys.modules if name in ("wspool.aio", "wspool.blocking", "wspool.runtime")])
        """
    )
    assert ended.stdout.strip() == "[]"


def test_they_are_there_when_asked_for() -> None:
    assert wspool.aio is aio
    assert wspool.blocking is blocking
    with pytest.raises(AttributeError, match="nothing"):
        _ = wspool.nothing
