"""The command line of the benchmarks."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path

from benchmarks import harness


def main(arguments: list[str]) -> int:
    """Run what *arguments* ask for; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure wspool and its peers.")
    parser.add_argument("name", nargs="?", help="which benchmark; without one they are listed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there as well")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, wider errors")
    options = parser.parse_args(arguments)
    names = harness.names()
    if options.name is None:
        for name in names:
            print(f"{name:16} {harness.about(name)}")
        return 0
    if options.name not in names:
        print(f"no benchmark {options.name!r}; there are: {', '.join(names)}", file=sys.stderr)
        return 2
    # Some benchmarks make outages; what the pool has to say about them is no news here.
    logging.getLogger("wspool").addHandler(logging.NullHandler())
    rows = harness.load(options.name).run(quick=options.quick)
    print(harness.table(rows))
    if options.json is not None:
        options.json.write_text(json.dumps(harness.as_json(options.name, rows), indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
