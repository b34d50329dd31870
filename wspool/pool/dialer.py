"""Dialer: goes to the endpoint with the credential, for a connection or for one answer by HTTP.

It is the only place of a pool that holds the credential, and only as long as it is in use: a frame that
has it goes with its exception, and no exception that leaves holds it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import trio

from wspool.core.failures import DialFailure, FailureKind, classify_dial
from wspool.core.fallback import Transport
from wspool.core.plain import plain
from wspool.core.statistics import DialRecord, TransportName
from wspool.pool.credentials import CredentialError, Redactor, forget
from wspool.pool.instrument import Announcer
from wspool.pool.link import Link
from wspool.pool.road import Road
from wspool.pool.setup import Headers, Setup
from wspool.wire import http
from wspool.wire.answer import Answer
from wspool.wire.descriptors import is_shortage
from wspool.wire.dial import stopwatch
from wspool.wire.url import below
from wspool.wire.wire import ByHttp, ConnectError, Connector, Wire

__all__ = ["Dialer", "classified"]


class Dialer:
    """Dials for a pool.

    Args:
        setup: what the pool is made of.
        road: which way connections go.
        announcer: tells of each dial.
    """

    def __init__(self, setup: Setup, road: Road, announcer: Announcer) -> None:
        self._announcer = announcer
        self._setup = setup
        self.road = road
        #: What goes by HTTP now, and with it the credential that it was dialled with.
        self._by_http: list[Link] = []

    @property
    def transport(self) -> TransportName:
        """What new connections speak."""
        by_http = isinstance(self._setup.connector, ByHttp) or self.road.transport is Transport.HTTP
        return "http" if by_http else "websocket"

    @property
    def renews_key(self) -> bool:
        """Whether the credential may be another one if it is asked for again."""
        return self._setup.renewable

    def goes_by_http(self, link: Link) -> None:
        """It is connected, and goes by HTTP."""
        self._by_http = [*(other for other in self._by_http if not other.over), link]
        if self._setup.fallback is not None:
            link.spawn(self.road.leave_in_time, link)

    def key_refused(self) -> None:
        """A credential that went with a request was refused: connections that have it take no other.

        Whoever dials next asks for it anew. Never waits.
        """
        links, self._by_http = self._by_http, []
        for link in links:
            link.report(link.host.core.retire, announced=False)

    async def dial(self, link: Link, nursery: trio.Nursery) -> Wire:
        """Open the wire of *link*, whose tasks live in *nursery*."""
        road, other = self.road, self._setup.fallback
        if other is None:
            return await self._dial(self._setup.connector, link, nursery)
        if road.takes_websocket():
            settled = False
            try:
                wire = await self._dial(self._setup.connector, link, nursery)
                settled = True
                return wire
            except ConnectError as error:
                settled = True
                if not road.websocket_failed(classified(error)):
                    raise
                forget(error, link.redactor)
            finally:
                if not settled:
                    road.websocket_dropped()
        return await self._dial(other, link, nursery)

    async def _dial(self, connector: Connector, link: Link, nursery: trio.Nursery) -> Wire:
        """Dial with *connector*.

        A credential that can be renewed and is refused is asked for once more, at once.
        """
        headers = await self._ask_headers()
        try:
            return await self._connect(connector, link, nursery, headers)
        except ConnectError as error:
            # Not what a proxy refuses: it has not seen this credential.
            if not self._setup.renewable or error.phase != "upgrade" or error.status != 401:
                raise
            refusal = error
        renewed = await self._ask_headers()
        if renewed == headers:
            raise refusal  # the endpoint has judged this one
        forget(refusal)
        return await self._connect(connector, link, nursery, renewed)

    async def post(self, suffix: str, body: bytes) -> Answer:
        """Send *body* by HTTP to the endpoint's path with *suffix*; return the answer. A checkpoint.

        Raises:
            ConnectError: nothing was sent.
            WireClosedError: the answer did not come, or not whole.
        """
        headers = await self._ask_headers()
        redactor = self._redactor(headers)
        try:
            resource = below(self._setup.endpoint.resource, suffix)
            answer = await http.post(self._setup.endpoint, resource, headers, body, self._setup.open_stream)
        except Exception as error:
            del headers  # not in the frame that it comes through from here
            forget(error, redactor)
            raise
        return answer if answer.status == 200 else redactor.answer(answer)

    def _redactor(self, headers: Headers) -> Redactor:
        return Redactor(headers, self._setup.endpoint.subprotocols)

    async def _ask_headers(self) -> Headers:
        limit = self._setup.policy.connect_timeout
        with trio.move_on_after(limit):
            return await self._setup.headers()
        raise CredentialError(f"gave no key within {limit:g} s; it is asked again")

    async def _connect(
        self, connector: Connector, link: Link, nursery: trio.Nursery, headers: Headers
    ) -> Wire:
        # The connector bounds the dial itself, and says in which phase its time was up.
        began, failure = trio.current_time(), "the dial was stopped"
        refusal: ConnectError | None = None
        seconds: Mapping[str, float] = {}
        link.redactor = self._redactor(headers)
        try:
            with stopwatch() as seconds:
                wire = await connector.connect(nursery, self._setup.endpoint, headers)
            failure = ""
            return wire
        except ConnectError as error:
            forget(error, link.redactor)
            failure, refusal = plain(str(error)), error
            raise
        finally:
            record = DialRecord(
                phases=dict(seconds),
                duration=trio.current_time() - began,
                failure=failure or None,
                transport="http" if isinstance(connector, ByHttp) else "websocket",
                connection=link.id,
                pool=self._announcer.pool,
                started=began,
                phase=refusal.phase if refusal is not None else None,
                status=refusal.status if refusal is not None else None,
            )
            del refusal  # or this frame would be in a cycle with it
            self._announcer.dialed(record)


def classified(error: ConnectError) -> DialFailure:
    """Return *error* as the core sees it."""
    if isinstance(error, CredentialError):
        kind = FailureKind.CREDENTIAL if error.permanent else FailureKind.TRANSIENT
        return DialFailure(kind=kind, message=str(error), phase=error.phase)
    return classify_dial(
        str(error),
        phase=error.phase,
        status=error.status,
        headers=error.headers,
        body=error.body,
        certificate=error.certificate,
        shortage=is_shortage(error),
        wall_clock=time.time(),
    )
