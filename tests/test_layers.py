"""The architecture is a test: imports only point down, there is no cycle, and nothing is too long to read."""

from __future__ import annotations

import ast
import functools
import io
import subprocess
import sys
import tokenize
from pathlib import Path

import wspool

SOURCE = Path(wspool.__file__).parent

#: What the pure core must never see, beside everything of ours above it.
IMPURE = {
    "trio",
    "time",
    "random",
    "socket",
    "ssl",
    "logging",
    "os",
    "threading",
    "asyncio",
    "trio_websocket",
}

#: Floor by floor: what each part may import of wspool.
MAY_IMPORT = {
    "core": {"core"},
    "wire": {"wire"},
    "errors": {"core"},
    "pool": {"core", "wire", "errors", "pool"},
    "listening": {"listening"},
    "proxy": {"prometheus", "core", "wire", "errors", "pool", "listening", "http", "proxy", ""},
    "server": {"listening", "server"},
    "testing": {"core", "wire", "errors", "pool", "listening", "server", "testing"},
    "rollout": {"core", "errors", "pool", "runtime", "server", "rollout", ""},
    "report": {"core", "rollout", "report", ""},
    "cli": {
        "core",
        "wire",
        "errors",
        "pool",
        "server",
        "rollout",
        "report",
        "ray",
        "proxy",
        "testing",
        "cli",
        "timeline",
        "",
    },
    "ray": {"rollout", "aio", "ray", ""},
    "runtime": {"errors", "bells"},
    "bells": {"errors"},
    "blocks": {"pool", "runtime"},
    "facade": {"core", "errors", "pool", "runtime", "blocks"},
    "aio": {"core", "errors", "pool", "runtime", "facade", "bells", "blocks"},
    "blocking": {"core", "errors", "pool", "runtime", "facade", "bells", "blocks"},
    "contrib": {"core", "errors", "http", "blocking", "contrib", ""},
    "http": {"core", "wire", "errors", "pool", "runtime", "bells", "http"},
    "prometheus": {"core", "pool"},
    "otel": {"core", "pool", "otel"},
    "timeline": {"core", "pool"},
    "": {"core", "errors", "pool", "runtime", "aio", "blocking", "http"},
    "__main__": {"cli"},
}

#: Room by room: what each room of the core may import of the core, beside the words that are outside of all.
ROOMS = {
    "lending": {"lending"},
    "events": {"events"},
    "matching": {"matching"},
    "sending": {"sending", "events", "matching"},
    "": set[str](),
}

#: And of the proxy, beside what is outside of all: its words, one visit, and what puts all together.
ROOMS_OF_PROXY = {
    "records": {"records"},
    "access": {"access", "records"},
    "turns": {"turns", "records"},
    "sockets": {"sockets", "access"},
    "entrance": {"entrance", "access", "turns", "sockets"},
    "page": {"page", "access", "records"},
}

#: What one can read at a sitting, and what one can see at a glance; in lines.
LONGEST_MODULE = 450
LONGEST_FUNCTION = 70
#: What Ray needs of its own, in lines of code: what else many processes have in common is no matter of Ray.
LONGEST_RAY = 200


@functools.cache
def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    found = {}
    for path in SOURCE.rglob("*.py"):
        parts = ["wspool", *path.relative_to(SOURCE).with_suffix("").parts]
        if parts[-1] == "__init__":
            parts.pop()
        found[".".join(parts)] = path
    return found


@functools.cache
def imports(path: Path) -> set[str]:
    """Every module that *path* imports anywhere, lazily or for type checkers only, by dotted name."""
    names = set()
    known = modules()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            module = node.module or ""
            for alias in node.names:
                full = f"{module}.{alias.name}"
                names.add(full if full in known else module)
    return names


def part(name: str) -> str:
    """The part of wspool that a module belongs to; empty for the package itself."""
    pieces = name.split(".")
    return pieces[1] if len(pieces) > 1 else ""


def test_imports_only_point_down() -> None:
    """No floor knows one above it, and `server`, `rollout`, `cli`, `contrib` are known to none."""
    wrong = [
        f"{name} imports {target}"
        for name, path in modules().items()
        for target in imports(path)
        if target.split(".")[0] == "wspool" and part(target) not in MAY_IMPORT[part(name)]
    ]

    assert [] == wrong


