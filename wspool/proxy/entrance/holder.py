"""Holder: who has a port that is taken, for a message that helps.

As far as the system says it: Linux does, and of other users' programs only that there is one.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

__all__ = ["holder_of", "listening_on"]

_TABLES: Final = ("/proc/net/tcp", "/proc/net/tcp6")

#: A name of a program as it may be shown.
_NAME: Final = re.compile(r"[^ -~]")


def listening_on(port: int) -> list[str]:
    """Return the inodes of the sockets of this machine that listen on *port*. Raises OSError: nobody knows.

    Source: proc_net_tcp in the kernel's documentation; 0A is the state of a listener.
    """
    found: list[str] = []
    for name in _TABLES:
        with open(name, encoding="ascii") as table:
            for line in table:
                words = line.split()
                if len(words) > 9 and words[3] == "0A" and words[1].endswith(f":{port:04X}"):
                    found.append(words[9])
    return found


def holder_of(port: int) -> str | None:
    """Return which program listens on *port*, as words; None if that cannot be known."""
    try:
        wanted = {f"socket:[{inode}]" for inode in listening_on(port)}
    except OSError:
        return None
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(os.readlink(descriptor) in wanted for descriptor in (process / "fd").iterdir()):
                name = _NAME.sub("", (process / "comm").read_text(encoding="utf-8", errors="replace"))
                return f"{name} (process {process.name})"
        except OSError:
            pass  # it is another user's, or has just ended
    return None
