"""A cassette in a server of its own: the endpoint that a test talks to, whether it is recorded or replayed.

The client under test always talks to this server; only this server talks to the endpoint, and only while it
records, with the key of whoever records. So one file serves every client, and the test itself needs no key.
"""

import os
from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

from wspool.core.policy import PoolPolicy
from wspool.listening.admission import is_loopback
from wspool.pool.open import open_pool
from wspool.server.server import Server, serve_engine
from wspool.testing.cassette import Cassette
from wspool.testing.local import Addressed, in_thread
from wspool.testing.player import Player
from wspool.testing.redaction import Redaction, keys_of

__all__ = ["MODES", "Mode", "Tape", "tape_server"]

#: What is done with an endpoint to record from: see `tape_server`. Named as in vcr.py.
Mode = Literal["once", "new_episodes", "rewrite"]
MODES: Final[tuple[Mode, ...]] = ("once", "new_episodes", "rewrite")

#: While recording nothing is dialled ahead of demand, and one that is not there is told soon (in seconds).
_POLICY: Final = PoolPolicy(min_idle=0, give_up_after=3.0)


class Tape(Addressed):
    """A running cassette."""

    def __init__(self, path: Path, server: Server, player: Player, *, recording: bool) -> None:
        super().__init__(server)
        self.path: Final = path
        self.recording: Final = recording
        """Whether what is not in the file is asked for."""
        self._player = player
        self.kept = True
        """Whether what was recorded is written down in the end."""

    @property
    def cassette(self) -> Cassette:
        """What is in it by now."""
        return self._player.cassette

    @property
    def problems(self) -> list[str]:
        """The requests that had no answer, each with the first difference to the nearest recorded one."""
        return list(self._player.problems)

    def check(self) -> None:
        """Make sure that every request had an answer.

        Raises:
          AssertionError: one had not; the text says in what it differs.
        """
        if self._player.problems:
            listed = "\n".join(f"- {problem}" for problem in self._player.problems)
            raise AssertionError(f"{self.path.name} does not answer what was asked:\n{listed}")

    def save(self) -> None:
        """Write down what was recorded, if anything was."""
        if self.kept and self._player.recorded:
            self.cassette.save(self.path)


@contextmanager
def tape_server(
    path: str | os.PathLike[str],
    *,
    record: str | None = None,
    mode: Mode = "once",
    api_key: str | None = None,
) -> Generator[Tape]:
    """Serve a cassette in a thread of its own while the body runs; if the body ends well, write it down.

    Args:
      path: the file.
      record: the WebSocket URL of an endpoint to record from; None replays only.
      mode: with *record*: `once` records if there is no file yet, and replays it if there is; `new_episodes`
        records what the file does not answer; `rewrite` records everything anew.
      api_key: for the endpoint; if not given, from the environment as `open_pool` does it.

    Raises:
      FileNotFoundError: there is no file, and nothing to record from.
      CassetteError: the file is no cassette.
      ValueError: the endpoint can not be used; the text says why.
    """
    path = Path(path)
    there = path.exists()
    if record is None and not there:
        raise FileNotFoundError(f"there is no cassette {path}, and no endpoint to record it from")
    cassette = Cassette.load(path) if record is None or (there and mode != "rewrite") else Cassette()
    recording = record is not None and not (there and mode == "once")
    if recording and record is not None:
        cassette.endpoint = _shown(record)
    redaction = Redaction([*keys_of(os.environ), *([api_key] if api_key else [])])
    players: list[Player] = []

    @asynccontextmanager
    async def serve() -> AsyncGenerator[Server]:
        async with AsyncExitStack() as stack:
            endpoint = None
            if recording and record is not None:
                endpoint = await stack.enter_async_context(open_pool(record, api_key=api_key, policy=_POLICY))
            players.append(Player(cassette, redaction, endpoint))
            yield await stack.enter_async_context(serve_engine(players[0]))

    with in_thread(serve) as server:
        tape = Tape(path, server, players[0], recording=recording)
        yield tape
    tape.save()


def _shown(url: str) -> str:
    """The URL without what could be a secret, and without a port of this machine, which changes each time."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    port = f":{parts.port}" if parts.port and not is_loopback(host) else ""
    return f"{parts.scheme}://{host}{port}{parts.path}"
