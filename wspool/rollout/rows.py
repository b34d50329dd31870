"""Rows of a data set, out of the files that people have: JSON lines, a JSON array, CSV, all of them gzipped.

1. The name of a file says what it holds, unless the caller does; standard input is looked at.
2. A row has the number of its line, as an editor counts it, or of its place in an array.
3. Blank lines, CRLF line ends and a byte order mark are no mistakes.
4. Lines are read one by one, so that a big file costs what its rows do.
"""

import csv
import gzip
import io
import json
import sys
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import attrs

__all__ = ["FORMATS", "STDIN", "Row", "RowsError", "read_rows"]

#: What a file may hold.
FORMATS: Final = ("jsonl", "json", "csv", "tsv")
#: The path that stands for standard input.
STDIN: Final = Path("-")

_GZIP: Final = b"\x1f\x8b"
#: How other files begin that people have data sets in, and what they are.
_OTHERS: Final = (
    (b"PAR1", "a Parquet file; write it as JSON lines (pandas: to_json(orient='records', lines=True))"),
    (b"ARROW1", "an Arrow file; write it as JSON lines (datasets: to_json)"),
    (b"PK\x03\x04", "a zip archive; unpack it"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd; unpack it, or use gzip"),
    (b"BZh", "compressed with bzip2; unpack it, or use gzip"),
    (b"\xfd7zXZ", "compressed with xz; unpack it, or use gzip"),
    (b"\xff\xfe", "in UTF-16; save it as UTF-8"),
    (b"\xfe\xff", "in UTF-16; save it as UTF-8"),
)
#: Bytes of a file that tell what it is.
_HEAD: Final = 4096


class RowsError(Exception):
    """The file as a whole cannot be read; the message says why."""


@attrs.frozen
class Row:
    """One row.

    Attributes:
      number: of its line, or of its place in an array, from 1.
      value: what stands there as JSON; of CSV an object of texts.
      problem: why nothing does, or None.
    """

    number: int
    value: object = None
    problem: str | None = None


def read_rows(path: Path, format: str | None = None) -> Iterator[Row]:
    """Yield the rows of *path*, or of standard input.

    Args:
      path: the file, or `STDIN`.
      format: one of `FORMATS`; found out if not given.

    Raises:
      RowsError: it cannot be read.
    """
    text: _Lines | None = None
    try:
        with ExitStack() as opened:
            file: BinaryIO = _stdin() if path == STDIN else opened.enter_context(path.open("rb"))
            head, raw = _peeked(file)
            if head.startswith(_GZIP):
                head, raw = _peeked(cast("BinaryIO", gzip.GzipFile(fileobj=raw)))
            for beginning, what in _OTHERS:
                if head.startswith(beginning):
                    raise RowsError(f"it is {what}")
            # LF, CRLF and CR end lines; U+2028 and its like do not, which a JSON text may hold as they are.
            text = _Lines(io.TextIOWrapper(cast("Any", raw), encoding="utf-8-sig", newline=None))
            yield from _READERS[format or _format(path, head)](text)
    except UnicodeDecodeError as problem:
        # All lines before the block that cannot be decoded were given out.
        number = (text.number if text is not None else 0) + problem.object[: problem.start].count(b"\n") + 1
        raise RowsError(f"line {number} is no UTF-8 ({problem.reason}); save it as UTF-8") from problem
    except (OSError, EOFError, zlib.error) as problem:
        raise RowsError(getattr(problem, "strerror", None) or str(problem)) from problem


def _peeked(file: BinaryIO) -> tuple[bytes, BinaryIO]:
    buffered = io.BufferedReader(cast("Any", file), buffer_size=max(_HEAD, io.DEFAULT_BUFFER_SIZE))
    return buffered.peek(_HEAD)[:_HEAD], cast("BinaryIO", buffered)


def _format(path: Path, head: bytes) -> str:
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix[1:]
    if suffix in FORMATS:
        return suffix
    looks = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    return "json" if path == STDIN and looks.startswith(b"[") else "jsonl"


def _stdin() -> BinaryIO:
    if cast("object", sys.stdin) is None:
        raise RowsError("it is closed")
    return sys.stdin.buffer


class _Lines:
    """The lines of a text.

    Attributes:
      number: of the last one that was given out, from 1.
    """

    def __init__(self, text: io.TextIOBase) -> None:
        self.number = 0
        self._text = text

    def __iter__(self) -> Iterator[str]:
        for line in self._text:
            self.number += 1
            yield line

    def whole(self) -> str:
        """All of it at once."""
        return self._text.read()


def _jsonl(text: Iterable[str]) -> Iterator[Row]:
    for number, line in enumerate(text, 1):
        if not line.strip():
            continue
        try:
            value: object = json.loads(line)
        except (ValueError, RecursionError) as problem:
            yield Row(number, problem=f"not JSON: {problem}")
            continue
        if isinstance(value, list):
            yield Row(number, problem="a JSON array, and no row; if the file is one array, say --format json")
        else:
            yield Row(number, value)


def _json(text: _Lines) -> Iterator[Row]:
    whole = text.whole()
    try:
        value: object = json.loads(whole)
    except RecursionError:
        raise RowsError("it is nested too deep") from None
    except json.JSONDecodeError as problem:
        if problem.msg == "Extra data":  # many files of this name hold JSON lines
            yield from _jsonl(whole.split("\n"))
            return
        raise RowsError(f"not JSON: {problem}") from None
    if isinstance(value, dict):
        fields = cast("dict[str, object]", value)
        lists = [each for each in fields.values() if _is_rows(each)]
        value = lists[0] if len(lists) == 1 else [fields]
    if not isinstance(value, list):
        raise RowsError("it is neither an array nor an object")
    for number, each in enumerate(cast("list[object]", value), 1):
        yield Row(number, each)


def _is_rows(value: object) -> bool:
    if not isinstance(value, list) or not value:
        return False
    # A request has lists of objects as well.
    rows = cast("list[object]", value)
    return all(isinstance(each, dict) and "role" not in each and "type" not in each for each in rows)


def _csv(text: _Lines, delimiter: str = ",") -> Iterator[Row]:
    csv.field_size_limit(2**31 - 1)  # the default is shorter than what people have in a cell
    lines = iter(text)
    heading = next(lines, "")
    if delimiter == "," and heading.count(";") > heading.count(","):
        delimiter = ";"  # of a country where the comma is taken
    rows = csv.reader(chain([heading], lines), delimiter=delimiter, strict=True)
    number = 1
    try:
        names = next(rows, list[str]())
        # Spreadsheets end lines with cells of columns that have no name.
        if (twice := next((name for name in names if name and names.count(name) > 1), None)) is not None:
            raise RowsError(f"two columns are called {twice!r}")
        number = text.number + 1
        for cells in rows:
            if len(cells) > len(names):
                yield Row(number, problem=f"{len(cells)} cells, and there are {len(names)} columns")
            elif cells:
                pairs = zip(names, cells, strict=False)
                yield Row(number, {name: cell for name, cell in pairs if cell})
            number = text.number + 1
    except csv.Error as problem:  # what comes behind it cannot be told
        yield Row(number, problem=f"not CSV: {problem}")


def _tsv(text: _Lines) -> Iterator[Row]:
    return _csv(text, "\t")


_READERS: Final = {"jsonl": _jsonl, "json": _json, "csv": _csv, "tsv": _tsv}
