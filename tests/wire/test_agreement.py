"""Both wires understand the same bytes the same way, however they are cut and whatever they are.

A program is a list of server frames, good and bad, and how the network cuts them. A virtual clock
makes a hang a failure that takes no time.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

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


# Answers to the upgrade

#: Headers of a handshake, and how else they are written; what stands for the proof of the key is put in.
PROOF = "<proof>"
UPGRADE = ["websocket", "WebSocket", "h2c, websocket", "websocket/13", ""]
CONNECTION = ["Upgrade", "upgrade", "keep-alive, Upgrade", "Upgrade,close", ",Upgrade,", "close"]
ACCEPT = [PROOF, PROOF + "x", "x"]

handshakes = st.tuples(
    st.sampled_from([UPGRADE[0]] * 8 + UPGRADE).map(lambda value: ("Upgrade", value)),
    st.sampled_from([CONNECTION[0]] * 8 + CONNECTION).map(lambda value: ("Connection", value)),
    st.sampled_from([ACCEPT[0]] * 8 + ACCEPT).map(lambda value: ("Sec-WebSocket-Accept", value)),
).map(list)

#: What else servers and proxies put into one.
others = st.sampled_from(
    [
        ("Upgrade", "websocket"),
        ("Connection", "keep-alive"),
        ("Connection", "keep-alive: 1, a b"),
        ("Sec-WebSocket-Accept", PROOF),
        ("Sec-WebSocket-Protocol", "a"),
        ("Sec-WebSocket-Extensions", "permessage-deflate"),
        ("Content-Length", "0"),
        ("Content-Length", "5"),
        ("Content-Length", "5, 5"),
        ("Transfer-Encoding", "chunked"),
        ("Retry-After", "5"),
        ("X-Empty", ""),
        ("X-Latin", "\xe9"),
        ("X-Control", "a\x01b\x00"),
        ("X-Long", "x" * 9000),
        ("X-Folded", "a\r\n b"),
        ("X(", "1"),
        ("", "1"),
    ]
)

interims = st.sampled_from([b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\n"])


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    """An answer to the upgrade, as some server may write it, perhaps damaged, and what comes behind it."""
    version = draw(st.sampled_from(["1.1"] * 8 + ["1.0"]))
    status = draw(st.sampled_from([101] * 8 + [200, 204, 304, 401, 429, 503, 600, 999]))
    reason = draw(st.sampled_from([" Switching Protocols", " ", "", "  a\tb", " \xe9"]))
    fields = draw(handshakes) + draw(st.lists(others, max_size=3))
    colons = st.sampled_from([": "] * 8 + [":", ":\t ", " : "])
    ends = st.sampled_from([""] * 8 + [" ", " \t"])
    lines = [name + draw(colons) + value + draw(ends) for name, value in draw(st.permutations(fields))]
    end = draw(st.sampled_from(["\r\n"] * 8 + ["\n"]))
    head = end.join([f"HTTP/{version} {status}{reason}", *lines, "", ""]).encode("latin-1")
    head = b"".join(draw(st.lists(interims, max_size=1))) + head
    if draw(st.booleans()):
        place = draw(st.integers(0, len(head)))
        head = head[:place] + draw(st.binary(max_size=5)) + head[place + draw(st.integers(0, 5)) :]
    return head + draw(st.sampled_from([b"", frame(TEXT, b"a") + frame(CLOSE), b"hello"]))


async def upgraded(make: Make, answer: bytes, size: int, *, stays: bool) -> tuple[object, ...]:
    """Dial a server that says *answer*, so many bytes at a time; return all that came of it."""
    near, far = trio.testing.memory_stream_pair()
    proof = ""

    async def serve() -> None:
        nonlocal proof
        request = await read_request(far)
        proof = _proof(request)
        said = answer.replace(PROOF.encode(), proof.encode())
        try:
            for at in range(0, len(said), size):
                await far.send_all(said[at : at + size])
                await trio.testing.wait_all_tasks_blocked()
            if not stays:
                await far.aclose()
        except trio.BrokenResourceError:
            pass

    messages: list[str | bytes] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        try:
            wire = await make(opener(near)).connect(nursery, endpoint(subprotocols=("a",)), [])
            code = None
            with trio.move_on_after(5):
                try:
                    while True:
                        messages += await wire.receive()
                except WireClosedError as error:
                    code = error.code
            await wire.abort()
            return _shown(wire.headers, proof), [*map(str, messages)], code, trio.current_time()
        except ConnectError as error:
            said = _shown(error.headers, proof)
            return error.phase, error.status, said, error.body, error.timed_out, trio.current_time()
        finally:
            nursery.cancel_scope.cancel()


def _proof(request: bytes) -> str:
    answer = switching_protocols(request)
    return answer.partition(b"Accept: ")[2].partition(b"\r\n")[0].decode()


def _shown(headers: Sequence[tuple[str, str]], proof: str) -> list[tuple[str, str]]:
    return [(name, value.replace(proof, PROOF)) for name, value in headers]


@given(answer=answers(), size=st.sampled_from([1 << 16, 1 << 16, 100, 7]), stays=st.booleans())
def test_both_wires_agree_on_any_answer_to_the_upgrade(answer, size, stays):
    """A wire and its first messages, or a refusal with its body, or no answer at all; at the same time."""
    clock = trio.testing.MockClock
    one, other = (
        trio.run(partial(upgraded, make, answer, size, stays=stays), clock=clock(autojump_threshold=0))
        for make in WIRES
    )
    assert one == other
    assert stays or one[-1] == 0, "nothing more can come"


@pytest.mark.parametrize("make", WIRES, ids=["trio-websocket", "websockets"])
@pytest.mark.parametrize("size", [1 << 16, 1])
def test_an_interim_answer_hides_nothing(make: Make, size: int) -> None:
    """However it is cut: a 101 behind it is a wire, and a refusal tells its status and its body."""
    early = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    fields = f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {PROOF}\r\n\r\n"
    good = early + b"HTTP/1.1 101 Switching Protocols\r\n" + fields.encode() + frame(TEXT, b"a")
    bad = early + b"HTTP/1.1 401 No\r\nContent-Length: 4 \r\n\r\nwhy?"

    async def main() -> None:
        assert ["a"] == (await upgraded(make, good, size, stays=True))[1]
        began = trio.current_time()
        phase, status, _, body, timed_out, ended = await upgraded(make, bad, size, stays=True)
        assert ("upgrade", 401, b"why?", False, began) == (phase, status, body, timed_out, ended)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
