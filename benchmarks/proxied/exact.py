"""Accounts that agree: 10 clients x 40-turn tool conversations, whatever goes wrong; and their deltas.

Three books are kept: the clients know what they asked for, the provider what it ran, the proxy (`--log`) what
passed. What a turn costs follows from the provider's ledger (`provider.tokens`).
"""

from __future__ import annotations

import signal
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import attrs
import trio

import wspool
from benchmarks.harness import Row
from benchmarks.processes import Process
from benchmarks.proxied.provider import Options, lines, open_provider, tokens
from benchmarks.proxied.running import Program, free_port, open_proxy
from benchmarks.proxied.talking import Talk, Talker

__all__ = ["TOKENS", "Scene", "account_rows", "accounts", "agents", "deltas", "opened"]

CLIENTS: Final = 10
CALLS: Final = 39
#: Of those that are more than the lanes of the proxy.
AGENTS, LANES, STEPS = 40, 10, 5
#: Names of tokens, and what is shown for them; clients share them in turn.
TOKENS: Final = {"editor": "wsp-editor-0123456789abcdef", "batch": "wsp-batch-0123456789abcdef"}
KEY: Final = "sk-of-the-proxy-0123456789"

_SAID: Final = "a line of a file that was read\n" * 20


def _name(client: int) -> str:
    return f"client {client:02d}"


def _output(client: int) -> Callable[[int], str]:
    return lambda part: f"client {client:02d}, part {part}\n{_SAID}"


@attrs.define
class Scene:
    """A provider and a proxy, both of which may be started anew, and their books."""

    folder: Path
    options: Options
    lanes: int | None = None
    port: int = attrs.field(factory=free_port)
    proxies: int = 0
    providers: int = 0
    provider: Process | None = None
    base_url: str = ""
    _stacks: dict[str, ExitStack] = attrs.field(factory=dict[str, ExitStack])
    proxy: Program | None = None

    def start_provider(self) -> None:
        """Start one, in place of the one before, which is killed."""
        if "provider" in self._stacks:
            self._stacks.pop("provider").close()
        self.providers += 1
        stack = self._stacks["provider"] = ExitStack()
        self.provider = stack.enter_context(open_provider(attrs.evolve(self.options, seed=self.providers)))

    def start_proxy(self) -> None:
        """Start one, which takes over from the one before; that one ends what it has begun."""
        tokens = self.folder / "tokens"
        tokens.write_text("".join(f"{name} {token}\n" for name, token in TOKENS.items()), encoding="utf-8")
        tokens.chmod(0o600)
        self.proxies += 1
        stack = ExitStack()
        url = f"ws://127.0.0.1:{self.options.port}/v1/responses"
        log = str(self.folder / f"log-{self.proxies}")
        access = ("--api-key-env", "BENCH_KEY", "--token-file", str(tokens))
        options: tuple[str, ...] = (*access, "--log", log, "--take-over", "--grace", "20")
        if self.lanes is not None:
            options += ("--max-size", str(self.lanes))
        proxy = stack.enter_context(open_proxy(url, *options, port=self.port, env={"BENCH_KEY": KEY}))
        before, self.proxy, self.base_url = self.proxy, proxy, proxy.base_url
        if before is not None:
            before.signal(signal.SIGTERM)
            before.wait(30)
            self._stacks.pop("proxy").close()
        self._stacks["proxy"] = stack

    def stop(self) -> None:
        """Stop both; the proxy ends as it is told to, so that its book is whole."""
        if self.proxy is not None:
            self.proxy.signal(signal.SIGTERM)
            self.proxy.wait(30)
        for stack in self._stacks.values():
            stack.close()
        self._stacks.clear()

    def ledger(self) -> list[dict[str, Any]]:
        """What the provider wrote down of the turns that it was asked for."""
        return [entry for entry in lines(self.folder / "ledger") if entry["generate"]]

    def taken(self) -> Counter[tuple[str, int]]:
        """How often the provider ran each turn of each client, refusals left out."""
        refused = Counter(
            entry["context_sha256"] for entry in self.ledger() if entry["outcome"] == "rejected"
        )
        found: Counter[tuple[str, int]] = Counter()
        for one in lines(self.folder / "taken"):
            if refused[one["digest"]]:
                refused[one["digest"]] -= 1
            else:
                found[one["who"], one["turn"]] += 1
        return found

    def records(self) -> list[dict[str, Any]]:
        """What the proxies wrote down."""
        return [
            record for number in range(self.proxies) for record in lines(self.folder / f"log-{number + 1}")
        ]


