"""Reading a report as a browser does, and making directories of results without a run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import attrs

from wspool.rollout.provenance import RUN
from wspool.rollout.results import RESULTS

#: Elements without an end.
_VOID = {"meta", "link", "br", "img", "input", "hr"}


@attrs.define
class Page(HTMLParser):
    """What a file of HTML says, and everything in it that could do something.

    Attributes:
      tables: rows of cells, by the captions of tables, or their heads.
      links: where links lead, and the anchors that there are.
      risky: elements and attributes that have no place in a report.
    """

    path: Path

    def __attrs_post_init__(self) -> None:
        HTMLParser.__init__(self)
        self.tables: list[list[list[str]]] = []
        self.links: set[str] = set()
        self.anchors: set[str] = set()
        self.risky: list[str] = []
        self.titles: list[str] = []
        self.notes: list[str] = []
        self.policy = ""
        self._open: list[str] = []
        self._note = False
        self.raw = self.path.read_text(encoding="utf-8")
        self.text = self.style = ""
        self.feed(self.raw)
        self.close()
        assert [] == self._open, "everything that was opened was closed"

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attributes}
        if tag in ("script", "iframe", "object", "embed", "form", "base", "img", "link"):
            self.risky.append(tag)
        self.risky += [name for name in found if name.startswith("on") or name in ("src", "srcdoc")]
        if "href" in found:
            self.links.add(found["href"])
        if "id" in found:
            self.anchors.add(found["id"])
        if found.get("http-equiv") == "Content-Security-Policy":
            self.policy = found["content"]
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("th", "td"):
            self.tables[-1][-1].append("")
        elif tag == "h2":
            self.titles.append("")
        self._note = tag == "p" and found.get("class") == "note"
        if self._note:
            self.notes.append("")
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in _VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, tag
        self._note = False

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            self.style += data
            return
        self.text += data
        if self._note:
            self.notes[-1] += data
        elif "h2" in self._open:
            self.titles[-1] += data
        elif "th" in self._open or "td" in self._open:
            self.tables[-1][-1][-1] += data

    def row(self, first: str) -> list[str]:
        """The first row that begins so, without that."""
        return next(row[1:] for table in self.tables for row in table if row and row[0] == first)

    def table(self, first: str, *more: str) -> list[list[str]]:
        """The rows of the first table whose head begins so, and has those columns as well."""
        return next(
            table[1:] for table in self.tables if table and table[0][0] == first and {*more} <= {*table[0]}
        )

    def assert_inert(self) -> None:
        """Nothing in it runs, or is fetched, or leads elsewhere; nothing in it is a character that acts."""
        assert [] == self.risky
        assert self.policy.startswith("default-src 'none'; ")
        assert "script-src" not in self.policy
        assert all(link[:1] == "#" and link[1:] in self.anchors for link in self.links)
        assert "url(" not in self.style
        assert "@import" not in self.style
        odd = {letter for letter in self.raw if not letter.isprintable()} - {"\n"}
        assert set() == odd


def line(id: str | int, outcome: str = "done", **more: Any) -> dict[str, Any]:
    """A result line."""
    return {
        "id": id, "outcome": outcome, "answer": "fine", "error": None, "turns": 2, "tool_calls": 1,
        "moves": 0, "seconds": 2.0, "model": "m", "digest": f"d{id}",
        "usage": {"input_tokens": 80, "output_tokens": 20, "total_tokens": 100,
                  "input_tokens_details": {"cached_tokens": 60}},
        "began": "2026-01-01T00:00:00.000+00:00", "ended": "2026-01-01T00:00:02.000+00:00",
        "requests": {"delta": 1, "full": 1, "bytes_sent": 300, "bytes_saved": 100},
        "phases": {"line": 0.5, "dial": 0.25, "first_event": 0.25, "stream": 0.5, "tools": 0.25},
        "items": [{"type": "message", "role": "user", "content": f"question {id}"}],
        **more,
    }  # fmt: skip


def results(directory: str, lines: Iterable[Mapping[str, Any] | bytes], **run: Any) -> Path:
    """A directory with these results, and a `run.json` if it is said what is in it."""
    path = Path(directory)
    path.mkdir()
    raw = (each if isinstance(each, bytes) else json.dumps(each).encode() + b"\n" for each in lines)
    (path / RESULTS).write_bytes(b"".join(raw))
    if run:
        fields = {"format": 1, "tasks": "t.jsonl", "settings": {"model": "m"}, "more": {}, **run}
        (path / RUN).write_text(json.dumps(fields))
    return path
