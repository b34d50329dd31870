"""The proof, a seeded sample of it: `python -m tests.proof --all` plays any number of cases."""

from __future__ import annotations

import pytest

from .cases import Case, sampled, scenes
from .judge import Violation, judge, undisturbed
from .scripts import KINDS
from .stage import Scene, play

#: Cases of each kind of mutation and of turn. `--each` of `python -m tests.proof`.
EACH = 5
SEED = 1

CASES: dict[str, list[Case]] = {}
for case in sampled(EACH, SEED):
    CASES.setdefault(case.mutation.kind, []).append(case)


@pytest.mark.parametrize("kind", KINDS)
def test_undisturbed(kind: str) -> None:
    """Every scene without a mutation: whoever asks is told what was said."""
    plain: list[Scene] = [scene for scene in scenes() if scene.kind == kind]
    broken = {str(scene): found for scene in plain[::53] if (found := judge(undisturbed(scene)))}

    assert {} == broken, _listed(broken)


@pytest.mark.parametrize("mutation", sorted(CASES))
def test_mutation(mutation: str) -> None:
    """Scenes in which one turn is tampered with: nobody else is the worse for it."""
    broken = {}
    for case in CASES[mutation]:
        if found := judge(play(case.scene, case.mutation)):
            broken[str(case)] = found

    assert {} == broken, _listed(broken)


def _listed(broken: dict[str, list[Violation]]) -> str:
    lines = [f"{len(broken)} cases; replay one with: python -m tests.proof --show NAME"]
    for name, found in list(broken.items())[:8]:
        lines += [name, *(f"    {violation}" for violation in found[:3])]
    return "\n".join(lines)
