"""`python -m tests.proof`: any part of the proof, and a table of what was broken."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections import Counter, defaultdict

from .cases import Case, all_cases, find, sampled
from .judge import Violation, judge
from .scripts import Message
from .stage import play


def main() -> int:
    """Run the cases asked for; return 1 if any rule was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.proof", description=__doc__)
    parser.add_argument("--all", action="store_true", help="everything, up to --limit, in a seeded order")
    parser.add_argument("--limit", type=int, default=40_000, metavar="N", help="cases at most with --all")
    parser.add_argument(
        "--each", type=int, default=12, metavar="N", help="cases of each stratum without --all"
    )
    parser.add_argument("--seed", type=int, default=1, metavar="N")
    parser.add_argument("--only", default="", metavar="TEXT", help="only cases whose name contains this")
    parser.add_argument("--show", metavar="NAME", help="play one case and print all that was said")
    parser.add_argument("--names", action="store_true", help="print the name of every broken case")
    options = parser.parse_args()
    logging.getLogger("wspool").setLevel(logging.CRITICAL)
    if options.show:
        return show(find(options.show))
    cases = (
        all_cases(options.seed, options.limit, options.only)
        if options.all
        else sampled(options.each, options.seed, options.only)
    )
    began, ran = time.process_time(), 0
    broken: dict[tuple[str, str], list[tuple[Case, Violation]]] = defaultdict(list)
    counts: Counter[str] = Counter()
    for case in cases:
        ran += 1
        counts[case.mutation.kind] += 1
        for violation in judge(play(case.scene, case.mutation)):
            broken[case.mutation.kind, violation.rule].append((case, violation))
            if options.names:
                print(f"{case}\n    {violation}")  # noqa: T201
    print(table(broken, counts))  # noqa: T201
    print(f"{ran} cases, {time.process_time() - began:.1f} s of CPU")  # noqa: T201
    return min(len(broken), 1)


def table(broken: dict[tuple[str, str], list[tuple[Case, Violation]]], counts: Counter[str]) -> str:
    """What was broken, by mutation and rule, with how often and one example of each."""
    lines = []
    for (kind, rule), found in sorted(broken.items()):
        cases = len({str(case) for case, _ in found})
        shapes = Counter(case.scene.kind for case, _ in found)
        most = " ".join(f"{name}:{n}" for name, n in shapes.most_common(4))
        lines.append(f"{kind:18} {rule:8} {cases:5} of {counts[kind]:5}   {most}")
        lines.append(f"      {found[0][0]}")
        lines.append(f"      {str(found[0][1])[:200]}")
    return "\n".join(lines) if lines else "nothing was broken"


def show(case: Case) -> int:
    """Play one case and print it."""
    run = play(case.scene, case.mutation)
    for at, connection, whose, message in run.log:
        print(f"{at:9.3f} #{connection} {whose:14} {_brief(message)}")  # noqa: T201
    for told in run.told.values():
        print(f"{told.at:9.3f} {told.question} was told {told.outcome} {told.error or ''}")  # noqa: T201
    for create in run.creates:
        marks = [name for name in ("tampered", "blurred", "touched") if getattr(create, name)]
        print(f"request {create.number} {create.question}: {marks} {create.touched or ''}")  # noqa: T201
    found = judge(run)
    print(*found, sep="\n")  # noqa: T201
    return min(len(found), 1)


def _brief(message: Message) -> str:
    """What matters of a message."""
    if not isinstance(message, dict):
        return repr(message)
    response, item = message.get("response", {}), message.get("item", {})
    parts = [
        message["type"],
        *(f"#{message['sequence_number']}" for _ in range("sequence_number" in message)),
    ]
    parts += [f"[{message['output_index']!r}]" for _ in range("output_index" in message)]
    for name in ("previous_response_id", "status", "delta", "error", "code", "input"):
        parts += [f"{name}={json.dumps(message[name], ensure_ascii=False)}" for _ in range(name in message)]
    if isinstance(response, dict):
        for name in ("id", "previous_response_id", "status"):
            parts += [f"{name}={response[name]!r}" for _ in range(name in response)]
        if response.get("output"):
            parts.append(f"output={json.dumps(response['output'], ensure_ascii=False)}")
    parts += [f"item={json.dumps(item, ensure_ascii=False)}" for _ in range(bool(item))]
    return " ".join(parts)[:240]


if __name__ == "__main__":
    sys.exit(main())
