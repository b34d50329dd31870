"""Heads of frames: what is refused, and at which byte, is the same however the stream is cut."""

from __future__ import annotations

import pytest
from hypothesis import example, given, strategies as st

from wspool.wire.heads import FrameHeads

LIMIT = 200

TEXT, MORE_TEXT, CONTINUATION, LAST, BINARY, PING, CLOSE, RESERVED = (
    b"\x81",
    b"\x01",
    b"\x00",
    b"\x80",
    b"\x82",
    b"\x89",
    b"\x88",
    b"\xc1",
)


def frame(first: bytes, size: int, form: int = 0) -> bytes:
    """A frame of *size* bytes whose length is written in *form* bytes more than it needs at least."""
    if form == 0 and size < 126:
        head = bytes([size])
    elif form < 2:
        head = b"\x7e" + size.to_bytes(2, "big")
    else:
        head = b"\x7f" + size.to_bytes(8, "big")
    return first + head + b"x" * size


def judged(pieces: list[bytes]) -> tuple[str, int]:
    """Why not all may be used, and how much is held of what is not whole."""
    heads = FrameHeads(LIMIT)
    for piece in pieces:
        heads.feed(piece)
        if heads.refused is not None:
            return f"{heads.refused.code} {heads.refused.reason}", 0
    return "", heads.held


frames = st.builds(
    frame,
    st.sampled_from([TEXT] * 6 + [MORE_TEXT, CONTINUATION, LAST, BINARY, PING, CLOSE, RESERVED]),
    st.sampled_from([0, 1, 2, 5, 50, 100, 125, 126, 127, LIMIT, LIMIT + 1]),
    st.sampled_from([0] * 6 + [1, 2]),
)


@given(st.lists(frames, max_size=8), st.integers(0, 3))
@example([frame(TEXT, LIMIT + 1)], 0)
@example([frame(TEXT, 5, form=1)], 0)
@example([frame(TEXT, 5, form=2)], 0)
@example([frame(MORE_TEXT, 5), frame(TEXT, 5)], 0)
@example([frame(TEXT, 5), frame(TEXT, 5)], 1)
@example([frame(TEXT, 2), frame(PING, 1)], 1)
@example([frame(MORE_TEXT, 50), frame(PING, 5)], 2)
def test_a_stream_is_judged_alike_at_once_and_byte_by_byte(some, missing):
    """Text that comes whole is passed by a way of its own; byte by byte nothing comes whole."""
    stream = b"".join(some)
    stream = stream[: len(stream) - missing]
    assert judged([stream]) == judged([stream[at : at + 1] for at in range(len(stream))])


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (frame(TEXT, LIMIT + 1), 1009),
        (frame(TEXT, 5, form=1), 1002),
        (frame(TEXT, 5, form=2), 1002),
        (b"\x81\x85" + bytes(9), 1002),
        (frame(BINARY, 5), 1003),
        (frame(LAST, 5), 1002),
        (frame(RESERVED, 5), 1002),
    ],
)
def test_what_came_before_a_bad_frame_is_used(bad, code):
    """Also if all of it came at once."""
    heads = FrameHeads(LIMIT)
    good = frame(TEXT, 7) + frame(TEXT, 130)
    assert heads.feed(good + bad + good) == len(good)
    assert heads.refused is not None
    assert heads.refused.code == code


def test_what_is_held_is_what_came_of_a_message_that_is_not_whole():
    """A ping amid its fragments counts while it is not whole, no longer."""
    heads, held = FrameHeads(LIMIT), []
    for piece in (
        frame(TEXT, 9),
        frame(MORE_TEXT, 50)[:-20],
        b"x" * 20,
        b"\x89\x05x",
        b"xxxx",
        frame(LAST, 1),
    ):
        heads.feed(piece)
        held.append(heads.held)
    assert held == [0, 30, 50, 51, 50, 0]
