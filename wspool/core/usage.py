"""Usage: the tokens that responses were counted for, and a budget for them.

What a server says is read as far as it makes sense: a count is a whole number from zero on, of 63 bits at
most, and whatever else is there counts as none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, cast

import attrs

from wspool.core.frames import OBJECT
from wspool.core.given import check_kind, check_number

__all__ = ["Budget", "Usage", "copied"]

#: What no count reaches: sums are multiplied by prices, and there are whole numbers that no float can hold.
_TOO_MANY: Final = 2**63
#: Prices are for so many tokens, as providers give them.
_PER: Final = 1_000_000


@attrs.frozen
class Usage:
    """Tokens.

    Attributes:
        input: of the input, those from the cache included.
        cached: of the input, those from the cache.
        output: of the output, those of reasoning included.
        reasoning: of the output, those of reasoning.
    """

    input: int = 0
    cached: int = 0
    output: int = 0
    reasoning: int = 0

    @classmethod
    def of(cls, *usages: object) -> Usage:
        """Return what the `usage` objects of responses say together.

        Under their names or those of chat completions.
        """
        return cls(*map(sum, zip(*map(_counts, usages), strict=True)))

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input + other.input,
            self.cached + other.cached,
            self.output + other.output,
            self.reasoning + other.reasoning,
        )

    @property
    def total(self) -> int:
        """Tokens of input and output."""
        return self.input + self.output

    def cost(self, price: Sequence[float]) -> float:
        """Return what this costs.

        Args:
            price: of a million tokens of input, of input from the cache, and of output.
        """
        fresh, cached, output = price
        return ((self.input - self.cached) * fresh + self.cached * cached + self.output * output) / _PER

    def as_json(self) -> dict[str, Any]:
        """Return it as the `usage` object of a response."""
        return {
            "input_tokens": self.input,
            "input_tokens_details": {"cached_tokens": self.cached},
            "output_tokens": self.output,
            "output_tokens_details": {"reasoning_tokens": self.reasoning},
            "total_tokens": self.total,
        }


class Budget:
    """What the turns of a conversation may cost, or those of many: whoever is given it spends from it.

    Nothing is sent once it is spent, by turns that are in line by then neither. What a turn costs is known at
    its end, so those that are on their way by then may go over it; turns are counted as they are sent.

    Args:
        max_tokens: tokens at most, of input and output; None for no limit, as with the others.
        max_turns: turns at most, however they end; one that is sent again is one.
        max_cost: most cost, in the currency of *price*.
        price: of a million tokens of input, of input from the cache, and of output.
        within: another budget that this one is a part of.
        name: what messages call it.

    Attributes:
        spent: tokens so far.
        turns: turns so far.

    Raises:
        ValueError: a cost is limited without a price, or a limit is below zero.
        TypeError: an argument is of another kind.
    """

    def __init__(
        self,
        *,
        max_tokens: int | None = None,
        max_turns: int | None = None,
        max_cost: float | None = None,
        price: Sequence[float] | None = None,
        within: Budget | None = None,
        name: str = "the budget",
    ) -> None:
        if max_cost is not None and price is None:
            raise ValueError("max_cost needs a price: (input, cached input, output) of a million tokens")
        if price is not None and (not isinstance(cast("object", price), (list, tuple)) or len(price) != 3):
            raise ValueError(f"price={price!r:.60} must be (input, cached input, output) of a million tokens")
        limits = (("max_tokens", max_tokens), ("max_turns", max_turns), ("max_cost", max_cost))
        for what, limit in (*limits, *(("price", each) for each in price or ())):
            if limit is not None:
                check_number(what, limit, 0)
        if within is not None:
            check_kind("within", within, Budget, "a Budget")
        check_kind("name", name, str, "a str")
        self.max_tokens, self.max_turns, self.max_cost = max_tokens, max_turns, max_cost
        self.price = tuple(price) if price is not None else None
        self.within = within
        self.name = name
        self.spent = Usage()
        self.turns = 0

    @property
    def cost(self) -> float | None:
        """What was spent, None without a price."""
        return None if self.price is None else self.spent.cost(self.price)

    @property
    def problem(self) -> str | None:
        """Why no other turn may begin, None if one may."""
        for what, most, used in (
            ("tokens", self.max_tokens, self.spent.total),
            ("turns", self.max_turns, self.turns),
            ("cost", self.max_cost, self.cost),
        ):
            if most is not None and used is not None and used >= most:
                return f"{self.name} is spent: {what} {used:g} of {most:g}"
        return self.within.problem if self.within is not None else None

    def begin(self, turns: int = 1) -> None:
        """So many turns are sent; fewer than none were not sent after all."""
        budget: Budget | None = self
        while budget is not None:
            budget.turns += turns
            budget = budget.within

    def spend(self, usage: object) -> None:
        """A turn, or a compaction, has ended, and the server said this of its usage."""
        budget: Budget | None = self
        used = Usage.of(usage)
        while budget is not None:
            budget.spent += used
            budget = budget.within


def copied(value: Any) -> Any:
    """Return an object of a response, such as its usage, to be read later, whatever its owner does to it."""
    if not isinstance(value, OBJECT):
        return value
    said = cast("dict[str, Any]", value)
    return {name: {**value} if isinstance(value, OBJECT) else value for name, value in said.items()}


def _counts(usage: Any) -> tuple[int, int, int, int]:
    """What one `usage` object says, in the order of `Usage`."""
    if not isinstance(usage, OBJECT):
        return 0, 0, 0, 0
    return (
        _count(usage, "input_tokens", "prompt_tokens"),
        _detail(usage, "input_tokens_details", "prompt_tokens_details", "cached_tokens"),
        _count(usage, "output_tokens", "completion_tokens"),
        _detail(usage, "output_tokens_details", "completion_tokens_details", "reasoning_tokens"),
    )


def _count(said: dict[str, Any], name: str, otherwise: str = "") -> int:
    value = said.get(name)
    if value is None:
        value = said.get(otherwise)
    return value if type(value) is int and 0 < value < _TOO_MANY else 0


def _detail(said: dict[str, Any], name: str, otherwise: str, detail: str) -> int:
    details: Any = said.get(name)
    if details is None:
        details = said.get(otherwise)
    return _count(details, detail) if isinstance(details, OBJECT) else 0
