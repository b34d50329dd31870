"""The soak sees what it is there to see, and a small one finds nothing."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from benchmarks import soak
from wspool.server import Entry


def entry(**fields: Any) -> Entry:
    """A line of the ledger, of a request without anything odd about it."""
    line: dict[str, Any] = {
        "connection": 1,
        "sequence": 1,
        "received_order": 1,
        "fault": None,
        "unfinished_on_lane": 1,
        "previous_response_id": None,
        "parent_was_latest": False,
        "context_sha256": "d",
        "outcome": "completed",
        "response_id": "r",
        "error_code": None,
    }
    return {**line, **fields}  # type: ignore[typeddict-item] # the fields that are looked at


def turn(**fields: Any) -> soak.Turn:
    """A turn that ended well."""
    said: dict[str, Any] = {"text": "t", "digest": "d", "outcome": "completed", "delivery": "terminal"}
    return soak.Turn(**{**said, "response_id": "r", "answer": "t", **fields})


def broken(turns: list[soak.Turn], ledger: list[Entry]) -> str:
    """What the two accounts disagree about."""
    account = soak.Account()
    account.turns = turns
    return "\n".join(soak._compare(account, ledger))


def test_two_accounts_that_agree() -> None:
    """Nothing is said about them."""
    refused = entry(outcome="rejected", response_id=None)
    lost = turn(digest="e", outcome="TurnLostError", delivery="ambiguous", response_id=None)

    assert "" == broken([turn()], [entry()])
    assert "" == broken([turn()], [refused, entry()])
    assert "" == broken([turn(), lost], [entry()])
    assert "" == broken([turn(), lost], [entry(), entry(context_sha256="e", outcome="lost")])


@pytest.mark.parametrize(
    ("said", "ledger", "what"),
    [
        (turn(), [], "the server says"),
        (turn(), [entry(response_id="x")], "the server says"),
        (turn(), [entry(outcome="lost")], "the server says"),
        (turn(), [entry(), entry(outcome="lost", response_id="s")], "ran 2 times"),
        (turn(), [entry(), entry(context_sha256="other")], "what no conversation had said"),
        (turn(), [entry(unfinished_on_lane=2)], "2 unfinished"),
        (turn(), [entry(previous_response_id="p")], "not the latest"),
        (turn(), [entry(outcome="rejected", error_code="previous_response_not_found")], "not there"),
        (turn(), [entry(), entry(context_sha256=None)], "without a context"),
        (turn(answer="someone else's"), [entry()], "answered"),
        (turn(outcome="TurnLostError", delivery="not_sent"), [entry()], "ran what was not sent"),
        (turn(outcome="stuck"), [entry()], "never ended"),
    ],
)
def test_every_rule_is_looked_at(said: soak.Turn, ledger: list[Entry], what: str) -> None:
    """One that is broken is named."""
    assert what in broken([said], ledger)


@pytest.mark.network
def test_a_small_soak_finds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """With every fault five times as often, since there is little time."""
    monkeypatch.setattr(soak, "CONVERSATIONS", 40)
    monkeypatch.setattr(soak, "CONNECTIONS", 8)
    monkeypatch.setattr(soak, "TURNS", 6)
    monkeypatch.setattr(soak, "RATE", 0.1)
    figures, found = trio.run(soak.soak, 1.0, 3)

    assert [] == found
    assert figures["turns"] >= 240
    assert len(figures["faults"]) >= 10
