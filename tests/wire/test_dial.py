"""URLs that may be dialled and those that may not; TCP and TLS failures, each with its phase and cause."""

from __future__ import annotations

import datetime
import errno
import resource
import socket
import ssl
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
import trio.testing
import trustme
from hypothesis import given, strategies as st

from wspool.wire import dial
from wspool.wire.tls import TLSStream
from wspool.wire.url import below, is_loopback
from wspool.wire.wire import ConnectError, Endpoint

LIMITS: dict[str, Any] = {"connect_timeout": 5, "close_timeout": 1, "max_message_size": 1000}


def parse(url: str, **options: Any) -> Endpoint:
    return dial.parse_url(url, **{**LIMITS, **options})


# URLs


@pytest.mark.parametrize(
    ("url", "host", "port", "resource"),
    [
        ("wss://api.openai.com/v1/responses", "api.openai.com", 443, "/v1/responses"),
        ("WSS://API.OpenAI.com", "api.openai.com", 443, "/"),
        ("wss://h:8443/a%20b?x=1&y=%E2%82%AC", "h", 8443, "/a%20b?x=1&y=%E2%82%AC"),
        ("wss://h?model=m", "h", 443, "/?model=m"),
        ("wss://[2001:DB8:0::1]:444/", "2001:db8::1", 444, "/"),
        ("wss://bücher.example/", "xn--bcher-kva.example", 443, "/"),
        ("wss://under_score.internal./", "under_score.internal.", 443, "/"),
        ("wss://faß.de/", "xn--fa-hia.de", 443, "/"),
        ("wss://BÜCHER.example./", "xn--bcher-kva.example.", 443, "/"),
        ("wss://ü。de", "xn--tda.de", 443, "/"),
        ("wss://xn--bcher-kva.example/", "xn--bcher-kva.example", 443, "/"),
        ("wss://r3---sn.example/", "r3---sn.example", 443, "/"),
        ("wss://" + "a" * 63 + ".example/", "a" * 63 + ".example", 443, "/"),
        ("ws://127.0.0.1./", "127.0.0.1", 80, "/"),
        ("ws://\uff11\uff12\uff17.0.0.1/", "127.0.0.1", 80, "/"),
        ("ws://localhost./", "localhost", 80, "/"),
        ("ws://LocalHost.:81/", "localhost", 81, "/"),
        ("ws://localhost", "localhost", 80, "/"),
        ("ws://LOCALHOST:81/", "localhost", 81, "/"),
        ("ws://127.9.8.7/", "127.9.8.7", 80, "/"),
        ("ws://[0:0::1]:82/", "::1", 82, "/"),
    ],
)
def test_a_url_becomes_an_endpoint(url, host, port, resource):
    """Defaults are filled in, names are encoded, path and query are kept as written."""
    got = parse(url)

    assert (got.host, got.port, got.resource) == (host, port, resource)
    assert (got.ssl_context is None) == url.startswith("ws:")
    assert (got.connect_timeout, got.close_timeout, got.max_message_size) == (5, 1, 1000)


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        ("https://h/s3cret", "must start with wss://"),
        ("h/s3cret", "must start with wss://"),
        ("file:///s3cret", "must start with wss://"),
        ("", "must start with wss://"),
        ("wss://user:s3cret@h/", "pass them as api_key"),
        ("wss://s3cret@h/", "pass them as api_key"),
        ("wss://h/#s3cret", "fragment"),
        ("wss://h/#", "fragment"),
        ("wss://h/s3cret\r\nX: y", "percent-encode"),
        ("wss://h/s3cret x", "percent-encode"),
        (" wss://h/s3cret", "percent-encode"),
        ("ws\ts://h/s3cret", "percent-encode"),
        ("wss://h/s3cret\x7f", "percent-encode"),
        ("wss://h/s3cret€", "percent-encode"),
        ("wss://h/?s3cret=ü", "percent-encode"),
        ("wss:///s3cret", "host is missing"),
        ("wss://:443/s3cret", "host is missing"),
        ("wss://a..b/s3cret", "not a host name"),
        ("wss://-s3cret/", "not a host name"),
        ("wss://s3cret-/", "not a host name"),
        ("wss://a.-s3cret/", "not a host name"),
        ("wss://./s3cret", "not a host name"),
        ("wss://h../s3cret", "not a host name"),
        ("wss://127.0.0.1../s3cret", "not a host name"),
        ("wss://s3cret\u2603/", "not a host name"),
        ("wss://s3cret\u00fc\u200d/", "not a host name"),
        ("wss://s3cret%41/", "not a host name"),
        ("wss://" + ".".join(["s3cret" * 10] * 5) + "/", "not a host name"),
        ("wss://" + "ü" * 64 + ".s3cret/", "not a host name"),
        ("wss://s3cret\\h/", "not a host name"),
        ("wss://" + "s3cret" * 11 + "/", "not a host name"),
        ("wss://[fe80::1%25eth0]/s3cret", "zone"),
        ("wss://[::1/s3cret", "cannot be parsed"),
        ("wss://[s3cret]/", "cannot be parsed"),
        ("wss://h:s3cret/", "cannot be parsed"),
        ("wss://h:65536/s3cret", "cannot be parsed"),
        ("wss://s3cret\u2100h/", "cannot be parsed"),
        ("wss://h:0/s3cret", "between 1 and 65535"),
        ("ws://example.com/s3cret", "use wss://"),
        ("ws://127.0.0.1.example.com/s3cret", "use wss://"),
        ("ws://localhost.example.com/s3cret", "use wss://"),
        ("ws://127.1/s3cret", "use wss://"),
        ("ws://[::ffff:127.0.0.1]/s3cret", "use wss://"),
        ("ws://0.0.0.0/s3cret", "use wss://"),
    ],
)
def test_a_bad_url_is_refused_without_being_quoted(url, advice):
    """The text says what to do, and neither it nor its causes show what was in the URL."""
    with pytest.raises(ValueError, match=advice) as caught:
        parse(url)

    assert type(caught.value) is ValueError
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize(
    "options",
    [
        {"connect_timeout": 0},
        {"connect_timeout": float("nan")},
        {"close_timeout": -1},
        {"max_message_size": 0},
    ],
)
def test_a_bad_limit_is_refused_by_name(options):
    """A limit that makes no sense fails where it is written."""
    with pytest.raises(ValueError, match=next(iter(options))):
        parse("wss://h", **options)


