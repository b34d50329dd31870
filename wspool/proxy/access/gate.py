"""Gate: who may use the proxy, and as whom it asks the provider. One gate before everything else.

Pure. Rules of this module:

* Without tokens the proxy is for programs of its own machine: the names by which it is asked for (`Host`) and
  the page that asks (`Origin`) have to be this machine's, or allowed by name. See `listening.admission`.
* A client's own credential goes to the provider as it came. A proxy with a key of its own sends that, and
  none of the client's; then a token is asked for, also on this machine: any process here could use it.
* Where the client's credential is for the provider, the token comes in a header of its own.
* Tokens are compared in a time that does not depend on where they differ.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Mapping
from typing import Final

import attrs

from wspool.http.identity import Identity, Said, said_by
from wspool.listening.admission import Admission, not_authorized
from wspool.listening.errors import RequestError, TurnError
from wspool.proxy.settings import KeepaliveStyle
from wspool.proxy.target import Upstream
from wspool.wire.url import is_loopback

__all__ = ["TOKEN_HEADER", "Caller", "Gate", "Token"]

#: Where a token is shown by clients whose `Authorization` is for the provider.
TOKEN_HEADER: Final = "x-wspool-token"

_HOST: Final = re.compile(r"[A-Za-z0-9.-]{1,253}(?::[0-9]{1,5})?")
_PRODUCT: Final = re.compile(r"[A-Za-z0-9_.@-]{1,64}")


@attrs.frozen
class Token:
    """What a client shows.

    Attributes:
        name: what it is called in records.
        text: the token itself.
        limit: turns at work at once; None for no limit of its own.
        weight: its share where turns wait.
        budget: tokens a day, of input and output; None for no limit.
        keepalive: how silence is broken towards it; None as the proxy does (`Settings.keepalive_style`).
    """

    name: str
    text: str = attrs.field(repr=False)
    limit: int | None = None
    weight: float = 1.0
    budget: int | None = None
    keepalive: KeepaliveStyle | None = None


@attrs.frozen
class Caller:
    """Who asks.

    Attributes:
        name: what tells it from others: the name of its token, or its program.
        token: what it showed, if tokens are asked for.
        agent: its program, as it calls itself.
        identity: as whom the provider is asked; None if that cannot be said over WebSocket.
        session: what names its conversation.
    """

    name: str
    token: Token | None
    agent: str | None
    identity: Identity | None
    session: tuple[str, ...] = ()


@attrs.define
class Gate:
    """The rules of one proxy.

    Attributes:
        upstream: the endpoint.
        key: the proxy's own for it, if it has one.
        tokens: what clients have to show, by name; None: nothing.
        allowed: further names by which it may be asked for, in lower case.
    """

    upstream: Upstream
    key: str | None = attrs.field(default=None, repr=False)
    tokens: Mapping[str, Token] | None = None
    allowed: frozenset[str] = frozenset()

    def admit(self, method: bytes, headers: Iterable[tuple[bytes, bytes]], *, stranger: bool) -> Caller:
        """Return who asks. Every request is asked about, not only the first.

        Args:
            stranger: it may come from a web page.

        Raises:
            RequestError: it may not.
        """
        pairs = [(name.decode("ascii").lower(), value.decode("latin-1").strip()) for name, value in headers]
        token = None
        if self.tokens is not None:
            token = self._token(pairs)
        elif stranger:
            admission = Admission(allowed=self.allowed)
            if refused := admission.refusal(method, [(n.encode(), v.encode("latin-1")) for n, v in pairs]):
                raise RequestError(_misplaced(refused, pairs))
        agent = next((value for name, value in pairs if name == "user-agent"), None)
        product = _PRODUCT.match(agent) if agent is not None else None
        program = product[0] if product is not None else None
        said = said_by(pairs) if self.key is None else _said_beside_key(pairs)
        return Caller(
            token.name if token is not None else program or "unknown",
            token,
            program,
            self._identity(said),
            said.session if said is not None else (),
        )

    def token_of(self, text: str) -> Token | None:
        """Return the token that is *text*, None if none is."""
        found: Token | None = None
        for token in (self.tokens or {}).values():
            if hmac.compare_digest(text.encode(), token.text.encode()):
                found = token
        return found

    def admits_still(self, caller: Caller) -> Caller | None:
        """Return who *caller* is now, since tokens are read again while it is connected: with a budget and
        limits as they are by now. None if what it has shown is no token any more.
        """
        if self.tokens is None or caller.token is None:
            return caller if self.tokens is None else None
        known = self.tokens.get(caller.token.name)
        same = known is not None and known.text == caller.token.text
        return attrs.evolve(caller, token=known) if same else None

    def may_listen(self, address: str) -> bool:
        """Whether a listener on this IP address is safe: with tokens anywhere, without on loopback."""
        return self.tokens is not None or is_loopback(address)

    def _token(self, headers: Iterable[tuple[str, str]]) -> Token:
        shown: list[bytes] = []
        for name, value in headers:
            if name == TOKEN_HEADER or (self.key is not None and name in ("api-key", "x-api-key")):
                shown.append(value.encode())
            elif name == "authorization" and self.key is not None:
                scheme, _, text = value.partition(" ")
                if scheme.lower() == "bearer":
                    shown.append(text.strip().encode())
        found: Token | None = None
        for token in (self.tokens or {}).values():
            for given in shown:
                if hmac.compare_digest(given, token.text.encode()):
                    found = token
        if found is None:
            raise RequestError(_without_token() if not shown else not_authorized())
        return found

    def _identity(self, said: Said | None) -> Identity | None:
        url = self.upstream.url
        if self.key is not None:
            return Identity(url, said.headers if said is not None else (), self.key)
        if said is None or not (said.has_credential or is_loopback(self.upstream.host)):
            return None  # the provider will say what it wants, over HTTP
        return Identity(url, said.headers, said.key)


def _said_beside_key(pairs: Iterable[tuple[str, str]]) -> Said | None:
    """Return what a client says whose credential is for the proxy: only what names its conversation."""
    said = said_by((name, value) for name, value in pairs if name != "authorization")
    return None if said is None else Said(None, (), said.session)


def _misplaced(refused: TurnError, pairs: Iterable[tuple[str, str]]) -> TurnError:
    """Return *refused* with what helps here."""
    if refused.code != "host_not_allowed":
        how = "not for web pages of other origins; programs send no Origin"
    else:
        host = next((value for name, value in pairs if name == "host" and _HOST.fullmatch(value)), "NAME")
        how = (
            "asked for as 127.0.0.1 or localhost: ask so, or start it with --allow-host "
            f"{host.partition(':')[0]}, if that leads here"
        )
    message = (
        f"This proxy is for programs of its own machine, and {how}; or start it with tokens (--token-file)."
    )
    return attrs.evolve(refused, message=message)


def _without_token() -> TurnError:
    return TurnError(
        type="invalid_request_error",
        code="invalid_api_key",
        message=f"This proxy asks for a token: show it as {TOKEN_HEADER}, or, if the proxy has a key of its "
        "own, as the API key.",
        status=401,
    )
