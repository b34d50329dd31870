"""A pool that reaches its server through a proxy."""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeAlias

import attrs
import trio

from tests.faults.scene import Make, Scene, faulty
from wspool.server import Fault, FaultRule, ModelRequest, ModelTurn, Server, message
from wspool.wire import dial
from wspool.wire.wire import Endpoint

from .tools import Program, free_port

__all__ = ["Front", "Terse", "behind", "server_port"]

#: (the server's port, its own port) -> the running proxy.
Front: TypeAlias = Callable[[int, int], AbstractAsyncContextManager[Program]]


class Terse:
    """Says "ok" to whatever it is asked."""

    def respond(self, request: ModelRequest) -> ModelTurn:
        """Ok."""
        return ModelTurn(output=[message("ok")])


def server_port(scene: Scene) -> int:
    """The port that the server itself listens on."""
    return int(scene.server.url.rpartition(":")[2].partition("/")[0])


@asynccontextmanager
async def behind(
    front: Front,
    make: Make,
    *faults: Fault | FaultRule,
    context: ssl.SSLContext | None = None,
    **options: Any,
) -> AsyncGenerator[tuple[Scene, Program]]:
    """A pool that reaches its server through *front*, over TLS with *context*."""
    port = free_port()

    async def open_stream(_: Server, endpoint: Endpoint) -> trio.abc.Stream:
        host = "localhost" if context else "127.0.0.1"
        return await dial.open_stream(attrs.evolve(endpoint, host=host, port=port, ssl_context=context))

    async with (
        faulty(make, *faults, network=True, open_stream=open_stream, **options) as scene,
        front(server_port(scene), port) as program,
    ):
        yield scene, program
