"""What the site says of the code, made from the code: `{generated} NAME` puts it into a page.

A table that is written by hand is wrong a month later. What is here is read where it is true: the command
line from its own `--help`, settings from the docstrings of their classes, states from the legality tables.
"""

import enum
import functools
import inspect
import re
from collections.abc import Callable
from typing import Any, get_args

import attrs
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import wspool
from tests.spec.diagrams import DIAGRAMS, DRAWN
from wspool.core.policy import PROVIDERS
from wspool.server import FAULTS


def described(cls: type) -> dict[str, str]:
    """The `Attributes:` of a class's docstring, by name, each on one line."""
    doc = inspect.cleandoc(cls.__doc__ or "")
    section = re.search(r"^Attributes:\n((?:[ \t]+.*\n?|\n)+)", doc, re.MULTILINE)
    found: dict[str, str] = {}
    name = ""
    for line in section.group(1).splitlines() if section else ():
        begun = re.match(r" {2,4}([\w, ]+): (.*)", line)
        if begun and not line.startswith("     "):
            name = begun.group(1)
            found[name] = begun.group(2)
        elif line.strip():
            found[name] += " " + line.strip()
    return found


def _shown(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1024 * 1024 and not value % 1024:
        return f"{value // (1024 * 1024)} MiB"
    if isinstance(value, float):
        return f"{value:g}"
    return f"`{value!r}`".replace("'", '"')


def _table(head: str, rows: list[tuple[str, ...]]) -> str:
    columns = head.split("|")
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def _settings(cls: Any, sample: Any) -> str:
    words = described(cls)
    rows = [
        (f"`{field.name}`", _shown(getattr(sample, field.name)), words[field.name])
        for field in attrs.fields(cls)
    ]
    return _table("setting|default|meaning", rows)


def policy() -> str:
    """Every field of `PoolPolicy` with its default."""
    return _settings(wspool.PoolPolicy, wspool.PoolPolicy())


def provider() -> str:
    """Every field of `Provider` with its default."""
    words = described(wspool.Provider)
    rows = [
        (
            f"`{field.name}`",
            "" if field.default is attrs.NOTHING else _shown(field.default),
            words[field.name],
        )
        for field in attrs.fields(wspool.Provider)
    ]
    return _table("field|default|meaning", rows)


def providers() -> str:
    """The known providers, and what each can do."""
    rows = [
        (
            f'`"{name}"`',
            f"{one.max_lifetime / 60:g} min",
            str(one.lanes),
            _shown(one.max_request),
            "yes" if one.warm_up else "no",
            "yes" if one.steering else "no",
            f"`{one.key_header}`",
        )
        for name, one in PROVIDERS.items()
    ]
    return _table("provider|a connection lives|lanes|largest request|warm-up|steering|key header", rows)


def commands() -> str:
    """`--help` of each command, as it is."""
    from typer.main import get_command

    from wspool.cli.app import app

    top = get_command(app)
    parts = []
    # A group, which typer types as any command: hence the ignores.
    with top.make_context("wspool", [], resilient_parsing=True) as above:
        for name in top.list_commands(above):  # type: ignore[attr-defined]
            command = top.get_command(above, name)  # type: ignore[attr-defined]
            with command.make_context(name, [], parent=above, resilient_parsing=True) as context:
                context.terminal_width = context.max_content_width = 100
                parts.append(f"## wspool {name}\n\n```text\n{command.get_help(context).rstrip()}\n```\n")
    assert parts, "there are no commands"
    return "\n".join(parts)


def server_faults() -> str:
    """Every fault of the local provider."""
    rows = [
        (f"`{name}`", kind.group, f"{'after' if kind.after else 'before'} `{kind.at}`", kind.doc)
        for name, kind in sorted(FAULTS.items(), key=lambda pair: (pair[1].group, pair[0]))
    ]
    return _table("name|kind|where, unless asked otherwise|what happens", rows)


def prometheus_metrics() -> str:
    """Every metric of the Prometheus instrument."""
    from wspool.prometheus import METRICS

    rows = [
        (f"`{name}`", one.kind, ", ".join(f"`{label}`" for label in one.labels), one.help)
        for name, one in METRICS.items()
    ]
    return _table("metric|kind|labels|what it is", rows)


def _values(kind: Any) -> list[str]:
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return [str(member.value) for member in kind]
    return [str(value) for value in get_args(kind)]


def literals() -> str:
    """What each literal may be."""
    names = ("Delivery", "TurnStatus", "MoveReason", "CloseReason", "SteerState")
    rows = [
        (f"`{name}`", ", ".join(f"`{value}`" for value in _values(getattr(wspool, name)))) for name in names
    ]
    return _table("type|one of", rows)


def _diagram(name: str) -> str:
    picture = (DRAWN / f"{name}.svg").read_text(encoding="utf-8")
    return f'```{{raw}} html\n<div class="diagram">\n{picture}</div>\n```\n'


MADE: dict[str, Callable[[], str]] = {
    "policy": policy,
    "provider": provider,
    "providers": providers,
    "commands": commands,
    "server-faults": server_faults,
    "metrics": prometheus_metrics,
    "literals": literals,
    **{name: functools.partial(_diagram, name) for name in DIAGRAMS},
}


class Generated(SphinxDirective):
    """Put a made text, in Markdown, where the directive is."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Make it and read it."""
        return self.parse_text_to_nodes(MADE[self.arguments[0]](), allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register it."""
    app.add_directive("generated", Generated)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
