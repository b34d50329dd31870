"""The checks of `wspool doctor`: one dial and one turn, told step by step.

Rules of this module:

1. One connection is made, as a pool makes it, and the turn is asked over it by a pool.
2. A step that failed says what to do; those behind it say that they were not reached.
3. What a server writes is shown plain (`wspool.core.plain`); a key is shown nowhere.
"""

import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal

import attrs
import trio

import wspool
from wspool.cli.target import Target, no_key
from wspool.core.failures import FailureKind, classify_dial
from wspool.core.plain import plain
from wspool.core.providers import header_of, provider_at
from wspool.pool.credentials import Redactor, forget
from wspool.pool.upgrade import USER_AGENT
from wspool.wire import dial
from wspool.wire.secret import Secret
from wspool.wire.tls import TLSStream
from wspool.wire.wire import ConnectError, Connector, Endpoint, Wire, WireClosedError

__all__ = ["Check", "Name", "examine", "find_connector"]

Name = Literal["endpoint", "dns", "tcp", "proxy", "tls", "upgrade", "key", "turn"]

#: Seconds in which a server that lets everybody in closes the connections of those that it does not want.
#: codex waits for it as well.
_SECOND_THOUGHTS: Final = 0.25

#: Seconds for the turn. Models that think answer with an event at once.
_TURN: Final = 60.0

#: Close codes (RFC 6455 section 7.4.1) of a server that judges after the upgrade.
_POLICY_VIOLATION: Final = 1008

#: Characters of what a server or a certificate calls itself.
_LONGEST_NAME: Final = 200

_NOT_REACHED: Final = "not reached"


@attrs.frozen
class Check:
    """One line of the report.

    Attributes:
        name: what was looked at.
        ok: whether it is well; None if it was not looked at.
        text: what was found, or what to do; plain, whoever has said it.
        seconds: how long it took, None if nothing was waited for.
    """

    name: Name
    ok: bool | None
    text: str = attrs.field(converter=plain)
    seconds: float | None = None


def find_connector(open_stream: Callable[[Endpoint], Any] = dial.open_stream) -> Connector:
    """Return the connector that `wire="auto"` takes, on top of *open_stream*."""
    try:
        from wspool.wire.websockets import WebSocketsConnector as Best
    except ImportError:
        from wspool.wire.trio_websocket import TrioWebSocketConnector

        return TrioWebSocketConnector(open_stream)
    return Best(open_stream)


async def examine(target: Target, tell: Callable[[Check], None]) -> bool:
    """Check *target* step by step, telling each as it is done; return whether all is well.

    A checkpoint. Cancelling leaves nothing open. It never raises for what it examines.
    """
    failed = False

    def note(check: Check) -> None:
        nonlocal failed
        failed = failed or check.ok is False
        tell(check)

    note(Check("endpoint", True, f"{target} ({target.source})"))
    key, problem = _key(target)
    found = await _look_up(target)
    note(found)
    if not found.ok:
        _tell_path(target, [], None, {}, note, ended=True)
        note(Check("upgrade", None, _NOT_REACHED))
        note(Check("key", False if problem else None, problem or _NOT_REACHED))
        note(Check("turn", None, _NOT_REACHED))
        return False
    async with trio.open_nursery() as nursery:
        wire = await _dial(target, key, problem, nursery, note)
        if wire is None:
            note(Check("turn", None, _NOT_REACHED))
        else:
            try:
                note(await _take_turn(target, key, wire))
            finally:
                await wire.abort()  # noqa: ASYNC102  # closes the socket also when it is cancelled
        nursery.cancel_scope.cancel()
    return not failed


def _path(target: Target) -> list[Name]:
    """The steps between the lookup and the upgrade."""
    steps: list[Name] = ["proxy"] if target.endpoint.proxy is not None else ["tcp", "proxy"]
    return [*steps, "tls"] if target.endpoint.ssl_context is not None else steps


async def _look_up(target: Target) -> Check:
    endpoint = target.endpoint
    host, port = endpoint.host, endpoint.port
    if endpoint.proxy is not None:
        host, port = endpoint.proxy.host, endpoint.proxy.port
    began = trio.current_time()
    answers: Sequence[tuple[Any, ...]] = ()
    with trio.move_on_after(endpoint.connect_timeout):
        try:
            answers = await trio.socket.getaddrinfo(host, port, type=trio.socket.SOCK_STREAM)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            text = f"the name lookup of {host!r} failed ({reason}): check the host name and DNS"
            return Check("dns", False, text, trio.current_time() - began)
    took = trio.current_time() - began
    if not answers:
        return Check("dns", False, f"the name lookup of {host!r} did not finish: check DNS", took)
    if host == str(answers[0][4][0]):
        return Check("dns", True, f"{host} is an address", took)
    addresses = list(dict.fromkeys(str(answer[4][0]) for answer in answers))
    text = f"{host} is {', '.join(addresses)}"
    if endpoint.proxy is not None:
        text += f" (the proxy looks up {endpoint.host})"
    return Check("dns", True, text, took)


