"""Both wires understand the same bytes the same way, however they are cut and whatever they are.

A program is a list of server frames, good and bad, and how the network cuts them. A virtual clock
makes a hang a failure that takes no time.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import pytest
import trio
import trio.testing
from hypothesis import given, strategies as st

from wspool.wire.trio_websocket import TrioWebSocketConnector
from wspool.wire.websockets import WebSocketsConnector
from wspool.wire.wire import ConnectError, Wire, WireClosedError

from .peer import MAX_MESSAGE_SIZE, endpoint, frame, opener, read_request, switching_protocols
from .scripts import BINARY, CLOSE, PING, PONG, TEXT, Make, scripted

WIRES: tuple[Make, Make] = (TrioWebSocketConnector, WebSocketsConnector)


@attrs.frozen
class Outcome:
    """What came out of a wire: its messages, and the code it closed with."""

    messages: tuple[str, ...]
    code: int


async def outcome(make: Make, pieces: Sequence[bytes]) -> Outcome:
    """Feed *pieces* one by one, then an end of stream; return what came out."""
    messages: list[str] = []
    async with scripted(make) as (wire, server), trio.open_nursery() as nursery:
        assert isinstance(server, trio.StapledStream)

        async def serve(stream: trio.abc.SendStream) -> None:
            try:
                for piece in pieces:
                    await stream.send_all(piece)
                    await trio.testing.wait_all_tasks_blocked()
            except trio.BrokenResourceError:
                pass  # it has had enough
            await stream.aclose()

        nursery.start_soon(serve, server.send_stream)
        with trio.fail_after(60):
            while True:
                try:
                    batch = await wire.receive()
                except WireClosedError as error:
                    code = error.code
                    break
                assert batch
                messages += [message if isinstance(message, str) else message.decode() for message in batch]
        await wire.aclose()
        assert trio.current_time() < 60
    return Outcome(tuple(messages), code)


def run(make: Make, pieces: Sequence[bytes]) -> Outcome:
    """Return the outcome under a virtual clock."""
    return trio.run(
        outcome,
        make,
        [piece for piece in pieces if piece],
        clock=trio.testing.MockClock(autojump_threshold=0),
    )


def agreed(pieces: Sequence[bytes], *, cut_off: bool = False) -> Outcome:
    """Assert that both wires have the same outcome, and return it.

    Text that is not UTF-8 may be refused for what came of a frame that is *cut_off*, or be missed for what
    did not.
    """
    first, second = (run(make, pieces) for make in WIRES)
    if cut_off and first.code == 1007 and second.code == 1006:
        first = attrs.evolve(first, code=1006)

    assert alike(first, second), f"{first} is not {second}"
    return second


def alike(one: Outcome, other: Outcome) -> bool:
    """Whether two outcomes are the same, but for which of two faults was seen first.

    What is no UTF-8 is seen when the text is read, what no server may send at the head of its frame. Where
    the one comes right before the other, the wires read as far as they like before they judge.
    """
    codes = {one.code, other.code}
    return one.messages == other.messages and (
        len(codes) == 1 or (1007 in codes and codes < {1002, 1003, 1007})
    )


# Programs

texts = st.text(max_size=40)
pings = st.builds(lambda payload: frame(PING, payload), st.binary(max_size=125))
pongs = st.builds(lambda payload: frame(PONG, payload), st.binary(max_size=125))
controls = pings | pongs
whole = st.builds(lambda text: frame(TEXT, text.encode()), texts)


@st.composite
def fragmented(draw: st.DrawFn) -> bytes:
    """A message in fragments, cut anywhere, with control frames between."""
    payload = draw(texts).encode()
    cuts = sorted(draw(st.lists(st.integers(0, len(payload)), max_size=4)))
    pieces = [payload[a:b] for a, b in zip([0, *cuts], [*cuts, len(payload)], strict=True)]
    program = b""
    for number, piece in enumerate(pieces):
        last = number == len(pieces) - 1
        program += frame(0 if number else TEXT, piece, fin=last)
        if not last:
            program += draw(controls | st.just(b""))
    return program


closes = st.builds(
    lambda code, reason: frame(CLOSE, code.to_bytes(2, "big") + reason.encode()[:60]),
    st.sampled_from([1000, 1001, 1002, 1003, 1007, 1008, 1009, 1011, 1012, 1013, 3000, 4321, 4999]),
    st.text("abc ", max_size=60),
) | st.just(frame(CLOSE))

#: Frames that no server may send, at least not here.
broken = st.sampled_from(
    [
        frame(TEXT, b"\xff"),
        frame(TEXT, b"\xed\xa0\x80"),  # half a surrogate pair
        frame(TEXT, b"\xe2\x82"),  # cut short
        frame(BINARY, b"x"),
        frame(0, b"continues nothing"),
        frame(3),
        frame(11),
        frame(TEXT, b"x", rsv1=True),
        frame(PING, b"x" * 126),
        frame(PING, fin=False),
        frame(CLOSE, b"\x03"),
        frame(CLOSE, (999).to_bytes(2, "big")),
        frame(CLOSE, (1005).to_bytes(2, "big")),
        frame(CLOSE, (1006).to_bytes(2, "big")),
        frame(CLOSE, (1000).to_bytes(2, "big") + b"\xff"),
        frame(TEXT, b"a", fin=False) + frame(TEXT, b"b"),
        frame(TEXT, b"a", fin=False) + frame(CLOSE, (1000).to_bytes(2, "big")),
        frame(TEXT, b"\xff", fin=False),
        b"\x81\x81mask",
    ]
)

good = st.lists(whole | fragmented() | controls, max_size=8).map(b"".join)
programs = st.builds(
    lambda *parts: b"".join(parts), good, st.just(b"") | closes | broken, good | st.just(b""), closes | broken
)


@given(program=programs, data=st.data())
def test_both_wires_agree_on_any_program(program, data):
    """The same messages and the same close code, however the program is cut and wherever it stops."""
    end = data.draw(st.just(len(program)) | st.integers(0, len(program)), label="end")
    cuts = sorted(data.draw(st.lists(st.integers(0, end), max_size=6), label="cuts"))

    pieces = [program[a:b] for a, b in zip([0, *cuts], [*cuts, end], strict=True)]
    agreed(pieces, cut_off=end < len(program))


@given(program=programs, first=st.integers(0, 15))
def test_cutting_changes_nothing(program, first):
    """Byte by byte, or parted at any offset, gives what one piece gives, and the same on both wires.

    One offset in sixteen per program: over all programs that is every offset.
    """
    whole = agreed([program])
    for make in WIRES:
        assert alike(whole, run(make, [bytes([byte]) for byte in program]))
        for cut in range(first, len(program), 16):
            assert alike(whole, run(make, [program[:cut], program[cut:]]))


SAMPLE = (
    frame(TEXT, "aé€\U0001f600".encode())
    + frame(TEXT, b"\xf0\x9f", fin=False)
    + frame(PING, b"?")
    + frame(0, b"", fin=False)
    + frame(0, b"\x98\x80")
    + frame(TEXT, b"x" * 130)
    + frame(PONG)
    + frame(CLOSE, (1001).to_bytes(2, "big") + "ü".encode())
)


@pytest.mark.parametrize("make", WIRES, ids=["trio-websocket", "websockets"])
def test_a_cut_at_any_byte_changes_nothing(make):
    """Two reads, parted at each offset in turn."""
    expected = Outcome(("aé€\U0001f600", "\U0001f600", "x" * 130), 1001)

    for cut in range(len(SAMPLE) + 1):
        assert expected == run(make, [SAMPLE[:cut], SAMPLE[cut:]])


def test_both_wires_agree_wherever_the_stream_ends():
    """An end of stream at each offset in turn: whole messages come, the rest is 1006."""
    for end in range(len(SAMPLE)):
        assert agreed([SAMPLE[:end]]).code == 1006


async def refused_after(make: Make, before: bytes, head: bytes) -> tuple[int, int] | None:
    """Send *before*, then *head* byte by byte; return how many bytes of it were enough, and the code."""
    ended: list[int] = []

    async def receive(wire: Wire) -> None:
        try:
            while True:
                await wire.receive()
        except WireClosedError as error:
            ended.append(error.code)

    async with scripted(make, first=before) as (wire, server), trio.open_nursery() as nursery:
        nursery.start_soon(receive, wire)
        await trio.testing.wait_all_tasks_blocked()
        assert not ended
        for count, byte in enumerate(head, 1):
            await server.send_all(bytes([byte]))
            await trio.testing.wait_all_tasks_blocked()
            if ended:
                return count, ended[0]
        nursery.cancel_scope.cancel()
    return None


def lengths(size: int) -> st.SearchStrategy[bytes]:
    """A length in so many bytes: small, round the places where the rules change, or anything."""
    edges = [
        0,
        1,
        125,
        126,
        65_535,
        65_536,
        MAX_MESSAGE_SIZE - 1,
        MAX_MESSAGE_SIZE,
        MAX_MESSAGE_SIZE + 1,
        1 << 63,
    ]
    known = st.sampled_from([edge for edge in edges if edge < 1 << 8 * size])
    return (known | st.integers(0, (1 << 8 * size) - 1)).map(lambda value: value.to_bytes(size, "big"))


@given(
    before=st.sampled_from([b"", frame(TEXT, b"a"), frame(TEXT, b"a", fin=False), frame(TEXT, fin=False)]),
    first=st.integers(0, 255),
    second=st.integers(0, 127) | st.integers(125, 129),
    data=st.data(),
)
def test_any_head_is_judged_at_the_same_byte(before, first, second, data):
    """All that is wrong with a head is known before its payload, on both wires, with the same code."""
    extra = {126: 2, 127: 8}.get(second & 0x7F, 0)
    head = bytes([first, second]) + (data.draw(lengths(extra)) if extra else b"")
    clock = trio.testing.MockClock
    one, other = (
        trio.run(refused_after, make, before, head, clock=clock(autojump_threshold=0)) for make in WIRES
    )
    if head[1] & 0x7F == 0 and (one is None or one[0] == len(head)):
        return  # a whole frame, and not for its head alone
    assert one == other
    if first & 0x70 or first & 0x0F not in (0, TEXT, BINARY, CLOSE, PING, PONG):
        assert one == (1, 1002)


@pytest.mark.parametrize("make", WIRES, ids=["trio-websocket", "websockets"])
def test_a_limit_is_in_bytes_and_over_all_fragments(make):
    """Characters are not counted, and cutting a message up makes it no smaller."""
    half = MAX_MESSAGE_SIZE // 4
    e = "é".encode()
    full = frame(TEXT, e * half, fin=False) + frame(0, fin=False) + frame(0, e * (half - 1), fin=False)

    assert run(make, [full + frame(0, e) + frame(CLOSE)]).messages == ("é" * (2 * half),)
    assert run(make, [frame(TEXT, e * (2 * half)) + frame(CLOSE)]).messages == ("é" * (2 * half),)
    for program in (full + frame(0, b"abc")[:2], frame(TEXT, e * (2 * half) + b"a")[:10]):
        assert run(make, [program]) == Outcome((), 1009)


@given(garbage=st.binary(max_size=200))
def test_garbage_ends_both_wires(garbage):
    """Any bytes at all: no crash and no hang, and whatever comes out is text."""
    for make in WIRES:
        assert run(make, [garbage]).code >= 1000


@given(data=st.data())
def test_a_damaged_upgrade_ends_both_dials(data):
    """An answer with a byte changed, cut out or put in is a wire or a ConnectError, at once."""

    async def dial(make: Make, place: int, removed: int, added: bytes) -> None:
        near, far = trio.testing.memory_stream_pair()

        async def serve() -> None:
            answer = bytearray(switching_protocols(await read_request(far), b"X-Request-Id: r"))
            place_here = place % len(answer)
            answer[place_here : place_here + removed] = added
            try:
                await far.send_all(answer)
                await far.aclose()
            except trio.BrokenResourceError:
                pass

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            try:
                wire = await make(opener(near)).connect(nursery, endpoint(), [])
                await wire.abort()
            except ConnectError as error:
                assert error.phase == "upgrade"  # noqa: PT017
            nursery.cancel_scope.cancel()
        assert trio.current_time() < 1

    place = data.draw(st.integers(0, 400), label="place")
    removed = data.draw(st.integers(0, 5), label="removed")
    added = data.draw(st.binary(max_size=5), label="added")
    for make in WIRES:
        trio.run(dial, make, place, removed, added, clock=trio.testing.MockClock(autojump_threshold=0))
