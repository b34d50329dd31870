"""The other processes of a benchmark: the blaster, the link, and a client that is measured from outside."""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import ParamSpec, TypeVar

import attrs

from benchmarks.script import Say

__all__ = [
    "Process",
    "Server",
    "apart",
    "certificate",
    "client_context",
    "open_blaster",
    "open_link",
    "resident",
]

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Process:
    """One of our processes. Lines in, lines of JSON out.

    Attributes:
        port: where it listens.
    """

    def __init__(self, *command: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parent.parent,
        )
        self._before: dict[str, float] = {}
        self.port = int(self._line())

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("a process of the benchmark ended; what it said is above")
        return line

    def account(self) -> dict[str, float]:
        """What it says about itself."""
        assert self._process.stdin is not None
        self._process.stdin.write("?\n")
        self._process.stdin.flush()
        account: dict[str, float] = json.loads(self._line())
        return account

    def lap(self) -> dict[str, float]:
        """What has changed since the last lap; `busy` is the share of a core that it used."""
        now, before = self.account(), self._before
        self._before = now
        lap = {name: value - before.get(name, 0) for name, value in now.items()}
        lap["busy"] = lap["cpu"] / lap["wall"] if before and lap["wall"] else 0.0
        return lap

    def stop(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


@attrs.frozen
class Server:
    """A blaster as its clients see it."""

    process: Process
    tls: bool

    def authority(self, port: int | None = None) -> str:
        """Host and port; TLS needs a name."""
        return f"localhost:{port or self.process.port}"

    def url(self, say: Say, *, port: int | None = None, http: bool = False) -> str:
        """Where turns are as *say* says; through *port*, if given."""
        scheme = ("http" if http else "ws") + ("s" if self.tls else "")
        return f"{scheme}://{self.authority(port)}/v1/responses?{say.query}"

    def base_url(self, say: Say) -> str:
        """The same for programs that take a base URL, and put paths behind it."""
        return f"http{'s' if self.tls else ''}://{self.authority()}/{say.query}/v1"


@functools.cache
def _certificate() -> tuple[tempfile.TemporaryDirectory[str], str, str, str]:
    import trustme

    folder = tempfile.TemporaryDirectory(prefix="wspool-bench-")
    authority = trustme.CA()
    issued = authority.issue_cert("localhost", "127.0.0.1")
    paths = [os.path.join(folder.name, name) for name in ("ca.pem", "chain.pem", "key.pem")]
    authority.cert_pem.write_to_path(paths[0])
    issued.cert_chain_pems[0].write_to_path(paths[1])
    issued.private_key_pem.write_to_path(paths[2])
    return folder, paths[0], paths[1], paths[2]


def certificate() -> tuple[str, str, str]:
    """The files of an authority to trust, of a certificate of this machine, and of its key."""
    return _certificate()[1:]


def client_context() -> ssl.SSLContext:
    """TLS settings that trust the blaster."""
    return ssl.create_default_context(cafile=_certificate()[1])


@contextmanager
def open_blaster(*, tls: bool = False) -> Generator[Server, None, None]:
    """Run a blaster while the block runs."""
    process = Process("benchmarks.blaster", *(_certificate()[2:] if tls else ()))
    try:
        yield Server(process, tls)
    finally:
        process.stop()


@contextmanager
def open_link(port: int, *, round_trip: float, up: float) -> Generator[Process, None, None]:
    """Run a link to *port* while the block runs. Seconds, and bytes per second."""
    process = Process("benchmarks.link", str(port), str(round_trip), str(up))
    try:
        yield process
    finally:
        process.stop()


def apart(function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Call *function* in a fresh process and return what it returns."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
        return pool.submit(function, *args, **kwargs).result()


def resident() -> int:
    """Bytes of memory this process holds now. Linux."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