def _key(target: Target) -> tuple[Secret | None, str]:
    """The key, and what is wrong with it."""
    if target.key is None:
        return None, "" if target.local else no_key(target.key_name)
    try:
        return Secret(target.key), ""
    except ValueError as error:
        return None, f"{target.key_name}: {error}"


def _headers(target: Target, key: Secret | None) -> list[tuple[str, str]]:
    who = ("User-Agent", USER_AGENT)
    if any(name.lower() == "user-agent" for name, _ in target.headers):
        return [*target.headers, *_credential(target, key)]
    return [who, *target.headers, *_credential(target, key)]


def _credential(target: Target, key: Secret | None) -> list[tuple[str, str]]:
    return (
        [] if key is None else [header_of(key.reveal(), target.provider or provider_at(target.endpoint.host))]
    )


def _refused(target: Target, key: Secret | None, status: int | None, code: str | None) -> str:
    """What to do about a key that is missing, or was refused with *status* and *code*."""
    if key is None:
        where = f"set {target.key_name}" if target.key_name else "name its variable with --api-key-env"
        return f"the endpoint wants a key: {where}"
    said = "" if code is None else f"; the endpoint says {code}"
    return f"the key in {target.key_name} was refused ({status}): check it and what it may use{said}"


async def _dial(
    target: Target, key: Secret | None, problem: str, nursery: trio.Nursery, note: Callable[[Check], None]
) -> Wire | None:
    """Tell everything from TCP to the key; return the connection if a turn can be asked over it."""
    streams: list[trio.abc.Stream] = []

    async def opened(endpoint: Endpoint) -> trio.abc.Stream:
        streams.append(await dial.open_stream(endpoint))
        return streams[-1]

    headers = _headers(target, key)
    redactor = Redactor(headers)
    wire: Wire | None = None
    failure: ConnectError | None = None
    with dial.stopwatch() as seconds:
        try:
            wire = await find_connector(opened).connect(nursery, target.endpoint, headers)
        except ConnectError as error:
            forget(error, redactor)
            failure = error
    _tell_path(target, streams, failure, seconds, note)
    took = seconds.get("upgrade")
    if failure is not None and failure.phase != "upgrade":
        note(Check("upgrade", None, _NOT_REACHED))
        note(Check("key", False if problem else None, problem or _NOT_REACHED))
        return None
    if wire is None:
        assert failure is not None
        verdict = classify_dial(
            str(failure),
            phase="upgrade",
            status=failure.status,
            headers=failure.headers,
            body=failure.body,
            wall_clock=time.time(),
        )
        if verdict.kind is not FailureKind.CREDENTIAL:
            wait = verdict.retry_after
            asked = "" if wait is None else f" (the endpoint asks for {wait:g} s)"
            note(Check("upgrade", False, f"{verdict.message}{asked}", took))
            note(Check("key", False if problem else None, problem or "not judged"))
            return None
        note(Check("upgrade", True, f"the endpoint answers, and asks for a key ({failure.status})", took))
        note(Check("key", False, problem or _refused(target, key, failure.status, verdict.code)))
        return None
    server = redactor.shown(dict(wire.headers).get("server", ""), _LONGEST_NAME)
    note(Check("upgrade", True, f"WebSocket{f' by {server}' if server else ''}", took))
    code = await _closed_at_once(wire)
    if code is not None:
        text = f"the server let us in and closed the connection at once with code {code}: "
        text += "check the key" if code == _POLICY_VIOLATION else "try again later"
        note(Check("key", False, problem or text))
        await wire.abort()
        return None
    if problem:
        note(Check("key", False, problem))
        await wire.abort()
        return None
    note(
        Check(
            "key", True, f"accepted, from {target.key_name}" if key is not None else "none, and none wanted"
        )
    )
    return wire


