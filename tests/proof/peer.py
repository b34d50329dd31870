"""The far end: it plays honest turns, tampers with one of them, and writes down all it knows.

It serves one request after the other on each connection, in the order of arrival, as every provider
without lanes does, and says only what a server can say. What a client could have known is written down at
the moment at which a frame leaves (`Create.touched`, `Create.blurred`): the judge asks for no more.
"""

from __future__ import annotations

import copy
import json
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, Final

import attrs
import trio

from tests.helpers import FakeConnector, FakeWire

from .scripts import TERMINALS, Frame, Message, Said, Variant, honest
from .tampering import PLACES, Around, Late, Mutation, Tampered

#: Seconds between two messages of a turn that comes step by step, and before each turn.
STEP: Final = 0.01
#: Seconds after which a late frame comes on an idle connection.
IDLE: Final = 0.05
#: Seconds of silence after which the peer ends a connection whose turn it has not ended.
SILENCE: Final = 20.0
#: What the ids of the items of nobody's turn end with.
NOBODY: Final = "stray"

_FINAL: Final = ("completed", "incomplete", "failed", "cancelled")


@attrs.define(eq=False)
class Create:
    """One request, and what became of it.

    Attributes:
        question: the label of the question that it asks.
        connection: the number of the connection that it came on.
        parent: the response that it names.
        parent_of: the conversation whose response that is on this connection, None if there is none.
        input: its input items.
        said: what an honest server says to it; None if it never got to it.
        tampered: the mutation is about this request.
        created: its `response.created` was sent.
        ended: when a frame was sent that ends it for everybody who can read; None if none was.
        loose: a frame was sent that some may take for its end.
        touched: where frames of others came: before its own, amidst them, or amidst and `known` by their
            response or item to be about an earlier response of the connection.
        blurred: a frame was sent that nobody can tell from a refusal of it, though it runs.
        begun: an item of its own was announced.
        mixed: before that an item of another was, without a number.
        unread: the connection was ended by the server before it was looked at.
    """

    number: int
    question: str
    connection: int
    parent: str | None
    parent_of: str | None
    input: list[Frame]
    response_id: str
    said: Said | None = None
    tampered: bool = False
    created: bool = False
    ended: float | None = None
    loose: bool = False
    touched: set[str] = attrs.field(factory=set)
    blurred: bool = False
    begun: bool = False
    mixed: bool = False
    unread: bool = False

    @property
    def who(self) -> str:
        """The conversation that asks."""
        return self.question[0]

    @property
    def ran(self) -> bool:
        """Whether the server has begun to work on it, or would have."""
        if self.said is None:
            return not self.unread
        return bool(self.said.frames[0]["type"] == "response.created")


