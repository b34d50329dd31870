"""What the command `wspool` starts.

It stands beside the package: whoever imports from there waits for all of it first, and Ctrl-C in that time is
one line as well; and whoever asks for the version has it without.
"""

import os
import sys
from contextlib import suppress
from importlib import metadata

__all__ = ["main"]


def main() -> None:
    """Run the command that the arguments name."""
    try:
        if sys.argv[1:] == ["--version"]:
            with suppress(metadata.PackageNotFoundError):  # in a copy that was never installed
                _tell(1, f"wspool {metadata.version('wspool')}\n")
                return
        from wspool.cli import main as command

        command()
    except KeyboardInterrupt:  # while modules are read; later on it is the command's
        _tell(2, "wspool: interrupted\n")
        sys.exit(130)


def _tell(stream: int, words: str) -> None:
    try:
        os.write(stream, words.encode())
    except OSError as problem:  # as `wspool.cli.streams` has it
        if stream == 1:
            _tell(2, f"wspool: standard output cannot be written: {problem}\n")
