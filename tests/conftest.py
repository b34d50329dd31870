"""Shared by all tests: Hypothesis profiles, and guards against async tests that never finished, against tests
that others would notice, and against those that miss the marks that they name.
"""

from __future__ import annotations

import functools
import gc
import inspect
import logging
import os
import signal
from collections.abc import Awaitable, Callable, Generator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests import judge, marks

# Explaining a failure reruns it hundreds of times; the shrunk example says enough.
_PHASES = tuple(phase for phase in hypothesis.Phase if phase is not hypothesis.Phase.explain)
_SLOW = [hypothesis.HealthCheck.too_slow]

hypothesis.settings.register_profile("few", max_examples=15, deadline=None, phases=_PHASES)
hypothesis.settings.register_profile("dev", max_examples=100, deadline=None, phases=_PHASES)
hypothesis.settings.register_profile(
    "ci", max_examples=500, deadline=None, phases=_PHASES, print_blob=True, suppress_health_check=_SLOW
)
hypothesis.settings.register_profile(
    "deep", max_examples=5000, deadline=None, phases=_PHASES, print_blob=True, suppress_health_check=_SLOW
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--profile few|dev|ci|deep`: how hard Hypothesis looks."""
    parser.addoption("--profile", default="dev", choices=("few", "dev", "ci", "deep"))


@pytest.fixture(scope="session")
def thinned(pytestconfig: pytest.Config) -> bool:
    """Whether a sample is enough of what is tried at every place: so it is where Hypothesis tries `few`."""
    return bool(pytestconfig.getoption("--profile") == "few")


def pytest_configure(config: pytest.Config) -> None:
    """Load the chosen profile before any test is collected."""
    # What a shell starts in the background ignores interrupts, and so would all processes of tests.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # To read all that a system trusts takes 20 ms for each TLS context, and no test meets anybody of those.
    os.environ["SSL_CERT_FILE"] = str(Path(__file__).with_name("nobody.pem"))
    hypothesis.settings.load_profile(config.getoption("--profile"))
    judge.start()


@hypothesis.settings(max_examples=1, database=None)
@hypothesis.given(hypothesis.strategies.none())
def _nothing(_: None) -> None:
    pass


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection() -> Generator[None, Any, Any]:
    """Look for no garbage among what is collected, then or later: it is much, and lives to the end."""
    _nothing()  # Hypothesis asks once who refers to its generator: nobody, of those who are frozen
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Make every async test note that its body has finished."""
    for item in items:
        body = getattr(item, "obj", None)
        if inspect.iscoroutinefunction(body):
            item.obj = _noting_the_end(body, item)  # type: ignore[attr-defined] # pytest.Function has it


def _noting_the_end(body: Callable[..., Awaitable[Any]], item: pytest.Item) -> Callable[..., Awaitable[Any]]:
    @functools.wraps(body)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        item._finished = False  # type: ignore[attr-defined] # our own mark
        result = await body(*args, **kwargs)
        item._finished = True  # type: ignore[attr-defined] # our own mark
        return result

    return wrapper


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Fail a test whose body was stopped by a cancellation that nobody reported, or that misses its marks."""
    named = {name for mark in item.iter_markers("hits") for name in mark.args}
    if named and marks.can_watch():
        with marks.watching() as seen:
            result = yield
        assert not named - seen, f"it does not hit {sorted(named - seen)}; it hits {sorted(seen)}"
    else:
        result = yield
    if getattr(item, "_finished", True) is False:
        raise AssertionError("the async body of this test never finished")
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, None, None]:
    """Fail a test that leaves a logger of ours quieter than it was: those behind it would read nothing. And
    one that leaves interrupts to somebody else: trio would hear of none in those behind it.
    """
    yield
    if (left := signal.getsignal(signal.SIGINT)) is not signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        raise AssertionError(f"this test has left interrupts to {left!r}")
    for name, logger in logging.root.manager.loggerDict.items():
        if name.startswith("wspool") and isinstance(logger, logging.Logger):
            changed = logger.level != logging.NOTSET or not logger.propagate
            logger.propagate = True
            logger.setLevel(logging.NOTSET)
            assert not changed, f"this test has left {name!r} with a level, or without its parents"
    problems = judge.PROBLEMS[:]
    judge.PROBLEMS.clear()
    assert not problems, f"the server sent what is against the specification: {problems[0]}"
    asked = judge.ASKED[:]
    judge.ASKED.clear()
    if item.get_closest_marker("odd_requests") is None:
        assert not asked, f"a pool sent what is against the specification: {asked[0]}"