class Peer:
    """A connector's far ends, which play one scene.

    Args:
        nursery: where it runs.
        kinds: what kind of turn each question gets; text if it is not named.
        variant: how the server writes.
        target: the question whose first request is tampered with.
        mutation: with what; None to leave everything as it is.
        at_once: how many messages come in one read; 0: a whole turn.

    Attributes:
        creates: all requests, in order.
        strays: when anything was sent that belongs to nobody who asks.
        log: everything that was sent and heard, for people: (seconds, connection, whose, message).
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        *,
        kinds: Mapping[str, str],
        variant: Variant,
        target: str,
        mutation: Mutation | None,
        at_once: int,
    ) -> None:
        self.connector = FakeConnector(self._hear)
        self.creates: list[Create] = []
        self.log: list[tuple[float, int, str, Message]] = []
        self.strays: set[float] = set()
        self._nursery = nursery
        self._kinds = kinds
        self._variant = variant
        self._target: str | None = target
        self._mutation = mutation
        self._at_once = at_once
        self._lines: dict[FakeWire, _Line] = {}

    def hang_up(self) -> None:
        """End all connections, politely."""
        for wire in self.connector.wires:
            wire.hang_up(1000)

    # -- what comes -------------------------------------------------------------------------------

    def _hear(self, wire: FakeWire, body: dict[str, Any]) -> None:
        items = body["input"]
        question = json.dumps(items[-1], ensure_ascii=False).split("ask:")[1].split(";")[0]
        number = len(self.creates) + 1
        line = self._lines.setdefault(wire, _Line())
        parent = body.get("previous_response_id")
        line.count += 1
        create = Create(
            number=number,
            question=question,
            connection=self.connector.wires.index(wire) + 1,
            parent=parent,
            parent_of=line.owners.get(parent),
            input=copy.deepcopy(items),
            response_id=f"resp_{line.count if self._variant.restart else 1000 + number}",
            blurred=line.blurred,
        )
        self.log.append((trio.current_time(), create.connection, f">> {question}.{number}", body))
        line.owners[create.response_id] = create.who
        self.creates.append(create)
        line.queue.append(create)
        line.more.set()
        if line.strays and line.strays[0][0] == trio.current_time() and line.ended < trio.current_time():
            # They are on their way: whoever sent this had not read them.
            for _, frame in line.strays:
                self._touch(line, create, frame)
        if len(line.queue) == 1:
            self._nursery.start_soon(self._serve, wire, line)

    # -- what is said -----------------------------------------------------------------------------

    async def _serve(self, wire: FakeWire, line: _Line) -> None:
        while line.queue:
            create = line.queue[0]
            await trio.sleep(STEP)
            said = create.said = self._answer(line, create)
            tampered = self._tampered(line, create, said)
            for count, (message, whose) in enumerate(self._mixed(line, tampered)):
                if self._at_once and count and count % self._at_once == 0:
                    await trio.sleep(STEP)
                self._push(wire, line, create, message, whose)
            line.late += tampered.late
            if said.outcome in ("completed", "incomplete"):
                line.latest = create.response_id
            elif said.frames[0]["type"] == "response.created" or create.parent is not None:
                line.latest = None  # a turn that fails evicts its parent
            line.seen = create.response_id
            if any(_is_limit(frame) for frame in said.frames):
                await trio.sleep(STEP)
                for other in list(line.queue)[1:]:
                    other.unread = True
                wire.hang_up(1000)
                return
            if tampered.idle:
                await trio.sleep(IDLE)
                for message in tampered.idle:
                    self._push(wire, line, create, message, "late")
            if create.ended is None and len(line.queue) == 1:
                line.more = trio.Event()
                with trio.move_on_after(SILENCE) as scope:
                    await line.more.wait()
                if scope.cancelled_caught:
                    wire.hang_up(1000)
            line.queue.popleft()

    def _answer(self, line: _Line, create: Create) -> Said:
        """What an honest server says to one request."""
        asked = sum(other.question == create.question for other in self.creates[: create.number])
        kind = self._kinds.get(create.question, "text")
        mark = f"{create.question}.{create.number}"
        if create.parent is not None and create.parent != line.latest:
            error = {
                "type": "invalid_request_error",
                "code": "previous_response_not_found",
                "message": f"Previous response with id '{create.parent}' not found. «!{mark}»",
                "param": "previous_response_id",
            }
            return Said([{"type": "error", "status": 400, "error": error}], [], "again")
        if asked > 1 and kind.split("-")[0] in ("busy", "limit"):
            kind = "text"
        return honest(
            kind,
            self._variant,
            response_id=create.response_id,
            parent=create.parent,
            mark=mark,
            key=f"k{create.number}",
        )

    def _tampered(self, line: _Line, create: Create, said: Said) -> Tampered:
        gone = said.frames[0].get("error", {}).get("code") == "previous_response_not_found"
        if create.question != self._target or self._mutation is None or gone:
            return Tampered(list(said.frames))
        self._target = None
        create.tampered = True
        stray = honest(
            "text",
            self._variant,
            response_id="resp_stray",
            parent="resp_of_nobody",
            mark="X9.0",
            key=NOBODY,
        )
        around = Around(
            fresh="resp_fresh", seen=line.seen or "resp_fresh", stray=stray, variant=self._variant
        )
        return self._mutation.apply(said.frames, around)

    def _mixed(self, line: _Line, tampered: Tampered) -> Iterator[tuple[Message, str]]:
        """Its own messages, with the late ones of others that are due now at their places."""
        own = tampered.own
        late = [one for one in line.late if one.hop == 1]
        line.late = [attrs.evolve(one, hop=one.hop - 1) for one in line.late if one.hop > 1]
        before = dict(zip(PLACES, (0, 1, len(own) // 2, len(own) - 1, len(own)), strict=True))
        for index in range(len(own) + 1):
            for one in late:
                if before[one.place] == index:
                    yield from ((message, "late") for message in one.frames)
            if index < len(own):
                yield own[index], "own"

    def _push(self, wire: FakeWire, line: _Line, create: Create, message: Message, whose: str) -> None:
        label = f"<< {create.question}.{create.number}" + " late" * (whose == "late")
        self.log.append((trio.current_time(), create.connection, label, message))
        frame = message if isinstance(message, dict) else {}
        if whose == "own" or (create.ended is None and _id_of(frame) == create.response_id):
            stray = create.loose
            self._note(line, create, frame)
            line.ended = create.ended if create.ended is not None else line.ended
            others = [other for other in line.queue if other is not create]
        else:
            stray, others = True, list(line.queue)
        if stray and message:
            now = trio.current_time()
            self.strays.add(now)
            line.strays = [one for one in line.strays if one[0] == now] + [(now, frame)]
            for other in others:
                self._touch(line, other, frame)
        if isinstance(message, dict) and "type" in message:  # as OpenAI writes it, and so not all of it last
            message = {"type": message["type"], **dict(sorted(message.items()))}
        wire.push(message)

    def _note(self, line: _Line, create: Create, frame: Frame) -> None:
        """Write down what a frame of its own means for a request."""
        kind, now = frame.get("type"), trio.current_time()
        response = frame.get("response")
        if kind == "response.created":
            create.created = True
            line.ids.add(_id_of(frame))
        elif str(kind).startswith("response.output_item."):
            create.begun = True
            line.items.add(_item_of(frame))
        elif kind in ("error", "response.error"):
            if create.created and not create.loose:
                line.words.add(_words(frame))
                if _is_limit(frame):
                    create.loose, create.ended = True, create.ended or now
            elif not create.ran:
                create.loose, create.ended = True, create.ended or now
            elif _may_be_about(frame, line, create):
                create.blurred = line.blurred = True
        elif kind in TERMINALS:
            create.loose = True
        if isinstance(response, dict) and response.get("id") == create.response_id:
            final = str(kind).startswith("response.") and response.get("status") in _FINAL
            if kind in TERMINALS or final:
                create.loose, create.ended = True, create.ended or now

    def _touch(self, line: _Line, create: Create, frame: Frame) -> None:
        """Write down what a frame of another means for a request."""
        if create.ended is not None:
            return
        create.touched.add(_place(frame, line, create))
        if not create.created and _may_be_about(frame, line, create):
            create.blurred = line.blurred = True
        if create.created and str(_item_of(frame)).endswith(f"_{NOBODY}"):
            create.mixed = True  # an item that nobody has heard of may as well be its own
            if not (create.begun or self._variant.echo):
                create.blurred = line.blurred = True
        item = str(frame.get("type")).startswith("response.output_item.")
        if item and create.created and not create.begun and "sequence_number" not in frame:
            create.mixed = True
        if frame.get("type") == "response.created":
            line.ids.add(_id_of(frame))


@attrs.define(eq=False)
class _Line:
    """What the far end knows about one connection.

    Attributes:
        queue: requests that have not been dealt with, the one that is served first.
        more: another one has come.
        count: requests so far.
        owners: the conversations of its responses.
        ids: responses that were created on it.
        items: items that were announced on it.
        latest: the response that it holds.
        seen: the response that came last.
        late: frames to come with later requests.
        words: errors that came in the midst of a response.
        ended: when the end of a response was sent last.
        strays: what was sent at the same instant and belongs to nobody who asks.
        blurred: a frame came that nobody can tell from a refusal of a request that runs.
    """

    queue: deque[Create] = attrs.field(factory=deque)
    more: trio.Event = attrs.field(factory=trio.Event)
    count: int = 0
    owners: dict[str | None, str] = attrs.field(factory=dict)
    ids: set[object] = attrs.field(factory=set)
    items: set[object] = attrs.field(factory=set)
    latest: str | None = None
    seen: str | None = None
    late: list[Late] = attrs.field(factory=list)
    words: set[str] = attrs.field(factory=set)
    blurred: bool = False
    ended: float = -1.0
    strays: list[tuple[float, Frame]] = attrs.field(factory=list)


def _id_of(frame: Frame) -> object:
    response = frame.get("response")
    return response.get("id") if isinstance(response, dict) else None


def _item_of(frame: Frame) -> object:
    item = frame.get("item")
    return item.get("id") if isinstance(item, dict) else frame.get("item_id")


def _place(frame: Frame, line: _Line, create: Create) -> str:
    """Where a frame of another comes in a request, and whether it can be told to be one."""
    if not create.created:
        return "before"
    told = _id_of(frame) in line.ids if "response" in frame else _item_of(frame) in line.items
    return "known" if told and frame["type"] != "response.created" else "amidst"


def _words(frame: Frame) -> str:
    """An error word for word, without its number."""
    return json.dumps({name: value for name, value in frame.items() if name != "sequence_number"})


def _is_limit(frame: Frame) -> bool:
    error = frame.get("error")
    return isinstance(error, dict) and error.get("code") == "websocket_connection_limit_reached"


def _may_be_about(frame: Frame, line: _Line, create: Create) -> bool:
    """Whether a frame that comes before `response.created` may be the answer to the request.

    A refusal cannot if it has a number above 0: then something of its response has come before it. Nor
    if it came in the midst of a response on this connection, word for word: then it is that response's.
    Nor if it only says that the connection will expire. A creation cannot with an id that was seen on
    this connection, nor with a parent that was not sent.
    """
    if frame.get("type") in ("error", "response.error"):
        if "connection_expiring" in _words(frame):
            return False
        number = frame.get("sequence_number")
        return not (isinstance(number, int) and number > 0) and _words(frame) not in line.words
    if frame.get("type") != "response.created" or _id_of(frame) in line.ids:
        return False
    return bool(frame["response"].get("previous_response_id", create.parent) == create.parent)
