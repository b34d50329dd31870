"""Promela: traces of pools, judged by a model in another language (`pool.pml`), which spin runs.

`python -m tests.explore.promela` judges any number of drawn runs of the scenes.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from tests.explore.scenes import SCENES
from tests.explore.stage import traced
from wspool.testing.explore.deciders import Drawn
from wspool.testing.explore.run import Run, Terms

__all__ = ["MISSING", "Line", "accepted", "feed_of", "main", "trace_of"]

#: A line for the model: what happens, and four numbers.
Line = tuple[str, int, int, int, int]

_MODEL: Final = Path(__file__).with_name("pool.pml")

#: Why traces cannot be judged here, if that is so.
MISSING: Final = "" if shutil.which("spin") else "spin is not installed (apt install spin)"

#: Inputs that say nothing to the model.
_SILENT: Final = frozenset(
    {"start", "tick", "force", "hold", "over", "retry_now", "give_up", "park", "ponged", "hang_up", "drain"}
)
_OF_CONNECTIONS: Final = {
    "connected": "CONNECTED", "dial_failed": "FAILED", "lost": "LOST", "gone": "GONE", "retire": "RETIRE",
    "widen": "WIDEN",
}  # fmt: skip
_OF_WAITERS: Final = {"acquire": "ACQUIRE", "acquire_nowait": "NOWAIT", "abandon": "ABANDON"}
_SILENT_COMMANDS: Final = frozenset({"Ping", "Degraded", "Recovered", "LifetimeLearned", "Leaking", "Warm"})


def trace_of(seed: int) -> list[str]:
    """Return the trace of a drawn run of a drawn scene."""
    dice = random.Random(seed)
    scene = dice.choice(SCENES)
    lines: list[str] = []
    with traced(lines.append):
        run = Run(scene.program, Drawn(dice), Terms(stall=scene.stall)).make()
    assert run.failure is None, f"seed {seed}, {scene.name}: {run.failure}"
    return lines


def feed_of(trace: Sequence[str]) -> list[Line]:
    """Return *trace* as the model takes it."""
    head, *rest = map(json.loads, trace)
    lanes = min(head["policy"]["lanes"], head["provider"]["lanes"])
    lines: list[Line] = [("NEW", head["policy"]["max_size"], lanes, 0, 0)]
    for line in rest:
        lines += _input(line)
        for command in line["commands"]:
            lines += _command(command)
        lines.append(("STEP", 0, 0, 0, 0))
    return lines


def _input(line: dict[str, Any]) -> list[Line]:
    name, said = line["input"], line["arguments"]
    if name in _SILENT:
        return []
    if name in _OF_CONNECTIONS:
        return [(_OF_CONNECTIONS[name], said["connection"], 0, 0, 0)]
    if name in _OF_WAITERS:
        return [(_OF_WAITERS[name], said["waiter"], 0, 0, 0)]
    match name:
        case "begin":
            return [("BEGIN", said["lease"], 0, 0, 0)] if line["verdict"] == "go" else []
        case "finished":
            return [("FINISHED", said["connection"], said["lane"], 0, 0)]
        case "release":
            return [("RELEASE", said["lease"], 0, 0, 0)]
        case "close":
            return [("CLOSE", 0, 0, 0, 0)]
        case "narrow":
            return [("NARROW", 0, 0, 0, 0)]
    raise ValueError(f"the model knows nothing of {name!r}")


def _command(command: dict[str, Any]) -> list[Line]:
    name = command["command"]
    if name in _SILENT_COMMANDS:
        return []
    match name:
        case "Dial" | "HangUp":
            return [(name.upper(), command["connection"], 0, 0, 0)]
        case "Grant":
            numbers = command["waiter"], command["lease"], command["connection"], command["lane"]
            return [("GRANT", *numbers)]
        case "Refuse":
            return [("REFUSE", command["waiter"], 0, 0, 0)]
        case "Expiring":
            return [("EXPIRING", command["lease"], 0, 0, 0)]
        case "Stolen" | "Returned":
            return [("TAKEN", command["lease"], 0, 0, 0)]
    raise ValueError(f"the model knows nothing of {name!r}")


def accepted(lines: Iterable[Line]) -> bool:
    """Return whether the model takes *lines*, of one trace or of many."""
    fed = "\n".join(f"    feed ! {name}({', '.join(map(str, numbers))});" for name, *numbers in lines)
    model = _MODEL.read_text(encoding="utf-8")
    text = f"{model}\ninit {{\n    run pool();\n{fed}\n    feed ! END(0, 0, 0, 0)\n}}\n"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.pml"
        file.write_text(text, encoding="utf-8")
        done = subprocess.run(
            ["spin", "-T", "-B", "-u10000000", str(file)], capture_output=True, text=True, timeout=300
        )
    if "all accepted" in done.stdout:
        return True
    if "assertion violated" in done.stdout + done.stderr:
        return False
    raise RuntimeError(f"spin did not judge: {done.stdout[-500:]} {done.stderr[-500:]}")


def main() -> int:
    """Judge traces; return 1 if one is refused."""
    parser = argparse.ArgumentParser(prog="python -m tests.explore.promela", description=__doc__)
    parser.add_argument("--runs", type=int, default=1000, metavar="N", help="how many")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="the first seed")
    options = parser.parse_args()
    refused = count = 0
    for first in range(options.first, options.first + options.runs, 20):
        seeds = range(first, min(first + 20, options.first + options.runs))
        feeds = {seed: feed_of(trace_of(seed)) for seed in seeds}
        count += sum(map(len, feeds.values()))
        if not accepted(line for feed in feeds.values() for line in feed):
            for seed in [seed for seed, feed in feeds.items() if not accepted(feed)]:
                refused += 1
                print(f"seed {seed} is refused")  # noqa: T201 # a command line
    print(f"{options.runs} traces, {count} lines, {refused} refused")  # noqa: T201
    return min(refused, 1)


if __name__ == "__main__":
    sys.exit(main())
