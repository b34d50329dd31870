"""`python -m tests.cancel`: any number of random cancellations.

A failing seed prints itself and how to replay it.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
import traceback
from collections import Counter

from tests.cancel.anywhere import CANCELS, run_world


def main() -> int:
    """Run worlds until so many were cancelled; return how many failed, at most 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.cancel", description=__doc__)
    parser.add_argument("--cancels", type=int, default=10_000, metavar="N", help="how many in all")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="the first seed")
    options = parser.parse_args()
    logging.getLogger("wspool").setLevel(logging.CRITICAL)  # outages are part of it
    acts: Counter[str] = Counter()
    failed = cancels = counted = worlds = 0
    began = time.perf_counter()
    while cancels < options.cancels and failed < 10:
        seed = options.first + worlds
        worlds += 1
        try:
            outcome = run_world(seed)
        except Exception:
            failed += 1
            traceback.print_exc()
            again = f"python -m tests.cancel --first {seed} --cancels 1"
            print(f"seed {seed} failed; replay it with: {again}", flush=True)  # noqa: T201 # a command line
            cancels += CANCELS  # one that fails at once, over and over, ends too
            continue
        cancels += outcome.cancels
        counted += outcome.counted
        acts.update(outcome.acts)
    took = time.perf_counter() - began
    print(  # noqa: T201 # a command line
        f"{cancels} cancels in {worlds} worlds, {failed} failed; {counted} came too late; {took:.1f} s\n"
        + ", ".join(f"{name} {count}" for name, count in acts.most_common())
    )
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
