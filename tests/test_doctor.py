"""`wspool doctor` and `wspool probe`: every step that can fail says so on its own line, and what to do."""

from __future__ import annotations

import datetime
import io
import json
import re
import socket
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
import trustme
from typer.testing import CliRunner

import wspool
from tests.helpers import CANARY
from tests.wire.peer import frame, read_request, switching_protocols
from wspool.cli.app import app
from wspool.cli.doctor import _print
from wspool.cli.examine import Check, examine
from wspool.cli.target import find_target
from wspool.server import (
    EchoModel,
    Fault,
    FaultScript,
    ModelTurn,
    Rejection,
    ScriptedModel,
    Server,
    TurnError,
    open_server,
)
from wspool.server.protocol.profiles import LITELLM_NATIVE

pytestmark = pytest.mark.network

Handler = Callable[[trio.SocketStream], Awaitable[None]]


@pytest.fixture(autouse=True)
def _nothing_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key, proxy, or endpoint of whoever runs the tests."""
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


async def diagnose(url: str, *, key: str | None = CANARY, **options: Any) -> dict[str, Check]:
    """The report on *url*, line by line, and that it holds no key."""
    environment = {} if key is None else {"OPENAI_API_KEY": key}
    proxy, model = options.pop("proxy", None), options.pop("model", "m")
    limits = wspool.PoolPolicy(**{"connect_timeout": 2, **options})
    target = find_target(url, model, "OPENAI_API_KEY", proxy, limits, environment)
    lines: list[Check] = []
    with trio.fail_after(20):
        well = await examine(target, lines.append)

    assert well == all(line.ok is not False for line in lines)
    assert "canary" not in repr(lines) + repr(target) + str(target)
    assert "endpoint" == lines[0].name
    return {line.name: line for line in lines}


def verdicts(report: dict[str, Check]) -> str:
    """`+` well, `!` not well, `.` not looked at, of each line behind the first."""
    return "".join({True: "+", False: "!", None: "."}[line.ok] for line in list(report.values())[1:])


@asynccontextmanager
async def listening(handler: Handler) -> AsyncGenerator[int]:
    """A TCP listener; gives its port."""
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, handler, listeners)
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


# -- well -----------------------------------------------------------------------------------------


async def test_all_is_well() -> None:
    """Every line is ok, with what was found; the turn was really taken."""
    async with open_server(EchoModel(), api_key=CANARY) as server:
        report = await diagnose(server.url)

        assert "++.+++" == verdicts(report)
        assert ["endpoint", "dns", "tcp", "proxy", "upgrade", "key", "turn"] == list(report)
        assert "accepted, from OPENAI_API_KEY" == report["key"].text
        assert report["turn"].text.startswith("completed, first event after")
        for name in ("dns", "tcp", "upgrade", "turn"):
            took = report[name].seconds
            assert took is not None
            assert 0 <= took < 5
        assert (1, 1) == (server.statistics().creates, server.statistics().connections_total)


async def test_nothing_is_paid_for_without_a_model() -> None:
    """A turn is asked only of a model that was named; a local endpoint takes any name."""
    async with open_server(EchoModel(), api_key=CANARY) as server:
        report = await diagnose(server.url, model=None)
        assert "++.+++" == verdicts(report)

        target = find_target(
            server.url, None, "OPENAI_API_KEY", None, wspool.PoolPolicy(), {"OPENAI_API_KEY": CANARY}
        )
        lines: list[Check] = []
        assert await examine(attrs.evolve(target, model=None), lines.append)
        assert (None, True) == (lines[-1].ok, "--model NAME" in lines[-1].text)
        assert 1 == server.statistics().creates


@pytest.mark.parametrize(
    ("url", "named", "base", "expected"),
    [
        (None, None, None, "OPENAI_API_KEY"),
        ("wss://eu.api.openai.com/v1/responses", None, None, "OPENAI_API_KEY"),
        ("wss://api.x.ai/v1/responses", None, None, "XAI_API_KEY"),
        ("wss://gateway.invalid/v1/responses", None, None, None),
        ("ws://127.0.0.1:1/v1/responses", None, None, None),
        ("ws://127.0.0.1:1/v1/responses", "OPENAI_API_KEY", None, "OPENAI_API_KEY"),
        ("ws://127.0.0.1:1/v1/responses", None, "https://gateway.invalid/v1", None),
        (None, None, "https://gateway.invalid/v1", "OPENAI_API_KEY"),
        (None, "XAI_API_KEY", "https://gateway.invalid/v1", "XAI_API_KEY"),
    ],
)
def test_a_key_that_nobody_named_goes_to_its_own_provider(url, named, base, expected) -> None:
    """That of the host, or what was named; the base URL of the SDK is set together with its key."""
    environment = {"OPENAI_API_KEY": "OPENAI_API_KEY", "XAI_API_KEY": "XAI_API_KEY"}
    if base is not None:
        environment["OPENAI_BASE_URL"] = base
    target = find_target(url, "m", named, None, wspool.PoolPolicy(), environment)

    assert (expected, expected) == (target.key, target.key_name)


async def test_an_endpoint_without_keys() -> None:
    """One on this machine that asks for none gets none."""
    async with open_server(EchoModel()) as server:
        report = await diagnose(server.url, key=None)

    assert ("++.+++", "none, and none wanted") == (verdicts(report), report["key"].text)


# -- the way --------------------------------------------------------------------------------------


class Resolver(trio.abc.HostnameResolver):
    """Knows no name, or never answers."""

    def __init__(self, *, silent: bool = False) -> None:
        self._silent = silent

    async def getaddrinfo(self, *args: Any) -> Any:
        await trio.sleep(1e6 if self._silent else 0)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async def getnameinfo(self, *args: Any) -> Any:
        raise AssertionError("nobody asks")


@pytest.mark.parametrize(
    ("silent", "words"),
    [(False, "'nowhere.invalid' failed (Name or service not known)"), (True, "did not finish")],
)
async def test_a_name_that_cannot_be_looked_up(silent: bool, words: str) -> None:
    """The first line that fails; the key is looked at all the same, as that needs no network."""
    trio.socket.set_custom_hostname_resolver(Resolver(silent=silent))
    report = await diagnose("wss://nowhere.invalid/v1/responses", connect_timeout=0.1)
    assert "!....." + "." == verdicts(report)
    assert words in report["dns"].text
    assert "check" in report["dns"].text

    report = await diagnose("wss://nowhere.invalid/v1/responses", key=None, connect_timeout=0.1)
    assert ("!....!.", True) == (verdicts(report), "set it" in report["key"].text)


async def test_a_refused_port() -> None:
    """Nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    report = await diagnose(f"ws://127.0.0.1:{port}/v1/responses")

    assert "+!...." == verdicts(report)
    assert "Connection refused" in report["tcp"].text
    assert "check the address, the firewall, and that the server runs" in report["tcp"].text


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """A certificate authority of this run's own."""
    return trustme.CA()


