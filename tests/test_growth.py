"""Reading takes as long as what is read is long, however hostile it is.

Each reader of outside text, and whoever keeps count of what was read (calls, items, histories), is given the
input that is worst for it, once and in four times the size.
Processor time is measured, the best of some tries, with room for a busy machine: what grows with the square
takes sixteen times as long.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests import spent
from wspool.core.calls import OpenCalls, open_calls
from wspool.core.encoding import Encoded
from wspool.core.events import classify, evidence
from wspool.core.events.assembly import Assembly
from wspool.core.events.past import Past
from wspool.core.failures import classify_dial
from wspool.core.frames import Event, MalformedMessageError, has_too_many_values, lane_of, parse_event
from wspool.core.items import Item, encode_items
from wspool.core.matching.index import Index
from wspool.core.plain import plain
from wspool.core.sending.sendable import Sendable
from wspool.core.server_error import parse_error, parse_http_error
from wspool.core.waits import wait_in_text
from wspool.pool.credentials import Redactor
from wspool.pool.tools import Apart, CallRunner
from wspool.rollout.search import is_tame
from wspool.server.lookup import _QUESTIONS
from wspool.server.protocol.grammar import _TOKENS
from wspool.server.protocol.history import NOTHING
from wspool.testing.redaction import Redaction
from wspool.wire.answer import AnswerReader, NotHttpError, parse_answer
from wspool.wire.heads import FrameHeads

#: Characters of the smaller input.
SIZE = 50_000
#: Nothing that takes less than this, in seconds, is too long.
UNNOTICED = 0.02

KEY = "sk-proj-ABCDEFGH" + "x" * 40
PERIODIC = "ab" * 30 + "c"


def _redact(key: str, text: str) -> Callable[[int], object]:
    redactor = Redactor([("Authorization", f"Bearer {key}")])
    return lambda size: redactor.text((text * (size // len(text) + 1))[:size])


def _error(value: Callable[[int], dict[str, Any]]) -> Callable[[int], object]:
    return lambda size: parse_error({"type": "error", **value(size)}, wall_clock=1e9).meaning


def _event(text: Callable[[int], str]) -> Callable[[int], object]:
    def read(size: int) -> None:
        for raw in (text(size), text(size).encode()):
            try:
                event = parse_event(raw)
                evidence.item_of(event)
                classify.sort_of(event.type)
                lane_of(event)
            except MalformedMessageError:
                pass

    return read


def _pieces(head: bytes, piece: bytes) -> Callable[[int], object]:
    def read(size: int) -> None:
        reader = AnswerReader(max_body=10_000_000)
        try:
            reader.feed(head)
            for _ in range(size // len(piece)):
                if reader.feed(piece):
                    break
        except NotHttpError:
            pass
        parse_answer(bytes(reader.received), max_body=10_000_000)

    return read


def _fed(message: bytes, size: int) -> None:
    """Judge *message* again and again, a byte at a time."""
    heads = FrameHeads(1_000_000)
    for at in range(size):
        assert 1 == heads.feed(message[at % len(message)].to_bytes(1, "big"))


def _repeated(text: str) -> Callable[[int], str]:
    return lambda size: text * (size // len(text) + 1)


def _items(size: int, make: Callable[[int], Item], *more: Callable[[int], Item]) -> list[Item]:
    """Some items for each hundred characters: those of *make*, then those of each of *more*."""
    return [each(at) for each in (make, *more) for at in range(size // 25)]


def _turns(size: int, *make: Callable[[int], Item]) -> list[Item]:
    """As many, one of each at a time."""
    return [each(at) for at in range(size // 25) for each in make]


def _call(name: str = "c{}", *, waits: bool = True) -> Callable[[int], Item]:
    """Calls that ask for the same, named after their place if *name* has one for it."""
    fields = {"type": "function_call", "name": "f", "arguments": "{}"} | ({} if waits else {"async": True})
    return lambda at: {**fields, "call_id": name.format(at)}


def _nameless(at: int) -> Item:
    return {"type": "function_call", "name": "f", "arguments": "{}"}


def _output(name: str = "c{}") -> Callable[[int], Item]:
    return lambda at: {"type": "function_call_output", "call_id": name.format(at), "output": "x"}


def _nameless_output(at: int) -> Item:
    return {"type": "function_call_output", "output": "x"}


def _search(name: str) -> Callable[[int], Item]:
    return lambda at: {"type": "web_search_call", "id": name.format(at)}


def _agents(size: int) -> None:
    assembly = Assembly()
    for at in range(size // 25):
        assembly.leave_out(f"/root/{at}")
    assembly.output([], whole=True)


def _thought(at: int) -> Item:
    return {"type": "reasoning", "id": "rs", "summary": [], "encrypted_content": "x"}


def _said(at: int) -> Item:
    return {"type": "message", "role": "assistant", "id": "m", "status": "completed", "content": []}


def _asked(at: int) -> Item:
    return {"type": "message", "role": "user", "content": "x"}


def _made(calls: list[Item], *, at_once: bool) -> None:
    """Calls of a response that did not end well, then those of another that asks for the same."""
    runner = CallRunner(Apart(), 1)
    for name in "ab":
        again = [{**call, "call_id": name + str(call["call_id"])} for call in calls]
        for each in [again] if at_once else [[call] for call in again]:
            runner.claim(each)
        runner.release([])
    runner.settle(calls)
    runner.hand_out(runner.claim(calls))
    runner.stop()
    runner.strays()


def _sent(items: list[Item]) -> None:
    history: list[Encoded] = encode_items(items)
    Sendable().of(history, [], [False] * len(history))


def _open(items: list[Item]) -> None:
    open_calls(items)
    OpenCalls().of(encode_items(items), 0)


def _assembled(items: list[Item], places: Callable[[int], int], *, kinds: str = "added done") -> None:
    assembly = Assembly()
    for kind in kinds.split():
        for at, item in enumerate(items):
            kind_of_event = f"response.output_item.{kind}"
            event = {"type": kind_of_event, "output_index": places(at), "item": item, "sequence_number": at}
            assembly.add(Event(kind_of_event, json.dumps(event)))
    past = Past()
    past.end(items)
    assembly.kinship(items, past)
    for own in (items, [], None):
        assembly.output(own, whole=True, past=past)


def _matched(items: list[Item]) -> None:
    index = Index(max_bytes=100_000_000, max_age=1e9)
    first = index.read({"model": "m", "input": [_asked(0)]}, 0.0)
    index.remember(first, "r", items, 0.0)
    given = index.read({"model": "m", "input": [_asked(0), *items, _asked(1)]}, 0.0)
    assert index.find(given, 0.0)


OK = b"HTTP/1.1 200 OK\r\n"
QUESTION = "In which modules of the package `a` and on which lines are "

READERS: dict[str, Callable[[int], object]] = {
    "plain": lambda size: plain("\x1b" * size),
    "redact the beginning of the key": _redact(KEY, KEY[:16]),
    "redact most of the key": _redact(KEY, KEY[:-1]),
    "redact the key": _redact(KEY, KEY),
    "redact a periodic key": _redact(PERIODIC, "ab"),
    "redact a long key": _redact(PERIODIC * 90, (PERIODIC * 90)[:-1]),
    "hide beginnings of tokens": lambda size: Redaction(()).text("eyJ-" * (size // 4)),
    "hide tokens in part": lambda size: Redaction(()).text("eyJ23456789." * (size // 12)),
    "hide beginnings of keys": lambda size: Redaction((KEY,)).text(KEY[:-1] * (size // len(KEY))),
    "error: text": _error(lambda size: {"error": {"message": "try again in 1" * (size // 14)}}),
    "error: retry": _error(lambda size: {"error": {"message": "retry " * (size // 6)}}),
    "error: digits": _error(lambda size: {"error": {"retry_after": "1s" * (size // 2)}}),
    "error: number": _error(lambda size: {"error": {"retry_after": "1" * size, "resets_at": "1" * size}}),
    "error: spaces": _error(lambda size: {"error": {"retry_after": " " * size + "x"}}),
    "error: code": _error(lambda size: {"error": "a_" * (size // 2)}),
    "error: code at capacity": _error(lambda size: {"status": 400, "message": "at capacit" * (size // 10)}),
    "error: JSON in JSON": _error(lambda size: {"error": {"message": '{"error":' * (size // 9)}}),
    "error: list": _error(lambda size: {"errors": [[]] * size, "detail": [None] * size}),
    "error: details": _error(lambda size: {"error": {"details": [{}] * size, "loc": [1] * size}}),
    "error: fields": _error(lambda size: {"error": {f"f{at}": 1 for at in range(size // 8)}}),
    "error: raw in raw": _error(lambda size: {"error": {"message": "m", "metadata": {"raw": _nested(size)}}}),
    "page": lambda size: parse_http_error(400, [], b"<title" * (size // 6)),
    "page of titles": lambda size: parse_http_error(400, [], b"<title>" + b" " * size),
    "refusal": lambda size: classify_dial("no", phase="upgrade", status=400, body=b'{"a":' * (size // 5)),
    "sentence": lambda size: wait_in_text("wait " * (size // 5)),
    "event: brackets": _event(lambda size: '{"type":"a"' + "} " * (size // 2) + "}"),
    "event: spaces": _event(lambda size: '{"type":"a"}' + " " * size + "}"),
    "event: type": _event(lambda size: json.dumps({"type": "response.output_" + "a" * size})),
    "event: types": _event(lambda size: '{"type":"a",' + '"type":"a",' * (size // 11) + "}"),
    "event: items": _event(lambda size: '{"type":"a",' + '"item": {' * (size // 9) + "}"),
    "event: ids": _event(lambda size: '{"type":"a",' + '"item_id": "' * (size // 12) + "}"),
    "event: numbers": _event(lambda size: '{"type":"a",' + '"sequence_number":' * (size // 18) + "}"),
    "event: lanes": _event(lambda size: '{"type":"a",' + '"stream_id":' * (size // 12) + "}"),
    "event: depth": _event(lambda size: '{"type":' + "[" * size),
    "named parent": lambda size: classify._NAMED.search("id '" * (size // 4) + "id 'x"),
    "answer: last chunks": _pieces(OK + b"Transfer-Encoding: chunked\r\n\r\nfffff\r\n", b"\r\n0\r\n\r\n"),
    "answer: small chunks": _pieces(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    "answer: a size without end": _pieces(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"0"),
    "answer: trailers": _pieces(OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"a: b\r\n"),
    "answer: small pieces": _pieces(OK + b"Connection: close\r\n\r\n", b"x"),
    "answer: interim": _pieces(b"", b"HTTP/1.1 100 \r\n\r\n"),
    "answer: interim in one piece": lambda size: _pieces(b"HTTP/1.1 102 \r\n\r\n" * (size // 17), b"x")(2),
    "answer: a head by the byte": _pieces(b"HTTP/1.1 101 ", b"x"),
    "values": lambda size: has_too_many_values("{}," * (30 * size)),
    "values: texts": lambda size: has_too_many_values('["' + ',"",",' * (20 * size)),
    "values: escapes": lambda size: has_too_many_values('{"a":["' + '\\",' * (60 * size)),
    "values: an open text": lambda size: has_too_many_values('"' + "," * (100 * size)),
    "frames: pings": lambda size: FrameHeads(1000).feed(b"\x89\x00" * (size // 2)),
    "frames: by the byte": lambda size: _fed(b"\x81\x7e\x01\x00" + b"x" * 256, size),
    "frames: fragments": lambda size: _fed(b"\x01\x01x" + b"\x00\x01x" * 4000 + b"\x80\x01x", size),
    "expression": lambda size: is_tame("[" * size),
    "expression of classes": lambda size: is_tame("[]" * (size // 2)),
    "question": lambda size: [asked.search(QUESTION * (size // 59)) for asked, _ in _QUESTIONS],
    "tokens": lambda size: _TOKENS.findall(" " * size),
    "calls: equal": lambda size: _made(_items(size, _call()), at_once=True),
    "calls: equal, one by one": lambda size: _made(_items(size, _call()), at_once=False),
    "calls: of one name": lambda size: _made(_items(size, _call("c")), at_once=True),
    "calls: of one name, one by one": lambda size: _made(_items(size, _call("c")), at_once=False),
    "open: one after the other": lambda size: _open(_turns(size, _call(), _output())),
    "open: async": lambda size: _open(_turns(size, _call(waits=False), _asked)),
    "open: async, then answered": lambda size: _open(_items(size, _call(waits=False), _output())),
    "open: without names": lambda size: _open(_items(size, _call(), _nameless, _nameless_output)),
    "open: of one name": lambda size: _open(_items(size, _call("c", waits=False), _output("c"))),
    "sent: calls": lambda size: _sent(_items(size, _call(), _asked)),
    "sent: answered calls": lambda size: _sent(_items(size, _call(), _output())),
    "sent: calls of one name": lambda size: _sent(_items(size, _call("c"), _output("c"))),
    "sent: calls without names": lambda size: _sent(_items(size, _nameless, _nameless_output)),
    "sent: calls without names, by turns": lambda size: _sent(
        _turns(size, _nameless, _asked, _nameless_output)
    ),
    "sent: one id": lambda size: _sent(_turns(size, _said, _thought, _asked)),
    "sent: one id of what needs one": lambda size: _sent(_items(size, _search("x"))),
    "sent: ids that others would get": lambda size: _sent(_items(size, _search("x_{}"), _search("x"))),
    "sent: thoughts": lambda size: _sent(_items(size, _thought)),
    "assembled": lambda size: _assembled(_items(size, _call()), lambda at: at),
    "assembled: backwards": lambda size: _assembled(_items(size, _call()), lambda at: size - at),
    "assembled: in one place": lambda size: _assembled(_items(size, _call()), lambda at: 0),
    "assembled: nowhere": lambda size: _assembled(_items(size, _call()), lambda at: -1),
    "assembled: of one id": lambda size: _assembled(_items(size, _said), lambda at: -1),
    "assembled: only done": lambda size: _assembled(_items(size, _said), lambda at: at, kinds="done"),
    "assembled: of agents": _agents,
    "matched: calls": lambda size: _matched(_items(size, lambda at: {**_call()(at), "id": f"fc_{at}"})),
    "matched: thoughts": lambda size: _matched(_turns(size, _thought, _said)),
    "judged: calls": lambda size: NOTHING.judge(*[_items(size, _call(), _output())] * 2, stored=False),
    "judged: thoughts": lambda size: NOTHING.judge(*[_turns(size, _thought, _said)] * 2, stored=True),
}


def _nested(size: int) -> str:
    raw = "x"
    while len(raw) < size:
        raw = json.dumps({"message": "m", "metadata": {"raw": raw}})
    return raw


@pytest.mark.parametrize("name", READERS)
def test_reading_takes_as_long_as_what_is_read(name: str) -> None:
    """Four times as much takes four times as long, and not sixteen times."""
    read = READERS[name]
    small = spent.seconds(functools.partial(read, SIZE), enough=UNNOTICED)
    enough = min(2.0, max(UNNOTICED, 9 * small))
    large = spent.seconds(functools.partial(read, 4 * SIZE), enough=enough)

    assert large < enough, (small, large)
