"""The table of faults is complete, and is what the tests say."""

from __future__ import annotations

from .table import DOCUMENT, render, rows


def test_every_fault_has_its_test() -> None:
    """All of the catalogue, and the defects of others."""
    numbers = {row.number for row in rows()}
    faults = {f"F{number:02}" for number in range(1, 95)}

    assert set() == faults - numbers
    assert {f"D{number:02}" for number in range(1, 17)} == {each for each in numbers if each[0] == "D"}


def test_the_table_is_what_the_tests_say() -> None:
    """After a change: `python -m tests.faults`."""
    assert render() == DOCUMENT.read_text(encoding="utf-8")
