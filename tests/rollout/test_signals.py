"""What schedulers and terminals send before they kill. That the third one ends it: `tests/test_cli.py`."""

import signal
from collections.abc import Iterator

import pytest
import trio
from trio.testing import MockClock

from wspool.rollout.signals import heard_signals

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@pytest.fixture(params=SIGNALS, ids=lambda number: number.name)
def number(request: pytest.FixtureRequest) -> Iterator[signal.Signals]:
    """One of them, which is not ignored, whoever has started the tests (`nohup`)."""
    before = signal.getsignal(request.param)
    if before is signal.SIG_IGN:
        signal.signal(request.param, signal.SIG_DFL)
    yield request.param
    signal.signal(request.param, before)


async def test_a_run_hears_two_of_any(number: signal.Signals, autojump_clock: MockClock) -> None:
    """And afterwards they are whose they were."""
    before, heard = signal.getsignal(number), 0

    def hear() -> None:
        nonlocal heard
        heard += 1

    with heard_signals(hear):
        for count in (1, 2):
            signal.raise_signal(number)
            await trio.sleep(1)
            assert count == heard
    assert before is signal.getsignal(number)


async def test_one_that_is_ignored_stays_so(autojump_clock: MockClock) -> None:
    """As `nohup` and shells have it."""
    before = signal.signal(SIGNALS[-1], signal.SIG_IGN)
    try:
        with heard_signals(lambda: pytest.fail("it was heard")):
            signal.raise_signal(SIGNALS[-1])
            await trio.sleep(1)
        assert signal.SIG_IGN is signal.getsignal(SIGNALS[-1])
    finally:
        signal.signal(SIGNALS[-1], before)
