"""What is public is listed, exists, is documented, and is complete."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import subprocess
import sys
import typing
from contextlib import AbstractAsyncContextManager

import attrs
import pytest

import wspool

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(wspool.__path__, "wspool.")
    if not module.name.endswith("__main__")
)


def test_all_names_of_the_package_are_listed() -> None:
    """`__all__` is sorted out by hand, so it is compared with what is there."""
    present = {
        name
        for name, value in vars(wspool).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }

    # Found by the module's `__getattr__`, for it is not needed on trio.
    assert present | {"Runtime"} == set(wspool.__all__)


def test_what_open_pool_takes_and_returns_can_be_named() -> None:
    """By whoever annotates a variable with it, and by what reads annotations while it runs, as sites do."""
    assert AbstractAsyncContextManager[wspool.Pool] == typing.get_type_hints(wspool.open_pool)["return"]


@pytest.mark.parametrize("door", ["aio.open_pool", "blocking.open_pool", "http.async_client"])
def test_the_doors_are_there_with_the_package(door: str) -> None:
    """README writes them so, beside `import wspool`; who is on trio has loaded none of them."""
    name = door.partition(".")[0]
    program = f"import sys, wspool; assert 'wspool.{name}' not in sys.modules; wspool.{door}"
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("name", MODULES)
def test_a_module_exports_what_it_says(name: str) -> None:
    """Every name in `__all__` exists, and every public function and class is documented."""
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if name.startswith("wspool.contrib."):  # whose classes are made of a host's
            pytest.skip(f"not installed: {error.name}")
        raise

    assert (module.__doc__ or "").strip(), f"{name} has no docstring"
    for exported in getattr(module, "__all__", ()):
        value = getattr(module, exported)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert inspect.getdoc(value), f"{name}.{exported} has no docstring"


@pytest.mark.parametrize("name", wspool.__all__)
def test_public_methods_are_documented(name: str) -> None:
    """Whatever a user can call says what it does."""
    value = getattr(wspool, name)
    if not inspect.isclass(value):
        return
    for attribute, member in vars(value).items():
        if attribute.startswith("_") or attrs.has(value):
            continue
        function = member.fget if isinstance(member, property) else member
        if inspect.isfunction(function):
            assert inspect.getdoc(function), f"{name}.{attribute} has no docstring"


def test_the_error_tree_is_the_one_in_its_module() -> None:
    """The tree in the docstring of `wspool.errors` names every error and its parent."""
    import wspool.errors as errors

    doc = inspect.getdoc(errors) or ""
    for name in errors.__all__:
        assert name in doc
        assert issubclass(getattr(errors, name), errors.WsPoolError)
        assert name in wspool.__all__
