"""`python -m tests.simulation`: any number of worlds. A failing seed prints itself and how to replay it."""

from __future__ import annotations

import argparse
import logging
import sys
import time
import traceback

from tests.simulation.world import LARGE, SMALL, simulate


def main() -> int:
    """Run the worlds asked for; return how many failed, at most 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, metavar="N", help="how many worlds")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="the first seed")
    parser.add_argument("--large", action="store_true", help="200 conversations, not 12")
    parser.add_argument("--log", action="store_true", help="print what happened in each world")
    options = parser.parse_args()
    logging.getLogger("wspool").setLevel(logging.CRITICAL)  # outages are what this is about
    size = LARGE if options.large else SMALL
    failed = turns = cancels = 0
    began = time.perf_counter()
    for seed in range(options.first, options.first + options.seeds):
        try:
            journal = simulate(seed, size)
            turns += len(journal.turns)
            cancels += sum(event[1] == "cancel" for event in journal.events)
            if options.log:
                print(*journal.events, sep="\n")  # noqa: T201
        except Exception:
            failed += 1
            traceback.print_exc()
            again = f"python -m tests.simulation --first {seed} --seeds 1{' --large' * options.large}"
            print(f"seed {seed} failed; replay it with: {again}", flush=True)  # noqa: T201
    took = time.perf_counter() - began
    print(  # noqa: T201
        f"{options.seeds} {size.name} worlds, {failed} failed: {turns} turns, {cancels} cancels, {took:.1f} s"
    )
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
