"""What is learnt of an endpoint: only what was proved, after the second time, each thing by itself."""

from __future__ import annotations

import pytest

from wspool.core.events.trust import HABIT, Rewrite, Trust

IDS, NUMBERS = {Rewrite.IDS}, {Rewrite.NUMBERS}


def test_once_is_an_accident_twice_is_a_habit() -> None:
    """Then it is said, once, and proves nothing any more; the other goes on to do so."""
    trust = Trust()
    assert (True, True, ()) == (trust.ids, trust.numbers, trust.lenient)

    assert [] == trust.caught(IDS)
    assert (True, {"ids": 1}) == (trust.ids, trust.rewritten)
    assert ["it rewrites the ids of responses"] == trust.caught(IDS)
    assert (False, True) == (trust.ids, trust.numbers)
    assert [] == trust.caught(IDS)
    assert (("it rewrites the ids of responses",), {"ids": HABIT + 1}) == (trust.lenient, trust.rewritten)


@pytest.mark.parametrize("order", [[NUMBERS, IDS, NUMBERS, IDS], [IDS | NUMBERS] * 2])
def test_both_may_be_learnt(order: list[set[Rewrite]]) -> None:
    """Together, or one after the other."""
    trust = Trust()
    news = [said for each in order for said in trust.caught(each)]

    assert (False, False) == (trust.ids, trust.numbers)
    assert sorted(trust.lenient) == sorted(news)
    assert {"ids": 2, "numbers": 2} == trust.rewritten


def test_of_a_gateway_there_is_nothing_to_learn() -> None:
    """Its profile has said it all."""
    trust = Trust(exact=False)

    assert [] == [said for _ in range(3) for said in trust.caught(IDS | NUMBERS)]
    assert (False, False, ("its profile says so",)) == (trust.ids, trust.numbers, trust.lenient)
