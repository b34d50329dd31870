"""File descriptors: a pool takes none that the rest of the program needs, and says what it cannot have.

Each test runs a program of its own, for a limit that was lowered cannot be raised again.
"""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import pytest

resource = pytest.importorskip("resource", reason="this system has no limits of that kind")

pytestmark = pytest.mark.network

#: What every program begins with. `limit(soft, hard)` lowers its limit, `tell` prints what the test looks at.
PRELUDE = """
import collections, errno, json, logging, os, resource, subprocess, sys, threading
import trio, wspool
from wspool.core.frames import encode
encode({})  # what is imported late needs a descriptor too
from wspool.wire import descriptors
from wspool.wire.dial import open_stream, parse_url

def limit(soft, hard=None):
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard or soft))

def soft():
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]

def used():
    return len(os.listdir("/dev/fd")) - 1

def fill(leave):
    taken = []
    try:
        while True: taken.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        for descriptor in taken[len(taken) - leave:]: os.close(descriptor)
    return taken[:len(taken) - leave]

class Log(logging.Handler):
    lines = []
    def emit(self, record): self.lines.append((record.levelname, record.getMessage()))

logging.getLogger("wspool").addHandler(Log())
logging.getLogger("wspool").setLevel(logging.INFO)

def warnings():
    return [text for level, text in Log.lines if level == "WARNING"]

def tell(**what):
    print(json.dumps(what))
"""

SERVER = """
import trio
from wspool.server import ModelTurn, function_call, message, open_server

class Model:
    # Calls the tool once, and answers with what it said.
    def respond(self, request):
        out = next((item["output"] for item in request.context if "output" in item), None)
        if out is None:
            return ModelTurn(output=[function_call("read", {})], delay=0.1)
        return ModelTurn(output=[message(out[:60])], delay=0.1)

async def main():
    async with open_server(Model()) as server:
        print(server.url, flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server in a process of its own, so that its descriptors are not the program's."""
    with subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield server.stdout.readline().strip()
        finally:
            server.kill()


def run(program: str, *args: object) -> dict[str, Any]:
    """Run *program* after the prelude; return what it tells."""
    code = PRELUDE + textwrap.dedent(program)
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, args)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert 0 == done.returncode, done.stderr
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


#: How a conversation's tool uses descriptors: a file in a thread, a file in a task, a program with two pipes.
#: Threads are forty at most. Tasks are as many as conversations, each with its call, on a slow machine: they
#: keep to three quarters of what is kept for the program, which is half of 128.
TOOLS = {
    "file": "def read():\n    with open(sys.executable, 'rb') as file: return f'read {len(file.read(9))}'",
    "held file": (
        "held = trio.CapacityLimiter(48)\n"
        "async def read():\n    async with held, await trio.open_file(sys.executable, 'rb') as file:\n"
        "        await trio.sleep(0.05)\n        return f'read {len(await file.read(9))}'"
    ),
    "program": (
        "def read():\n    done = subprocess.run(['/bin/echo', 'read 9'], capture_output=True, text=True)\n"
        "    return done.stdout.strip()"
    ),
}

MANY = """
limit(int(sys.argv[2]))
{tool}

async def main():
    seen = collections.Counter()
    policy = wspool.PoolPolicy(max_size=int(sys.argv[3]), min_idle=0)
    async with wspool.open_pool(sys.argv[1], policy=policy, wire=sys.argv[4]) as pool:
        most = pool.statistics().max_size
        async def one():
            async with pool.conversation(model="m") as conversation:
                seen[(await conversation.run("go", tools={{"read": read}})).output_text] += 1
        async with trio.open_nursery() as nursery:
            for _ in range(int(sys.argv[3])): nursery.start_soon(one)
        tell(
            seen=seen, most=most, policy=pool.policy.max_size,
            open=pool.statistics().open, warnings=warnings(),
        )

trio.run(main)
"""


@pytest.mark.parametrize("wire", ["websockets", "trio-websocket"])
@pytest.mark.parametrize(
    ("soft", "size", "tool"), [(128, 150, "file"), (256, 200, "program"), (128, 150, "held file")]
)
def test_tools_have_what_they_need(soft: int, size: int, tool: str, wire: str, url: str) -> None:
    """A pool that may be larger than its process can carry is smaller, says so, and spoils no tool."""
    told = run(MANY.format(tool=TOOLS[tool]), url, soft, size, wire)

    assert {"read 9": size} == told["seen"]
    assert told["open"] <= told["most"] == told["policy"] <= soft - soft // 2
    assert told["most"] >= soft // 4, "it takes what it can have"
    warning = told["warnings"][0]
    assert warning.startswith(
        f"max_size={size} cannot be had, there will be {told['most']} connections at most"
    )
    assert all("ulimit -n" in other for other in told["warnings"]), "a dial that met many tools at once"


