"""The judge has eyes: a run in which all is well, with one thing in it forged, breaks just that rule."""

from __future__ import annotations

import copy
from collections.abc import Callable

import attrs
import pytest

from .judge import judge
from .scripts import Variant
from .stage import Run, Scene, play

SCENE = Scene("X", True, 2, True, "reasoning", Variant())


def _create(run: Run, question: str) -> int:
    return next(n for n, create in enumerate(run.creates) if create.question == question)


def _foreign_response(run: Run) -> None:
    run.told["B1"].shown["response"] = run.told["A2"].shown["response"]


def _foreign_event(run: Run) -> None:
    run.told["B1"].shown["events"] += run.told["A2"].shown["events"]


def _foreign_error(run: Run) -> None:
    run.told["B1"].shown["error"] = "it broke «!A2.2»"


def _run_twice(run: Run) -> None:
    run.creates.append(copy.copy(run.creates[_create(run, "B1")]))


def _parent_of_another(run: Run) -> None:
    run.creates[_create(run, "B2")].parent_of = "A"


def _lost(run: Run) -> None:
    run.told["B9"].outcome = "lost"


def _refused(run: Run) -> None:
    run.told["B9"].outcome = "failed"


def _wrong_end(run: Run) -> None:
    run.told["B9"].outcome = "in_progress"


def _told_late(run: Run) -> None:
    run.told["B1"].at += 7


def _never_told(run: Run) -> None:
    run.told["B9"].outcome = "waiting"


def _never_sent(run: Run) -> None:
    del run.creates[_create(run, "B9")]
    run.told["B9"].outcome = "waiting"


def _item_missing(run: Run) -> None:
    gone = run.told["A2"].output.pop(0)
    run.histories["A"].remove(gone)
    run.creates[_create(run, "A9")].input.remove(gone)


def _items_reordered(run: Run) -> None:
    run.told["A2"].output.reverse()
    run.histories["A"] = []


def _history_torn(run: Run) -> None:
    run.histories["A"].pop()


def _sends_less(run: Run) -> None:
    del run.creates[_create(run, "A9")].input[1]


def _sends_an_output_of_its_own(run: Run) -> None:
    made_up = {"type": "function_call_output", "call_id": "c", "output": "Cancelled."}
    run.creates[_create(run, "A9")].input.insert(0, made_up)


def _names_a_parent(run: Run) -> None:
    run.creates[_create(run, "A9")].parent = "resp_1"


def _raises(run: Run) -> None:
    run.told["B9"].outcome = "crash"


FORGERIES: dict[Callable[[Run], None], set[str]] = {
    _foreign_response: {"answer"},
    _foreign_event: {"event"},
    _foreign_error: {"answer"},
    _run_twice: {"twice"},
    _parent_of_another: {"parent"},
    _lost: {"lost"},
    _refused: {"lost"},
    _wrong_end: {"status"},
    _told_late: {"never"},
    _never_told: {"never"},
    _never_sent: {"line"},
    _item_missing: {"items"},
    _items_reordered: {"items", "history"},
    _history_torn: {"history"},
    _sends_less: {"history"},
    _sends_an_output_of_its_own: {"history"},
    _names_a_parent: {"history"},
    _raises: {"crash"},
}


@pytest.mark.parametrize("forge", FORGERIES, ids=lambda forge: forge.__name__.strip("_"))
def test_each_rule_is_seen_to_be_broken(forge: Callable[[Run], None]) -> None:
    """One forgery, the rules that it breaks, and no other."""
    run = play(SCENE, None)
    assert [] == judge(run)

    forge(run)

    assert FORGERIES[forge] == {violation.rule for violation in judge(run)}


def test_a_notice_may_change_nothing() -> None:
    """Neither what is told, nor how many connections there are."""
    notice = next(one for one in SCENE.mutations() if one.harmless)
    run = play(SCENE, None)
    run.mutation = notice
    assert [] == judge(run)

    run.dials += 1

    assert {"notice"} == {violation.rule for violation in judge(run)}


@pytest.mark.parametrize("kind", ["busy-status", "refused-no-code"])
def test_who_is_held_back_may_go_on_in_any_order_but_not_more_often(kind: str) -> None:
    """When a turn that waits is asked again is drawn by lot; how often it is asked is not."""
    scene = attrs.evolve(SCENE, kind=kind)
    run = play(scene, None)
    run.mutation = next(one for one in scene.mutations() if one.harmless)
    last = _create(run, "B9")
    run.creates[last - 1 : last + 1] = reversed(run.creates[last - 1 : last + 1])
    assert [] == judge(run)

    del run.creates[_create(run, "A2")]

    assert {"notice"} == {violation.rule for violation in judge(run)}
