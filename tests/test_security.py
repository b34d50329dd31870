"""What SECURITY.md says of limits is so."""

from __future__ import annotations

import pkgutil
import re
from pathlib import Path

import pytest

import wspool
from wspool.wire import trio_websocket, websockets

TEXT = (Path(__file__).parent.parent / "SECURITY.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| ([^|]+) \| ([0-9]+)( [A-Za-z]+)? \| (fixed: )?`([\w.]+)` \|$", TEXT, re.MULTILINE)
UNITS = {"": 1, "s": 1, "KiB": 1024, "MiB": 1024 * 1024}

#: Fields of the policy that bound nothing that a server controls, but what the pool itself does.
OWN = {
    *(
        "max_size",
        "min_idle",
        "max_idle",
        "dial_concurrency",
        "lanes",
        "max_waiting",
        "give_up_after",
        "count_closing",
    ),
    *("patience", "leak_after", "max_lifetime", "retire_margin", "retire_spread", "turn_reserve"),
    *("ping_interval", "on_cancel", "drain_timeout", "max_resends", "replay"),
    *("first_event_timeout", "silence_timeout", "refusal_patience"),  # none unless asked for
}


@pytest.mark.parametrize(("limit", "number", "unit", "fixed", "name"), ROWS, ids=[row[0] for row in ROWS])
def test_a_limit_is_what_the_table_says(limit: str, number: str, unit: str, fixed: str, name: str) -> None:
    """The default of a setting, or the value of a constant."""
    stated = int(number) * UNITS[unit.strip()]
    if fixed:
        module, _, constant = name.rpartition(".")
        actual = getattr(pkgutil.resolve_name(module), constant)
    else:
        owner, _, field = name.partition(".")
        actual = getattr({"PoolPolicy": wspool.PoolPolicy(), "Provider": wspool.OPENAI}[owner], field)

    assert stated == actual


def test_every_limit_is_in_the_table() -> None:
    """Each line of the table was read, and no setting is missing."""
    lines = TEXT.partition("## Limits")[2].count("\n| ")

    assert lines - 1 == len(ROWS) > 10
    named = {row[4].removeprefix("PoolPolicy.") for row in ROWS}
    assert {field.name for field in wspool.PoolPolicy.__attrs_attrs__} == OWN | {
        name for name in named if "." not in name
    }


def test_both_wires_have_the_same_limits() -> None:
    """What a server may do does not depend on what is installed."""
    assert websockets.MAX_FRAGMENTS == trio_websocket.MAX_FRAGMENTS


def test_the_version_is_supported() -> None:
    """The release that this is, is one that gets fixes."""
    assert f"| {wspool.__version__.rpartition('.')[0]} | yes" in TEXT
