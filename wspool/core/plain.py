"""Text of others in texts of ours: shown, never obeyed, and never endless.

A server, a proxy or a model may write anything where a name, a code or a sentence is expected. Every such
text goes through `plain` before it is part of an error, a log line, a report or a reason of ours. What came
stays as it came in attributes that say so (`raw`, `body`, `events`).

Rules of this module:

* What a terminal, a log or a reader could take for more than a letter is shown as Python writes it in a
  string: line ends, escapes and other control characters, marks that turn the direction of text, characters
  that show nothing, half surrogates.
* The length is bounded, and the work with it: no more is looked at than is shown.
* Text that is plain already stays as it is, so that nothing changes if it comes through twice.
"""

from __future__ import annotations

from typing import Final

__all__ = ["MOST", "plain"]

#: Characters that are shown of one text at most. The longest sentences of providers, with a schema that
#: they refuse in it, have some six hundred.
MOST: Final = 1000

_CUT: Final = "..."


def plain(text: str, most: int = MOST) -> str:
    """Return *text* such that whoever shows it shows it and does nothing else, at most *most* characters."""
    shown = text[: most + 1]
    if not shown.isprintable():
        shown = "".join([letter if letter.isprintable() else _escaped(letter) for letter in shown])
    return shown if len(shown) <= most else shown[: most - len(_CUT)] + _CUT


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")
