"""The fast wire: the Sans-I/O core of `websockets` on a stream, one wake-up per read.

The idea: whoever waits for the peer reads. There is no reader task between the stream and
`receive`, so a burst of messages that came in one read costs one wake-up and comes as one batch.
A second task per wire (`serve`) writes what the protocol answers by itself, and owns the stream.

Rules of this module:

* Reading never writes and never waits for a write: a peer that does not read cannot stop us from reading.
* One lock round all writes: frames never mix. After a write that was cut short nothing more is
  written: the peer would take it for the rest of a frame.
* The first reason for the end stays the reason. What came before it is still delivered.
* However it ends, everybody who waits is woken and the stream is closed, at most `close_timeout` later.
* The library's logger is never ours to lend: at DEBUG it prints the upgrade request with its credentials.

Works with websockets 13 and later. The peer's pings are answered while somebody is in `receive` or `ping`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

import trio
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.typing import Subprotocol
from websockets.uri import WebSocketURI

from wspool.wire import dial
from wspool.wire.answer import AnswerReader, NotHttpError, refusal, upgrade_failure
from wspool.wire.heads import MAX_FRAGMENTS
from wspool.wire.websockets_wire import WebSocketsWire as _WebSocketsWire, close_now
from wspool.wire.wire import ConnectError, Endpoint, Wire

__all__ = ["MAX_FRAGMENTS", "WebSocketsConnector"]

#: Bytes per read: four full TLS records.
_RECEIVE: Final = 64 * 1024

#: Belongs to no hierarchy and is above every level, so that no configuration makes it print.
_SILENT: Final = logging.Logger("wspool.wire.websockets", logging.CRITICAL + 1)


class WebSocketsConnector:
    """Makes wires of websockets' Sans-I/O core.

    Args:
        open_stream: how to get a byte stream to an endpoint; a memory stream serves as well.
            It need not keep time: `Endpoint.connect_timeout` is kept here.
        compression: True to offer permessage-deflate (RFC 7692). It saves bytes and costs CPU and
            about 300 KiB per connection. `Endpoint.max_message_size` then bounds the inflated message.
    """

    def __init__(self, open_stream: dial.OpenStream = dial.open_stream, compression: bool = False) -> None:
        self.open_stream = open_stream
        self._compression = compression

    def __repr__(self) -> str:
        return "<WebSocketsConnector>"

    async def connect(
        self, nursery: trio.Nursery, endpoint: Endpoint, headers: Sequence[tuple[str, str]]
    ) -> Wire:
        """Dial *endpoint* and return the open wire.

        Args:
            nursery: runs the wire's one task, which never raises into it.
            endpoint: where to dial.
            headers: extra headers of the upgrade request.

        A checkpoint. Cancelling closes whatever was opened.

        Raises:
            ConnectError: there is no wire, with the phase and the cause.
            ValueError: a header cannot be sent; the text never holds its value.
        """
        dial.encode_headers(headers)  # only to refuse what cannot be sent
        stream: trio.abc.Stream | None = None
        answer = AnswerReader()
        try:
            with dial.time_limit(endpoint):
                stream = await self.open_stream(endpoint)
                dial.enter("upgrade")
                protocol = ClientProtocol(
                    # The resource goes in whole: taken apart and put together it might differ.
                    WebSocketURI(
                        endpoint.ssl_context is not None, endpoint.host, endpoint.port, endpoint.resource, ""
                    ),
                    extensions=[ClientPerMessageDeflateFactory(compress_settings={"memLevel": 5})]
                    if self._compression
                    else None,
                    subprotocols=[Subprotocol(name) for name in endpoint.subprotocols] or None,
                    max_size=endpoint.max_message_size,
                    logger=_SILENT,
                )
                wire = await _upgrade(protocol, stream, answer, headers, endpoint)
                nursery.start_soon(wire.serve)
        except BaseException as error:
            if stream is not None:
                await close_now(stream)  # noqa: ASYNC102 # never blocks, and closes when cancelled
                if isinstance(error, ConnectError) and error.timed_out:
                    said = refusal(bytes(answer.received))
                    if said is not None:
                        # Only the end of its body was missing.
                        raise said from error  # noqa: ASYNC104 # of a ConnectError, no Cancelled
            raise
        return wire


async def _upgrade(
    protocol: ClientProtocol,
    stream: trio.abc.Stream,
    answer: AnswerReader,
    headers: Sequence[tuple[str, str]],
    endpoint: Endpoint,
) -> _WebSocketsWire:
    request = protocol.connect()
    for name, value in headers:
        request.headers[name] = value  # adds, never replaces
    protocol.send_request(request)
    wrong = False
    cause: Exception | None = None
    try:
        await stream.send_all(b"".join(protocol.data_to_send()))
        while data := await stream.receive_some(_RECEIVE):
            if answer.feed(data):
                break
        if answer.status == 101:
            protocol.receive_data(answer.handshake)
            wrong, cause = protocol.handshake_exc is not None, protocol.handshake_exc
            if not wrong:
                wire = _WebSocketsWire(protocol, stream, endpoint, answer.headers)
                wire.feed(answer.rest)
                return wire
    except NotHttpError as error:
        wrong, cause = True, error
    except Exception as error:  # whatever a stream raises, and whatever a library does over a strange 101
        wrong, cause = answer.status == 101, error
    raise upgrade_failure(bytes(answer.received), wrong=wrong) from cause