@contextmanager
def opened(*, calls: int = CALLS, lanes: int | None = None, **options: Any) -> Generator[Scene]:
    """A scene while the block runs."""
    with tempfile.TemporaryDirectory(prefix="wspool-bench-") as name:
        folder = Path(name)
        books: dict[str, Any] = {"ledger": str(folder / "ledger"), "taken": str(folder / "taken")}
        scene = Scene(folder, Options(port=free_port(), calls=calls, **books, **options), lanes)
        try:
            scene.start_provider()
            scene.start_proxy()
            yield scene
        finally:
            scene.stop()


def _talk(
    scene: Scene, meanwhile: Callable[[int], None] | None = None, *, clients: int = CLIENTS
) -> list[Talk]:
    """Let all clients talk to their ends; call *meanwhile* every second and a half with a number."""
    keys = list(TOKENS.values())
    talkers = [
        Talker(scene.base_url, _name(client), keys[client % len(keys)], _output(client))
        for client in range(clients)
    ]
    threads = [threading.Thread(target=talker.run, daemon=True) for talker in talkers]
    for thread in threads:
        thread.start()
    number, deadline = 0, time.monotonic() + 300
    while any(thread.is_alive() for thread in threads):
        if time.monotonic() > deadline:
            raise RuntimeError(f"clients are stuck: {[talker.talk for talker in talkers]}")
        if meanwhile is not None:
            meanwhile(number)
        number += 1
        end = time.monotonic() + 1.5
        while time.monotonic() < end and any(thread.is_alive() for thread in threads):
            time.sleep(0.05)
    return [talker.talk for talker in talkers]


def accounts(*, quick: bool) -> list[Row]:
    """Turns asked for, run, and paid for, through everything that can go wrong."""
    with opened(think=0.15 if quick else 0.5, lifetime=4.0, faults=0.15) as scene:

        def meanwhile(number: int) -> None:
            if number and number % 2 == 0:
                scene.start_proxy()
            elif number % 4 == 3:
                scene.start_provider()

        talks = _talk(scene, meanwhile)
        scene.stop()
        named = {_name(client): talk for client, talk in enumerate(talks)}
        return account_rows("accounts", scene, named, expected=CLIENTS * (CALLS + 1))


def account_rows(about: str, scene: Scene, talks: Mapping[str, Talk], *, expected: int) -> list[Row]:
    """Compare the three books; *expected* are the turns of all talks together."""
    problems = [f"{name}: {problem}" for name, talk in talks.items() for problem in talk.problems]
    ended = sum(talk.ended for talk in talks.values())
    asked = {(name, turn): times for name, talk in talks.items() for turn, times in enumerate(talk.asked)}
    taken, ledger, records = scene.taken(), scene.ledger(), scene.records()
    unasked = sum(max(0, times - asked.get(turn, 0)) for turn, times in taken.items())
    went_wrong = Counter(str(entry["outcome"]) for entry in ledger if entry["outcome"] != "completed")
    note = (
        f"{sum(asked.values())} requests, {sum(taken.values())} turns taken; by the provider "
        f"{', '.join(f'{number} {name}' for name, number in sorted(went_wrong.items()))}; "
        f"{scene.proxies} proxies, {scene.providers} providers; retries of clients "
        f"{sum(talk.retries for talk in talks.values())}" + (f"; {problems[:3]}" if problems else "")
    )
    full = [r for r in records if r["items_sent"] is not None and r["items_sent"] == r["items_given"]]
    unsaid = sum(record["why_full"] is None for record in full if record["requests"])
    why = Counter(str(record["why_full"]) for record in full)
    return [
        Row(
            metric=f"{about}: turns that were not answered",
            value=expected - ended,
            unit="",
            most=0,
            note=note,
        ),
        Row(metric=f"{about}: turns run that nobody asked for", value=unasked, unit="", most=0),
        *_paid(about, ledger, records, scene.providers - 1),
        Row(
            metric=f"{about}: full sends without a reason",
            value=unsaid,
            unit="",
            most=0,
            note=", ".join(f"{number} {name}" for name, number in why.most_common()),
        ),
        Row(
            metric=f"{about}: streams that ended in no way, and other problems",
            value=len(problems),
            unit="",
            most=0,
        ),
    ]


