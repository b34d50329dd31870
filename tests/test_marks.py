"""Each row of a state table, and each way to end a connection or refuse a waiter, has exactly one test that
names it; `tests.marks` says how.
"""

from __future__ import annotations

from collections import Counter

from tests import marks
from wspool.core.events.table import TURN_TABLE, TurnInput, TurnState, follow


def test_every_way_has_a_mark_of_its_own() -> None:
    """What ends a connection, moves a turn or refuses a waiter says its name beside it."""
    found, missing = marks.ways()

    assert [] == missing
    assert [] == [name for name, times in Counter(found.values()).items() if times > 1]
    assert {"cut", "dirty", "move", "refuse"} == {name.split(": ")[0] for name in found.values()}


def test_every_mark_is_named_by_exactly_one_test() -> None:
    """Not by none, which would leave a branch unexplained; not by two, of which one would go unread."""
    named = Counter(name for name, _ in marks.claims())
    known = {*marks.rows(), *marks.ways()[0].values()}

    assert [] == sorted(known - set(named)), "no test names them: pytest.mark.hits(...)"
    assert {} == {
        name: [where for claimed, where in marks.claims() if claimed == name]
        for name, times in named.items()
        if times > 1 or name not in known
    }


def test_what_is_hit_is_seen_and_the_tables_are_as_before() -> None:
    """A row that is read and a line that runs, and nothing else; afterwards nobody watches."""
    before = dict(TURN_TABLE)

    with marks.watching() as seen:
        assert follow(TurnState.NEW, TurnInput.HANDED).state is TurnState.SENT
        follow(TurnState.NEW, TurnInput.FOREIGN)

    assert {"turn: new, handed"} == seen
    assert all(TURN_TABLE[state] is row for state, row in before.items())
