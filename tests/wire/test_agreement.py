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
from wspool.wire.wire import ConnectError, WireClosedError

from .peer import endpoint, frame, opener, read_request, switching_protocols
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

    A bad frame that is *cut_off* may be refused for what came of it, or be missed for what did not.
    """
    first, second = (run(make, pieces) for make in WIRES)
    if cut_off and first.code in (1002, 1007) and second.code == 1006:
        first = attrs.evolve(first, code=1006)

    assert first == second
    return second


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
        assert whole == run(make, [bytes([byte]) for byte in program])
        for cut in range(first, len(program), 16):
            assert whole == run(make, [program[:cut], program[cut:]])


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