def test_plain_text_to_another_machine_must_be_allowed():
    """allow_insecure is the only way to ws:// elsewhere."""
    assert parse("ws://10.0.0.1/", allow_insecure=True).ssl_context is None


def test_tls_checks_names_and_certificates_by_default():
    """The default context verifies; one that is passed in is used as it is, and only for wss."""
    default = parse("wss://h").ssl_context
    assert default is not None
    assert default.check_hostname
    assert default.verify_mode is ssl.CERT_REQUIRED

    own = ssl.create_default_context()
    assert parse("wss://h", ssl_context=own).ssl_context is own
    with pytest.raises(ValueError, match="wss://"):
        parse("ws://localhost", ssl_context=own)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("wss://h", "h"),
        ("wss://h:80", "h:80"),
        ("ws://localhost:443", "localhost:443"),
        ("ws://[::1]:81", "[::1]:81"),
        ("wss://[::1]", "[::1]"),
        ("wss://example.test./", "example.test."),
        ("wss://example.test.:8443/", "example.test.:8443"),
    ],
)
def test_the_host_header_names_a_port_only_if_it_is_not_the_default(url, expected):
    """80 is no default of wss, and IPv6 has brackets."""
    assert dial.host_header(parse(url)) == expected


@given(st.text(max_size=80), st.sampled_from(["", ".", ":1", ".:1", "/x"]))
def test_any_text_is_a_host_or_refused(host, rest):
    """There is no third way: what comes out goes into a header, a lookup and a certificate check."""
    try:
        got = parse(f"ws://{host}{rest}", allow_insecure=True)
    except UnicodeError:
        raise AssertionError("a foreign text, which quotes the host") from None
    except ValueError:
        return
    assert got.host.isascii()
    assert got.host == got.host.lower()
    dial.encode_headers([("Host", dial.host_header(got))])
    assert parse(f"ws://{dial.host_header(got)}", allow_insecure=True).host == got.host