def room(name: str) -> str:
    """The room of the core that a module is in; empty for what is outside of all."""
    pieces = name.split(".")
    return pieces[2] if len(pieces) > 2 and pieces[2] in ROOMS else ""


def test_a_room_of_the_core_knows_those_below_it_only() -> None:
    """Who gets a lane, what an event means and what is sent are three questions."""
    rooms = {path.name for path in (SOURCE / "core").iterdir() if (path / "__init__.py").exists()}
    wrong = [
        f"{name} imports {target}"
        for name, path in modules().items()
        if part(name) == "core"
        for target in imports(path)
        if part(target) == "core" and room(target) not in {"", *ROOMS[room(name)]}
    ]

    assert rooms == ROOMS.keys() - {""}
    assert [] == wrong


def test_a_room_of_the_proxy_knows_those_that_it_asks_only() -> None:
    """Who may ask, how a turn is answered, what is known of it and what is shown are questions apart."""
    rooms = {path.name for path in (SOURCE / "proxy").iterdir() if (path / "__init__.py").exists()}
    wrong = [
        f"{name} imports {target}"
        for name, path in modules().items()
        for target in imports(path)
        if (inside := _room_of_proxy(name)) and _room_of_proxy(target) not in {"", *ROOMS_OF_PROXY[inside]}
    ]

    assert rooms == ROOMS_OF_PROXY.keys()
    assert [] == wrong


def _room_of_proxy(name: str) -> str:
    pieces = name.split(".")
    return pieces[2] if pieces[1:2] == ["proxy"] and pieces[2:3] and pieces[2] in ROOMS_OF_PROXY else ""


def test_no_module_is_too_long() -> None:
    """A module is one idea; what needs a table of contents is two."""
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in modules().items()}

    assert {} == {name: length for name, length in lengths.items() if length > LONGEST_MODULE}


def test_no_function_is_too_long() -> None:
    """From its first line to its last, decorators and docstring as well."""
    lengths = {
        f"{name}.{node.name}": (node.end_lineno or node.lineno) - min([node.lineno, *decorators]) + 1
        for name, path in modules().items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        for decorators in [[decorator.lineno for decorator in node.decorator_list]]
    }

    assert {} == {name: length for name, length in lengths.items() if length > LONGEST_FUNCTION}


def test_ray_is_small() -> None:
    """A rule of a run that is many processes stands in `wspool/rollout/team`: its tests need no Ray."""
    lines = sum(_code_lines(path) for name, path in modules().items() if part(name) == "ray")

    assert 0 < lines <= LONGEST_RAY


def _code_lines(path: Path) -> int:
    """Lines that are neither blank, nor a comment, nor of a docstring."""
    text = path.read_text(encoding="utf-8")
    documented = [
        node.body[0]
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and ast.get_docstring(node) is not None
    ]
    words = {line for node in documented for line in range(node.lineno, (node.end_lineno or 0) + 1)}
    no_code = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    lines = {
        line
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type not in {*no_code, tokenize.ENDMARKER}
        for line in range(token.start[0], token.end[0] + 1)
    }
    return len(lines - words)


def test_the_core_is_pure() -> None:
    """The core runs without an event loop, a clock, a socket or a log."""
    wrong = [
        f"{name} imports {target}"
        for name, path in modules().items()
        if part(name) == "core"
        for target in imports(path)
        if target.split(".")[0] in IMPURE
    ]

    assert [] == wrong


def test_there_is_no_import_cycle() -> None:
    """Not even a lazy one, nor one for type checkers only."""
    graph = {name: imports(path) & set(modules()) for name, path in modules().items()}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"cycle: {' -> '.join((*trail, name))}"
        if name not in done:
            for target in sorted(graph[name] - {name}):
                visit(target, (*trail, name))
            done.add(name)

    for name in sorted(graph):
        visit(name, ())


def test_importing_wspool_loads_no_extra() -> None:
    """Only the three dependencies are loaded, and nothing of the server or the command line."""
    code = "import sys, wspool; print(*sorted(sys.modules))"
    loaded = set(subprocess.check_output([sys.executable, "-c", code], text=True).split())

    unwanted = {
        "typer",
        "rich",
        "httpx",
        "openai",
        "websockets",
        "orjson",
        "opentelemetry",
        "prometheus_client",
    }
    assert set() == {name.split(".")[0] for name in loaded} & unwanted
    assert not any(name.startswith(("wspool.server", "wspool.rollout", "wspool.cli")) for name in loaded)
