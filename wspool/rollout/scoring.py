"""Scores: how good an answer is, by the right one or by a function of the user's.

1. A score is a number. 1 is right and 0 is wrong; what is in between, or on another scale, is neither, unless
   somebody says from where on an answer is right: partial credit is in the mean, and nowhere else. A
   function may return several by name: `score` is the one that counts, or their mean.
2. A function gets what it asks for by the names of its parameters: `answer`, `expected`, `task`, `response`,
   `items`. So nobody has to know an order.
3. Python's `async` functions are awaited; any other runs in a thread, for it may take long.
4. A mistake in it is the task's, and costs nobody the answer.
"""

import inspect
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import partial
from typing import Any, Final, cast

import attrs

from wspool.pool.calling import in_tool_thread
from wspool.rollout.tasks import Task

__all__ = ["OFFERED", "SCORES", "Score", "Scorer", "compared"]

#: What a function may ask for: the answer as JSON, the right one, the row, the response as the server sent it
#: (None if the agent returned something else), and the whole conversation.
OFFERED: Final = ("answer", "expected", "task", "response", "items")
#: The scores that say right and wrong by themselves.
RIGHT: Final = 1.0
WRONG: Final = 0.0
#: What stands before the answer in GSM8K's, and in those of models that were shown some.
_MARK: Final = "####"
_NUMBER: Final = re.compile(r"[-+]?(?:\d[\d,]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
#: How near two numbers are that are the same.
_NEAR: Final = 1e-6


@attrs.frozen
class Score:
    """How good an answer is.

    Attributes:
      value: the number that counts.
      parts: what a function returned by name, None if it was one number.
      better: of an answer that is wrong as a text, what of `SCORES` calls it right, None if nothing does.
    """

    value: float
    parts: Mapping[str, Any] | None = None
    better: str | None = None

    def is_right(self, right_from: float | None) -> bool | None:
        """Whether the answer is right, None if it is neither right nor wrong.

        Args:
          right_from: the score from which on an answer is right; None for 1 and 0 alone.
        """
        if right_from is not None:
            return self.value >= right_from
        return self.value == RIGHT if self.value in (RIGHT, WRONG) else None

    @classmethod
    def of(cls, returned: object) -> "Score":
        """What a function has *returned*. Raises TypeError: it is no score."""
        if not isinstance(returned, Mapping):
            return cls(_number(returned))
        parts = {str(name): _plain(value) for name, value in cast("Mapping[object, Any]", returned).items()}
        try:
            json.dumps(parts, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as problem:
            raise TypeError(f"a score must be JSON: {problem}") from problem
        if "score" in parts:
            return cls(_number(parts["score"]), parts)
        numbers = [float(value) for value in parts.values() if isinstance(value, int | float)]
        if not numbers:
            raise TypeError("a score must have a number in it")
        return cls(sum(numbers) / len(numbers), parts)


@attrs.frozen
class Scorer:
    """A function that scores. Made by `Scorer.of`.

    Attributes:
      function: what is called, with
      names: those of `OFFERED`.
    """

    function: Callable[..., object]
    names: Sequence[str]

    @classmethod
    def of(cls, function: Callable[..., object]) -> "Scorer":
        """Look at what *function* asks for. Raises TypeError: something that there is not."""
        try:
            parameters = inspect.signature(function).parameters.values()
        except ValueError as problem:
            raise TypeError("it does not say what it takes") from problem
        names: list[str] = []
        for each in parameters:
            if each.kind is each.VAR_KEYWORD:
                names = list(OFFERED)
                break
            if each.name in OFFERED and each.kind is not each.POSITIONAL_ONLY:
                names.append(each.name)
            elif each.default is each.empty and each.kind is not each.VAR_POSITIONAL:
                raise TypeError(f"it takes {each.name!r}; there are {', '.join(OFFERED)}, by name")
        if not names:
            raise TypeError(f"it takes nothing of {', '.join(OFFERED)}")
        return cls(function, names)

    async def score(
        self,
        task: Task,
        answer: object,
        response: Mapping[str, Any] | None,
        items: Sequence[Mapping[str, Any]],
    ) -> Score:
        """Score an *answer*. A checkpoint.

        Raises:
          Exception: what the function raises, or TypeError: it returned no score.
        """
        offered = {
            "answer": answer,
            "expected": task.expected,
            "task": dict(task.source),
            "response": response,
            "items": list(items) if "items" in self.names else (),
        }
        # Its own: what it does to them changes no result.
        call = partial(self.function, **deepcopy({name: offered[name] for name in self.names}))
        if inspect.iscoroutinefunction(self.function) or inspect.iscoroutinefunction(
            type(self.function).__call__
        ):
            return Score.of(await cast("Any", call()))
        (returned,) = await in_tool_thread(lambda: (call(),), abandon_on_cancel=True)
        return Score.of(await returned if inspect.isawaitable(returned) else returned)


def exact(answer: object, expected: object) -> bool:
    """Whether the answer is the right one, but for the space around it; of a list, one of the right ones."""
    if answer == expected and isinstance(answer, bool) == isinstance(expected, bool):
        return True
    if isinstance(expected, list):
        return any(exact(answer, each) for each in cast("list[object]", expected))
    if not isinstance(answer, str):
        return False
    return answer.strip() == (expected.strip() if isinstance(expected, str) else json.dumps(expected))


def number(answer: object, expected: object) -> bool:
    """Whether the answer and the right one end with the same number; after "####" if that is there."""
    one, other = _last_number(answer), _last_number(expected)
    return one is not None and other is not None and math.isclose(one, other, rel_tol=_NEAR, abs_tol=_NEAR)


def contains(answer: object, expected: object) -> bool:
    """Whether the right answer stands in this one, as whole words and in whatever case; or one of a list."""
    if isinstance(expected, list):
        return any(contains(answer, each) for each in cast("list[object]", expected))
    if not isinstance(answer, str) or isinstance(expected, Mapping):
        return False
    words = (expected if isinstance(expected, str) else json.dumps(expected)).split()
    within = r"\s+".join(map(re.escape, words))
    return bool(words) and re.search(rf"(?<!\w){within}(?!\w)", answer, re.IGNORECASE) is not None


#: Those that need no function of one's own, by name.
SCORES: Final[Mapping[str, Callable[..., object]]] = {"exact": exact, "number": number, "contains": contains}


def compared(answer: object, expected: object) -> Score:
    """The score where nobody has said how answers are to be compared: as texts."""
    if exact(answer, expected):
        return Score(RIGHT)
    is_one = not isinstance(expected, str) or _MARK in expected or _NUMBER.fullmatch(expected.strip())
    if is_one and number(answer, expected):
        return Score(WRONG, better="number")
    return Score(WRONG, better="contains" if contains(answer, expected) else None)


def _last_number(value: object) -> float | None:
    if isinstance(value, int | float):
        return float(value)
    found = _NUMBER.findall(value.rpartition(_MARK)[2]) if isinstance(value, str) else []
    return float(found[-1].replace(",", "")) if found else None


def _plain(value: Any) -> Any:
    """A number as JSON has it; anything else stays."""
    # Numbers of arrays and tensors are none of Python's.
    return float(value) if hasattr(value, "__float__") and not isinstance(value, int | float) else value


def _number(value: object) -> float:
    if isinstance(value, str | bytes) or not hasattr(value, "__float__"):
        raise TypeError(f"a score must be a number or a dict of some, not {type(value).__name__}")
    found = float(cast("Any", value))
    if not math.isfinite(found):
        raise TypeError(f"a score must be a finite number, not {found}")
    return found
