"""Lineage: what a driver of turns needs to know of a history, whoever keeps it."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from typing import Protocol

from wspool.core.commands import LaneKey
from wspool.core.encoding import Encoded
from wspool.core.items import Item, Output
from wspool.core.sending.chain import Plan
from wspool.core.sending.takes import Takes
from wspool.core.sending.warm_up import Fields, WarmUp

__all__ = ["Lineage"]


class Lineage(Protocol):
    """A history, and the response that it goes on from.

    A `Chain` keeps it from turn to turn; a `BroughtHistory` came with its request. See there.
    """

    @property
    def notes(self) -> Set[str]: ...
    @property
    def parent(self) -> str | None: ...
    @property
    def is_new(self) -> bool: ...

    def owed(self, new: Sequence[Encoded], fields: Fields) -> list[Item]: ...
    def plan(
        self,
        new: Sequence[Encoded],
        lane: LaneKey,
        latest: str | None,
        warm_up: WarmUp | None,
        fields: Fields,
        *,
        carried: Callable[[str], bool] = ...,
        takes: Takes = ...,
    ) -> Plan: ...

    def extend(
        self,
        new: Sequence[Encoded],
        output: Output,
        response_id: str,
        lane: LaneKey,
        *,
        asked: bool = ...,
        rooted: bool = ...,
    ) -> None: ...

    def counts(self, new: Sequence[Encoded], plan: Plan | None) -> tuple[int, int]: ...
    def queue(self, items: Sequence[Encoded]) -> None: ...
    def forget_parent(self, *, lost_by_server: bool = ...) -> None: ...
