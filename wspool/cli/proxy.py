"""`wspool proxy`: any program through one pool, until it is stopped."""

import errno
import os
import ssl
from collections.abc import AsyncGenerator, Generator
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NoReturn
from urllib.parse import urlsplit

import attrs
import trio
import typer

from wspool.cli.proxy_config import PROGRAMS, config_for
from wspool.cli.running import run_until_told
from wspool.cli.serving import shown_log
from wspool.cli.usage import say, usage_error, warn
from wspool.core.policy import PoolPolicy
from wspool.pool.open import DEFAULT_URL
from wspool.proxy.access.tokens import TokenFile
from wspool.proxy.collecting import collected_in_quiet
from wspool.proxy.entrance.holder import holder_of
from wspool.proxy.entrance.listeners import LOOPBACK, Where, authority_of
from wspool.proxy.open import Proxy, open_proxy
from wspool.proxy.records.journal import Journal
from wspool.proxy.settings import KeepaliveStyle, OnHangup, Settings
from wspool.proxy.visit import Recorder
from wspool.wire.descriptors import room_for

__all__ = ["policy_of", "proxy"]

_Port = Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")]
_Host = Annotated[
    str | None,
    typer.Option(help="Address to listen on, if not this machine's own; one that others reach needs tokens."),
]
_Url = Annotated[str, typer.Option(help="The provider's endpoint.")]
_Provider = Annotated[
    str | None, typer.Option(help="What it can do: openai, azure, xai, vercel, litellm; else by its host.")
]
_KeyEnv = Annotated[
    str | None,
    typer.Option(
        "--api-key-env",
        help="Variable with the proxy's own key, sent instead of the clients'; then they need tokens.",
    ),
]
_TokenFile = Annotated[
    Path | None,
    typer.Option(help="Lines of NAME TOKEN [limit=N] [weight=X] [budget=N] [keepalive=STYLE]; may change."),
]
_State = Annotated[
    Path | None,
    typer.Option(help="File that keeps what tokens have used today, for the next run."),
]
_AllowHost = Annotated[
    list[str] | None, typer.Option(help="A further name for this machine, such as host.docker.internal.")
]
_Uds = Annotated[str | None, typer.Option(help="Listen on a Unix socket, too, for this user only.")]
_Certfile = Annotated[Path | None, typer.Option(help="Certificates for https, as PEM.")]
_Keyfile = Annotated[Path | None, typer.Option(help="Their key, if it is in another file.")]
_MaxSize = Annotated[int | None, typer.Option(min=1, help="WebSocket connections for each key.")]
_IdleTimeout = Annotated[
    float | None,
    typer.Option(min=1, help="Seconds without a word of the model after which a turn is given up."),
]
_Keepalive = Annotated[float, typer.Option(min=0.1, help="Longest silence towards a client, in seconds.")]
_Style = Annotated[KeepaliveStyle, typer.Option(help="How silence is broken: comment for SDKs that fail.")]
_KeepaliveJson = Annotated[
    bool,
    typer.Option("--keepalive-json", help="Break silence before a JSON answer, too, by white space."),
]
_Hangup = Annotated[OnHangup, typer.Option(help="What becomes of the turn of a client that has left.")]
_WebSocket = Annotated[
    bool, typer.Option("--websocket/--no-websocket", help="Whether clients may come over WebSocket.")
]
_MaxClients = Annotated[int | None, typer.Option(min=1, help="Connections of clients at once.")]
_MaxTurns = Annotated[int | None, typer.Option(min=1, help="Turns at once, for each key.")]
_PerClient = Annotated[int | None, typer.Option(min=1, help="Turns at once of one client.")]
_Grace = Annotated[float, typer.Option(min=0, help="Seconds that turns have to end when this is stopped.")]
_Succeed = Annotated[
    bool, typer.Option("--take-over", help="Take the port over from a running proxy, which you then stop.")
]
_Inherit = Annotated[bool, typer.Option("--inherit", help="Take the sockets that systemd has opened.")]
_Replay = Annotated[
    float, typer.Option(min=0, help="Seconds for which a client that asks again gets the answer of before.")
]
_Record = Annotated[
    Path | None,
    typer.Option(help="Folder that gets a cassette for each session: all that is said, without keys."),
]
_Log = Annotated[Path | None, typer.Option(help="A JSONL file that gets one line per request.")]
_PrintConfig = Annotated[
    str | None,
    typer.Option(metavar="PROGRAM", help=f"Say how to set up {', '.join(PROGRAMS)}, and end."),
]
_Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say a line about every refusal.")]


