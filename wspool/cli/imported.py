"""Things of the user's that an option names: `pkg.mod:name`, or `./file.py:name`."""

import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from wspool.cli.usage import usage_error

__all__ = ["check_arity", "imported"]


def imported(option: str, name: str, form: str = "pkg.mod:name or ./file.py:name") -> Any:
    """Return what *name* names. A mistake in it ends the command.

    The working directory is looked in last, so that a file in it stands in for no installed package; a
    file that is named by its path is taken from there, and finds its neighbours.
    """
    module_name, colon, attribute = name.rpartition(":")
    if not colon or not module_name or not attribute:
        usage_error(f"{option} {name!r} must be {form}")
    try:
        found: Any = _from_file(Path(module_name)) if module_name.endswith(".py") else _module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (Exception, SystemExit) as problem:  # whatever the user's module raises
        usage_error(f"{option} {name!r} cannot be imported: {type(problem).__name__}: {problem}")
    return found


def _module(name: str) -> ModuleType:
    here = os.getcwd()
    if here not in sys.path:
        sys.path.append(here)
    return importlib.import_module(name)


def _from_file(path: Path) -> ModuleType:
    name = path.stem
    known = sys.modules.get(name)
    if known is not None and getattr(known, "__file__", None) == str(path.resolve()):
        return known  # an agent and its tools may be in one file
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    if spec is None or spec.loader is None or not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    if known is not None:
        raise ImportError(f"{name} is the name of another module; call the file something else")
    if (directory := str(path.resolve().parent)) not in sys.path:
        sys.path.append(directory)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # so that what is pickled or inspected there can be found
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def check_arity(
    option: str, name: str, function: Callable[..., object], /, *arguments: str, **named: object
) -> None:
    """End the command unless *function* can be called with so many arguments, and those that are *named*."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # written in C, or it does not tell
    try:
        signature.bind(*arguments, **named)
    except TypeError as problem:
        called = ", ".join([*arguments, *(f"{each}=" for each in named)])
        usage_error(f"{option} {name!r} is called with ({called}), and takes {signature}: {problem}")
