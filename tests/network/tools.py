"""Programs and namespaces for tests: there while they are needed, gone afterwards whatever happens."""

from __future__ import annotations

import ctypes
import fcntl
import os
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

import attrs
import pytest
import trio

__all__ = [
    "PACKAGES",
    "Network",
    "Program",
    "free_port",
    "lacks",
    "needs",
    "network",
    "running",
    "until",
]

#: What brings a program, on Debian.
PACKAGES: Final = {
    "haproxy": "haproxy",
    "ip": "iproute2",
    "nft": "nftables",
    "nginx": "nginx-light",
    "openssl": "openssl",
    "ss": "iproute2",
    "stunnel": "stunnel4",
    "tc": "iproute2",
}

#: Debian's places for them, some of which are not on everybody's PATH.
_PATH: Final = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))

#: Seconds for a program to listen, and for one to end.
_PATIENCE: Final = 10.0

# Addresses for measurements, which nobody routes. Source: RFC 2544, appendix C.2.2.
_NEAR: Final = "198.18.0.1"
_FAR: Final = "198.18.0.2"

# Source: sched.h and prctl.h.
_CLONE_NEWNET: Final = 0x40000000
_PR_SET_PDEATHSIG: Final = 1

# Source: linux/if_tun.h.
_TUNSETIFF: Final = 0x400454CA
_IFF_TUN: Final = 0x0001
_IFF_NO_PI: Final = 0x1000

#: The device of a detour, at each of its ends.
_DETOUR: Final = "detour"

_libc: Final = ctypes.CDLL(None, use_errno=True)


def lacks(*programs: str) -> str:
    """The first of these programs that is not there, and what brings it; empty if all are."""
    for program in programs:
        if shutil.which(program, path=_PATH) is None:
            return f"needs {program}: apt-get install {PACKAGES[program]}"
    return ""


def needs(program: str) -> pytest.MarkDecorator:
    """Skip the test unless that program is there."""
    reason = lacks(program)
    return pytest.mark.skipif(bool(reason), reason=reason)


def free_port() -> int:
    """A TCP port of loopback that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def until(condition: Callable[[], bool]) -> None:
    """Wait until *condition* holds, which another program or the kernel brings about."""
    with trio.fail_after(_PATIENCE):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.01)


# -- programs ---------------------------------------------------------------------------------------


@attrs.frozen
class Program:
    """A running program."""

    process: subprocess.Popen[bytes]
    log: Path

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to it alone."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """End it and what it started, at once, and wait for that."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it is gone, and all it started
        self.process.wait(_PATIENCE)


def _die_with_the_tests() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)  # upon which they end what they started


def _start(log: Path, command: Sequence[str | Path]) -> Program:
    path = shutil.which(str(command[0]), path=_PATH)
    assert path is not None
    with log.open("wb") as output:
        process = subprocess.Popen(
            [path, *map(str, command[1:])],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_die_with_the_tests,
        )
    return Program(process, log)


@asynccontextmanager
async def running(log: Path, command: Sequence[str | Path], *ports: int) -> AsyncGenerator[Program]:
    """Run *command* until the block is left; the block begins when it listens on *ports* of loopback."""
    program = _start(log, command)
    try:
        for port in ports:
            await _listens(program, port)
        yield program
    finally:
        program.kill()


async def _listens(program: Program, port: int) -> None:
    with trio.move_on_after(_PATIENCE):
        while program.process.poll() is None:
            try:
                await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
            except OSError:
                await trio.sleep(0.02)
            else:
                return
    raise AssertionError(f"{program.process.args!r} does not run:\n{program.log.read_text()}")


# -- the network ------------------------------------------------------------------------------------


