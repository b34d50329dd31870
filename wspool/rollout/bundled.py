"""The bundled tasks: questions about the standard library that is installed here, with the right answers.

The answers are computed when the tasks are made, from the running interpreter and never by the bundled
tools: `inspect` says where a thing is defined, `ast` what a module imports and defines, `tokenize` (which
knows encodings and line ends) how long a file is, and the classes themselves what they derive from. So an
answer that is right was found by looking.

The targets are pure Python and are there in every CPython from 3.11 on; one that is not (a distribution may
leave packages out) is left out of the batch."""

import ast
import importlib
import inspect
import re
import tokenize
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

import attrs

from wspool.rollout.tasks import Task
from wspool.rollout.tools import TOOL_SCHEMAS, standard_library

__all__ = ["bundled_tasks"]

_INSTRUCTIONS: Final = (
    "You answer questions about the Python source code in one directory, which you can only see through "
    "your tools. Paths are relative to that directory. Never answer from memory. Answer exactly in the form "
    "that is asked for."
)

#: (package to search, public place of the thing)
_WHERE: Final = [
    ("json", "json:JSONDecoder"),
    ("json", "json.scanner:py_make_scanner"),
    ("asyncio", "asyncio:gather"),
    ("asyncio", "asyncio:TaskGroup"),
    ("email", "email.message:EmailMessage"),
    ("http", "http.client:HTTPConnection"),
    ("urllib", "urllib.parse:urlencode"),
    ("logging", "logging.handlers:RotatingFileHandler"),
    ("unittest", "unittest:TestCase"),
    ("concurrent", "concurrent.futures:ThreadPoolExecutor"),
    ("html", "html.parser:HTMLParser"),
    ("xmlrpc", "xmlrpc.client:ServerProxy"),
    ("collections", "collections:ChainMap"),
    ("tomllib", "tomllib:loads"),
]
_WHERE_ALL: Final = [
    ("urllib", ["urllib.request:urlopen", "urllib.parse:quote", "urllib.robotparser:RobotFileParser"]),
    ("asyncio", ["asyncio:wait_for", "asyncio:StreamReader", "asyncio:Semaphore", "asyncio:to_thread"]),
    ("logging", ["logging:FileHandler", "logging.handlers:SysLogHandler", "logging.config:dictConfig"]),
    (
        "unittest",
        [
            "unittest:TestLoader",
            "unittest:TextTestRunner",
            "unittest:TestSuite",
            "unittest.mock:NonCallableMock",
        ],
    ),
    ("http", ["http.cookies:SimpleCookie", "http.cookiejar:CookieJar", "http.server:BaseHTTPRequestHandler"]),
    (
        "email",
        [
            "email.parser:BytesParser",
            "email.generator:Generator",
            "email.feedparser:FeedParser",
            "email.utils:parseaddr",
        ],
    ),
]
#: (package, with subpackages, several calls in one turn)
_LINES: Final = [
    ("json", False, True),
    ("http", False, False),
    ("wsgiref", False, True),
    ("asyncio", False, True),
    ("encodings", False, True),
    ("email", True, True),
    ("xml", True, False),
    ("importlib", True, False),
    ("multiprocessing", True, True),
]
_LONGEST: Final = [
    ("asyncio", False, False),
    ("email", False, False),
    ("multiprocessing", True, True),
    ("unittest", False, True),
    ("concurrent", True, False),
    ("importlib", True, True),
    ("urllib", False, True),
]
_IMPORTERS: Final = [
    ("asyncio", "sys", True),
    ("asyncio", "socket", True),
    ("email", "re", False),
    ("multiprocessing", "os", False),
    ("multiprocessing", "threading", True),
    ("logging", "threading", False),
    ("http", "urllib", True),
    ("unittest", "functools", True),
]
_DEFINITIONS: Final = [
    "argparse",
    "http.client",
    "email.message",
    "logging.config",
    "json.decoder",
    "unittest.case",
]
_ANCESTRY: Final = [
    ("email", "email.mime.text:MIMEText"),
    ("logging", "logging.handlers:TimedRotatingFileHandler"),
    ("asyncio", "asyncio:StreamReaderProtocol"),
    ("urllib", "urllib.request:HTTPHandler"),
    ("xmlrpc", "xmlrpc.client:SafeTransport"),
    ("http", "http.client:IncompleteRead"),
]


@attrs.frozen
class _Question:
    id: str
    question: str
    form: str
    truth: Callable[[], str]
    parallel: bool = True

    def as_task(self) -> Task | None:
        """The task, None if this installation does not have what is asked about."""
        try:
            expected = self.truth()
        except (ImportError, AttributeError, OSError, LookupError):
            return None
        body: dict[str, Any] = {
            "input": f"{self.question} Answer with {self.form} only.",
            "instructions": _INSTRUCTIONS,
            "tools": TOOL_SCHEMAS,
            "parallel_tool_calls": self.parallel,
            "store": False,
        }
        return Task(id=self.id, body=body, source={"id": self.id, **body}, expected=expected)


def bundled_tasks() -> list[Task]:
    """The tasks, always in the same order. Imports and parses parts of the standard library: about half a
    second."""
    tasks = (question.as_task() for question in (*_about_places(), *_about_packages()))
    return [task for task in tasks if task is not None]


