"""What the command `wspool` starts.

It stands beside the package: whoever imports from there waits for all of it first, and Ctrl-C in that time is
one line as well.
"""

import os
import sys

__all__ = ["main"]


def main() -> None:
    """Run the command that the arguments name."""
    try:
        from wspool.cli import main as command

        command()
    except KeyboardInterrupt:  # while modules are read; later on it is the command's
        try:
            os.write(2, b"wspool: interrupted\n")
        except OSError:
            pass  # nobody can be told
        sys.exit(130)