@asynccontextmanager
async def secured(server: Server, certificate: trustme.LeafCert) -> AsyncGenerator[str]:
    """*server* behind TLS; gives its URL."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(context)

    async def handler(stream: trio.SocketStream) -> None:
        tls = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
        try:
            await tls.do_handshake()
        except trio.BrokenResourceError:
            return
        await server.serve(tls)

    async with listening(handler) as port:
        yield f"wss://localhost:{port}/v1/responses"


@pytest.mark.parametrize("case", ["good", "self-signed", "wrong name", "expired"])
async def test_certificates(case: str, authority: trustme.CA, monkeypatch, tmp_path) -> None:
    """The real reason is told, in OpenSSL's words, and what can be done; a good one with its issuer."""
    past = datetime.datetime(2020, 1, 2, tzinfo=datetime.UTC)
    certificate, words, advice = {
        "good": (authority.issue_cert("localhost"), "certificate by trustme", "days left"),
        "self-signed": (trustme.CA().issue_cert("localhost"), "unable to get local issuer", "SSL_CERT_FILE"),
        "wrong name": (authority.issue_cert("elsewhere.example"), "Hostname mismatch", "host in the URL"),
        "expired": (authority.issue_cert("localhost", not_after=past), "has expired", "machine's clock"),
    }[case]
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    async with (
        open_server(EchoModel(), port=None, api_key=CANARY) as server,
        secured(server, certificate) as url,
    ):
        report = await diagnose(url)

    assert words in report["tls"].text
    if case == "good":
        assert "++.++++" == verdicts(report)
        assert report["tls"].text.startswith("TLSv1.")
    else:
        assert "++.!..." == verdicts(report)
    assert advice in report["tls"].text


