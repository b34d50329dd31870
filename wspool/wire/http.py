"""One HTTP request beside the WebSockets: what an endpoint offers only there.

It goes the same way as a WebSocket would (proxy, TLS, deadlines of the dial) on a connection of its
own, which ends with it. No redirect is followed: the credential stays where it was meant to go.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import trio

from wspool.wire import dial
from wspool.wire.answer import Answer, AnswerReader, NotHttpError, parse_answer
from wspool.wire.wire import Endpoint, WireClosedError

__all__ = ["ANSWER_TIMEOUT", "post"]

#: Seconds from the first byte of a request to the last of its answer. The SDKs of OpenAI wait ten minutes for
#: each piece of one; a server that sends a byte now and then must not be waited for without end.
ANSWER_TIMEOUT: Final = 900.0


async def post(
    endpoint: Endpoint,
    resource: str,
    headers: Sequence[tuple[str, str]],
    body: bytes,
    open_stream: dial.OpenStream = dial.open_stream,
) -> Answer:
    """Send *body* as JSON to *resource* of *endpoint* and return the whole answer, whatever its status.

    Args:
        endpoint: where to dial. Its `connect_timeout` is for the dial alone, an answer takes as long as
            it takes, up to `ANSWER_TIMEOUT`; its `max_message_size` is the most bytes of an answer's body.
        resource: path and query.
        headers: further headers, such as the credential.
        body: the JSON text.
        open_stream: how to get a byte stream to the endpoint.

    A checkpoint. Cancelling closes the connection.

    Raises:
        ConnectError: nothing was sent.
        WireClosedError: the connection ended, or what came is no HTTP answer, or too long.
        ValueError: a header cannot be sent; the text never holds its value.
    """
    fields = dial.encode_headers(
        [
            ("Host", dial.host_header(endpoint)),
            ("Content-Type", "application/json"),
            ("Accept", "application/json"),
            ("Accept-Encoding", "identity"),  # else it may be compressed (RFC 9110 section 12.5.3)
            ("Content-Length", str(len(body))),
            ("Connection", "close"),
            *headers,
        ]
    )
    head = b"".join(b"%b: %b\r\n" % field for field in fields)
    request = b"POST %b HTTP/1.1\r\n%b\r\n%b" % (resource.encode("ascii"), head, body)
    with dial.time_limit(endpoint):
        stream = await open_stream(endpoint)
    try:
        with trio.move_on_after(ANSWER_TIMEOUT):
            await stream.send_all(request)
            return await _receive(stream, endpoint.max_message_size)
        raise WireClosedError(reason=f"no whole answer within {ANSWER_TIMEOUT:g} s")
    except (trio.BrokenResourceError, NotHttpError) as error:
        raise WireClosedError(reason=str(error)) from error
    finally:
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(stream)


async def _receive(stream: trio.abc.Stream, limit: int) -> Answer:
    reader = AnswerReader(max_body=limit + 1)
    while not reader.feed(data := await stream.receive_some()) and data:
        pass
    # Once: a server may send it in as many pieces as it likes.
    answer = parse_answer(bytes(reader.received), max_body=limit + 1)
    if answer is not None and len(answer.body) > limit:
        raise NotHttpError(f"the answer has more than {limit} bytes (max_message_size)")
    if answer is None or not answer.whole:
        raise NotHttpError("the answer was cut short")
    return answer
