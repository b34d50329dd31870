"""Live: the page at `/`, what it is fed with, and the sums as files, for browsers and for programs.

Rules of this module:

* Where tokens are asked for, a browser shows one once (`wspool.proxy.access.browsers`); a program shows it
  with each request, as for everything else. No token is in a URL.
* A page of another site can neither see the figures nor have a browser show a token here.
* What is fed is bounded: pages at once, and a page that does not read is let go.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import trio

from wspool.listening.admission import not_authorized
from wspool.listening.errors import CHALLENGE, RequestError, invalid_request, wrong_method
from wspool.proxy.access.browsers import Browsers, shown_token
from wspool.proxy.access.gate import Gate, Token
from wspool.proxy.page.html import View, headers, page
from wspool.proxy.page.scene import Look, Scene
from wspool.proxy.visit import Handler, Visit, header

__all__ = ["Live"]

#: Seconds between two updates.
_TICK: Final = 1.0

#: Seconds between two pieces of what was before.
_GAP: Final = 0.05

#: Pages that are fed at once.
_MOST_PAGES: Final = 64

#: Bytes of the form with a token.
_FORM: Final = 4096

#: Seconds that the answer to a wrong token takes, so that guessing is no use.
_WRONG: Final = 1.0

_HTML: Final = ("content-type", "text/html; charset=utf-8")
_SSE: Final = (("content-type", "text/event-stream; charset=utf-8"), ("x-accel-buffering", "no"))


class Live:
    """What is shown of one proxy.

    Args:
        scene: what there is to see.
        gate: who may see it.
        stopping: says whether the proxy takes no further request.
        exposition: returns the answer to `/metrics`; raises ImportError if there can be none.
    """

    def __init__(
        self,
        scene: Scene,
        gate: Gate,
        stopping: Callable[[], bool],
        exposition: Callable[[], tuple[str, bytes]],
    ) -> None:
        self._scene = scene
        self._exposition = exposition
        self._gate = gate
        self._stopping = stopping
        self._browsers = Browsers()
        self._pages = 0

    @property
    def routes(self) -> Mapping[str, Handler]:
        """What answers which path. Each looks itself who asks."""
        return {
            "/": self._show,
            "/login": self._log_in,
            "/live": self._feed,
            "/usage.json": self._json,
            "/usage.csv": self._csv,
            "/metrics": self._count,
        }

    # -- who may see it ---------------------------------------------------------------------------

    def _who(self, visit: Visit) -> Token | None:
        """Return the token that was shown, if there are tokens.

        Raises:
            RequestError: none was.
        """
        if self._gate.tokens is None:
            return None
        token = visit.caller.token or self._browsers.who(visit.request.headers, trio.current_time())
        if token is None or not self._is_valid(token):
            raise RequestError(not_authorized())
        return token

    def _is_valid(self, token: Token | None) -> bool:
        tokens = self._gate.tokens
        if tokens is None or token is None:
            return tokens is None
        known = tokens.get(token.name)
        return known is not None and known.text == token.text

    async def _show(self, visit: Visit) -> None:
        view: View = "live"
        if visit.request.method not in (b"GET", b"HEAD"):
            self._who(visit)
        await _nothing_more(visit, "GET", "HEAD")
        try:
            self._who(visit)
        except RequestError:
            view = "login"
        await visit.answers.send_whole(200, [_HTML, *headers()], page(view))

    async def _log_in(self, visit: Visit) -> None:
        if visit.request.method != b"POST":
            raise RequestError(wrong_method("POST"))
        body = await visit.intake.body(_FORM, visit.answers.send)
        if not _same_site(visit):
            raise RequestError(invalid_request("This form is for pages of this proxy only.", status=403))
        token = self._gate.token_of(shown_token(body))
        if token is None and self._gate.tokens is not None:
            await trio.sleep(_WRONG)
            await visit.answers.send_whole(401, [_HTML, CHALLENGE, *headers()], page("wrong"))
            return
        cookies: list[tuple[str, str]] = []
        if token is not None:
            secure = isinstance(visit.stream.stream, trio.SSLStream)
            cookie = self._browsers.admit(token, trio.current_time(), secure=secure)
            cookies.append(("set-cookie", cookie))
        await visit.answers.send_whole(303, [("location", "/"), *cookies, *headers()], b"")

    # -- what is seen -----------------------------------------------------------------------------

    async def _feed(self, visit: Visit) -> None:
        token = self._who(visit)
        await _nothing_more(visit, "GET")
        if self._pages >= _MOST_PAGES:
            raise RequestError(invalid_request("Too many pages are open.", status=503))
        self._pages += 1
        try:
            await visit.while_here(partial(self._write, visit, token))
        finally:
            self._pages -= 1
        raise trio.BrokenResourceError("the page is gone, or let go")

    async def _write(self, visit: Visit, token: Token | None) -> None:
        await visit.answers.send_head(200, [*_SSE, *headers()])
        look, name = Look(), "all"
        while not self._stopping() and self._is_valid(token):
            told, look = self._see(visit, look)
            said = json.dumps(told, separators=(",", ":"))
            await visit.answers.send_data(f"event: {name}\ndata: {said}\n\n".encode())
            if name == "all":
                for bars in self._scene.past(look):
                    await trio.sleep(_GAP)
                    said = json.dumps(bars, separators=(",", ":"))
                    await visit.answers.send_data(f"event: past\ndata: {said}\n\n".encode())
            name = "tick"
            await trio.sleep(_TICK)
        await visit.answers.send_end()

    def _see(self, visit: Visit, look: Look) -> tuple[dict[str, Any], Look]:
        services = visit.services
        turns = {pool.number: pool.turns() for pool in services.pools.open.values()}
        return self._scene.seen(services.records.running.values(), turns, look)

    async def _json(self, visit: Visit) -> None:
        self._who(visit)
        await _nothing_more(visit, "GET", "HEAD")
        told = {"all": self._scene.sums.as_json(), "by_token": self._by_token()}
        await visit.answers.send_json(200, told, dict(headers()))

    async def _csv(self, visit: Visit) -> None:
        self._who(visit)
        await _nothing_more(visit, "GET", "HEAD")
        text = io.StringIO()
        writer = csv.writer(text)
        columns = list(self._scene.sums.as_json())
        writer.writerow(["token", *columns])
        for name, sums in self._by_token().items():
            writer.writerow([_no_formula(name), *(sums[column] for column in columns)])
        kinds = [("content-type", "text/csv; charset=utf-8")]
        kinds.append(("content-disposition", 'attachment; filename="usage.csv"'))
        await visit.answers.send_whole(200, [*kinds, *headers()], text.getvalue().encode())

    async def _count(self, visit: Visit) -> None:
        self._who(visit)
        await _nothing_more(visit, "GET", "HEAD")
        try:
            kind, text = self._exposition()
        except ImportError as error:
            raise RequestError(invalid_request(str(error), status=501)) from None
        await visit.answers.send_whole(200, [("content-type", kind), *headers()], text)

    def _by_token(self) -> dict[str, dict[str, int]]:
        return {name: sums.as_json() for name, sums in self._scene.names.items()}


async def _nothing_more(visit: Visit, *methods: str) -> None:
    """Read the body that a request should not have, and see that its method is one of *methods*."""
    await visit.intake.body(_FORM, visit.answers.send)
    if visit.request.method.decode("ascii") not in methods:
        raise RequestError(wrong_method(*methods))


def _same_site(visit: Visit) -> bool:
    """Whether a form comes from a page of ours, as far as its browser says. Source: W3C, Fetch Metadata."""
    origin = header(visit.request, b"origin")
    if header(visit.request, b"sec-fetch-site") not in ("", "same-origin", "none"):
        return False
    return not origin or origin.partition("://")[2] == header(visit.request, b"host")


def _no_formula(name: str) -> str:
    """Return *name* such that no spreadsheet takes it for a formula."""
    return f"'{name}" if name[:1] in ("=", "+", "-", "@", "\t", "\r") else name
