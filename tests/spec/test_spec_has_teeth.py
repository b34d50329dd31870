"""The specification sees faults: a pool that is broken on purpose does not pass it.

A dozen mutants are tried here, `python -m tests.spec.mutants` tries all of them.
"""

from __future__ import annotations

import pytest

from tests.spec.mutants import MUTANTS, Verdict, try_all

#: Those that are tried always: the oldest mistakes of pools, each seen within a second or two.
ALWAYS = (
    "close forgets the waiters",
    "a cancelled waiter stays in line and is granted",
    "a newcomer overtakes",
    "one waiter is granted twice in one step",
    "a closing connection is free to be granted",
    "a lane with the rest of a turn on it is free",
    "retired without replacement",
    "jitter only makes it longer",
    "the deadline is looked at only when a lane comes back",
    "a cancelled waiter is not reported",
    "a checkpoint between the grant and the body",
    "the timekeeper is not woken",
    "a lease is not released when its body crashes",
    "the end of a turn is not reported",
    "the reader swallows the end",
)


@pytest.fixture(scope="module")
def verdicts() -> dict[str, Verdict]:
    """How they fared, tried two at a time."""
    mutants = {mutant.what: mutant for mutant in MUTANTS}
    return {verdict.mutant.what: verdict for verdict in try_all([mutants[what] for what in ALWAYS])}


@pytest.mark.parametrize("what", ALWAYS)
def test_a_broken_pool_does_not_pass(what: str, verdicts: dict[str, Verdict]) -> None:
    """A mutant is killed by a rule or an invariant."""
    assert verdicts[what].as_it_should, str(verdicts[what])


def test_the_mutants_are_up_to_date() -> None:
    """Each changes exactly one place into something that Python accepts, and has a name of its own."""
    for mutant in MUTANTS:
        compile(mutant.source(), mutant.module, "exec")

    assert len(MUTANTS) == len({mutant.what for mutant in MUTANTS})
    assert len(MUTANTS) >= 34
    assert {"core", "hours", "pool", "tests"} == {mutant.driver for mutant in MUTANTS}
