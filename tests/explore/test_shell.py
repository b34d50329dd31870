"""The shell of a pool where two things happen at once: every schedule with at most two deviations is
tried, with one where lanes share a connection.

More by hand: `python -m tests.explore.scenes`, and the mutants of which a few are tried here,
`python -m tests.explore.mutants`.
"""

from __future__ import annotations

import pytest

from tests.explore.mutants import MUTANTS, Verdict, try_all
from tests.explore.scenes import SCENES, Scene
from wspool.testing.explore import Deviations

#: Mutants that are tried always: one that needs no deviation, some that need one, and all found soon.
ALWAYS = (
    "a waiter that is cancelled as it is granted keeps the lane",
    "closing misses the end that comes as it begins to wait",
    "a reader misses the event that comes as it begins to wait",
    "the timekeeper misses what falls due while it looks",
)


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name)
def test_nothing_goes_wrong_nearby(scene: Scene, thinned: bool) -> None:
    """No schedule with at most so many deviations breaks a rule."""
    near = 1 if thinned else scene.near
    report = scene.explore(Deviations(near)).check()

    assert report.exhausted == near
    assert report.runs > (1 if thinned else 10)


@pytest.fixture(scope="module")
def verdicts() -> dict[str, Verdict]:
    """How they fared, tried two at a time."""
    mutants = {mutant.what: mutant for mutant in MUTANTS}
    return {verdict.mutant.what: verdict for verdict in try_all([mutants[what] for what in ALWAYS])}


@pytest.mark.parametrize("what", ALWAYS)
def test_a_broken_shell_is_found(what: str, verdicts: dict[str, Verdict]) -> None:
    """Within a minute, and told in at most three deviations."""
    assert verdicts[what].as_it_should, str(verdicts[what])


def test_the_mutants_are_up_to_date() -> None:
    """Each is an edit into something that Python accepts, and has a name of its own."""
    for mutant in MUTANTS:
        for module, source in mutant.sources().items():
            compile(source, module, "exec")

    assert len(MUTANTS) == len({mutant.what for mutant in MUTANTS})
    assert len(MUTANTS) >= 20
