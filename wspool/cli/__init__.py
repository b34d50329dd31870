"""The command line: `wspool rollout`, `merge`, `report`, `serve`, `proxy`, `doctor`, `probe`.

Here the parts meet that do not know each other: the pool, the runner, the local provider. Nothing imports
this package. Rules for commands:

1. Standard output holds what was asked for, standard error everything else.
2. What the user can mend is one line that says what to do, without a traceback, and exit code 2.
3. A credential comes from the environment, never from an argument, and is never printed.
"""

import importlib.util
import sys
from contextlib import suppress

import wspool

__all__ = ["main"]


def main() -> None:
    """Run the command that the arguments name."""
    if sys.argv[1:] == ["--version"]:  # without what commands need
        with suppress(OSError, AttributeError):  # nobody may be there to be told
            print(f"wspool {wspool.__version__}", flush=True)
        return
    if missing := [name for name in ("typer", "rich") if importlib.util.find_spec(name) is None]:
        sys.stderr.write(
            f"wspool: the command line needs {' and '.join(missing)}: pip install 'wspool[cli]'\n"
        )
        sys.exit(2)
    from wspool.cli.app import app

    app()
