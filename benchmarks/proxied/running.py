"""Programs that a benchmark starts, and what the kernel says of them: CPU and memory. Linux.

A proxy is measured from outside, as the program that people run. What it used is what all of its processes
used, to the nanosecond (`clock_getcpuclockid`), so that it does not matter who else is at work.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit
from urllib.request import urlopen

__all__ = ["KEY", "LITELLM", "Program", "free_port", "litellm", "open_litellm", "open_proxy", "starting"]

#: Names the executable of LiteLLM, if it is in an environment of its own.
LITELLM: Final = "WSPOOL_BENCH_LITELLM"

#: What clients show.
KEY: Final = "sk-bench-of-the-proxy-0123456789"

#: Seconds for a program to come up, and for one to end.
_PATIENCE: Final = 120.0

_ROOT: Final = Path(__file__).parent.parent.parent
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


class Program:
    """One that runs.

    Attributes:
        base_url: what its clients are told.
        port: where it listens.
        pid: of the process that was started.
    """

    def __init__(self, process: subprocess.Popen[str], base_url: str) -> None:
        self.base_url = base_url
        self.port = urlsplit(base_url).port or 0
        self.pid = process.pid
        self._process = process

    def processes(self) -> list[int]:
        """It and its children, as far as they run."""
        found, left = [], [self.pid]
        while left:
            pid = left.pop()
            found.append(pid)
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                try:
                    left += [int(child) for child in children.read_text(encoding="ascii").split()]
                except OSError:
                    pass  # a thread that has ended
        return found

    def cpu(self) -> float:
        """Seconds of CPU that it has used so far. Raises ProcessLookupError: it has ended."""
        total = 0.0
        for pid in self.processes():
            try:
                # How the kernel writes the clock of another process. Source: linux/posix-timers.h.
                total += time.clock_gettime((~pid << 3) | 2)
            except OSError:
                if pid == self.pid:
                    raise ProcessLookupError(f"{self._process.args!r} has ended") from None
        return total

    def memory(self) -> int:
        """Bytes that it holds now."""
        total = 0
        for pid in self.processes():
            try:
                total += int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * _PAGE
            except OSError:
                pass  # a child that has ended
        return total

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def wait(self, seconds: float = _PATIENCE) -> int:
        """Wait for its end; return its code."""
        return self._process.wait(seconds)


@contextmanager
def starting(
    command: Sequence[str], env: Mapping[str, str] | None = None, *, log: Path | None = None
) -> Generator[subprocess.Popen[str]]:
    """Run *command* in a session of its own; what it says on standard error goes to *log*, or is shown."""
    with log.open("w") if log is not None else open(os.devnull) as errors:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if log is None else errors,
            stderr=errors if log is not None else None,
            env={**os.environ, **(env or {})},
            text=True,
            cwd=_ROOT,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # it is gone already
            process.wait(_PATIENCE)
            if process.stdout is not None:
                process.stdout.close()


@contextmanager
def open_proxy(
    url: str, *options: str, port: int = 0, env: Mapping[str, str] | None = None
) -> Generator[Program]:
    """Run `wspool proxy` in front of *url*."""
    command = (sys.executable, "-m", "wspool", "proxy", "--port", str(port), "--url", url, *options)
    with starting(command, env) as process:
        assert process.stdout is not None
        if not (line := process.stdout.readline()):
            raise RuntimeError("the proxy has not come up; what it said is above")
        yield Program(process, line.strip())


def litellm() -> str | None:
    """Where LiteLLM's proxy is; None if it is not here."""
    return os.environ.get(LITELLM) or shutil.which("litellm")


@contextmanager
def open_litellm(base_url: str, model: str) -> Generator[Program | None]:
    """Run LiteLLM's proxy in front of *base_url*; None if it is not here."""
    found = litellm()
    if found is None:
        yield None
        return
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="wspool-bench-") as folder:
        config = Path(folder) / "config.yaml"
        config.write_text(
            "model_list:\n"
            f"  - model_name: {model}\n"
            f"    litellm_params: {{model: openai/{model}, api_base: '{base_url}', api_key: none}}\n"
            "litellm_settings: {telemetry: false}\n",
            encoding="utf-8",
        )
        # It fetches a list of prices when it starts, unless it is told not to. Like our proxy here it asks
        # its clients for no key of its own.
        env = {
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_LOG": "ERROR",
            "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
        }
        command = (found, "--config", str(config), "--host", "127.0.0.1", "--port", str(port))
        with starting(command, env, log=Path(folder) / "log") as process:
            deadline = time.monotonic() + _PATIENCE
            while not _answers(f"http://127.0.0.1:{port}/health/liveliness"):
                if process.poll() is not None or time.monotonic() > deadline:
                    said = (Path(folder) / "log").read_text(encoding="utf-8")[-2000:]
                    raise RuntimeError(f"LiteLLM has not come up:\n{said}")
                time.sleep(0.2)
            yield Program(process, f"http://127.0.0.1:{port}/v1")


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=5):
            return True
    except OSError:
        return False


def free_port() -> int:
    """A port of loopback that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
