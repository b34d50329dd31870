"""A sample of a regular expression: one short text that it finds.

Pure, and never backtracks: the expression comes from a stranger, so it is read once, from left to right, and
what it would repeat without end is repeated a few times. It knows what schemas are made of: literals,
classes, escapes, groups, alternatives and repetitions. Of alternatives the first is taken; what looks ahead
or back is taken to be satisfied. Expressions that it can not read have no sample.

Source: ECMA-262, 22.2.1, in which JSON Schema's `pattern` is written.
"""

import string
import unicodedata
from collections.abc import Callable
from typing import Final

__all__ = ["sample"]

#: Repetitions at most, groups within groups, and characters of a sample: those of a stranger must end.
_REPEATED: Final = 256
_DEEPEST: Final = 20
_LONGEST: Final = 10_000

# What classes are drawn from, in the order of preference.
_DRAWN: Final = string.ascii_lowercase + string.digits + string.ascii_uppercase + " -_.:/@,;+#%!?()[]{}\n\t"
_SPACE: Final = " \t\n\r\f\v"
_WORD: Final = string.ascii_letters + string.digits + "_"

#: Whether a class has a character.
_Class = Callable[[str], bool]

_CLASSES: Final[dict[str, _Class]] = {
    "d": lambda c: c in string.digits,
    "D": lambda c: c not in string.digits,
    "w": lambda c: c in _WORD,
    "W": lambda c: c not in _WORD,
    "s": lambda c: c in _SPACE,
    "S": lambda c: c not in _SPACE,
}
_ESCAPED: Final = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v", "0": "\0"}


class _UnreadableError(Exception):
    """It is no expression, or one of the few that are not understood."""


def sample(pattern: str, shortest: int = 0) -> str | None:
    """A text that *pattern* finds, or None.

    Args:
      shortest: its characters at least, if the pattern has room for so many.
    """
    found: str | None = None
    for more in (0, 1, 2, 4, 8, 16, 32, 64, 128, 256):
        reader = _Reader(pattern, more)
        try:
            text = reader.alternatives()
        except (_UnreadableError, IndexError, ValueError):
            return found
        if not reader.at_end():
            return None
        if found is None or len(found) < shortest:
            found = text
        if len(found) >= shortest:
            break
    return found


class _Reader:
    """Reads an expression and writes a sample as it goes; *more* times what may be repeated more often."""

    def __init__(self, pattern: str, more: int) -> None:
        self._pattern = pattern
        self._more = more
        self._at = 0
        self._depth = 0

    def at_end(self) -> bool:
        return self._at == len(self._pattern)

    def _peek(self) -> str:
        return self._pattern[self._at : self._at + 1]

    def _take(self) -> str:
        self._at += 1
        return self._pattern[self._at - 1]

    def alternatives(self) -> str:
        """The sample of the first alternative; the others are read and left."""
        first = self._sequence()
        while self._peek() == "|":
            self._take()
            self._sequence()
        return first

    def _sequence(self) -> str:
        pieces: list[str] = []
        size = 0
        while self._peek() not in ("", "|", ")"):
            piece = self._repeated(self._atom())
            size += len(piece)
            if size > _LONGEST:
                raise _UnreadableError
            pieces.append(piece)
        return "".join(pieces)

    def _repeated(self, atom: str) -> str:
        least, most = 1, 1
        match self._peek():
            case "*":
                least, most = 0, _REPEATED
            case "+":
                least, most = 1, _REPEATED
            case "?":
                least, most = 0, 1
            case "{":
                return self._counted(atom)
            case _:
                return atom
        self._take()
        return self._times(atom, least, most)

    def _counted(self, atom: str) -> str:
        end = self._pattern.find("}", self._at)
        least, comma, most = self._pattern[self._at + 1 : end].partition(",")
        if end < 0 or not least.isdecimal() or (most and not most.isdecimal()):
            return atom  # A brace that stands for itself comes next, as an atom.
        self._at = end + 1
        if len(least) > 4 or len(most) > 4:
            raise _UnreadableError
        return self._times(atom, int(least), int(most or _REPEATED) if comma else int(least))

    def _times(self, atom: str, least: int, most: int) -> str:
        if self._peek() == "?":
            self._take()
        times = max(least, min(most, self._more))
        if times > _REPEATED or times * len(atom) > _LONGEST:
            raise _UnreadableError
        return atom * times

    def _atom(self) -> str:
        match character := self._take():
            case "^" | "$":
                return ""
            case ".":
                return "a"
            case "(":
                return self._group()
            case "[":
                return self._class()
            case "\\":
                return self._escape()
            case "*" | "+" | "?":
                raise _UnreadableError
            case _:
                return character

    def _group(self) -> str:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise _UnreadableError
        looks = False
        if self._peek() == "?":
            self._take()
            kind = self._take()
            if kind == "<" and self._peek() in ("=", "!"):
                kind = self._take()
            looks = kind in ("=", "!")
            if kind == "<":
                while self._take() != ">":
                    pass
            elif not looks and kind != ":":
                raise _UnreadableError
        inside = self.alternatives()
        if self._take() != ")":
            raise _UnreadableError
        self._depth -= 1
        return "" if looks else inside

    def _escape(self) -> str:
        if (named := self._named(self._peek())) is not None:
            return _first(named)
        kind = self._take()
        return "" if kind in "bB" else self._escaped(kind)

    def _named(self, kind: str) -> _Class | None:
        """The class that the escape before us stands for, which is then read; None if it stands for none."""
        if kind not in ("p", "P"):
            self._at += kind in _CLASSES
            return _CLASSES.get(kind)
        self._at += 1
        if self._take() != "{":
            raise _UnreadableError
        end = self._pattern.index("}", self._at)
        name, self._at = self._pattern[self._at : end], end + 1
        return lambda c: unicodedata.category(c).startswith(name) == (kind == "p")

    def _escaped(self, kind: str) -> str:
        """The character that an escape stands for, in a class and outside."""
        if kind in ("x", "u"):
            size = 2 if kind == "x" else 4
            code = self._pattern[self._at : self._at + size]
            self._at += size
            return chr(int(code, 16))
        if kind in _ESCAPED:
            return _ESCAPED[kind]
        if kind.isalnum():
            raise _UnreadableError  # a reference to a group
        return kind

    def _class(self) -> str:
        negated = self._peek() == "^"
        if negated:
            self._take()
        members: list[_Class] = []
        named: list[str] = []
        while (character := self._take()) != "]":
            if character == "\\" and (has := self._named(self._peek())) is not None:
                members.append(has)
                continue
            first = last = self._member(character)
            if self._peek() == "-" and self._pattern[self._at + 1 : self._at + 2] not in ("", "]"):
                self._take()
                last = self._member(self._take())
            members.append(_between(first, last))
            named.append(first)
        # A class may have none of the usual characters: that of a script begins with its first.
        return _first(lambda c: negated != any(has(c) for has in members), "" if negated else "".join(named))

    def _member(self, character: str) -> str:
        if character != "\\":
            return character
        kind = self._take()
        return "\b" if kind == "b" else self._escaped(kind)


def _between(first: str, last: str) -> _Class:
    return lambda c: first <= c <= last


def _first(has: _Class, named: str = "") -> str:
    for character in _DRAWN + named:
        if has(character):
            return character
    raise _UnreadableError
