"""The root of the error tree, and what every error says about the request. The tree is in `wspool.errors`."""

from __future__ import annotations

from typing import Any, Final, Literal, cast

from wspool.core.plain import plain

__all__ = ["Delivery", "WsPoolError"]

#: What is known about a request. `not_sent`: no byte of it left. `ambiguous`: handed to the
#: network, nothing heard. `accepted`: the server has begun. `terminal`: the server said how it ended.
Delivery = Literal["not_sent", "ambiguous", "accepted", "terminal"]


#: Longest text of an error, in characters: what a server said, and ours.
_LONGEST: Final = 4000


class WsPoolError(Exception):
    """Base of every error of wspool.

    Attributes:
        delivery: what is known about the request: `"not_sent"` (it never left), `"ambiguous"`
            (it may have been executed), `"accepted"` (it was executed at least in part) or
            `"terminal"` (the server said how it ended).

    Its text is one line that can be shown, whatever a server had a part in it (`wspool.core.plain`).

    Can be pickled and copied, as process pools need it, with attributes and notes; so can a subclass,
    whatever its `__init__` takes. As with all exceptions, cause, context and traceback stay behind.
    """

    delivery: Delivery = "not_sent"

    def __init__(self, *args: object) -> None:
        # Whoever raises it has cut what others have said; this is the law that nothing gets round.
        super().__init__(*[plain(arg, _LONGEST) if isinstance(arg, str) else arg for arg in args])

    def __reduce__(self) -> tuple[Any, ...]:
        # What `Exception` has would call the class with the text alone; most of ours take more than that.
        # Here `__init__` is not called again: what it made of its arguments is in the state already.
        state: object = object.__getstate__(self)
        if isinstance(state, tuple):  # of a subclass with `__slots__`
            fields, slots = cast("tuple[dict[str, Any] | None, dict[str, Any]]", state)
            state = {**(fields or {}), **slots}
        return _again, (type(self), *self.args), state


def _again(kind: type[WsPoolError], *args: object) -> WsPoolError:
    """Return an error of *kind* as pickle and copy need it: with its arguments, and not initialised."""
    return kind.__new__(kind, *args)