def _tell_path(
    target: Target,
    streams: Sequence[trio.abc.Stream],
    failure: ConnectError | None,
    seconds: Mapping[str, float],
    note: Callable[[Check], None],
    *,
    ended: bool = False,
) -> None:
    """Tell the steps between the lookup and the upgrade, as far as the dial came."""
    stream = streams[0] if streams else None
    for name in _path(target):
        took = seconds.get(name)
        if name == "proxy" and target.endpoint.proxy is None:
            hint = " (the environment names one: --proxy environment)" if target.unused_proxy else ""
            note(Check(name, None, f"none used{hint}"))
        elif ended:
            note(Check(name, None, _NOT_REACHED))
        elif failure is not None and (
            failure.phase == name or (failure.phase == "resolve" and name == "tcp")
        ):
            ended = True
            note(Check(name, False, str(failure), took))
        elif name == "tls":
            note(Check(name, True, _describe_tls(stream), took))
        elif name == "proxy" and target.endpoint.proxy is not None:
            proxy = target.endpoint.proxy
            note(Check(name, True, f"a tunnel through {proxy.host}:{proxy.port}", took))
        else:
            note(
                Check(name, True, f"{target.endpoint.host}:{target.endpoint.port} accepts connections", took)
            )


def _describe_tls(stream: trio.abc.Stream | None) -> str:
    if not isinstance(stream, TLSStream):
        return "shaken hands"
    certificate = stream.certificate()
    text = stream.version() or "TLS"
    if issuer := _name_in(certificate.get("issuer")):
        text += f", certificate by {plain(issuer, _LONGEST_NAME)}"
    until = certificate.get("notAfter")
    if isinstance(until, str):
        text += f", {(ssl.cert_time_to_seconds(until) - time.time()) / 86400:.0f} days left"
    return text


def _name_in(names: Any) -> str:
    """The organisation in a name of a certificate, else whatever it calls itself."""
    fields = {key: value for group in names or () for key, value in group}
    return str(fields.get("organizationName") or fields.get("commonName") or "")


async def _closed_at_once(wire: Wire) -> int | None:
    """The code of a close right behind the upgrade, or None."""
    with trio.move_on_after(_SECOND_THOUGHTS):
        try:
            while True:
                await wire.receive()  # notices; no turn is on its way
        except WireClosedError as error:
            return error.code
    return None


class _Given:
    """A connector that hands out the one connection that is there."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    async def connect(self, nursery: trio.Nursery, endpoint: Endpoint, headers: object) -> Wire:
        await trio.lowlevel.checkpoint()
        return self._wire


async def _take_turn(target: Target, key: Secret | None, wire: Wire) -> Check:
    if target.model is None:
        return Check("turn", None, "none asked; --model NAME asks for one (a few tokens)")
    policy = wspool.PoolPolicy(max_size=1, min_idle=0)
    began = trio.current_time()
    first: float | None = None
    status = said = ""
    try:
        with trio.fail_after(_TURN):
            async with (
                # The key is not sent again; the pool has to know what to hide.
                wspool.open_pool(
                    target.url,
                    api_key=key.reveal() if key else "unused",
                    provider=target.provider,
                    policy=policy,
                    wire=_Given(wire),
                ) as pool,
                pool.lease() as lease,
                lease.create(model=target.model, input="Say ok.", store=False, max_output_tokens=64) as turn,
            ):
                async for _ in turn:
                    first = first or trio.current_time() - began
                status = (await turn.result()).status
                said = _trusted(pool.statistics())
    except wspool.ResponseFailedError as error:
        advice = ""
        if error.code == "model_not_found" or error.param == "model":
            advice = (
                f"the endpoint does not have the model {target.model!r} for you: name another with --model; "
            )
        return Check("turn", False, advice + str(error), trio.current_time() - began)
    except wspool.WsPoolError as error:
        return Check("turn", False, str(error), trio.current_time() - began)
    except trio.TooSlowError:
        return Check("turn", False, f"no end of the turn within {_TURN:g} s: try another model", _TURN)
    text = f"{status}, first event after {(first or 0) * 1000:.0f} ms{said}"
    return Check("turn", True, text, trio.current_time() - began)


def _trusted(statistics: wspool.PoolStatistics) -> str:
    """What is to be said of how far the endpoint's words are evidence, nothing if they are."""
    if statistics.lenient:
        return f"; it is treated leniently ({'; '.join(statistics.lenient)})"
    if not statistics.rewritten:
        return ""
    return (
        f"; it rewrites the {' and the '.join(statistics.rewritten)} of what it sends, as gateways do: "
        'each of the first two such turns costs a connection, unless provider="litellm" or '
        'Provider(..., trust="lenient") says so'
    )
