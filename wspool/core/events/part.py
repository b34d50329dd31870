"""Part: one response of a turn that has ended. A turn that was steered may have several."""

from __future__ import annotations

from typing import Any, Final, TypedDict

import attrs

from wspool.core.events.response import Response
from wspool.core.items import Output
from wspool.core.usage import copied

__all__ = ["Part", "Remarks"]

_NOT_KEPT: Final = Output()


class Remarks(TypedDict, total=False):
    """What a response says of itself, if it does. The words are those of `TurnRecord`."""

    usage: Any
    input_transformations: tuple[Any, ...]
    prompt_cache_diagnostics: Any
    response_model: str
    service_tier: str
    finish_reason: str


_NONE: Final[Remarks] = {}


@attrs.define  # not frozen: one is made for every turn
class Part:
    """One response of a turn that ended, and what it was steered by to begin with. Never changed.

    The first of a turn began with its input. The caller is given the same response, and may do with it
    what it likes: whatever is needed of it later is taken out here.

    Attributes:
        steered_by: the items that it began with.
        response: the response as it came, its output complete.
        id: its id.
        status: how it ended.
        output: its output as a history keeps it, if there is one that does.
        remarks: what it says of itself, likewise.
    """

    steered_by: list[dict[str, Any]]
    response: dict[str, Any]
    id: str
    status: str
    output: Output = attrs.field(repr=False)
    remarks: Remarks = attrs.field(repr=False)

    @classmethod
    def of(cls, steered_by: list[dict[str, Any]], response: dict[str, Any], *, keep: bool) -> Part:
        """Return the part that *response* has ended; *keep* its output, and what it says."""
        status = str(response["status"])
        output, remarks = _NOT_KEPT, _NONE
        if keep:
            output = Output.of(response["output"])
            remarks = _remarks(response, status, asks=output.asks)
        return cls(steered_by, response, str(response.get("id")), status, output, remarks)


def _remarks(said: dict[str, Any], status: str, *, asks: bool) -> Remarks:
    """Return what a response says of itself, copied; it *asks* for the outputs of calls."""
    remarks: Remarks = {}
    if (usage := said.get("usage")) is not None:
        remarks["usage"] = copied(usage)
    if isinstance(model := said.get("model"), str):
        remarks["response_model"] = model
    if isinstance(tier := said.get("service_tier"), str):
        remarks["service_tier"] = tier
    if status == "completed":
        remarks["finish_reason"] = "tool_calls" if asks else "stop"
    elif status == "incomplete":
        reason = (Response(said).incomplete_details or {}).get("reason")
        if isinstance(reason, str):
            remarks["finish_reason"] = reason
    if "input_transformations" in said or "prompt_cache_diagnostics" in said:
        response = Response(said)
        remarks["input_transformations"] = tuple(map(copied, response.input_transformations))
        remarks["prompt_cache_diagnostics"] = copied(response.prompt_cache_diagnostics)
    return remarks
