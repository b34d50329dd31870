"""The rules of the Trace Event Format that a viewer relies on, as a check of a whole trace.

After its description (Chrome, "Trace Event Format", 2016) and what Perfetto's importer drops or complains of.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

#: What an event of each phase must have, beside `name`, `ph` and `pid`.
NEEDS = {
    "X": {"ts", "dur", "tid", "cat"},
    "M": {"args"},
    "b": {"ts", "id", "cat"},
    "e": {"ts", "id", "cat"},
    "s": {"ts", "id", "cat", "tid"},
    "f": {"ts", "id", "cat", "tid"},
    "i": {"ts", "s", "tid"},
}
#: The metadata that there is, and what its arguments hold.
METADATA = {
    "process_name": ("name", str),
    "thread_name": ("name", str),
    "thread_sort_index": ("sort_index", int),
}
KNOWN = {"name", "ph", "pid", "tid", "ts", "dur", "cat", "id", "args", "s", "bp"}


def check_trace(trace: Any) -> None:
    """Raise AssertionError where *trace*, read from JSON, breaks a rule."""
    assert isinstance(trace, dict)
    assert trace["displayTimeUnit"] in ("ms", "ns")
    assert isinstance(trace["otherData"], dict)
    rows: dict[tuple[int, int], list[tuple[float, float]]] = defaultdict(list)
    asides: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    flows: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    for event in trace["traceEvents"]:
        _check_event(event)
        match event["ph"]:
            case "X":
                rows[event["pid"], event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
            case "b" | "e":
                asides[event["cat"], event["id"]].append(event)
            case "s" | "f":
                flows[event["cat"], event["id"]].append(event)
            case _:
                pass
    for slices in rows.values():
        _check_nesting(slices)
    for events in asides.values():
        begin, end = events
        assert ("b", "e") == (begin["ph"], end["ph"])
        assert begin["name"] == end["name"]
        assert begin["ts"] <= end["ts"]
    for events in flows.values():
        start, finish = events
        assert ("s", "f") == (start["ph"], finish["ph"])
        assert start["name"] == finish["name"]
        assert start["ts"] <= finish["ts"]
        assert "e" == finish["bp"]
        for event in events:  # an arrow begins and ends in a slice, or it is not shown
            assert any(begin <= event["ts"] <= end for begin, end in rows[event["pid"], event["tid"]]), (
                f"an arrow in nothing: {event}"
            )


def _check_event(event: Any) -> None:
    assert isinstance(event, dict)
    assert set(event) <= KNOWN, event
    assert NEEDS[event["ph"]] | {"name", "ph", "pid"} <= set(event), event
    assert isinstance(event["name"], str)
    assert event["name"]
    for name in ("pid", "tid", "id"):
        assert type(event.get(name, 0)) is int, event
    for name in ("ts", "dur"):
        value = event.get(name, 0)
        assert type(value) is int, event
        assert value >= 0, event
    assert isinstance(event.get("args", {}), dict)
    if event["ph"] == "M":
        argument, kind = METADATA[event["name"]]
        assert {argument} == set(event["args"])
        assert isinstance(event["args"][argument], kind)
    if event["ph"] == "i":
        assert event["s"] in ("g", "p", "t")


def _check_nesting(slices: list[tuple[float, float]]) -> None:
    """Slices of one row hold each other, or do not meet, as viewers reckon it: a start and a duration."""
    open_until: list[float] = []
    for start, end in sorted(slices, key=lambda each: (each[0], -each[1])):
        while open_until and open_until[-1] <= start:
            open_until.pop()
        assert not open_until or end <= open_until[-1], f"{start}..{end} sticks out"
        open_until.append(end)
