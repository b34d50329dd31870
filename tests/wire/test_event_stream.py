"""Server-sent events, however they are written and however they are cut."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, strategies as st

from tests import spent
from wspool.wire.event_stream import EventStreamReader, EventTooLongError

CASES: dict[str, tuple[bytes, list[bytes]]] = {
    "as the provider writes them": (
        b'event: a\ndata: {"x":1}\n\nevent: b\ndata: {}\n\n',
        [b'{"x":1}', b"{}"],
    ),
    "without names": (b"data: 1\n\ndata: 2\n\n", [b"1", b"2"]),
    "without a space": (b"data:1\n\n", [b"1"]),
    "one space only is not part of it": (b"data:  1 \n\n", [b" 1 "]),
    "several lines of data": (b"data: {\ndata: }\n\n", [b"{\n}"]),
    "heartbeats": (b": ping\n\n:\n\ndata: 1\n\n", [b"1"]),
    "ids and times": (b"id: 7\nretry: 10\ndata: 1\n\n", [b"1"]),
    "an event without data": (b"event: ping\n\ndata: 1\n\n", [b"1"]),
    "empty data": (b"data\n\ndata:\n\n", [b"", b""]),
    "carriage returns and line feeds": (b"data: 1\r\n\r\ndata: 2\r\n\r\n", [b"1", b"2"]),
    "carriage returns": (b"data: 1\r\rdata: 2\r\r", [b"1", b"2"]),
    "a byte order mark": (b"\xef\xbb\xbfdata: 1\n\n", [b"1"]),
    "unfinished": (b"data: 1\n\ndata: 2\n", [b"1"]),
    "no field": (b"hello\ndata: 1\n\n", [b"1"]),
}


def read(pieces: list[bytes], limit: int = 1000) -> list[bytes]:
    """All events of a stream that comes in these pieces."""
    reader = EventStreamReader(limit)
    return [event for piece in pieces for event in reader.feed(piece)]


@pytest.mark.parametrize("name", CASES)
def test_each_way_to_write_them_in_pieces_of_every_size(name: str) -> None:
    text, events = CASES[name]
    for size in range(1, len(text) + 1):
        assert events == read([text[at : at + size] for at in range(0, len(text), size)])


@given(
    st.lists(st.sampled_from([b"data: x", b"data", b":", b"event: e", b"\n", b"\r", b"\r\n", b"\xff"])),
    st.data(),
)
def test_how_it_is_cut_changes_nothing(parts: list[bytes], data: st.DataObject) -> None:
    text = b"".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert read([text]) == read(pieces)


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_an_event_is_there_with_its_last_line_end(end: bytes) -> None:
    """Whatever its kind: what may follow is not waited for."""
    reader = EventStreamReader(1000)
    assert [b"1"] == reader.feed(b"data: 1" + end + end)
    assert reader.between


@pytest.mark.parametrize(
    ("text", "rest"), [(b"data: 2", [b"2"]), (b"data: 2\r", [b"2"]), (b": hi", []), (b"", [])]
)
def test_what_has_not_finished_can_be_had(text: bytes, rest: list[bytes]) -> None:
    reader = EventStreamReader(1000)
    assert [b"1"] == reader.feed(b"data: 1\n\nevent: two\n" + text)
    assert (rest, b"two" if rest else b"") == (reader.rest(), reader.name)
    assert reader.between


def test_the_name_of_the_latest_event_is_kept() -> None:
    reader = EventStreamReader(1000)
    reader.feed(b"event: one\ndata: 1\n\nevent: two\n\n")
    assert reader.name == b"one"
    reader.feed(b"data: 2\n\n")
    assert reader.name == b""


@pytest.mark.parametrize("text", [b"data: " + b"x" * 200, b"data: 1234567\n" * 20, b"x" * 200])
def test_an_event_over_the_limit_ends_it(text: bytes) -> None:
    with pytest.raises(EventTooLongError):
        read([text[at : at + 10] for at in range(0, len(text), 10)], limit=100)
    assert read([b"data: " + b"x" * 90 + b"\n\n"] * 5, limit=100) == [b"x" * 90] * 5


def test_a_long_line_in_small_pieces_is_looked_at_once() -> None:
    def reading(length: int) -> Callable[[], None]:
        def work() -> None:
            reader = EventStreamReader(10**9)
            for _ in range(length // 100):
                reader.feed(b"x" * 100)

        return work

    # Eight times as long; never its square.
    assert spent.seconds(reading(1_600_000)) < 24 * spent.seconds(reading(200_000))
