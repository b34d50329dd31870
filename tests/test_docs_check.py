"""Every public name is documented, and so is every field of every public attrs class, in its own class.

Public is what a package exports for its users. A field's sentence stands in the docstring of its class, or
below the field, or in a comment (`#:`) above it; that of an inherited one in the class that it comes from.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import itertools
import re
import textwrap
from pathlib import Path

import attrs
import pytest

import wspool

SOURCE = Path(wspool.__file__).parent
REFERENCE = Path(__file__).parent.parent / "docs" / "reference"

#: What users import; all other modules are rooms of the house.
PUBLIC = [
    "wspool",
    "wspool.contrib",
    "wspool.http",
    "wspool.otel",
    "wspool.prometheus",
    "wspool.proxy",
    "wspool.ray",
    "wspool.rollout",
    "wspool.server",
    "wspool.testing",
    "wspool.testing.explore",
    "wspool.timeline",
    "wspool.wire.wire",
]


def attrs_classes(name: str) -> list[type]:
    """The attrs classes that a module exports."""
    module = importlib.import_module(name)
    exported = [getattr(module, each) for each in getattr(module, "__all__", ())]
    return [each for each in exported if isinstance(each, type) and attrs.has(each)]


def documented_fields(kind: type) -> set[str]:
    """The names that the docstring of *kind* itself has a sentence for, each at the beginning of a line.

    Several that are one thing may share a sentence: "host, port: where it is".
    """
    found: set[str] = set()
    doc = inspect.cleandoc(vars(kind).get("__doc__") or "")
    for line in doc.splitlines():
        if (match := re.match(r" +((?:`?\*{0,2}\w+`?)(?:, `?\w+`?)*):(?: |$)", line)) is not None:
            found |= set(re.findall(r"\w+", match[1]))
    return found


def fields_with_sentences(kind: type) -> set[str]:
    """The fields of *kind* that have one below them, as a string, or above them, as a comment."""
    source = textwrap.dedent(inspect.getsource(kind))
    found = set(re.findall(r"#:[^\n]*\n\s+(\w+)\s*[:=]", source))
    (body,) = (node.body for node in ast.parse(source).body if isinstance(node, ast.ClassDef))
    for field, below in itertools.pairwise(body):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
            and isinstance(below.value.value, str)
        ):
            found.add(field.target.id)
    return found


@pytest.mark.parametrize("name", PUBLIC)
def test_every_field_of_an_attrs_class_is_documented(name: str) -> None:
    """In the docstring of its own class: what that of another one says is of no use to whoever reads this."""
    missing = {
        f"{kind.__name__}.{field.name}"
        for kind in attrs_classes(name)
        for field in attrs.fields(kind)
        if not field.name.startswith("_")
        and (not field.inherited)
        and field.name not in documented_fields(kind) | fields_with_sentences(kind)
    }

    assert set() == missing


@pytest.mark.parametrize("name", PUBLIC)
def test_a_docstring_has_no_field_that_there_is_not(name: str) -> None:
    """A sentence about what was renamed or taken away is worse than none."""
    wrong = set()
    for kind in attrs_classes(name):
        fields = {field.alias for field in attrs.fields(kind)} | {field.name for field in attrs.fields(kind)}
        there = fields | set(dir(kind)) | {field.lstrip("_") for field in fields}
        wrong |= {f"{kind.__name__}.{each}" for each in attributes_section(kind) - there}

    assert set() == wrong


def attributes_section(kind: type) -> set[str]:
    """The names of the section `Attributes:` of a docstring."""
    doc = inspect.cleandoc(vars(kind).get("__doc__") or "")
    if "Attributes:\n" not in doc:
        return set()
    section = doc.split("Attributes:\n", 1)[1]
    indent = len(section) - len(section.lstrip(" "))
    found: set[str] = set()
    for line in section.splitlines():
        if line.strip() and len(line) - len(line.lstrip(" ")) < indent:
            break
        if (match := re.match(rf" {{{indent}}}(\w+(?:, \w+)*):(?: |$)", line)) is not None:
            found |= set(re.findall(r"\w+", match[1]))
    return found


@pytest.mark.parametrize("name", wspool.__all__)
def test_every_public_name_says_what_it_is(name: str) -> None:
    """A class and a function in a docstring, a constant and an alias in a comment above it."""
    value = getattr(wspool, name)
    if inspect.isclass(value) or inspect.isfunction(value):
        assert inspect.getdoc(value), f"{name} has no docstring"
    else:
        assert name in commented_names(), f"no comment (#:) says what {name} is"


def commented_names() -> set[str]:
    """Every name of the package that is assigned right below a `#:` comment."""
    found: set[str] = set()
    for path in SOURCE.rglob("*.py"):
        found |= set(re.findall(r"^#:[^\n]*\n(\w+)\s*[:=]", path.read_text(encoding="utf-8"), re.MULTILINE))
    return found


def test_every_public_name_is_in_the_reference() -> None:
    """Where people look."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in REFERENCE.rglob("*.md"))
    missing = {name for name in wspool.__all__ if not re.search(rf"\b{re.escape(name)}\b", text)}

    assert set() == missing