async def test_tls_on_a_plain_port() -> None:
    """Nothing there speaks TLS."""
    async with open_server(EchoModel()) as server:
        report = await diagnose(server.url.replace("ws://", "wss://"))

    assert "++.!..." == verdicts(report)
    assert "check that it is a TLS port" in report["tls"].text


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", "with status 403: check what it allows"),
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "check its user name and password"),
        (b"SSH-2.0-x\r\n\r\n", "not HTTP"),
        (b"", "hung up"),
    ],
)
async def test_a_proxy_that_refuses(answer: bytes, words: str) -> None:
    """It is the proxy's line that fails, and no password of it is shown."""

    async def handler(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            await stream.send_all(answer)

    async with listening(handler) as port:
        proxy = f"http://me:{CANARY}@127.0.0.1:{port}"
        report = await diagnose("wss://nowhere.invalid/v1/responses", proxy=proxy)

    assert "+!...." == verdicts(report)
    assert words in report["proxy"].text


async def test_a_proxy_that_is_there() -> None:
    """The way through it is ok, and who looks up what is told."""
    async with open_server(EchoModel(), api_key=CANARY) as server:

        async def handler(stream: trio.SocketStream) -> None:
            async with stream:
                await stream.receive_some()
                await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\n")
                await server.serve(stream)

        async with listening(handler) as port:
            report = await diagnose("ws://localhost/v1/responses", proxy=f"http://localhost:{port}")

    assert "+++++" == verdicts(report)
    assert f"a tunnel through localhost:{port}" == report["proxy"].text
    assert "(the proxy looks up localhost)" in report["dns"].text


async def test_a_proxy_that_is_not_used_is_mentioned(monkeypatch) -> None:
    """Behind a company's firewall this is the usual reason."""
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.invalid:3128")
    trio.socket.set_custom_hostname_resolver(Resolver())
    report = await diagnose("wss://nowhere.invalid/v1/responses")

    assert "none used (the environment names one: --proxy environment)" == report["proxy"].text
    report = await diagnose("wss://nowhere.invalid/v1/responses", proxy="environment")
    assert "'proxy.invalid' failed" in report["dns"].text


# -- the endpoint ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rejection", "expected", "name", "words"),
    [
        (Rejection(status=404), "++.!..", "upgrade", "no WebSocket is offered at this path; check the URL"),
        (Rejection(status=426), "++.!..", "upgrade", "no WebSocket is offered at this path"),
        (Rejection(status=307, headers={"Location": "wss://x"}), "++.!..", "upgrade", "use the final URL"),
        (Rejection(status=401), "++.+!.", "key", "the key in OPENAI_API_KEY was refused (401)"),
        (Rejection(status=403, body=b'{"error":{}}'), "++.+!.", "key", "was refused (403)"),
        (Rejection(status=403, body=b"<html>"), "++.!..", "upgrade", "the edge and not the API"),
        (
            Rejection(status=429, headers={"Retry-After": "30"}),
            "++.!..",
            "upgrade",
            "the endpoint asks for 30 s",
        ),
        (Rejection(status=503), "++.!..", "upgrade", "try again later"),
        (Rejection(status=None), "++.!..", "upgrade", "did not answer the WebSocket upgrade"),
        (Rejection(status=101, close_code=1008), "++.+!.", "key", "with code 1008: check the key"),
        (Rejection(status=101, close_code=1013), "++.+!.", "key", "with code 1013: try again later"),
    ],
)
async def test_a_handshake_that_is_turned_down(
    rejection: Rejection, expected: str, name: str, words: str, monkeypatch
) -> None:
    """Each answer is told apart: the path, the key, the edge, or a bad moment."""
    monkeypatch.setattr("wspool.cli.examine._SECOND_THOUGHTS", 5)  # a busy machine is slow
    patience = 5 if rejection.status else 0.5
    async with open_server(EchoModel()) as server:
        server.reject_handshakes(rejection)
        report = await diagnose(server.url, connect_timeout=patience)

    assert (expected, True) == (verdicts(report), words in report[name].text), report