def _about_places() -> Iterator[_Question]:
    for package, target in _WHERE:
        name = _name(target)
        yield _Question(
            f"where-{name}",
            f"In which module of the package `{package}` is `{name}` defined, and on which line?",
            "module:line",
            partial(_where, target),
        )
    for package, targets in _WHERE_ALL:
        names = [f"`{_name(target)}`" for target in targets]
        yield _Question(
            f"where-{package}",
            f"In which modules of the package `{package}` and on which lines are "
            f"{', '.join(names[:-1])} and {names[-1]} defined?",
            "name=module:line, in the order asked, separated by a comma and a space,",
            partial(_where_all, targets),
        )


def _about_packages() -> Iterator[_Question]:
    for package, deep, parallel in _LINES:
        yield _Question(
            f"lines-{package}",
            f"How many lines do the modules of the package `{package}` have together, "
            f"{_depth(deep)} its subpackages?",
            "the number",
            partial(_lines, package, deep=deep),
            parallel,
        )
    for package, deep, parallel in _LONGEST:
        yield _Question(
            f"longest-{package}",
            f"Which module of the package `{package}` has the most lines, {_depth(deep)} its subpackages?",
            "its full name",
            partial(_longest, package, deep=deep),
            parallel,
        )
    for package, imported, parallel in _IMPORTERS:
        yield _Question(
            f"importers-{package}-{imported}",
            f"Which modules of the package `{package}` import `{imported}`? "
            "Look at its subpackages too, and at imports inside of functions.",
            "their full names, in alphabetical order, separated by a comma and a space,",
            partial(_importers, package, imported),
            parallel,
        )
    for module in _DEFINITIONS:
        yield _Question(
            f"definitions-{module}",
            f"How many classes and how many functions does the module `{module}` define at its top level?",
            "`N classes, M functions`",
            partial(_definitions, module),
        )
    for package, target in _ANCESTRY:
        name = _name(target)
        yield _Question(
            f"ancestry-{name}",
            f"Beginning with `{name}`, which classes are passed by following the first base class "
            f"inside the package `{package}`?",
            "their names, beginning with the first, separated by ` > `,",
            partial(_ancestry, package, target),
            parallel=False,
        )


def _depth(deep: bool) -> str:
    return "with" if deep else "without"


def _name(target: str) -> str:
    return target.partition(":")[2]


def _find(target: str) -> Any:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def _where(target: str) -> str:
    thing = inspect.unwrap(_find(target))
    lines, first = inspect.getsourcelines(thing)
    # The source of a decorated thing begins with its decorators.
    offset = next(i for i, line in enumerate(lines) if re.match(r"(async def|def|class)\b", line))
    return f"{thing.__module__}:{first + offset}"


def _where_all(targets: Sequence[str]) -> str:
    return ", ".join(f"{_name(target)}={_where(target)}" for target in targets)


def _lines(package: str, *, deep: bool) -> str:
    return str(sum(_length(file) for _, file in _modules(package, deep=deep)))


def _longest(package: str, *, deep: bool) -> str:
    return max(_modules(package, deep=deep), key=lambda module: _length(module[1]))[0]


def _importers(package: str, name: str) -> str:
    return ", ".join(
        sorted(
            module
            for module, file in _modules(package, deep=True)
            if any(_within(imported, name) for imported in _imports(file))
        )
    )


def _modules(package: str, *, deep: bool) -> Sequence[tuple[str, Path]]:
    """The modules of *package*, sorted by path: name and file."""
    library = standard_library()
    directory = library / package
    found = sorted(directory.rglob("*.py") if deep else directory.glob("*.py"))
    if not found:
        raise FileNotFoundError(directory)
    parts = [(file.relative_to(library).with_suffix("").parts, file) for file in found]
    return [(".".join(names).removesuffix(".__init__"), file) for names, file in parts]


def _length(file: Path) -> int:
    with tokenize.open(file) as lines:
        return sum(1 for _ in lines)


def _parse(source: str | bytes) -> ast.Module:
    try:
        return ast.parse(source)
    except SystemError:
        # CPython before 3.11.8 miscounts if something else is parsed meanwhile, in another thread or by what
        # is collected then, as who prints a traceback does (gh-106905). Not twice, most likely.
        return ast.parse(source)


def _statements(tree: ast.Module) -> Iterator[ast.AST]:
    """Every statement in *tree*; most of what `ast.walk` passes are expressions, which hold none."""
    found: list[ast.AST] = [tree]
    for node in found:  # which grows meanwhile
        yield node
        for name in ("body", "orelse", "finalbody", "handlers", "cases"):
            found += getattr(node, name, ())


@cache
def _imports(file: Path) -> frozenset[str]:
    """The modules that statements in *file* import, or import something from."""
    found: set[str] = set()
    for node in _statements(_parse(file.read_bytes())):
        match node:
            case ast.Import(names=names):
                found.update(alias.name for alias in names)
            case ast.ImportFrom(module=str(module), level=0):
                found.add(module)
            case _:
                pass
    return frozenset(found)


def _within(module: str, name: str) -> bool:
    return module == name or module.startswith(f"{name}.")


def _definitions(module: str) -> str:
    statements = _parse(inspect.getsource(importlib.import_module(module))).body
    classes = sum(isinstance(statement, ast.ClassDef) for statement in statements)
    functions = sum(isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef) for statement in statements)
    return f"{classes} classes, {functions} functions"


def _ancestry(package: str, target: str) -> str:
    passed: list[str] = []
    ancestor: type[Any] = _find(target)
    while _within(ancestor.__module__, package):
        passed.append(ancestor.__name__)
        ancestor = ancestor.__bases__[0]
    return " > ".join(passed)
