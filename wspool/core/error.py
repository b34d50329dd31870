"""The root of the error tree, and what every error says about the request. The tree is in `wspool.errors`."""

from __future__ import annotations

from typing import Literal

__all__ = ["Delivery", "WsPoolError"]

#: What is known about a request. `not_sent`: no byte of it left. `ambiguous`: handed to the
#: network, nothing heard. `accepted`: the server has begun. `terminal`: the server said how it ended.
Delivery = Literal["not_sent", "ambiguous", "accepted", "terminal"]


class WsPoolError(Exception):
    """Base of every error of wspool.

    Attributes:
        delivery: what is known about the request: `"not_sent"` (it never left), `"ambiguous"`
            (it may have been executed), `"accepted"` (it was executed at least in part) or
            `"terminal"` (the server said how it ended).
    """

    delivery: Delivery = "not_sent"
