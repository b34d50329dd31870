"""The numbers for people: tables between two marks in `docs/benchmarks.md`, and two plots beside it.

Everything comes from the JSON that `python -m benchmarks --json FILE` has written; nothing is
measured here. The plots are written by hand, a bar each, because a bar needs no library.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Final

__all__ = ["BEGIN", "END", "tables", "write"]

BEGIN: Final = "<!-- benchmarks: made by `python -m benchmarks report` -->"
END: Final = "<!-- /benchmarks -->"
ROOT: Final = Path(__file__).parent.parent

_SETTINGS: Final = ("plain", "TLS, many events per record", "TLS, one event per record")
_PEERS: Final = ("floor", "picows", "aiohttp", "websockets", "trio-websocket", "openai")

Rows = Sequence[Mapping[str, Any]]


def write(rows: Rows) -> None:
    """Put the tables into their page and the plots beside it."""
    page = ROOT / "docs" / "benchmarks.md"
    text = page.read_text(encoding="utf-8")
    between = re.compile(re.escape(BEGIN) + ".*" + re.escape(END), re.DOTALL)
    if not between.search(text):
        raise SystemExit(f"{page} has no place for the tables: a line {BEGIN} and a line {END}")
    made = f"{BEGIN}\n{tables(rows)}\n{END}"
    page.write_text(between.sub(lambda _: made, text), encoding="utf-8")
    for name, drawing in (("events", _events(rows)), ("rollout", _rollout(rows))):
        if drawing is not None:
            (ROOT / "docs" / f"{name}.svg").write_text(drawing, encoding="utf-8")


def tables(rows: Rows) -> str:
    """Return the tables as Markdown."""
    parts = [part for part in (_events_table(rows), _rollout_table(rows), _targets(rows)) if part]
    return "\n\n".join(parts)


def _find(rows: Rows, metric: str) -> Mapping[str, Any] | None:
    return next((row for row in rows if row["metric"] == metric), None)


def _number(value: float | None) -> str:
    if value is None:
        return "missing"
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _events_table(rows: Rows) -> str:
    head = [*_PEERS[:1], "wspool, fast wire", "wspool, default wire", *_PEERS[1:]]
    lines = [
        "| CPU per event, us (`events`) | " + " | ".join(head) + " |",
        "|---|" + "---|" * len(head),
    ]
    for setting in _SETTINGS:
        for way in ("counted", "decoded"):
            fast = _find(rows, f"{setting}: CPU per event, {way}, fast wire")
            default = _find(rows, f"{setting}: CPU per event, {way}, default wire")
            some = fast or default
            if some is None:
                continue
            peers = some["peers"]
            cells = [
                _number(peers["floor"]),
                _number(fast["value"] if fast else None),
                _number(default["value"] if default else None),
                *(_number(peers[name]) for name in _PEERS[1:]),
            ]
            lines.append(f"| {setting}, {way} | " + " | ".join(cells) + " |")
    return "\n".join(lines) if len(lines) > 2 else ""


def _rollout_table(rows: Rows) -> str:
    lines = [
        "| 25 tool calls, 400 KB, 40 ms round trip (`rollout`) | time | bytes sent | wspool saves |",
        "|---|---|---|---|",
    ]
    own = _find(rows, "rollout, 1 conversation: time, fast wire")
    sent = _find(rows, "rollout, 1 conversation: bytes sent per conversation, fast wire")
    if own is None or sent is None:
        return ""
    lines.append(f"| wspool | {own['value']:.2f} s | {sent['value'] / 1e6:.2f} MB | |")
    for peer, seconds in own["peers"].items():
        saved = 100 * (1 - own["value"] / seconds)
        lines.append(
            f"| HTTP, {peer} | {seconds:.2f} s | {sent['peers'][peer] / 1e6:.2f} MB | {saved:.0f} % |"
        )
    return "\n".join(lines)


def _targets(rows: Rows) -> str:
    lines = ["| target | measured | wanted | |", "|---|---|---|---|"]
    for row in rows:
        bound = row["most"] if row["least"] is None else row["least"]
        if bound is None or "own CPU" in row["metric"] or "busiest" in row["metric"]:
            continue
        side = "at most" if row["least"] is None else "at least"
        unit = f" {row['unit']}" if row["unit"] else ""
        met = "met" if row["met"] else "missed"
        value = _number(row["value"])
        if value == _number(bound) and not row["met"]:
            value = f"{row['value']:.4g}"  # or it would look as if it were
        lines.append(f"| {row['metric']} | {value}{unit} | {side} {_number(bound)}{unit} | {met} |")
    return "\n".join(lines) if len(lines) > 2 else ""


# -- plots ----------------------------------------------------------------------------------------


def _events(rows: Rows) -> str | None:
    fast = _find(rows, "plain: CPU per event, decoded, fast wire")
    default = _find(rows, "plain: CPU per event, decoded, default wire")
    if fast is None or default is None:
        return None
    micros = {"wspool, fast wire": fast["value"], "wspool, default wire": default["value"], **fast["peers"]}
    rates = {name: 1e6 / value for name, value in micros.items() if value}
    return _bars("Events per second and core, decoded, plain (more is better)", rates, "{:,.0f}")


def _rollout(rows: Rows) -> str | None:
    fast = _find(rows, "rollout, 1 conversation: time, fast wire")
    default = _find(rows, "rollout, 1 conversation: time, default wire")
    if fast is None or default is None:
        return None
    times = {"wspool, fast wire": fast["value"], "wspool, default wire": default["value"], **fast["peers"]}
    return _bars("Seconds for a rollout of 25 tool calls (less is better)", times, "{:.2f} s", up=True)


def _bars(title: str, values: Mapping[str, float], shown: str, *, up: bool = False) -> str:
    row, left, wide = 26, 190, 420
    ordered = sorted(values.items(), key=lambda pair: pair[1] if up else -pair[1])
    most = max(values.values())
    height = 44 + row * len(ordered)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + wide + 90}" height="{height}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="100%" height="{height}" fill="#fff"/>',
        f'<text x="10" y="22" font-size="15" fill="#222">{escape(title)}</text>',
    ]
    for number, (name, value) in enumerate(ordered):
        y = 36 + number * row
        colour = "#2f6fb2" if name.startswith("wspool") else "#b5bcc4"
        width = max(1, round(wide * value / most))
        out += [
            f'<text x="{left - 8}" y="{y + 15}" text-anchor="end" fill="#222">{escape(name)}</text>',
            f'<rect x="{left}" y="{y}" width="{width}" height="{row - 6}" fill="{colour}"/>',
            f'<text x="{left + width + 6}" y="{y + 15}" fill="#222">{shown.format(value)}</text>',
        ]
    return "\n".join([*out, "</svg>"]) + "\n"
