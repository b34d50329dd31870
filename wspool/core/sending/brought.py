"""A history that comes with its request: what of it need not be sent, and what is learned from how it ended.

Rules of this module:

* It goes as it was given: nothing of it is mended, as nothing would be on the way by HTTP.
* Only what is new is sent, with the response that it goes on from (`wspool.core.matching`), if the lane holds
  that as its latest, or the server was asked to store it and all that it continues from. Else all of it is.
* A request that names its parent itself goes as it is, on the lane that holds that one if it can be had.
* A response that was named in a request that went wrong is not named again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Any, Final, cast

from wspool.core.commands import LaneKey
from wspool.core.encoding import Encoded
from wspool.core.frames import encode
from wspool.core.given import check_kind
from wspool.core.items import Item, Output, no_input, read_items
from wspool.core.matching.index import Index, digest_of, read_alone
from wspool.core.matching.known import Known
from wspool.core.sending.chain import Plan
from wspool.core.sending.takes import Takes
from wspool.core.sending.warm_up import Fields, WarmUp

__all__ = ["FULL_REASONS", "BroughtHistory", "WrittenBody", "http_only"]

_EVERYTHING = Takes()

#: Items that are written in one call, which other threads wait for: a millisecond.
_AT_ONCE: Final = 1_000

#: Why a history is sent in full: it is the first turn of its conversation; it has turns before, and nobody
#: here knows them; what it says cannot be compared; the lane that holds the turn before is gone, or somebody
#: else has it; what was named was refused, or went wrong; the endpoint takes no parents.
FULL_REASONS: Final = frozenset({"first", "unknown", "uncertain", "elsewhere", "refused", "unchained"})

#: Fields of a body that have no meaning on a connection of a pool, and what to do instead.
_HTTP_ONLY = {
    "background": "background responses are not offered over WebSocket; use HTTP",
    "conversation": "conversations that the server keeps are not offered over WebSocket; use HTTP",
    "stream_id": "lanes are the pool's business; leave it out",
}

#: Fields that are read here and not sent as they came: the server would not see what is wrong with one.
_READ = {
    "previous_response_id": (str, "it has to be the id of a response"),
    "stream": (bool, "it has to be true or false"),
    "background": (bool, "it has to be true or false"),
}


def http_only(body: Mapping[str, Any]) -> str | None:
    """Return why *body*, that of a request to `POST /responses`, cannot go over WebSocket; None if it can.

    Nor can it where a field that tells how it goes (`previous_response_id`, `stream`, `background`) is of a
    wrong type: over HTTP the server says so itself.

    Raises:
        TypeError: it is none.
    """
    check_kind("body", body, Mapping, "the body of a request, a mapping")
    for name, advice in _HTTP_ONLY.items():
        if body.get(name):
            return f"{name!r} cannot be sent: {advice}"
    for name, (kind, advice) in _READ.items():
        value = body.get(name)
        if value is not None and (not isinstance(value, kind) or value == ""):
            return f"{name!r} cannot be sent: {advice}"
    return None


class WrittenBody(dict[str, Any]):
    """The body of a request whose input is written down already: that of a large one may be so in a thread.

    Attributes:
        history: its input, as items.
        row: that, as one piece of a list.
        alone: what is known of it whatever others there are, as `Index.read` takes it, if that is anything.
        digests: else those of its items.
        said: whether an item of it is of a model, or an answer to one.
    """

    __slots__ = ("alone", "digests", "history", "row", "said")

    def __init__(self, body: Mapping[str, Any]) -> None:
        """Write the input of *body* down. Raises TypeError, ValueError: it cannot be sent."""
        super().__init__(body)
        self.history = items = _items(body.get("input"))
        self.row = _row(items)
        digests = [digest_of(item) for item in items]
        self.alone = read_alone(body, digests)
        self.digests = digests if self.alone is None else ()
        self.said = _was_any_said(items)

    def forget(self) -> None:
        """Forget its items, some at a time: nobody needs them any more. For a thread.

        To forget 75,000 of them at once takes 20 ms, and is nothing that others can have their turn in.
        """
        items = self.history
        while isinstance(items, list) and items:
            del items[-_AT_ONCE:]


class BroughtHistory:
    """The history of one request, which holds all of it. See `Lineage`.

    Args:
        index: the turns that it may go on from.
        body: the request's, JSON values.
        now: seconds.
        session: what else names the conversation that it may belong to.

    Raises:
        TypeError, ValueError: its input cannot be sent; the text says where.
    """

    __slots__ = (
        "_counts",
        "_given",
        "_index",
        "_known",
        "_last",
        "_named",
        "_new",
        "_now",
        "_said",
        "_saved",
        "_whole",
        "_why",
    )

    def __init__(
        self, index: Index, body: Mapping[str, Any], now: float, *, session: Iterable[str] = ()
    ) -> None:
        self._index = index
        self._now = now
        #: Whether an item of it was said before, once that is known.
        self._said: bool | None = None
        # Written down, so that nothing that happens to the body changes what is sent, also again.
        if isinstance(body, WrittenBody):
            items, self._whole, self._said = body.history, body.row, body.said
            self._given = index.read(body, now, session=session, digests=body.digests, alone=body.alone)
        else:
            items = _items(body.get("input"))
            self._whole = _row(items)
            self._given = index.read(body, now, session=session)
        #: What it may go on from, the likeliest first; the others have the same words.
        self._known: Sequence[Known] = index.find(self._given, now)
        start = self._given.skip
        self._new = _row(items[start:]) if start else self._whole
        self._saved = len(self._whole[0]) - len(self._new[0]) if start else 0
        #: Items that there are, and those that are new.
        self._counts = len(items), len(items) - start
        #: Why it goes in full, where what is known says nothing of it.
        self._why: str | None = None
        #: What was named in the last request, and what is known of the last response.
        self._named: Known | None = None
        self._last: Known | None = None

    @property
    def notes(self) -> Set[str]:
        """Nothing of it is changed."""
        return frozenset()

    @property
    def parent(self) -> str | None:
        """The response whose lane it had best go to."""
        if self._given.parent is not None:
            return self._given.parent
        return self._known[0].response_id if self._known else None

    @property
    def is_new(self) -> bool:
        """Whether it goes on from nothing."""
        return self.parent is None

    def owed(self, new: Sequence[Encoded], fields: Fields) -> list[Item]:
        """Nothing that is known here: whoever brings a history knows best what is in it."""
        return []

    def plan(
        self,
        new: Sequence[Encoded],
        lane: LaneKey,
        latest: str | None,
        warm_up: WarmUp | None,
        fields: Fields,
        *,
        carried: Callable[[str], bool] = lambda _: False,
        takes: Takes = _EVERYTHING,
    ) -> Plan:
        """Decide what to send. As `Chain.plan`; *new* is in the history already."""
        if not takes.parents:
            latest = None
            self.forget_parent()
            self._why = "unchained"
        self._named = None
        if (parent := self._given.parent) is not None:
            origin = self._given.origin
            rooted = origin is not None and origin.stored
            return Plan(
                input=self._whole,
                previous_response_id=parent,
                full=False,
                saved=0,
                rooted=rooted,
                last_resort=True,
                counted=(self._counts[0], self._counts[0]),
            )
        for known in self._known:
            if known.response_id == latest and known.lane == lane:
                return self._go_on_from(known)
        for known in self._known:
            if known.stored and self._index.trusts_store and known.response_id != latest:
                here = known.lane is not None and known.lane[0] == lane[0]
                if here or not carried(known.response_id):  # a name that is there twice is no proof
                    return self._go_on_from(known)
        if warm_up is not None and warm_up.response_id == latest and warm_up.fits(fields):
            return self._in_full(latest, rooted=warm_up.stored)
        return self._in_full(None, rooted=True)

    def _in_full(self, parent: str | None, *, rooted: bool) -> Plan:
        return Plan(
            input=self._whole,
            previous_response_id=parent,
            full=True,
            saved=0,
            rooted=rooted,
            counted=(self._counts[0], self._counts[0]),
            why=self._why or self._why_full(),
        )

    def _why_full(self) -> str:
        if self._known:
            return "elsewhere"
        if not self._given.certain:
            return "uncertain"
        said = _was_any_said(self._given.items) if self._said is None else self._said
        return "unknown" if said else "first"

    def _go_on_from(self, known: Known) -> Plan:
        self._named = self._given.origin = known
        known.continued = True  # by now: who says the same words at the same time had better take another
        return Plan(
            input=self._new,
            previous_response_id=known.response_id,
            full=False,
            saved=self._saved,
            rooted=known.stored,
            counted=self._counts,
        )

    def extend(
        self,
        new: Sequence[Encoded],
        output: Output,
        response_id: str,
        lane: LaneKey,
        *,
        asked: bool = False,
        rooted: bool = True,
    ) -> None:
        """The turn ended well: others may go on from it. As `Chain.extend`; *new* is what steered it."""
        if self._last is not None:
            self._index.extend(self._given, read_items(new), self._now)
        if not output.whole:
            self._given.certain = False
        self._last = self._index.remember(
            self._given,
            response_id,
            read_items(output.items),
            self._now,
            lane=lane,
            stored=asked and rooted,
            refers=asked,
        )

    def counts(self, new: Sequence[Encoded], plan: Plan | None) -> tuple[int, int]:
        """As `Chain.counts`: all that was brought, and what of it *plan* sends."""
        return plan.counted if plan is not None and plan.counted is not None else (self._counts[0], 0)

    def queue(self, items: Sequence[Encoded]) -> None:
        """The lane holds *items*, and puts them before whatever comes next: nobody may go on from there."""
        if self._last is not None:
            self._index.forget(self._last)

    def forget_parent(self, *, lost_by_server: bool = False) -> None:
        """What was named is not named again, by no request. As `Chain.forget_parent`."""
        if self._named is not None:
            self._index.forget(self._named)
            if lost_by_server and self._named.stored:
                self._index.trusts_store = False
        if self._known:
            self._why = "refused"
        self._known, self._named = (), None


def _was_any_said(items: Sequence[Mapping[str, Any]]) -> bool:
    """Whether one of *items* is of a model, or an answer to one."""
    return any(item.get("role") not in ("user", "developer", "system") for item in items)


def _items(given: object) -> Sequence[Mapping[str, Any]]:
    """Return the items of an input.

    Raises:
        TypeError: it is none.
    """
    if given is None:
        return ()
    if isinstance(given, str):
        return ({"type": "message", "role": "user", "content": [{"type": "input_text", "text": given}]},)
    if not isinstance(given, (list, tuple)):
        raise no_input(given)
    items = cast("Sequence[object]", given)
    for index, item in enumerate(items):
        if not isinstance(item, Mapping):
            raise no_input(item, index)
    return cast("Sequence[Mapping[str, Any]]", items)


def _row(items: Sequence[Mapping[str, Any]]) -> Sequence[Encoded]:
    """Return *items* as one piece of a list: to write them together takes a fraction of the time.

    Raises:
        TypeError, ValueError: they hold what JSON cannot; the text says where.
    """
    if not items:
        return ()
    if len(items) > _AT_ONCE:
        try:
            starts = range(0, len(items), _AT_ONCE)
            return (Encoded(b",".join([_row(items[n : n + _AT_ONCE])[0] for n in starts])),)
        except (TypeError, ValueError):
            pass  # raised below, with its place in the whole
    return (Encoded(memoryview(encode([dict(item) for item in items], "input"))[1:-1]),)
