"""The command line of the benchmarks."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import harness, report, soak


def main(arguments: list[str]) -> int:
    """Run what *arguments* ask for; return the exit code."""
    if arguments[:1] == ["soak"]:
        return soak.main(arguments[1:])  # it judges, so it has options and an exit code of its own
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure wspool and its peers.")
    parser.add_argument(
        "name",
        nargs="?",
        help="which benchmark, or report; without one they are listed, or all run with --json",
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help="parts of a benchmark that has such: proxy")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the numbers there as well; report reads them there"
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds, wider errors")
    options = parser.parse_args(arguments)
    names = harness.names()
    if options.name == "report":
        if options.json is None:
            print("report needs --json FILE, as written by --json without a name", file=sys.stderr)
            return 2
        report.write(json.loads(options.json.read_text(encoding="utf-8")))
        return 0
    if options.name is None and options.json is None:
        for name in names:
            print(f"{name:16} {harness.about(name)}")
        return 0
    if options.name not in (None, *names):
        print(f"no benchmark {options.name!r}; there are: {', '.join(names)}, report", file=sys.stderr)
        return 2
    known = getattr(harness.load(options.name), "PARTS", {}) if options.parts else {}
    for part in options.parts:
        if part not in known:
            there = f"there are: {', '.join(known)}" if known else "it has none"
            print(f"no part {part!r} of {options.name}; {there}", file=sys.stderr)
            return 2
    some = {"parts": options.parts} if options.parts else {}
    # Some benchmarks make outages; what the pool has to say about them is no news here.
    logging.getLogger("wspool").addHandler(logging.NullHandler())
    found: list[dict[str, Any]] = []
    for name in [options.name] if options.name else names:
        began = time.monotonic()
        rows = harness.load(name).run(quick=options.quick, **some)
        found += harness.as_json(name, rows)
        if options.json is not None:  # after each, so that a later failure loses nothing
            options.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
        print(f"== {name}, {time.monotonic() - began:.0f} s")
        print(harness.table(rows), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
