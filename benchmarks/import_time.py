"""How long `import wspool` takes, and what it imports.

Fresh interpreters, in turn; the time of one that imports nothing is taken off. Wall time in
milliseconds, with the modules already compiled.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time

from benchmarks.harness import Row, installed

__all__ = ["run"]

PEERS = ("trio", "trio_websocket", "websockets.asyncio.client", "aiohttp", "httpx", "openai")

_WHAT = """
import json, sys
import wspool
names = {name.partition(".")[0] for name in sys.modules}
print(json.dumps(sorted(name for name in names - set(sys.stdlib_module_names) if not name.startswith("_"))))
"""


def run(*, quick: bool) -> list[Row]:
    """Measure it."""
    here = [name for name in PEERS if installed(name)]
    took: dict[str, list[float]] = {name: [] for name in ["sys", "wspool", *here]}
    for _ in range(5 if quick else 15):
        for name, found in took.items():
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", f"import {name}"], check=True)
            found.append((time.perf_counter() - began) * 1e3)
    nothing = statistics.median(took["sys"])
    millis = {name: statistics.median(found) - nothing for name, found in took.items()}
    out = subprocess.run([sys.executable, "-c", _WHAT], check=True, capture_output=True, text=True).stdout
    imported = [name for name in json.loads(out) if name != "wspool"]
    return [
        Row(
            metric="import wspool",
            value=millis["wspool"],
            unit="ms",
            peers={name: millis.get(name) for name in PEERS},
        ),
        Row(
            metric="import wspool: packages imported",
            value=len(imported),
            unit="",
            note=", ".join(imported),
        ),
    ]