@pytest.mark.parametrize(
    ("resource", "expected"),
    [
        ("/v1/responses", "/v1/responses/compact"),
        ("/v1/responses/", "/v1/responses/compact"),
        ("/v1/responses//?a=b/", "/v1/responses/compact?a=b/"),
        ("/?", "/compact?"),
        ("/", "/compact"),
    ],
)
def test_a_path_is_joined_without_a_second_slash(resource, expected):
    """Before the query, which stays as it is."""
    assert below(resource, "/compact") == expected


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("127.255.0.1", True),
        ("::1", True),
        ("::ffff:127.0.0.1", False),
        ("0.0.0.0", False),
        ("128.0.0.1", False),
        ("localhost.example", False),
        ("127.1", False),
    ],
)
def test_this_machine_is_known_by_name_and_address(host, expected):
    """One notion for all: what may be plain text, needs no key and no proxy."""
    assert is_loopback(host) is expected


@pytest.mark.parametrize("value", ["", " a", "a ", "a\nb", "a\r\nB: c", "ü", "\x7f", 5, None, b"a"])
def test_a_header_that_cannot_be_sent_is_not_shown(value):
    """Neither in a text nor in a frame; a tab or space inside is sent."""
    with pytest.raises(ValueError, match="the value of header 'X-A' must be") as caught:
        dial.encode_headers([("X-A", value)])

    tb = caught.value.__traceback__
    for frame, _ in traceback.walk_tb(tb):
        if frame.f_globals["__name__"].startswith("wspool."):
            assert set(frame.f_locals) == {"problem"}
    for name in ("", "X A", "X:", "Ü", "X\n", 5):
        with pytest.raises(ValueError, match="is not a header name"):
            dial.encode_headers([(name, "a")])  # type: ignore[list-item] # also a wrong one
    assert dial.encode_headers([("X-A", "a\tb c")]) == [(b"X-A", b"a\tb c")]


# Sockets

Handler = Callable[[trio.SocketStream], Awaitable[None]]


