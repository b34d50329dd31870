"""Steering: what becomes of input that was sent for a response in progress.

::

    sent --accepted--> accepted --successor created--> applied
      |                   |  \\--pending--> pending
      \\--failed--> failed   \\--failed--> failed

Rules of this module:

* A steer without an answer is neither taken nor refused: nobody may say so, and nobody sends it again.
* Accepted means that the server owns it. It is part of the conversation once a successor was created
  with it (`applied`), or once it waits for the outputs of the tools (`pending`): then it goes before
  them, and is not sent again.
* An answer that names none of the turn's responses is not for this turn.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Literal, cast

import attrs

from wspool.core.server_error import ServerError, parse_error

__all__ = ["Steer", "SteerState", "Steers"]

#: `sent`: no answer yet. `accepted`: the server owns it. `applied`: a successor has begun with it.
#: `pending`: it goes before the outputs of the next turn. `failed`: the server did not take it, or gave
#: it back. `lost`: the turn is over without an answer, so nobody knows.
SteerState = Literal["sent", "accepted", "applied", "pending", "failed", "lost"]


@attrs.define(eq=False, kw_only=True)
class Steer:
    """Input for a response in progress; returned by `Turn.steer`.

    Attributes:
        target: id of the response that it steers.
        state: what is known about it now.
        id: the server's name for it, once accepted.
        error: why it failed.
    """

    _input: list[dict[str, Any]] = attrs.field(alias="input")
    target: str
    state: SteerState = "sent"
    id: str | None = None
    error: ServerError | None = None

    @property
    def input(self) -> list[dict[str, Any]]:
        """Its items, new ones each time: what a caller does to them changes nothing."""
        return copy.deepcopy(self._input)

    @property
    def open(self) -> bool:
        """Whether something more will be said about it."""
        return self.state in ("sent", "accepted")


class Steers:
    """All steers of one turn, in the order in which they were sent."""

    __slots__ = ("_all",)

    def __init__(self) -> None:
        self._all: list[Steer] = []

    @property
    def open(self) -> bool:
        """Whether something more will be said about any."""
        return any(steer.open for steer in self._all)

    @property
    def queued(self) -> list[dict[str, Any]]:
        """The items that the server puts before the input of the next turn."""
        return [item for steer in self._all if steer.state == "pending" for item in steer.input]

    def add(self, steer: Steer) -> None:
        """It is on its way."""
        self._all.append(steer)

    def expects_successor(self, target: str | None) -> bool:
        """Whether the server has promised to continue *target*."""
        return any(steer.state == "accepted" and steer.target == target for steer in self._all)

    def apply(self, target: str) -> list[dict[str, Any]]:
        """A successor of *target* was created; return the items that it began with."""
        items: list[dict[str, Any]] = []
        for steer in self._all:
            if steer.state == "accepted" and steer.target == target:
                steer.state = "applied"
                items += steer.input
        return items

    def answer(self, kind: str, data: Mapping[str, Any]) -> None:
        """Take a `response.steer.*` event that is about a response of the turn.

        Args:
            kind: the last part of its type.
            data: the event.
        """
        about = steer_of(data)
        name = about.get("id")
        # An answer comes in the order of the questions, until the server has given a name.
        steer = next((each for each in self._all if name is not None and each.id == name), None) or next(
            (each for each in self._all if each.state == "sent"), None
        )
        if steer is None or not steer.open:
            return  # nothing that we wait for, but about our response: no harm
        match kind:
            case "accepted":
                steer.state, steer.id = "accepted", name if isinstance(name, str) else None
            case "pending":
                steer.state = "pending"
            case "failed":
                steer.state, steer.error = "failed", parse_error(data)
            case _:
                pass  # a new kind of notice

    def refuse(self, error: ServerError) -> None:
        """An error frame is about the oldest steer without an answer, if there is one."""
        steer = next((each for each in self._all if each.state == "sent"), None)
        if steer is not None:
            steer.state, steer.error = "failed", error

    def fail(self, error: ServerError) -> None:
        """An error frame ends the wait for all that are open."""
        for steer in self._all:
            if steer.open:
                steer.state, steer.error = "failed", error

    def lose(self) -> None:
        """No more will be heard."""
        for steer in self._all:
            if steer.open:
                steer.state = "lost"


def steer_of(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a `response.steer.*` event says about the steer that it answers."""
    about = data.get("steer")
    return cast("Mapping[str, Any]", about) if isinstance(about, Mapping) else {}
