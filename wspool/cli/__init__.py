"""The command line: `wspool rollout`, `merge`, `report`, `serve`, `proxy`, `doctor`, `probe`.

Here the parts meet that do not know each other: the pool, the runner, the local provider. Nothing imports
this package. Rules for commands:

1. Standard output holds what was asked for, standard error everything else.
2. What the user can mend is one line that says what to do, without a traceback, and exit code 2.
3. Neither stream ends a command, whoever reads it or not (`streams.py`).
4. A credential comes from the environment, never from an argument, and is never printed.
"""

import importlib.util
import sys

from wspool.cli.streams import guard_streams

__all__ = ["main"]


def main() -> None:
    """Run the command that the arguments name."""
    guard_streams()
    if missing := [name for name in ("typer", "rich") if importlib.util.find_spec(name) is None]:
        sys.stderr.write(
            f"wspool: the command line needs {' and '.join(missing)}: pip install 'wspool[cli]'\n"
        )
        sys.exit(2)
    from wspool.cli.app import app

    app()