class Network:
    """Two namespaces and a cable: clients are in the near one, the server is in the far one.

    Attributes:
        host: the server's address.
        port: the server's port, once there is a `listener`.
    """

    def __init__(self, name: str) -> None:
        self.host = _FAR
        self.port = 0
        self._near, self._far = f"{name}-near", f"{name}-far"
        self._links = (f"wsn{os.getpid()}", f"wsf{os.getpid()}")

    def build(self) -> None:
        """Make the namespaces and the cable."""
        near, far = self._links
        _run("ip", "netns", "add", self._near)
        _run("ip", "netns", "add", self._far)
        _run(
            *("ip", "link", "add", near, "netns", self._near),
            *("type", "veth", "peer", "name", far, "netns", self._far),
        )
        for space, link, address in ((self._near, near, _NEAR), (self._far, far, _FAR)):
            _run("ip", "-n", space, "address", "add", f"{address}/30", "dev", link)
            _run("ip", "-n", space, "link", "set", link, "up")

    def remove(self) -> None:
        """Take them away, as far as they are there."""
        for space in (self._near, self._far):
            subprocess.run(["ip", "netns", "delete", space], check=False, capture_output=True)

    def listener(self) -> trio.SocketListener:
        """A listener in the far namespace."""
        with _inside(self._far):
            listening = socket.create_server((self.host, 0), backlog=100)
        self.port = listening.getsockname()[1]
        return trio.SocketListener(trio.socket.from_stdlib_socket(listening))

    def be_near(self) -> None:
        """From now on all sockets that this trio run opens are in the near namespace."""
        trio.socket.set_custom_socket_factory(_Factory(self._near))

    # What can go wrong; `heal` ends all of it.

    def drop(self, *directions: str) -> None:
        """Drop the packets "up", to the server, or "down", from it, or both."""
        self._filter(directions, "drop")

    def lose(self, percent: int) -> None:
        """Drop so many of a hundred packets, both ways."""
        self._filter(("up", "down"), f"numgen random mod 100 < {percent} drop")

    def reject(self) -> None:
        """Answer all packets to the server with a reset."""
        self._filter(("up",), "reject with tcp reset")

    def kill(self) -> None:
        """Let the near kernel end all connections to the server."""
        where = ("dst", self.host, "dport", "=", str(self.port))
        assert str(self.port) in _run("ip", "netns", "exec", self._near, "ss", "-K", *where)

    def needs_killing(self) -> None:
        """Skip the test unless the kernel does that."""
        with _inside(self._far):
            listening = socket.create_server((self.host, 0))
        self.port = listening.getsockname()[1]
        with _inside(self._near):
            connected = socket.create_connection((self.host, self.port))
        with listening, connected:
            try:
                self.kill()
            except AssertionError:
                pytest.skip("this kernel kills no sockets (CONFIG_INET_DIAG_DESTROY is not set)")

    def shape(self, *discipline: str) -> None:
        """Give the server's end of the cable a queueing discipline of tc's."""
        _run("tc", "-n", self._far, "qdisc", "replace", "dev", self._links[1], "root", *discipline)

    def needs_shape(self, *discipline: str) -> None:
        """Skip the test unless the kernel has that discipline."""
        try:
            self.shape(*discipline)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"this kernel has no {discipline[0]}: {error.stderr.strip()}")
        self.heal()

    @asynccontextmanager
    async def detour(self, *, delay: float, jitter: float, twice: float) -> AsyncGenerator[None]:
        """Lead all packets past a task of ours, which passes each on later; ends with the block.

        As tc would with netem, which many kernels lack. Packets overtake each other.

        Args:
            delay: seconds for each way.
            jitter: seconds more or less.
            twice: the share of packets that come a second time.
        """
        chance = random.Random(0)

        async def pass_on(packet: bytes, target: int) -> None:
            await trio.sleep(delay + jitter * chance.uniform(-1, 1))
            for _ in range(2 if chance.random() < twice else 1):
                try:
                    os.write(target, packet)
                except OSError:
                    pass  # the end has no room or is gone: lost, as packets are

        async def carry(source: int, target: int) -> None:
            while True:
                await trio.lowlevel.wait_readable(source)
                nursery.start_soon(pass_on, os.read(source, 65536), target)

        with ExitStack() as tunnels:
            near = tunnels.enter_context(self._tunnel(self._near, _NEAR, _FAR))
            far = tunnels.enter_context(self._tunnel(self._far, _FAR, _NEAR))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(carry, near, far)
                nursery.start_soon(carry, far, near)
                yield
                nursery.cancel_scope.cancel()

    @contextmanager
    def _tunnel(self, space: str, own: str, other: str) -> Generator[int]:
        """A device whose packets this process reads and writes, and the way to the other end through it."""
        with _inside(space):
            descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        try:
            with _inside(space):
                fcntl.ioctl(
                    descriptor, _TUNSETIFF, struct.pack("16sH", _DETOUR.encode(), _IFF_TUN | _IFF_NO_PI)
                )
            _run("ip", "-n", space, "link", "set", _DETOUR, "up")
            _run("ip", "-n", space, "route", "add", f"{other}/32", "dev", _DETOUR, "src", own)
            yield descriptor
        finally:
            os.close(descriptor)

    def needs_detour(self) -> None:
        """Skip the test unless the kernel lets us carry packets ourselves."""
        try:
            with self._tunnel(self._near, _NEAR, _FAR):
                pass
        except OSError as error:
            pytest.skip(f"this machine has no /dev/net/tun: {error}")

    def limit_packets(self, size: int) -> None:
        """Let no packet be longer than *size* bytes (the MTU)."""
        for space, link in zip((self._near, self._far), self._links, strict=True):
            _run("ip", "-n", space, "link", "set", link, "mtu", str(size))

    def limit_ports(self, count: int) -> None:
        """Leave clients so many ports of their own."""
        command = f"echo 40000 {40000 + count - 1} > /proc/sys/net/ipv4/ip_local_port_range"
        _run("ip", "netns", "exec", self._near, "sh", "-c", command)

    def heal(self) -> None:
        """Pass everything on again."""
        _run("ip", "netns", "exec", self._far, "nft", "flush ruleset")
        self.limit_packets(1500)
        self.limit_ports(20_000)
        subprocess.run(
            ["tc", "-n", self._far, "qdisc", "delete", "dev", self._links[1], "root"],
            check=False,
            capture_output=True,
        )

    def _filter(self, directions: Sequence[str], verdict: str) -> None:
        rules = ["add table inet faults"]
        for direction in directions:
            hook, match = {"up": ("input", "dport"), "down": ("output", "sport")}[direction]
            rules += [
                f"add chain inet faults {direction} {{ type filter hook {hook} priority 0; }}",
                f"add rule inet faults {direction} tcp {match} {self.port} {verdict}",
            ]
        _run("ip", "netns", "exec", self._far, "nft", "; ".join(rules))