def test_the_limit_is_raised_as_far_as_it_has_to_be() -> None:
    """To what the pool needs and what is kept, not to all that is allowed; it stays when the pool is gone."""
    told = run("""
        limit(256, 4096)
        before = used()
        async def main():
            for size in (8, 600, 300):
                policy = wspool.PoolPolicy(max_size=size, min_idle=0)
                async with wspool.open_pool("ws://localhost:9/", policy=policy) as pool:
                    sizes.append((pool.statistics().max_size, soft()))
        sizes = []
        trio.run(main)
        tell(sizes=sizes, before=before, warnings=warnings(), kept=descriptors.KEPT)
        """)

    (small, large, again), kept = told["sizes"], told["kept"]
    assert [8, 600, 300] == [size for size, _ in told["sizes"]]
    assert 256 <= small[1] <= 256 + 40
    assert 600 + kept <= large[1] <= 600 + kept + told["before"] + 20
    assert again[1] == large[1], "never lowered"
    assert [] == told["warnings"]


def test_a_limit_that_is_high_enough_is_left_alone() -> None:
    """Children inherit it, and `select` fails above it: nobody changes it without need."""
    told = run("""
        limit(1024, 4096)
        async def main():
            policy = wspool.PoolPolicy(max_size=500, min_idle=0)
            async with wspool.open_pool("ws://localhost:9/", policy=policy):
                pass
        trio.run(main)
        tell(soft=soft())
        """)

    assert 1024 == told["soft"]


def test_a_pool_is_not_resized_beyond_what_can_be_carried(url: str) -> None:
    """The same rule and the same words, connections that are there not counted twice."""
    told = run(
        """
        limit(256)
        async def main():
            policy = wspool.PoolPolicy(max_size=60, min_idle=60)
            async with wspool.open_pool(sys.argv[1], policy=policy) as pool:
                await pool.wait_ready()
                first = pool.statistics().max_size
                pool.resize(max_size=1000)
                tell(first=first, then=pool.statistics().max_size, used=used(), warnings=warnings())
        trio.run(main)
        """,
        url,
    )

    assert 60 == told["first"]
    assert 256 - 128 - 20 <= told["then"] <= 256 - 128
    assert [warning[:27] for warning in told["warnings"]] == ["max_size=1000 cannot be had"]


OTHERS = """
limit(int(sys.argv[2]))

async def main():
    policy = wspool.PoolPolicy(max_size=40, min_idle=0, give_up_after=3, dial_concurrency=4)
    async with wspool.open_pool(sys.argv[1], policy=policy) as pool:
        async def one(number):
            async with pool.conversation(model="m") as conversation:
                seen[(await conversation.respond("go")).status] += 1
        seen = collections.Counter()
        async with pool.conversation(model="m") as first:
            await first.respond("go")
            others = fill(leave=int(sys.argv[3]))
            async with trio.open_nursery() as nursery:
                for number in range(30): nursery.start_soon(one, number)
            s = pool.statistics()
            scarce = (s.size, s.degraded, s.dial_failures)
            for descriptor in others: os.close(descriptor)
            pool.retry_now()
            async with trio.open_nursery() as nursery:
                for number in range(30): nursery.start_soon(one, number)
        tell(seen=seen, scarce=scarce, after=pool.statistics().size, warnings=warnings())

trio.run(main)
"""


@pytest.mark.parametrize("leave", [0, 5])
def test_while_the_program_has_everything_lanes_are_shared(leave: int, url: str) -> None:
    """Nobody is refused while connections live; it is told once, as what it is, and the pool grows later."""
    told = run(OTHERS, url, 128, leave)

    assert {"completed": 60} == told["seen"]
    size, degraded, failures = told["scarce"]
    assert (1, False) == (size, degraded)
    assert 0 < failures < 20, "it is not tried without a pause"
    assert told["after"] > 1
    (warning,) = told["warnings"]
    assert "ulimit -n" in warning
    assert "firewall" not in warning


