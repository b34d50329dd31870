"""Ten minutes of trouble: clients that vanish or dawdle, providers that are killed, cuts and refusals.

Each client holds one conversation after the other. What it is told must add up (`benchmarks.proxied.exact`),
each has to come to its end, and the proxy has to be as it was when all are gone.
"""

from __future__ import annotations

import os
import random
import socket
import struct
import threading
import time
from pathlib import Path
from typing import Final

from benchmarks.harness import Row
from benchmarks.proxied.asking import Caller
from benchmarks.proxied.exact import TOKENS, Scene, account_rows, opened
from benchmarks.proxied.talking import Talk, Talker
from wspool import PoolPolicy

__all__ = ["run"]

CLIENTS: Final = 12

#: Longest time of one conversation, in seconds.
_STUCK: Final = 120.0

_MIB: Final = 2**20


class _Rough(Caller):
    """Hangs up in the middle of an answer, or reads it a little at a time."""

    def __init__(self, base_url: str, chance: random.Random) -> None:
        super().__init__(base_url)
        self._chance = chance
        self.vanished = 0

    def _read(self) -> bytes:
        luck = self._chance.random()
        if luck < 0.05:
            time.sleep(self._chance.random() * 0.5)
        elif luck < 0.12 and self._socket is not None:
            self.vanished += 1
            if luck < 0.08:  # by a reset
                linger = struct.pack("ii", 1, 0)
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.close()
            raise ConnectionError("had enough")
        return super()._read()


def run(*, quick: bool) -> list[Row]:
    """Random kills of clients and providers, resets, slow readers: 10 minutes of it."""
    seconds = 30.0 if quick else 600.0
    chance = random.Random(13)
    talks: dict[str, Talk] = {}
    stuck: list[str] = []
    vanished: list[int] = []
    with opened(calls=9, think=0.05, lifetime=15.0, faults=0.1) as scene:
        idle = _held(scene)
        until = time.monotonic() + seconds

        def client(number: int) -> None:
            mine, round_ = random.Random(number), 0
            key = list(TOKENS.values())[number % len(TOKENS)]
            while time.monotonic() < until:
                name = f"client {number:02d}.{round_}"
                caller = _Rough(scene.base_url, mine)
                talker = Talker(scene.base_url, name, key, lambda part: f"part {part}" * 50, caller)
                began = time.monotonic()
                talks[name] = talker.talk
                talker.run()
                vanished.append(caller.vanished)
                if time.monotonic() - began > _STUCK:
                    stuck.append(name)
                round_ += 1

        threads = [threading.Thread(target=client, args=(number,), daemon=True) for number in range(CLIENTS)]
        for thread in threads:
            thread.start()
        time.sleep(min(10.0, seconds / 3))
        before = _held(scene)
        while time.monotonic() < until:
            time.sleep(chance.uniform(4, 12))
            scene.start_provider()
        for thread in threads:
            thread.join(_STUCK)
        stuck += [f"thread {number}" for number, thread in enumerate(threads) if thread.is_alive()]
        scene.start_provider()  # so that no connection to it is spare
        time.sleep(5)
        after = _held(scene)
        scene.stop()
        rows = account_rows("havoc", scene, talks, expected=len(talks) * 10)
    note = (
        f"{seconds:.0f} s, {len(talks)} conversations, {sum(vanished)} hang-ups within an answer, "
        f"{scene.providers - 1} providers killed"
    )
    return [
        *rows,
        Row(metric="havoc: clients that were stuck", value=len(stuck), unit="", most=0, note=note),
        Row(
            metric="havoc: open files of the proxy at the end",
            value=after[0],
            unit="",
            most=idle[0] + PoolPolicy().min_idle,  # a pool opens at its first use
            note=f"{idle[0]} at first, {before[0]} while clients were at work; memory {idle[1] / _MIB:.0f}, "
            f"{before[1] / _MIB:.0f}, and {after[1] / _MIB:.0f} MiB at the end",
        ),
    ]


def _held(scene: Scene) -> tuple[int, int]:
    """Open files of the proxy, and its memory."""
    proxy = scene.proxy
    assert proxy is not None
    return len(os.listdir(Path(f"/proc/{proxy.pid}/fd"))), proxy.memory()