async def test_a_wrong_path() -> None:
    """What the server itself says to a path that it does not know."""
    async with open_server(EchoModel()) as server:
        report = await diagnose(server.url.replace("responses", "chat"))

    assert ("++.!..", True) == (verdicts(report), "check the URL" in report["upgrade"].text)


@pytest.mark.parametrize("profile", [None, LITELLM_NATIVE])
@pytest.mark.parametrize(
    ("key", "words"),
    [
        (None, "set OPENAI_API_KEY"),
        ("sk-other", "was refused"),
        (f"{CANARY}\n", "OPENAI_API_KEY: the API key must be"),
        (f"{CANARY} x", "visible ASCII characters without spaces"),
    ],
)
async def test_keys_that_are_missing_wrong_or_broken(
    key: str | None, words: str, profile: Any, monkeypatch
) -> None:
    """The way is checked without one; what is broken is not sent, and never shown."""
    monkeypatch.setattr("wspool.cli.examine._SECOND_THOUGHTS", 5)  # a busy machine is slow
    options = {} if profile is None else {"profile": profile}
    async with open_server(EchoModel(), api_key=CANARY, **options) as server:
        report = await diagnose(server.url, key=key)

        assert "++.+!." == verdicts(report)
        if profile is None or key not in (None, "sk-other"):
            assert words in report["key"].text
        else:
            assert "with code 1008: check the key" in report["key"].text
        sent = [headers.get("authorization") for _, headers in server.handshakes]
        assert ["Bearer sk-other" if key == "sk-other" else None] == sent


@pytest.mark.parametrize(
    ("turn", "words"),
    [
        (
            ModelTurn(
                status="rejected", error=TurnError(code="model_not_found", message="No m\x1b[2J.", status=404)
            ),
            "does not have the model 'm' for you: name another with --model",
        ),
        (
            ModelTurn(
                status="rejected", error=TurnError(code="insufficient_quota", message="Pay.", status=429)
            ),
            "insufficient_quota (429): Pay.",
        ),
        (
            ModelTurn(status="failed", error=TurnError(code="server_error", message="Oh.")),
            "server_error: Oh.",
        ),
    ],
)
async def test_a_turn_that_fails(turn: ModelTurn, words: str) -> None:
    """The server's reason, without its control characters."""
    async with open_server(ScriptedModel([turn])) as server:
        report = await diagnose(server.url)

    assert ("++.++!", True) == (verdicts(report), words in report["turn"].text)
    assert report["turn"].text.isprintable()


async def test_a_turn_that_never_ends(monkeypatch) -> None:
    """It is given up."""
    monkeypatch.setattr("wspool.cli.examine._TURN", 0.2)
    async with open_server(ScriptedModel([ModelTurn(delay=1e6)])) as server:
        report = await diagnose(server.url)

    assert ("++.++!", True) == (verdicts(report), "no end of the turn" in report["turn"].text)


async def test_a_connection_that_is_lost() -> None:
    """The error of the turn is the line."""
    async with open_server(EchoModel(), faults=FaultScript(Fault("fin", at="delta"))) as server:
        report = await diagnose(server.url)

    assert ("++.++!", True) == (verdicts(report), "turn lost" in report["turn"].text)