def test_with_nothing_at_all_the_error_says_what_to_do() -> None:
    """Also where the name cannot be looked up without a descriptor, and for what is sent by HTTP."""
    told = run("""
        limit(64)
        async def main():
            policy = wspool.PoolPolicy(max_size=4, min_idle=0, give_up_after=0.5)
            async with wspool.open_pool("ws://localhost:9/", policy=policy) as pool:
                others = fill(leave=0)
                try:
                    async with pool.lease(): pass
                except wspool.DialFailedError as error:
                    found = error
                kind, text = type(found).__name__, str(found)
                cause = getattr(found.__cause__.__cause__, "errno", None)
                try:
                    async with pool.conversation(model="m") as conversation: await conversation.compact()
                except wspool.WsPoolError as error:
                    compacting = str(error)
                s = pool.statistics()
                for descriptor in others: os.close(descriptor)
            tell(
                kind=kind, text=text, cause=cause, emfile=errno.EMFILE, degraded=s.degraded,
                warnings=warnings(), compacting=compacting,
            )
        trio.run(main)
        """)

    assert "DialFailedError" == told["kind"]
    for text in (told["text"], told["compacting"], told["warnings"][0]):
        assert "raise this process's limit of open files (ulimit -n), or lower max_size" in text
        assert "firewall" not in text
    assert told["emfile"] == told["cause"]
    assert not told["degraded"]


def test_a_table_that_is_full_is_left_alone() -> None:
    """Whoever has used up everything is told; it may be a leak, and a higher limit would only feed it."""
    told = run("""
        limit(64, 4096)
        others = fill(leave=0)
        room = descriptors.has_room()
        for descriptor in others: os.close(descriptor)
        tell(room=room, soft=soft())
        """)

    assert (False, 64) == (told["room"], told["soft"])


def test_the_last_part_of_the_table_is_the_programs() -> None:
    """Whoever opened what before: no connection has a number in it, and every socket is closed again."""
    told = run("""
        limit(100)
        async def main():
            listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
            port = listeners[0].socket.getsockname()[1]
            url = f"ws://127.0.0.1:{port}/"
            endpoint = parse_url(url, connect_timeout=5, close_timeout=1, max_message_size=99)
            holes = fill(leave=30)
            for descriptor in holes[:10]: os.close(descriptor)
            streams, failure, before = [], None, used()
            try:
                while True: streams.append(await open_stream(endpoint))
            except Exception as error: failure = error
            numbers = [stream.socket.fileno() for stream in streams]
            tell(numbers=numbers, failure=str(failure), used=used() - before)
        trio.run(main)
        """)

    assert told["numbers"]
    assert max(told["numbers"]) < 50
    assert len(told["numbers"]) == told["used"]
    assert "Too many open files" in told["failure"]


def test_threads_raise_the_limit_together() -> None:
    """What one has raised no other lowers."""
    told = run("""
        limit(256, 4096)
        sizes = range(3000, 100, -10)
        threads = [threading.Thread(target=descriptors.room_for, args=(size,)) for size in sizes]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        tell(soft=soft(), least=3000 + descriptors.KEPT)
        """)

    assert told["least"] <= told["soft"]


def test_a_system_that_refuses_more_is_believed() -> None:
    """macOS tells a hard limit without end and refuses to go above 10240."""
    told = run("""
        def refuse(which, limits): raise ValueError("current limit exceeds maximum limit")
        limit(256, 4096)
        resource.setrlimit = refuse
        room = descriptors.room_for(500)
        tell(connections=room.connections, limit=room.limit, one=descriptors.has_room())
        """)

    assert (256, True) == (told["limit"], told["one"])
    assert 128 - 20 < told["connections"] <= 128


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: OSError(24, "EMFILE"), True),
        (lambda: OSError(23, "ENFILE"), True),
        (lambda: ExceptionGroup("tried", [OSError(111, "refused"), OSError(24, "EMFILE")]), True),
        (lambda: OSError(111, "refused"), False),
        (lambda: RuntimeError("no number"), False),
    ],
)
def test_a_shortage_is_known_wherever_it_is_hidden(make: Callable[[], Exception], expected: bool) -> None:
    """As itself, as a cause, in the group of what was tried; a chain that bites its tail ends."""
    from wspool.wire.descriptors import is_shortage

    error = make()
    outer = ConnectionError("no connection")
    outer.__cause__ = error
    circle = RuntimeError("first")
    circle.__cause__ = RuntimeError("second")
    circle.__cause__.__cause__ = circle

    assert (expected, expected, False) == (is_shortage(error), is_shortage(outer), is_shortage(circle))
