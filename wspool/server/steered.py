"""Steered turns: whether a steer is taken, where a response that was steered ends, and what continues it.

Pure. The frames are in `protocol.steering`; the engine performs.
"""

from collections.abc import Iterator

from wspool.server.models import Item
from wspool.server.protocol.cache import ConnectionMemory
from wspool.server.protocol.compaction import compact_threshold
from wspool.server.protocol.create import Create
from wspool.server.protocol.grammar import Event, Plan
from wspool.server.protocol.profiles import ServerProfile
from wspool.server.protocol.steering import MAX_PENDING, Steer, accepted, failed, required_input, steer_input

__all__ = ["may_end", "successor_of", "take_steer"]


def take_steer(
    body: Item,
    running: Create | None,
    memory: ConnectionMemory,
    profile: ServerProfile,
    numbers: Iterator[int],
) -> Event:
    """Take a steer in, or refuse it. Returns the event that says so.

    Args:
      running: the request whose response it names, if that is in progress.
      memory: of the connection that the steer came on.
      numbers: makes the id of what is taken.
    """
    target, given = body.get("previous_response_id"), body.get("input")
    if running is not None and running.memory is not memory:
        running = None
    lane = running.lane if running else None
    problem: tuple[str, str] | None = None
    items = steer_input(body)
    if not profile.steers or (running is not None and not _can_steer(running.body, profile)):
        problem = "steering_not_supported", "Steering is not supported for this response."
    elif running is None:
        ended = any(latest.response_id == target for latest in memory.latest.values())
        code = "response_already_completed" if ended else "response_not_found"
        problem = code, "The response is not in progress on this connection."
    elif items is None:
        problem = "invalid_input", "The input of a steer must be user messages, or a string."
    elif len(running.steers) >= MAX_PENDING:
        problem = "too_many_pending_steers", "Too much steering input is pending for the response."
    if problem is not None or running is None or items is None:
        code, message = problem or ("response_not_found", "")
        return failed(code, message, target=target, given=given, lane=lane)
    steer = Steer(f"steer_{next(numbers):032x}", str(target), given or "", items)
    running.steers.append(steer)
    running.told += 1
    return accepted(steer, number=running.told - 1, lane=lane)


def _can_steer(body: Item, profile: ServerProfile) -> bool:
    fits = str(body.get("model")).startswith(profile.steers)
    return fits and body.get("conversation") is None and compact_threshold(body) is None


def may_end(create: Create, plan: Plan, profile: ServerProfile, index: int) -> bool:
    """Whether steering ends the response after the item at *index*."""
    return (
        bool(create.steers)
        and profile.steer_ends == "incomplete"
        and plan.turn.status == "completed"
        and not required_input(plan.items[: index + 1])
    )


def successor_of(create: Create, response_id: str, now: tuple[float, int]) -> Create:
    """The request that continues *create* with what it was steered by. It inherits all settings.

    Args:
      now: the time in seconds, and the order.
    """
    inherited = {
        key: value
        for key, value in create.body.items()
        if key not in ("generate", "input", "previous_response_id")
    }
    items = [item for steer in create.steers for item in steer.items]
    create.memory.unfinished[create.lane] += 1
    return Create(
        body=inherited | {"previous_response_id": response_id, "input": items},
        memory=create.memory,
        lane=create.lane,
        transport=create.transport,
        sequence=create.sequence,
        unfinished_on_lane=create.memory.unfinished[create.lane],
        received=now,
        steered_by=tuple(create.steers),
    )
