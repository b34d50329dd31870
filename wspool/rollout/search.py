"""Searching source files for a regular expression, here or in a process of its own.

A model chooses the expression, and Python's `re` tries what it says in every way there is, with nothing else
of the process running meanwhile: `(.|.)*x` takes longer than anybody lives. So only what cannot grow so is
searched for here; everything else is a process that can be killed. As that, this file is run by its path and
imports nothing but a few modules of the standard library, so that it is there at once.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

__all__ = ["MAX_LINE", "MAX_MATCHES", "MAX_PATTERN", "is_hidden", "is_tame", "search"]

#: Most matches that are returned.
MAX_MATCHES: Final = 200
#: Longest line that is returned, in characters; the rest of the line is cut off.
MAX_LINE: Final = 500
#: Longest expression, in characters.
MAX_PATTERN: Final = 1000
#: Characters of a line that are looked at.
_MOST_SEEN: Final = 2000
#: Directories that are not looked into: compiled files, and packages that are not part of the root's own
#: code.
_LEFT_OUT: Final = frozenset({"__pycache__", "site-packages", "dist-packages"})

#: What an expression is made of: an escaped character, a class, or one character.
_PARTS: Final = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|.", re.DOTALL)
#: Choices in an expression that is searched for here. Each doubles the ways to try.
_MOST_CHOICES: Final = 5


def is_tame(pattern: str) -> bool:
    """Return whether a search for *pattern* takes no more time than the square of a line's length.

    That is so if it repeats one thing at most, which is no group, and leaves few choices.
    """
    if len(pattern) > MAX_PATTERN:
        return False
    choices = repeats = 0
    before = ""
    for part in _PARTS.findall(pattern):
        if part in ("*", "+", "{"):
            if before == ")":
                return False
            repeats += 1
        elif part == "|" or (part == "?" and before != "("):
            choices += 1
        before = part
    return repeats <= 1 and choices <= _MOST_CHOICES and "(?P=" not in pattern and "(?(" not in pattern


def search(pattern: str, root: str, place: str) -> str:
    """Return the lines of the files at *place* that *pattern* is in, as JSON.

    Args:
      pattern: a regular expression.
      root: what the paths of the matches are relative to.
      place: a file, or a directory that is searched with all its subdirectories.
    """
    expression = re.compile(pattern)
    matches: list[dict[str, Any]] = []
    for file in _sources(Path(place)):
        name = file.relative_to(root).as_posix()
        with file.open(encoding="utf-8", errors="replace") as lines:
            for number, line in enumerate(lines, 1):
                if expression.search(line, 0, _MOST_SEEN):
                    if len(matches) == MAX_MATCHES:
                        return json.dumps({"matches": matches, "truncated": True})
                    matches.append({"path": name, "line": number, "text": line.strip()[:MAX_LINE]})
    return json.dumps({"matches": matches, "truncated": False})


def is_hidden(name: str) -> bool:
    """Return whether tools do not see a file or a directory of this name: those with a dot hold secrets."""
    return name.startswith(".") or name in _LEFT_OUT


def _sources(place: Path) -> Iterator[Path]:
    """The file itself, or all `*.py` files below the directory, in order."""
    if place.is_file():
        yield place
        return
    for entry in sorted(place.iterdir()):
        if entry.is_symlink() or is_hidden(entry.name):
            continue  # a link may lead out of the root
        if entry.is_dir():
            yield from _sources(entry)
        elif entry.suffix == ".py":
            yield entry


if __name__ == "__main__":
    sys.stdout.write(search(**json.load(sys.stdin)))
