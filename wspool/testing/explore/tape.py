"""Tape: what was chosen in a run, as the few places at which it was not the first.

Each free choice of a run has a place, counted from 0, and some options, counted from 0 as well; option 0 is
what happens if nobody interferes: who was first in line runs first, nothing is cancelled, nothing is cut,
timers are in time. So a whole run is told by its *deviations*: the places at which another option was
taken, and which.
"""

from __future__ import annotations

import re
from typing import Final

import attrs

from wspool.core.given import check_kind

__all__ = ["NO_DEVIATIONS", "ChoiceTape"]

_DEVIATION = re.compile(r"(\d+):(\d+)")


@attrs.frozen
class ChoiceTape:
    """The choices of one run. A value; `str` of it is short, and `ChoiceTape.parse` reads that.

    Attributes:
        deviations: pairs of a place and the option that is taken there, by place; option 0 everywhere else.
    """

    deviations: tuple[tuple[int, int], ...] = ()

    def __len__(self) -> int:
        return len(self.deviations)

    def __str__(self) -> str:
        return " ".join(f"{place}:{option}" for place, option in self.deviations) or "-"

    @classmethod
    def parse(cls, text: str) -> ChoiceTape:
        """Read what `str` wrote: `"12:1 40:2"`, or `"-"` for a run without deviations.

        Raises:
            TypeError, ValueError: it is not of that form.
        """
        check_kind("a tape", text, str, "a ChoiceTape, or a text like '12:1 40:2'")
        deviations: list[tuple[int, int]] = []
        for word in text.replace("-", " ").split():
            if (match := _DEVIATION.fullmatch(word)) is None:
                raise ValueError(f"{text!r} is not a tape; a tape looks like '12:1 40:2'")
            deviations.append((int(match[1]), int(match[2])))
        return cls(tuple(sorted(deviations)))


#: First in, first out.
NO_DEVIATIONS: Final = ChoiceTape()
