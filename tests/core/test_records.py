"""Records leave the process: what an instrument was told can be copied and sent, all but the context."""

from __future__ import annotations

import copy
import pickle
from contextvars import Context
from typing import Any

import pytest

from wspool.core.begun import LeaseRecord, ToolBegun, TurnBegun
from wspool.core.lending.pool import PoolCore
from wspool.core.policy import PoolPolicy, Provider
from wspool.core.statistics import PoolRecord

WAYS = [copy.copy, copy.deepcopy, lambda record: pickle.loads(pickle.dumps(record))]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "record",
    [
        TurnBegun(pool=1, conversation=2, model="m", started=3.5, context=Context()),
        ToolBegun(pool=1, conversation=2, name="f", call_id="c", started=3.5, context=Context()),
        LeaseRecord(pool=1, lease=7, connection=2, lane=0, held=4.5, ended=5.5),
    ],
)
def test_a_record_is_the_same_after_its_journey(way: Any, record: Any) -> None:
    other = way(record)
    assert record == other
    assert getattr(record, "context", None) is not getattr(other, "context", record)


@pytest.mark.parametrize("way", WAYS)
def test_of_a_pool_goes_what_it_was_like(way: Any) -> None:
    """A pool itself can go nowhere."""
    core = PoolCore(PoolPolicy(), Provider(name="test"))
    record = PoolRecord(pool=1, provider="test", host="h", port=1, statistics=core.statistics)
    other = way(record)
    then = core.statistics()
    core.close(0.0)

    assert then == other.statistics() != record.statistics()