def _paid(
    about: str, ledger: Sequence[Mapping[str, Any]], records: Sequence[Mapping[str, Any]], killed: int
) -> list[Row]:
    """Compare what the provider has counted with the sums of the proxies, by the name of a token.

    It counts a turn before it says that it has ended. One that is killed in between has said it to nobody:
    the record of such a turn says that it was lost, and nothing of its tokens.
    """
    whose = {record["response_id"]: record for record in records if record["response_id"]}
    provider: Counter[str] = Counter()
    nobodys = unsaid = 0
    for entry in ledger:
        if entry["outcome"] == "completed":
            record = whose.get(entry["response_id"])
            nobodys += record is None
            if record is not None and record["usage"] is None and record["outcome"] in ("lost", "left"):
                unsaid += 1
            else:
                name = "nobody" if record is None else record["token"]
                provider[name] += sum(tokens(entry["context_items"]))
    own: Counter[str] = Counter()
    for record in records:
        if record["usage"] is not None:
            own[record["token"]] += record["usage"]["input"] + record["usage"]["output"]
    apart = sum(abs(provider[name] - own[name]) for name in {*provider, *own})
    counted = ", ".join(f"{name}: {number:,}" for name, number in sorted(own.items()))
    return [
        Row(
            metric=f"{about}: tokens that provider and proxy count differently, by name of token",
            value=apart,
            unit="",
            most=0,
            note=f"{counted}; {nobodys} responses that no record knows",
        ),
        Row(
            metric=f"{about}: turns whose end the provider counted and, killed, did not say",
            value=unsaid,
            unit="",
            most=killed,
        ),
    ]


# -- deltas ---------------------------------------------------------------------------------------


def deltas(*, quick: bool) -> list[Row]:
    """How many turns of clients without a state become deltas, beside a WebSocket of their own."""
    del quick
    with opened(lifetime=5.0, think=0.02) as scene:
        _talk(scene)
        scene.stop()
        through, why = (
            scene.ledger(),
            Counter(str(record["why_full"]) for record in scene.records() if record["why_full"] is not None),
        )
    with tempfile.TemporaryDirectory(prefix="wspool-bench-") as name:
        ledger = Path(name) / "ledger"
        options = Options(calls=CALLS, lifetime=5.0, think=0.02, ledger=str(ledger))
        with open_provider(options) as provider:
            trio.run(_directly, f"ws://127.0.0.1:{provider.port}/v1/responses")
        straight = [entry for entry in lines(ledger) if entry["generate"]]
    own, theirs = _continued(through), _continued(straight)
    reasons = ", ".join(f"{number} {name}" for name, number in why.most_common())
    return [
        Row(
            metric="deltas of SSE clients without a state, over those of a WebSocket of their own",
            value=100 * own / theirs,
            unit="%",
            least=95,
            note=f"{own} of {len(through)} turns, directly {theirs} of {len(straight)}; lifetime 5 s; "
            f"sent in full: {reasons}",
        )
    ]


def agents(*, quick: bool) -> list[Row]:
    """Four times as many clients as lanes: how many follow-ups are deltas, and how long a turn waits."""
    with opened(calls=STEPS, lanes=LANES, think=0.15 if quick else 0.5) as scene:
        talks = _talk(scene, clients=AGENTS)
        scene.stop()
        ledger, records = scene.ledger(), scene.records()
    waits = statistics.quantiles([record["line"] or 0.0 for record in records], n=100)
    unanswered = AGENTS * (STEPS + 1) - sum(talk.ended for talk in talks)
    return [
        Row(
            metric=f"agents: follow-ups of {AGENTS} clients over {LANES} lanes that are deltas",
            value=100 * _continued(ledger) / (AGENTS * STEPS),
            unit="%",
            least=70,
            note=f"{len(ledger)} turns; waited for a lane p50 {waits[49]:.1f}, p95 {waits[94]:.1f} s",
        ),
        Row(metric="agents: turns that were not answered", value=unanswered, unit="", most=0),
    ]


def _continued(ledger: Sequence[Mapping[str, Any]]) -> int:
    return sum(entry["previous_response_id"] is not None for entry in ledger)


async def _directly(url: str) -> None:
    tool = {"type": "function", "name": "read", "strict": False, "parameters": {"type": "object"}}
    options: dict[str, Any] = {"model": "bench", "tools": [tool], "store": False}

    async def talk(pool: wspool.Pool, client: int) -> None:
        async with pool.conversation(**options) as conversation:
            asked: Any = _name(client)
            for part in range(CALLS + 1):
                response = await conversation.respond(asked)
                calls = [item for item in response.output if item["type"] == "function_call"]
                said = _output(client)(part)
                asked = [
                    {"type": "function_call_output", "call_id": call["call_id"], "output": said}
                    for call in calls
                ]

    policy = wspool.PoolPolicy(max_size=CLIENTS, min_idle=0)
    async with wspool.open_pool(url, policy=policy) as pool, trio.open_nursery() as nursery:
        for client in range(CLIENTS):
            nursery.start_soon(talk, pool, client)
