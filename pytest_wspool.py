"""The pytest plugin of wspool: a local provider and cassettes for whoever speaks the Responses API.

It is registered by itself and loads nothing until a test asks for one of its fixtures. Both servers run in a
thread of their own, so tests may be plain functions, or of pytest-trio, anyio or pytest-asyncio.

- `wspool_server`: a provider on a free port (`wspool.testing.LocalServer`). `.url` is for WebSocket,
  `.base_url` for SDKs. `.script("Hello")` says what it answers, `.fault("reset", request=2)` what goes
  wrong; `.ledger` and `.expect(requests=2)` are about what it did.
  `@pytest.mark.wspool_server(api_key="k")` sets options of `wspool.server.open_server`. What its model
  raised is raised at the end.
- `wspool_cassette`: an endpoint that answers from a file (`wspool.testing.Tape`), with the same URLs. The
  file is `cassettes/<module>/<test>.json` beside the test; `@pytest.mark.wspool_cassette("name.json")`
  names another, and the fixture `wspool_cassette_dir` another place. A request that no exchange of the
  file answers fails the test; its first difference to the nearest one is named.

`pytest --wspool-record=URL` records the cassettes that are not there yet (see `--wspool-record-mode`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from wspool.testing.local import LocalServer
    from wspool.testing.tape import Mode, Tape

_FAILED = pytest.StashKey[bool]()

#: As in `wspool.testing.tape`, which is not loaded before it is needed.
_MODES: tuple[Mode, ...] = ("once", "new_episodes", "rewrite")


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of recording."""
    group = parser.getgroup("wspool", "cassettes of the Responses API (wspool)")
    group.addoption(
        "--wspool-record",
        metavar="URL",
        default=os.environ.get("WSPOOL_RECORD") or None,
        help="Record cassettes from this endpoint, ws:// or wss:// (default: $WSPOOL_RECORD; else replay).",
    )
    group.addoption(
        "--wspool-record-mode",
        choices=_MODES,
        default="once",
        help="once: those not there yet; new_episodes: what they do not answer, too; rewrite: all anew.",
    )
    group.addoption(
        "--wspool-record-key-env",
        metavar="NAME",
        default=None,
        help="Environment variable that holds the endpoint's key (default: that of its provider).",
    )


def pytest_configure(config: pytest.Config) -> None:
    """The marks."""
    config.addinivalue_line("markers", "wspool_server(**options): options of wspool.server.open_server")
    config.addinivalue_line("markers", "wspool_cassette(path): the file of the cassette of this test")


def pytest_report_header(config: pytest.Config) -> str | None:
    """Say that something is recorded: it may cost money."""
    if config.getoption("--wspool-record") is None:
        return None
    return f"wspool: cassettes are recorded, {config.getoption('--wspool-record-mode')}"


@pytest.hookimpl(hookwrapper=True)  # the older form: this is loaded by whatever pytest there is
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, None]:
    """Note whether the test failed: then what it recorded is not worth keeping."""
    outcome = yield
    item.stash[_FAILED] = item.stash.get(_FAILED, False) or outcome.get_result().failed


@pytest.fixture
def wspool_server(request: pytest.FixtureRequest) -> Iterator[LocalServer]:
    """A local provider of the Responses API on a free port."""
    from wspool.testing.local import local_server

    options: dict[str, Any] = {}
    for mark in reversed(list(request.node.iter_markers("wspool_server"))):
        options |= mark.kwargs
    with local_server(**options) as server:
        yield server


@pytest.fixture(scope="module")
def wspool_cassette_dir(request: pytest.FixtureRequest) -> Path:
    """Where the cassettes of a module are; override it to have them elsewhere."""
    return request.path.parent / "cassettes" / request.path.stem


@pytest.fixture
def wspool_cassette(request: pytest.FixtureRequest, wspool_cassette_dir: Path) -> Iterator[Tape]:
    """An endpoint that answers from a file, or is recorded into it."""
    from wspool.testing.cassette import CassetteError
    from wspool.testing.tape import tape_server

    option = request.config.getoption
    record, key_name = option("--wspool-record"), option("--wspool-record-key-env")
    mode: Mode = next(mode for mode in _MODES if mode == option("--wspool-record-mode"))
    mark = request.node.get_closest_marker("wspool_cassette")
    name = mark.args[0] if mark and mark.args else re.sub(r"[^\w.\[\]-]+", "-", request.node.name) + ".json"
    path = Path(wspool_cassette_dir) / name
    if record is None and not path.exists():
        pytest.fail(
            f"there is no cassette {path}; record it with --wspool-record=wss://... (or ws://127.0.0.1:...)",
            pytrace=False,
        )
    if key_name is not None and not os.environ.get(key_name):
        pytest.fail(f"--wspool-record-key-env: there is no {key_name} in the environment", pytrace=False)
    key = os.environ[key_name] if key_name is not None else None
    with ExitStack() as opened:
        try:
            tape = opened.enter_context(tape_server(path, record=record, mode=mode, api_key=key))
        except (CassetteError, OSError, ValueError) as problem:
            pytest.fail(f"wspool_cassette: {problem}", pytrace=False)
        yield tape
        tape.kept = not request.node.stash.get(_FAILED, False) and not tape.problems
    if tape.problems:
        pytest.fail(
            "\n".join([f"{path.name} does not answer what was asked:", *tape.problems]), pytrace=False
        )
