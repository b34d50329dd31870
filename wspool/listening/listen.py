"""Listening: on which addresses a server may be reached, and under which name this machine reaches it."""

from collections.abc import Callable

import trio

__all__ = ["listen"]


async def listen(
    host: str, port: int, may_listen: Callable[[str], bool]
) -> tuple[list[trio.SocketListener], str]:
    """Listeners, and the authority of a URL that leads to them from this machine. A checkpoint.

    Args:
      may_listen: whether a listener on an IP address is safe.

    Raises:
      OSError: the port is taken, or *host* is no address of this machine.
      ValueError: others could reach it, and there is no key.
    """
    listeners = await trio.open_tcp_listeners(port, host=host)
    addresses = [str(listener.socket.getsockname()[0]) for listener in listeners]
    if not all(map(may_listen, addresses)):
        _close(listeners)
        raise ValueError(
            f"cannot serve on {host} without a key, as others could reach it; set one, or serve on 127.0.0.1"
        )
    name = host
    if port == 0 and len(listeners) > 1:
        # Each got a port of its own, and there is one URL.
        _close(listeners[1:])
        del listeners[1:]
        name = addresses[0]
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(name, name)
    bracketed = f"[{name}]" if ":" in name else name
    return listeners, f"{bracketed}:{listeners[0].socket.getsockname()[1]}"


def _close(listeners: list[trio.SocketListener]) -> None:
    for listener in listeners:
        listener.socket.close()