async def test_an_endpoint_that_echoes_the_key() -> None:
    """Neither a header of its answer nor an error of its turn shows it."""

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            request = await read_request(stream)
            await stream.send_all(switching_protocols(request, f"Server: echo {CANARY}".encode()))
            await stream.receive_some()
            error = {"type": "error", "status": 400, "error": {"message": f"no key {CANARY}"}}
            await stream.send_all(frame(1, json.dumps(error).encode()))
            await stream.receive_some()

    async with listening(serve) as port:
        report = await diagnose(f"ws://127.0.0.1:{port}/")

    assert "++.++!" == verdicts(report)
    assert ("WebSocket by echo <hidden>", True) == (
        report["upgrade"].text,
        "no key <hidden>" in report["turn"].text,
    )


# -- the commands ---------------------------------------------------------------------------------


def run(*arguments: str, **environment: str) -> tuple[int, str]:
    """Exit code and all output."""
    result = CliRunner().invoke(app, arguments, env=environment)
    assert not result.exception or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def test_the_report_as_lines_and_as_json() -> None:
    """One line each; the same as JSON; the exit code says whether all is well."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"ws://127.0.0.1:{free.getsockname()[1]}/v1/responses?key={CANARY}"
    code, out = run("doctor", "--url", url, OPENAI_API_KEY=CANARY)

    assert (1, 7) == (code, len(out.splitlines()))
    assert out.splitlines()[1].startswith("dns       ok")
    assert out.splitlines()[2].startswith("tcp       FAIL")
    code, as_json = run("doctor", "--json", "--url", url, OPENAI_API_KEY=CANARY)
    report = json.loads(as_json)
    assert (1, False) == (code, report["ok"])
    assert {"name": "turn", "ok": None, "seconds": None, "text": "not reached"} == report["checks"][-1]
    assert "canary" not in out + as_json


def test_a_terminal_gets_colours_and_the_same_words(monkeypatch) -> None:
    """What stands in a server's text is never taken for markup."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    check = Check("tls", False, "[bold]no[/bold] " + "x" * 200, 0.0123)
    shown = []
    for screen in (io.StringIO(), Terminal()):
        monkeypatch.setattr("sys.stdout", screen)
        _print(check)
        shown.append(screen.getvalue())

    assert "tls       FAIL    12 ms  [bold]no[/bold] " + "x" * 200 + "\n" == shown[0]
    assert shown[0] == re.sub(r"\x1b\[[0-9;]*m", "", shown[1]) != shown[1]


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        (None, "wss://api.openai.com/v1/responses (the default)"),
        ("https://gateway.invalid/v1/", "wss://gateway.invalid/v1/responses (OPENAI_BASE_URL)"),
        ("wss://gateway.invalid:8443/responses", "wss://gateway.invalid:8443/responses (OPENAI_BASE_URL)"),
        ("http://[::1]:1/v1", "ws://[::1]:1/v1/responses (OPENAI_BASE_URL)"),
    ],
)
async def test_where_it_goes_if_nobody_says(base: str | None, expected: str) -> None:
    """As the provider's own SDK: its base URL from the environment, else the provider."""
    trio.socket.set_custom_hostname_resolver(Resolver())
    environment = {} if base is None else {"OPENAI_BASE_URL": base}
    target = find_target(None, None, "K", None, wspool.PoolPolicy(), environment)

    assert expected == f"{target} ({target.source})"


@pytest.mark.parametrize("command", ["doctor", "probe"])
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--url", "http://localhost/"), "must start with wss://"),
        (("--url", f"wss://x:{CANARY}@h/"), "holds credentials"),
        (("--url", "ws://elsewhere.invalid/"), "use wss://\n"),
        (("--proxy", f"ftp://u:{CANARY}@h"), "must be an HTTP proxy"),
    ],
)
def test_what_cannot_be_meant_is_wrong_usage(command: str, arguments: tuple[str, ...], words: str) -> None:
    """Exit code 2, one line, nothing dialled and nothing quoted."""
    code, out = run(command, *arguments, "--model", "m", OPENAI_API_KEY=CANARY)

    assert (2, 1) == (code, len(out.splitlines()))
    assert words in out
    assert "canary" not in out


