"""Places: the lowest place goes first, whoever has come and gone meanwhile."""

from __future__ import annotations

from hypothesis import given, strategies as st

from wspool.core.sending.places import Places


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans())))
def test_the_lowest_goes_first(steps: list[tuple[int, bool]]) -> None:
    line, there = Places[str](), dict[int, str]()
    for place, comes in steps:
        if comes and place not in there:
            there[place] = f"{place} since {len(there)}"
            line.take(place, there[place])
        elif not comes and place in there:
            del there[place]
            line.leave(place)
        assert len(line) == len(there)
        assert line.first == (there[min(there)] if there else None)
