"""Arguments are looked at where they are given: what is said of a wrong one, and that a right one passes."""

from __future__ import annotations

import math
from typing import Any

import pytest

from wspool.core.given import check_callable, check_kind, check_number


class Ledger:
    """An object with methods."""

    def past(self) -> None:
        """Do nothing."""

    def begun(self) -> None:
        """Do nothing."""


@pytest.mark.parametrize(
    ("value", "more"),
    [(1, {}), (1.5, {}), (math.inf, {}), (0.0, {}), (0, {"whole": True}), (10**30, {"whole": True})],
)
def test_a_number_from_the_least_on_passes(value: float, more: dict[str, Any]) -> None:
    check_number("seconds", value, 0, **more)


@pytest.mark.parametrize(
    ("value", "more", "error"),
    [
        (-1, {}, ValueError("seconds=-1 is below 0")),
        (math.nan, {}, ValueError("seconds=nan is below 0")),
        (True, {}, TypeError("seconds=True is not a number")),
        ("5", {}, TypeError("seconds='5' is not a number")),
        (1.0, {"whole": True}, TypeError("seconds=1.0 is not an int")),
        (True, {"whole": True}, TypeError("seconds=True is not an int")),
    ],
)
def test_what_is_no_such_number_is_quoted(value: Any, more: dict[str, Any], error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        check_number("seconds", value, 0, **more)
    assert str(error) == str(caught.value)


def test_what_is_quoted_of_a_wrong_value_is_short() -> None:
    with pytest.raises(TypeError) as caught:
        check_number("seconds", "9" * 10**6, 0)
    assert len(str(caught.value)) < 100


def test_what_is_of_another_kind_is_named_by_its_kind() -> None:
    """Never quoted: it may be a secret."""
    check_kind("key", "sk-1", (str, bytes), "a text")
    with pytest.raises(TypeError, match=r"^key must be a text, not int$"):
        check_kind("key", 7, str, "a text")
    with pytest.raises(TypeError, match=r"^key must be a text, not the class str$"):
        check_kind("key", str, str, "a text")


def test_what_is_called_can_be_called() -> None:
    check_callable("notice", print)
    check_callable("notice", Ledger)
    with pytest.raises(TypeError, match=r"^notice must be a function, not Ledger$"):
        check_callable("notice", Ledger())


def test_what_is_asked_for_its_methods_has_them() -> None:
    """And is an object, not the class of one."""
    check_callable("ledger", Ledger(), "past", "begun")
    with pytest.raises(TypeError, match=r"^ledger must be an object with past and ended, not Ledger$"):
        check_callable("ledger", Ledger(), "past", "ended")
    with pytest.raises(TypeError, match=r"past and begun, not function$"):
        check_callable("ledger", test_what_is_called_can_be_called, "past", "begun")
    with pytest.raises(TypeError, match=r"past and begun, not the class Ledger$"):
        check_callable("ledger", Ledger, "past", "begun")