def test_a_probe_needs_a_model_and_a_key() -> None:
    """Both are said before anything is dialled."""
    assert (2, "wspool: the turns need a model; say which with --model\n") == run("probe")
    code, out = run("probe", "--model", "m")
    assert (2, True) == (code, "no API key in the environment variable OPENAI_API_KEY" in out)
    code, out = run("probe", "--model", "m", "--url", "wss://gateway.invalid/", OPENAI_API_KEY=CANARY)
    assert (2, True) == (code, "no API key for this host; name the variable" in out)


def test_a_probe_of_what_is_not_there() -> None:
    """One line that says why, and exit code 1."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"ws://127.0.0.1:{free.getsockname()[1]}/v1/responses"
    code, out = run("probe", "--url", url)

    assert (1, 1) == (code, len(out.splitlines()))
    assert "`wspool doctor` looks closer" in out


async def test_a_probe_measures() -> None:
    """Every phase and every turn as often as it happened, and a delta sends far less."""
    async with open_server(EchoModel(), api_key=CANARY) as server:
        where = ("--url", server.url, "--api-key-env", "OPENAI_API_KEY")
        arguments = ("probe", *where, "-n", "2", "--history", "10000")
        code, out = await trio.to_thread.run_sync(
            lambda: run(*arguments, "--json", OPENAI_API_KEY=CANARY), abandon_on_cancel=True
        )
        table = await trio.to_thread.run_sync(lambda: run(*arguments, OPENAI_API_KEY=CANARY))
        statistics = server.statistics()
    report = json.loads(out)

    assert 0 == code
    measures = report["measures"]
    assert ["dial", "warm-up", "full", "delta"] == list(measures)
    assert ["resolve", "tcp", "upgrade", "all"] == list(measures["dial"])
    assert (2, 2, 4, 2) == tuple(
        measures[part][what]["samples"]
        for part, what in (("dial", "all"), ("warm-up", "end"), ("full", "end"), ("delta", "end"))
    )
    sent = measures["full"]["bytes sent"]["least"], measures["delta"]["bytes sent"]["most"]
    assert sent[0] > 10_000 > 500 > sent[1]
    assert 0 < measures["delta"]["first event"]["median"] <= measures["delta"]["end"]["most"]
    assert (0, True, True) == (table[0], "delta: end" in table[1], "2 rounds" in table[1])
    assert (4, 16) == (statistics.connections_total, statistics.creates)


@pytest.mark.parametrize("text", ["\x1b[2J\x1b]0;owned\x07", "a\r\nFAIL  key", "\u202e\u2066", "x" * 100_000])
def test_every_line_of_the_report_is_plain(text: str) -> None:
    """Whatever a step was told, and by whom."""
    shown = Check("turn", False, text).text

    assert shown.isprintable()
    assert len(shown) <= 1000


@pytest.mark.parametrize("status", [400, 401, 403, 429, 503])
async def test_a_refusal_tells_the_endpoint_s_reason(status: int) -> None:
    """Its code and its words, plain; a key in them is hidden."""
    said = f'{{"error": {{"code": "no_\\u001b[2Jway", "message": "not with {CANARY}\\n"}}}}'
    async with open_server(EchoModel()) as server:
        server.reject_handshakes(Rejection(status=status, body=said.encode()))
        report = await diagnose(server.url)

    told = " ".join(check.text for check in report.values())
    assert "no_\\x1b[2Jway" in told
    assert CANARY not in told


@pytest.mark.parametrize(
    ("name", "words"),
    [("rewritten_id", "it rewrites the ids of what it sends"), ("sequence_gap", "the numbers of")],
)
async def test_an_endpoint_that_rewrites_is_named(name: str, words: str) -> None:
    """The turn went well all the same; what to say of the endpoint stands beside it."""
    async with open_server(EchoModel(), faults=FaultScript(Fault(name))) as server:
        report = await diagnose(server.url)

    assert "++.+++" == verdicts(report)
    assert words in report["turn"].text
    assert 'provider="litellm"' in report["turn"].text