class _Factory(trio.abc.SocketFactory):
    def __init__(self, space: str) -> None:
        self._space = space

    def socket(self, family: int = -1, type: int = -1, proto: int = -1) -> trio.socket.SocketType:
        with _inside(self._space):
            return trio.socket.from_stdlib_socket(socket.socket(family, type, proto))


def network() -> Generator[Network]:
    """Build a network, and take it away: the body of a fixture. Skips where that is not possible."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("needs root, for network namespaces")
    if reason := lacks("ip", "nft", "tc", "ss"):
        pytest.skip(reason)
    built = Network(f"wspool-{os.getpid()}")
    try:
        try:
            _sweep()
            built.build()
            built.heal()
            with _inside(built._near):
                pass
        except (subprocess.CalledProcessError, OSError) as error:
            said = getattr(error, "stderr", "") or str(error)
            pytest.skip(f"this machine allows no network namespaces: {said.strip()}")
        yield built
    finally:
        built.remove()


def _sweep() -> None:
    """Remove the namespaces of runs that were killed before they could do it."""
    for name, process in re.findall(r"(wspool-(\d+)-(?:near|far))", _run("ip", "netns", "list")):
        if not Path(f"/proc/{process}").exists():
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


def _run(*command: str) -> str:
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=30, env={**os.environ, "PATH": _PATH}
    )
    return done.stdout


@contextmanager
def _inside(space: str) -> Generator[None]:
    """Be in a namespace, with this thread alone. Nothing in the block may wait."""
    with open("/proc/thread-self/ns/net", "rb") as home, open(f"/run/netns/{space}", "rb") as there:
        _enter(there.fileno())
        try:
            yield
        finally:
            _enter(home.fileno())


def _enter(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
