"""Lists, a page at a time.

Source: the list endpoints of the OpenAI API reference (`limit`, `order`, `after`).
"""

from collections.abc import Mapping, Sequence
from typing import Final

from wspool.server.models import Item, TurnError
from wspool.server.protocol.fields import invalid_request

__all__ = ["page"]

_USUAL: Final = 20
_MOST: Final = 100


def page(items: Sequence[Item], query: Mapping[str, str]) -> Item | TurnError:
    """The part of *items* that is asked for, as a list object; or why there is none.

    Args:
      items: the oldest first, each with an id.
      query: `limit` (1 to 100), `order` (`asc` or `desc`, which is usual) and `after` (an id).
    """
    given, order, after = query.get("limit", str(_USUAL)), query.get("order", "desc"), query.get("after")
    if not (given.isascii() and given.isdecimal()) or len(given) > 9:
        return invalid_request(
            f"Invalid type for 'limit': expected an integer, but got '{given[:40]}' instead.",
            code="invalid_type",
            param="limit",
        )
    limit = int(given)
    if not 1 <= limit <= _MOST:
        bound = (
            "below minimum value. Expected a value >= 1"
            if limit < 1
            else f"above maximum value. Expected a value <= {_MOST}"
        )
        code = "integer_below_min_value" if limit < 1 else "integer_above_max_value"
        return invalid_request(
            f"Invalid 'limit': integer {bound}, but got {limit} instead.", code=code, param="limit"
        )
    if order not in ("asc", "desc"):
        return invalid_request(
            f"Invalid value: '{order[:40]}'. Supported values are: 'asc' and 'desc'.",
            code="invalid_value",
            param="order",
        )
    ordered = list(items) if order == "asc" else list(reversed(items))
    start = 0
    if after is not None:
        ids = [item["id"] for item in ordered]
        if after not in ids:
            return invalid_request(f"Item with id '{after[:80]}' not found.", param="after", status=404)
        start = ids.index(after) + 1
    data = ordered[start : start + limit]
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": start + limit < len(ordered),
    }