def proxy(
    port: _Port = 8787,
    host: _Host = None,
    url: _Url = DEFAULT_URL,
    provider: _Provider = None,
    api_key_env: _KeyEnv = None,
    token_file: _TokenFile = None,
    state: _State = None,
    allow_host: _AllowHost = None,
    uds: _Uds = None,
    certfile: _Certfile = None,
    keyfile: _Keyfile = None,
    max_size: _MaxSize = None,
    idle_timeout: _IdleTimeout = None,
    keepalive: _Keepalive = 15.0,
    keepalive_style: _Style = "auto",
    keepalive_json: _KeepaliveJson = False,
    on_hangup: _Hangup = "drain",
    websocket: _WebSocket = True,
    max_clients: _MaxClients = None,
    max_turns: _MaxTurns = None,
    max_turns_per_client: _PerClient = None,
    grace: _Grace = 600.0,
    replay_for: _Replay = 30.0,
    take_over: _Succeed = False,
    inherit: _Inherit = False,
    log: _Log = None,
    record: _Record = None,
    print_config: _PrintConfig = None,
    verbose: _Verbose = False,
) -> None:
    """Run a proxy until it is told to stop: programs ask it by HTTP, and it asks the provider over WebSocket.

    Prints the base URL that programs need (OPENAI_BASE_URL). What is said of a key goes for each of them.
    SIGTERM and the first Ctrl-C let turns end, the second Ctrl-C does not; SIGHUP has files opened again.
    """
    if print_config is not None:
        _print_config(print_config, host, port, tls=certfile is not None, websocket=websocket)
    given = {"max_clients": max_clients, "max_turns": max_turns, "max_turns_per_client": max_turns_per_client}
    settings = Settings(
        keepalive=keepalive,
        keepalive_style=keepalive_style,
        keepalive_json=keepalive_json,
        on_hangup=on_hangup,
        websocket=websocket,
        grace=grace,
        replay_for=replay_for,
        **{name: value for name, value in given.items() if value is not None},
    )
    where = Where(host=host, port=port, uds=uds, inherit=inherit, succeed=take_over)
    try:
        with shown_log("wspool", verbose=verbose), ExitStack() as stack:
            options: dict[str, Any] = {
                "where": where,
                "api_key": _key(api_key_env),
                "tokens": None if token_file is None else TokenFile(token_file),
                "allowed": allow_host or (),
                "tls": _tls(certfile, keyfile),
                "settings": settings,
                "state": state,
                "recorder": None if record is None else stack.enter_context(_recorder(record, url)),
                "provider": provider,
                "policy": policy_of(max_size, idle_timeout),
            }
            journal = None if log is None else stack.enter_context(closing(Journal(log)))
            trio.run(partial(_run, url, journal, **options))
    except OSError as problem:
        usage_error(f"{_place(where, problem)}: {problem.strerror or problem}")
    except (ValueError, ImportError) as problem:
        usage_error(str(problem))


@contextmanager
def _recorder(folder: Path, url: str) -> Generator[Recorder]:
    # Imported here: who records nothing needs no tools for tests.
    from wspool.testing.recorder import Recorder as Cassettes

    parts = urlsplit(url)
    recorder = Cassettes(folder, f"{parts.scheme}://{parts.hostname}{parts.path}")
    try:
        yield recorder
    finally:
        recorder.save()


def _print_config(program: str, host: str | None, port: int, *, tls: bool, websocket: bool) -> NoReturn:
    if program not in PROGRAMS:
        usage_error(f"--print-config {program!r}: there are {', '.join(PROGRAMS)}")
    if not port:
        usage_error("--print-config needs the --port: which one is free is known once it is taken")
    base_url = f"{'https' if tls else 'http'}://{authority_of(host or LOOPBACK[0], port)}/v1"
    say(config_for(program, base_url, websocket=websocket).rstrip())
    raise typer.Exit


def policy_of(max_size: int | None, idle_timeout: float | None) -> PoolPolicy:
    """Return the policy of the pools, of which so much was said."""
    policy = PoolPolicy(first_event_timeout=idle_timeout, silence_timeout=idle_timeout)
    return policy if max_size is None else attrs.evolve(policy, max_size=max_size, min_idle=0)


def _key(variable: str | None) -> str | None:
    if variable is None:
        return None
    if not (key := os.environ.get(variable, "")):
        usage_error(f"--api-key-env {variable}: there is no such variable, or it is empty")
    return key


def _tls(certfile: Path | None, keyfile: Path | None) -> ssl.SSLContext | None:
    if certfile is None:
        if keyfile is not None:
            usage_error("--keyfile goes with --certfile: without certificates nothing is encrypted")
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certfile, keyfile, password="")  # a key that wants one would ask a terminal
    except ssl.SSLError:
        pair = f"--certfile {str(certfile)!r}" + (f" --keyfile {str(keyfile)!r}" if keyfile else "")
        usage_error(f"{pair}: no certificate and its key, as PEM and without a password")
    except OSError as problem:
        usage_error(f"--certfile {str(certfile)!r} cannot be used: {problem.strerror or problem}")
    return context


def _place(where: Where, problem: OSError) -> str:
    if problem.filename is not None:
        return f"{problem.filename!r} cannot be used"
    place = f"cannot listen on {where.host or 'this machine'}, port {where.port}"
    if problem.errno == errno.EADDRINUSE and where.port:
        holder = holder_of(where.port) or "another program"
        how = "name another (--port), or, if that is a proxy, succeed it (--take-over)"
        return f"{place}, which {holder} has; {how}"
    return place


async def _run(url: str, journal: Journal | None, **options: Any) -> None:
    def reread(running: Proxy) -> None:
        running.reread()
        if journal is not None:
            journal.reopen()

    opened = _opened(url, journal, **options)
    await run_until_told(opened, lambda running: running.base_url, drain=Proxy.drain, reread=reread)


@asynccontextmanager
async def _opened(url: str, journal: Journal | None, **options: Any) -> AsyncGenerator[Proxy]:
    wanted: int = options["settings"].max_clients
    if (room := room_for(wanted)) is not None:
        can = f"of {wanted} clients (--max-clients) only {room.connections} can be connected at once"
        warn(f"{can}: this process may have {room.limit} files open; raise that (ulimit -n)")
    async with open_proxy(url, **options) as running:
        with ExitStack() as stack:
            stack.enter_context(collected_in_quiet(running.records))
            if journal is not None:
                stack.enter_context(running.records.listen(journal.write))
            yield running
