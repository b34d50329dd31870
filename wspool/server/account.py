"""The account of a request: the line of the ledger that says what has become of it."""

from wspool.server.ledger import Entry, Outcome
from wspool.server.models import TurnError
from wspool.server.protocol.create import Create

__all__ = ["entry_of"]


def entry_of(create: Create, outcome: Outcome, error: TurnError | None, *, ended: tuple[float, int]) -> Entry:
    """The line of *create*.

    Args:
      ended: when: the time in seconds, and the order.
    """
    parent_id = create.body.get("previous_response_id")
    return {
        "connection": create.memory.connection,
        "transport": create.transport,
        "lane": create.lane,
        "sequence": create.sequence,
        "response_id": create.response_id,
        "previous_response_id": parent_id if isinstance(parent_id, str) else None,
        "parent_from": create.parent_from,
        # Found when it started, so before its own response may have taken the parent's place.
        "parent_was_latest": create.parent_from == "lane",
        "generate": not create.warm_up,
        "input_items": create.input_items,
        "context_items": len(create.context),
        "context_sha256": create.digest.hexdigest() if create.digest else None,
        "unfinished_on_lane": create.unfinished_on_lane,
        "received": create.received[0],
        "received_order": create.received[1],
        "started": create.started[0] if create.started else None,
        "started_order": create.started[1] if create.started else None,
        "ended": ended[0],
        "ended_order": ended[1],
        "outcome": outcome,
        "error_code": error.code if error else None,
        "fault": create.fault,
        "automatic": bool(create.steered_by),
    }