@asynccontextmanager
async def listening(handler: Handler, scheme: str = "ws", **options: Any) -> AsyncGenerator[Endpoint, None]:
    """An endpoint whose connections are given to *handler*."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, handler, [listener])
        yield parse(f"{scheme}://localhost:{listener.socket.getsockname()[1]}/", **options)
        nursery.cancel_scope.cancel()


async def refusal(to: Endpoint, *, within: float = 1) -> ConnectError:
    """Open a stream to *to*, and return how it failed."""
    with trio.fail_after(within), pytest.raises(ConnectError) as caught, dial.time_limit(to):
        await dial.open_stream(to)
    return caught.value


async def hang_up(stream: trio.SocketStream) -> None:
    await stream.aclose()


async def say_nothing(stream: trio.SocketStream) -> None:
    async with stream:
        while await stream.receive_some():
            pass


@pytest.mark.network
async def test_tcp_is_opened_without_delay():
    """The stream works, and Nagle's algorithm is off."""

    async def echo(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.send_all(await stream.receive_some())

    async with listening(echo) as to:
        stream = await dial.open_stream(to)
        async with stream:
            assert isinstance(stream, trio.SocketStream)
            assert stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            await stream.send_all(b"x")
            assert await stream.receive_some() == b"x"


class Resolver(trio.abc.HostnameResolver):
    """A resolver that does as it is told."""

    def __init__(self, answer: Callable[[], Awaitable[list[str]]]) -> None:
        self.answer = answer

    async def getaddrinfo(
        self, host: Any, port: Any, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> Any:
        return [
            (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port))
            for address in await self.answer()
        ]

    async def getnameinfo(self, sockaddr: Any, flags: int) -> Any:
        raise NotImplementedError


async def test_a_failed_name_lookup_is_told_apart():
    """Phase "resolve", with the resolver's error as the cause."""

    async def fail() -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    trio.socket.set_custom_hostname_resolver(Resolver(fail))
    error = await refusal(parse("wss://nowhere.example/"))

    assert (error.phase, error.timed_out) == ("resolve", False)
    assert isinstance(error.__cause__, socket.gaierror)
    assert "'nowhere.example' failed (Name or service not known): check" in str(error)


async def test_a_silent_resolver_times_out_in_its_phase(autojump_clock):
    """connect_timeout covers the lookup."""

    async def hang() -> list[str]:
        await trio.sleep_forever()

    trio.socket.set_custom_hostname_resolver(Resolver(hang))
    error = await refusal(parse("wss://slow.example/", connect_timeout=7), within=10)

    assert (error.phase, error.timed_out) == ("resolve", True)
    assert error.__context__ is None, "nobody wants to know of our Cancelled"
    assert trio.current_time() == pytest.approx(7, abs=0.5)


@pytest.mark.network
async def test_a_dead_address_does_not_hide_a_living_one():
    """Addresses are tried in turn; one that works is enough."""

    async def two() -> list[str]:
        return ["127.0.0.2", "127.0.0.1"]

    async with listening(say_nothing) as to:  # on 127.0.0.1 only
        trio.socket.set_custom_hostname_resolver(Resolver(two))
        with trio.fail_after(2):
            await (await dial.open_stream(to)).aclose()


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


@pytest.mark.network
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_refused_connection_is_a_tcp_failure(host):
    """Phase "tcp", at once, with the system's words in the text."""
    error = await refusal(parse(f"ws://{host}:{free_port()}/"))

    assert error.phase == "tcp"
    assert "(Connection refused)" in str(error)
    assert isinstance(error.__cause__, OSError)


@pytest.mark.network
async def test_running_out_of_files_says_so():
    """EMFILE is this machine's problem, and the text names it."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as probe:
        resource.setrlimit(resource.RLIMIT_NOFILE, (probe.fileno() + 1, before[1]))
        try:
            error = await refusal(parse("ws://127.0.0.1:9/"))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)

    assert error.phase == "tcp"
    assert "Too many open files" in str(error)
    assert errno.EMFILE == 24


# TLS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """A certificate authority of this run's own."""
    return trustme.CA()


@pytest.fixture(scope="module")
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    """A client context that trusts `authority`."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def serving_tls(certificate: trustme.LeafCert) -> Handler:
    """A server with *certificate* that reads one byte string and sends it back."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(context)

    async def handler(stream: trio.SocketStream) -> None:
        async with trio.SSLStream(stream, context, server_side=True, https_compatible=True) as tls:
            try:
                await tls.send_all(await tls.receive_some() or b"-")
            except trio.BrokenResourceError:
                pass

    return handler


@pytest.mark.network
async def test_a_good_certificate_is_accepted(authority, trusting):
    """The handshake is done when the stream is returned, and an end without goodbye is a plain end."""
    async with listening(serving_tls(authority.issue_cert("localhost")), "wss", ssl_context=trusting) as to:
        stream = await dial.open_stream(to)
        async with stream:
            assert isinstance(stream, TLSStream)
            assert stream.version() in {"TLSv1.2", "TLSv1.3"}
            await stream.send_all(b"x")
            assert await stream.receive_some() == b"x"
            assert await stream.receive_some() == b""


@pytest.mark.network
async def test_a_dot_at_the_end_makes_no_other_host(authority, trusting):
    """It is in the lookup, which it makes absolute, but neither in the TLS hello nor in the certificate."""
    hello: list[str | None] = []
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("example.test").configure_cert(context)
    context.sni_callback = lambda _, name, __: hello.append(name)
    looked_up: list[str] = []

    class Here(Resolver):
        async def getaddrinfo(self, host: Any, *args: Any, **kwargs: Any) -> Any:
            looked_up.append(bytes(host).decode() if isinstance(host, bytes) else host)
            return await super().getaddrinfo(host, *args, **kwargs)

    async def here() -> list[str]:
        return ["127.0.0.1"]

    async def handler(stream: trio.SocketStream) -> None:
        async with trio.SSLStream(stream, context, server_side=True, https_compatible=True) as tls:
            await tls.receive_some()

    trio.socket.set_custom_hostname_resolver(Here(here))
    async with listening(handler) as to:
        named = parse(f"wss://example.test.:{to.port}/", ssl_context=trusting)
        await (await dial.open_stream(named)).aclose()

    assert set(looked_up) == {"example.test."}
    assert hello == ["example.test"]


@pytest.mark.network
@pytest.mark.parametrize("case", ["untrusted", "wrong name", "expired"])
async def test_a_bad_certificate_is_refused_at_once(authority, trusting, case):
    """It is marked as such, keeps OpenSSL's error, and says what is wrong."""
    past = datetime.datetime(2020, 1, 2, tzinfo=datetime.UTC)
    certificate, words, advice = {
        "untrusted": (trustme.CA().issue_cert("localhost"), "unable to get local issuer", "ssl_context"),
        "wrong name": (authority.issue_cert("elsewhere.example"), "Hostname mismatch", "host in the URL"),
        "expired": (authority.issue_cert("localhost", not_after=past), "expired", "machine's clock"),
    }[case]
    async with listening(serving_tls(certificate), "wss", ssl_context=trusting) as to:
        error = await refusal(to)

    assert (error.phase, error.certificate, error.timed_out) == ("tls", True, False)
    assert isinstance(error.__cause__, ssl.SSLCertVerificationError)
    assert words in str(error)
    assert advice in str(error)
    assert ("ssl_context" in str(error)) == (case == "untrusted"), "trusting its issuer would not help"


@pytest.mark.network
async def test_plain_http_on_the_port_is_refused_at_once(trusting):
    """A server that does not speak TLS is no certificate problem."""

    async def speak_http(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            await stream.receive_some()

    async with listening(speak_http, "wss", ssl_context=trusting) as to:
        error = await refusal(to)

    assert (error.phase, error.certificate) == ("tls", False)
    assert isinstance(error.__cause__, ssl.SSLError)
    assert "check that it is a TLS port" in str(error)


@pytest.mark.network
async def test_an_end_during_the_handshake_is_seen_at_once(trusting):
    """A server that hangs up on the hello does not cost the timeout."""
    async with listening(hang_up, "wss", ssl_context=trusting) as to:
        error = await refusal(to)

    assert (error.phase, error.certificate) == ("tls", False)
    assert error.__cause__ is not None


@pytest.mark.network
async def test_a_silent_handshake_times_out_in_its_phase(trusting):
    """connect_timeout covers TLS; the socket is closed (an open one would be a ResourceWarning)."""
    async with listening(say_nothing, "wss", ssl_context=trusting, connect_timeout=0.05) as to:
        error = await refusal(to)

    assert (error.phase, error.timed_out) == ("tls", True)


@pytest.mark.network
async def test_cancelling_the_handshake_closes_the_socket(trusting):
    """The server sees the end at once."""
    closed = trio.Event()

    async def watch(stream: trio.SocketStream) -> None:
        await say_nothing(stream)
        closed.set()

    async with listening(watch, "wss", ssl_context=trusting) as to:
        with trio.move_on_after(0.05):
            await dial.open_stream(to)
        with trio.fail_after(1):
            await closed.wait()


# Time


@pytest.mark.network
async def test_each_phase_of_a_dial_is_measured(authority, trusting):
    """Whoever dials learns what each step took, in order, and where a dial that failed was."""
    serve = serving_tls(authority.issue_cert("localhost"))
    async with listening(serve, "wss", ssl_context=trusting) as to:
        with dial.stopwatch() as seconds, dial.time_limit(to):
            stream = await dial.open_stream(to)
            dial.enter("upgrade")
        await stream.aclose()
        assert list(seconds) == ["resolve", "tcp", "tls", "upgrade"]
        assert all(0 <= each < 5 for each in seconds.values())

        with pytest.raises(ConnectError), dial.stopwatch() as seconds:
            await dial.open_stream(attrs.evolve(to, host="127.0.0.1"))
        assert list(seconds) == ["resolve", "tcp", "tls"]


async def test_an_opener_that_says_nothing_is_not_measured(autojump_clock):
    """What nobody entered took no time that anybody knows of; what is entered twice is summed."""
    with dial.stopwatch() as seconds, dial.time_limit(parse("ws://localhost")):
        await trio.sleep(1)
        dial.enter("tcp")
        await trio.sleep(2)
        dial.enter("upgrade")
        dial.enter("tcp")
        await trio.sleep(1)
    dial.enter("tls")

    assert seconds == {"tcp": 3.0, "upgrade": 0.0}
