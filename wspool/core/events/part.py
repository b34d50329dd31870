"""Part: one response of a turn that has ended. A turn that was steered may have several."""

from __future__ import annotations

from typing import Any, Final

import attrs

from wspool.core.items import Output

__all__ = ["Part"]

_NOT_KEPT: Final = Output()


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
    """

    steered_by: list[dict[str, Any]]
    response: dict[str, Any]
    id: str
    status: str
    output: Output = attrs.field(repr=False)

    @classmethod
    def of(cls, steered_by: list[dict[str, Any]], response: dict[str, Any], *, keep: bool) -> Part:
        """Return the part that *response* has ended; *keep* its output for a history."""
        output = Output.of(response["output"]) if keep else _NOT_KEPT
        return cls(steered_by, response, str(response.get("id")), str(response["status"]), output)
