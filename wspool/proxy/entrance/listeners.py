"""Listeners: where clients find the proxy, and how it goes without refusing one.

Rules of this module:

* On this machine both loopback addresses are listened on: programs try `::1` first for `localhost`, or only
  one of them.
* A port that is taken is an error, never another port: two proxies are worse than none. Whoever starts as the
  successor of a running one says so; then both have the port, and the old one lets go of it (`SO_REUSEPORT`).
* A Unix socket is for its owner only (0600), from the moment that it is there.
* Sockets that systemd has opened are taken as they are (`LISTEN_FDS`).
* Whoever stops goes on listening, to say so, unless somebody else listens there, too. That one gets whoever
  comes from then on, as far as the system can be told so (Linux); what had begun to connect is taken in, and
  only then is the port let go of. Else the kernel would turn away who comes between the two.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import stat
import struct
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import attrs
import trio

from wspool.proxy.entrance.holder import listening_on

__all__ = ["LOOPBACK", "Listeners", "Where", "authority_of", "listen_there"]

#: Both addresses of this machine itself.
LOOPBACK: Final = ("127.0.0.1", "::1")

#: Connections that wait to be accepted. A run of rollouts connects two thousand times at once; the kernel
#: takes less if it is told to (net.core.somaxconn).
_BACKLOG: Final = 4096

#: The first descriptor that systemd passes. Source: sd_listen_fds(3).
_FIRST: Final = 3

#: What says that there is no such address on this machine.
_NO_ADDRESS: Final = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})

#: What a listener is for: a stream, and whether a page of a browser may be behind it.
Serve = Callable[[trio.abc.Stream, bool], Awaitable[None]]


@attrs.frozen(kw_only=True)
class Where:
    """Where to listen.

    Attributes:
        host: the address, or a name for it; None is both addresses of this machine itself.
        port: 0 takes a free one; None is no port at all.
        uds: path of a Unix socket, if there shall be one.
        inherit: take the sockets that systemd has opened, if it has; then host and port count for nothing.
        succeed: take the port, and the Unix socket, over from a proxy that has them.
    """

    host: str | None = None
    port: int | None = 8787
    uds: str | None = None
    inherit: bool = False
    succeed: bool = False


@attrs.define
class Listeners:
    """What is listened on.

    Attributes:
        authority: host and port by which programs of this machine find it; empty if there is none.
        inherited: whether they are somebody else's, who goes on to listen.
    """

    authority: str
    inherited: bool
    _tcp: list[trio.SocketListener]
    _unix: list[trio.SocketListener]
    _path: str | None = None
    #: What tells our Unix socket from a successor's.
    _own: int | None = None
    _scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)

    async def serve(self, serve: Serve, nursery: trio.Nursery) -> None:
        """Accept until `let_go`; each stream is a task of *nursery*. A checkpoint."""
        everywhere = [(listener, True) for listener in self._tcp]
        everywhere += [(listener, False) for listener in self._unix]
        try:
            with self._scope:
                async with trio.open_nursery() as accepting:
                    for listener, stranger in everywhere:
                        accepting.start_soon(self._accept, listener, stranger, serve, nursery)
        finally:
            for listener, stranger in everywhere:
                self._take_in(listener, stranger, serve, nursery)
            self.close()

    @property
    def has_successor(self) -> bool:
        """Whether somebody else listens there, too, as far as this system says it (Linux does)."""
        if self.inherited or (self._own is not None and _inode(self._path) not in (None, self._own)):
            return True
        ports = {int(listener.socket.getsockname()[1]) for listener in self._tcp}
        try:
            return any(_listening(port) > len(self._tcp) for port in ports)
        except OSError:
            return False

    async def hand_on(self) -> None:
        """Leave newcomers to who else listens there; accept nobody any more once that holds. A checkpoint."""
        self.send_on()
        await trio.sleep(_SETTLED)
        self.let_go()

    def send_on(self) -> None:
        """Let the kernel give new connections to who else listens there, if it can be told. Never waits."""
        ports = {int(listener.socket.getsockname()[1]) for listener in self._tcp}
        for listener in self._tcp:
            try:
                newest = sum(map(_listening, ports)) // len(self._tcp) - 1
                if newest > 0:
                    _send_newcomers(listener.socket, newest)
            except OSError:
                pass  # this system cannot do it

    def let_go(self) -> None:
        """Accept nobody from now on, but who has connected already. Never waits."""
        self._scope.cancel()

    def close(self) -> None:
        """Close all of them. Never waits; twice is once."""
        for listener in (*self._tcp, *self._unix):
            listener.socket.close()
        if self._path is not None:
            path, self._path = self._path, None
            _remove(path, self._own)

    async def _accept(
        self, listener: trio.SocketListener, stranger: bool, serve: Serve, nursery: trio.Nursery
    ) -> None:
        while True:
            try:
                stream = await listener.accept()
            except OSError as problem:
                if problem.errno not in _SHORTAGES:
                    raise
                await trio.sleep(_SHORTAGE_PAUSE)
                continue
            nursery.start_soon(serve, stream, stranger)

    def _take_in(
        self, listener: trio.SocketListener, stranger: bool, serve: Serve, nursery: trio.Nursery
    ) -> None:
        if nursery.cancel_scope.cancel_called or listener.socket.fileno() < 0:
            return
        one = listener.socket
        plain = socket.fromfd(one.fileno(), one.family, one.type)  # Windows has descriptors of files only
        plain.setblocking(False)
        with plain:
            while True:
                try:
                    client, _ = plain.accept()
                except OSError:
                    return
                client.setblocking(False)
                stream = trio.SocketStream(trio.socket.from_stdlib_socket(client))
                nursery.start_soon(serve, stream, stranger)


def _send_newcomers(one: trio.socket.SocketType, place: int) -> None:
    """Let the kernel give all new connections to the listener at *place* among those of one address.

    They stand in the order in which they began to listen; at a place where there is none any more, the kernel
    chooses as ever. Source: SO_ATTACH_REUSEPORT_CBPF in socket(7). Raises OSError: it cannot be.
    """
    if sys.platform == "linux":
        program = ctypes.create_string_buffer(struct.pack("HBBI", _BPF_RETURN, 0, 0, place), 8)
        pointer = struct.pack("HP", 1, ctypes.addressof(program))  # with padding, as C has it
        one.setsockopt(socket.SOL_SOCKET, _STEER, pointer)
    else:
        raise OSError(errno.ENOPROTOOPT, os.strerror(errno.ENOPROTOOPT))


#: Source: asm-generic/socket.h, linux/bpf_common.h (BPF_RET | BPF_K).
_STEER: Final = 51
_STEER_NO_MORE: Final = 68
_BPF_RETURN: Final = 0x06

#: Seconds after which whoever has begun to connect has done so: a way there and back, and some more.
_SETTLED: Final = 0.3

#: What says that there are too many files or too little memory now. Source: accept(2).
_SHORTAGES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_SHORTAGE_PAUSE: Final = 0.1


async def listen_there(where: Where, may_listen: Callable[[str], bool]) -> Listeners:
    """Return listeners there. A checkpoint.

    Args:
        may_listen: whether a listener on an IP address is safe.

    Raises:
        OSError: the port or the path is taken, or the host is no address of this machine.
        ValueError: others could reach it, and there is no token.
    """
    await trio.lowlevel.checkpoint()
    tcp: list[trio.SocketListener] = []
    unix: list[trio.SocketListener] = []
    given: list[socket.socket] = []
    path: str | None = None
    try:
        if where.inherit and (given := _inherited(os.environ)):
            for one in given:
                (unix if one.family == _UNIX else tcp).append(_listener(one))
        elif where.port is not None:
            tcp += [_listener(one) for one in await _open(where, where.port)]
        addresses = [str(listener.socket.getsockname()[0]) for listener in tcp]
        if not all(map(may_listen, addresses)):
            raise ValueError(
                f"cannot listen on {', '.join(addresses)} without tokens, as others could reach it"
            )
        if where.uds is not None:
            try:
                unix.append(_listener(_open_unix(where.uds, succeed=where.succeed)))
            except OSError as problem:
                raise OSError(problem.errno, problem.strerror or str(problem), where.uds) from None
            path = where.uds
    except BaseException:
        for listener in (*tcp, *unix):
            listener.socket.close()
        raise
    return Listeners(_authority(tcp), bool(given), tcp, unix, path, _inode(path))


def _listening(port: int) -> int:
    """Return how many sockets of this machine listen on *port*. Raises OSError: nobody knows."""
    return len(listening_on(port))


def _listener(one: socket.socket) -> trio.SocketListener:
    one.setblocking(False)
    return trio.SocketListener(trio.socket.from_stdlib_socket(one))


def _authority(tcp: list[trio.SocketListener]) -> str:
    if not tcp:
        return ""
    address = tcp[0].socket.getsockname()
    return authority_of(str(address[0]), address[1])


def authority_of(host: str, port: int) -> str:
    """Return host and port by which programs of this machine find who listens on *host*."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def _open(where: Where, port: int) -> list[socket.socket]:
    hosts: tuple[str, ...] = LOOPBACK
    optional = hosts[1:]
    if where.host is not None:
        found = await trio.socket.getaddrinfo(
            where.host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        hosts, optional = tuple(dict.fromkeys(str(address[0]) for *_, address in found)), ()
    opened: list[socket.socket] = []
    try:
        for host in hosts:
            try:
                one = _open_tcp(host, port, succeed=where.succeed)
            except OSError as problem:
                if host in optional and problem.errno in _NO_ADDRESS:
                    continue
                raise
            opened.append(one)
            port = one.getsockname()[1]  # each at the same
    except BaseException:
        for one in opened:
            one.close()
        raise
    return opened


def _open_tcp(host: str, port: int, *, succeed: bool) -> socket.socket:
    if port and not succeed and _SHARED is not None:
        _bound(host, port, shared=False).close()  # else one that shares would not notice another
    one = _bound(host, port, shared=True)
    one.listen(_BACKLOG)
    if succeed and sys.platform == "linux":
        try:  # what the last hand-over has told the kernel: whoever is there goes on until it hands on
            one.setsockopt(socket.SOL_SOCKET, _STEER_NO_MORE, 0)
        except OSError:
            pass  # there was none
    return one


def _bound(host: str, port: int, *, shared: bool) -> socket.socket:
    one = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        if os.name == "posix":
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        else:
            one.setsockopt(socket.SOL_SOCKET, _EXCLUSIVE, 1)
        if shared and _SHARED is not None:
            one.setsockopt(socket.SOL_SOCKET, _SHARED, 1)
        if one.family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind((host, port))
    except BaseException:
        one.close()
        raise
    return one


#: Several processes may have one port. Not everywhere (Windows has none of it).
_SHARED: Final[int | None] = getattr(socket, "SO_REUSEPORT", None)
#: On Windows a port is taken by one only if that is asked for. Source: winsock2.h.
_EXCLUSIVE: Final = getattr(socket, "SO_EXCLUSIVEADDRUSE", -5)
_UNIX: Final[int | None] = getattr(socket, "AF_UNIX", None)


def _open_unix(path: str, *, succeed: bool) -> socket.socket:
    if _UNIX is None:
        raise ValueError("there are no Unix sockets here")
    one = socket.socket(_UNIX, socket.SOCK_STREAM)
    # A successor listens before it has the name, so that nobody who asks for that is refused.
    place = f"{path}.{os.getpid()}" if succeed else path
    try:
        _make_room(path, succeed=succeed)
        before = os.umask(0o177)
        try:
            one.bind(place)
        finally:
            os.umask(before)
        os.chmod(place, 0o600)
        one.listen(_BACKLOG)
        if succeed:
            os.rename(place, path)
    except BaseException:
        one.close()
        raise
    return one


def _make_room(path: str, *, succeed: bool) -> None:
    """Remove a socket that nobody listens on. Raises OSError: somebody else does, or it is no socket."""
    try:
        kind = os.stat(path, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(kind) or _UNIX is None:
        raise FileExistsError(errno.EEXIST, "there is a file that is no socket", path)
    if succeed:
        return  # it is replaced
    with socket.socket(_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        else:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE), path)


def _remove(path: str, own: int | None) -> None:
    """Remove our socket, and no successor's."""
    if own is None or own != _inode(path):
        return
    try:
        os.unlink(path)
    except OSError:
        pass


def _inode(path: str | None) -> int | None:
    """Return what tells a socket from one that has taken its name."""
    try:
        return None if path is None else os.stat(path, follow_symlinks=False).st_ino
    except OSError:
        return None


def _inherited(environment: Mapping[str, str]) -> list[socket.socket]:
    """Return the sockets that systemd has passed to this very process."""
    if environment.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = environment.get("LISTEN_FDS", "")
    return [socket.socket(fileno=_FIRST + number) for number in range(int(count) if count.isdecimal() else 0)]
