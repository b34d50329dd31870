"""The explorer can be trusted: it repeats itself, finds what is there, and accuses nobody else."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import trio
import trio.testing

from tests.explore.generated import repeats
from wspool.testing.explore import (
    ChoiceTape,
    Deviations,
    FoundError,
    NotDeterministicError,
    Priorities,
    Randomly,
    UnsupportedTrioError,
    always,
    cancel_at,
    choose,
    cut,
    explore,
    fixed,
    reach,
    replay,
    run,
)

#: Everything with one deviation and two.
NEAR = (Deviations(2),)


def test_it_repeats_itself() -> None:
    """200 programs: with the same dice, and from the tape, each step is made by the same task."""
    ends = {repeats(seed) for seed in range(200)}

    assert {"ended", "error", "deadlock"} <= ends


# -- what is there is found -----------------------------------------------------------------------------


class Purse:
    """Something with a race: it looks, waits, and takes."""

    def __init__(self, *, careful: bool) -> None:
        self.money = 1
        self._lock = trio.Lock() if careful else None

    async def spend(self) -> None:
        """Spend what is there, if something is."""
        if self._lock is None:
            await self._spend()
        else:
            async with self._lock:
                await self._spend()

    async def _spend(self) -> None:
        if self.money > 0:
            await trio.lowlevel.checkpoint()  # somewhere far away it is asked for
            self.money -= 1
            assert self.money >= 0, "more was spent than there was"


def spending(*, careful: bool) -> Callable[[], Awaitable[None]]:
    """Two who spend; in the order in which they begin, the second comes a step too late to collide."""

    async def program() -> None:
        purse = Purse(careful=careful)

        async def late() -> None:
            await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()
            await purse.spend()

        async def early() -> None:
            await trio.lowlevel.checkpoint()
            await purse.spend()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(early)
            nursery.start_soon(late)

    return program


@pytest.mark.parametrize(
    "schedule", [Deviations(1), Randomly(50), Priorities(50, depth=2)], ids=["near", "random", "pct"]
)
def test_a_race_is_found(schedule: Deviations | Randomly | Priorities) -> None:
    """First in, first out hides it; one deviation shows it, whatever found it."""
    report = explore(spending(careful=False), schedules=[schedule])

    assert report.failure is not None
    assert (report.failure.sort, len(report.tape)) == ("error", 1)
    assert "more was spent than there was" in report.story
    with pytest.raises(FoundError, match="late runs before early") as caught:
        report.check()
    assert isinstance(caught.value.__cause__, ExceptionGroup)


def test_who_takes_care_is_not_accused() -> None:
    """The same with a lock."""
    report = explore(spending(careful=True), schedules=(*NEAR, Priorities(50), Randomly(50)))

    assert report.check() is report
    assert report.exhausted == 2
    assert report.runs > 101
    assert "every schedule with at most 2 deviations" in str(report)


def test_a_tape_replays() -> None:
    """What was found is seen again, with the same story, from the text of the tape."""
    found = explore(spending(careful=False), schedules=NEAR)
    again = replay(str(found.tape), spending(careful=False))

    assert (again.tape, again.story) == (found.tape, found.story)
    assert replay(found.tape, spending(careful=True)).failure is None
    assert replay("-", spending(careful=False)).failure is None


async def _both(first: trio.Lock, second: trio.Lock) -> None:
    async with first:
        await trio.lowlevel.checkpoint()
        async with second:
            pass


@pytest.mark.parametrize("shield", [False, True])
def test_a_deadlock_is_called_so(shield: bool) -> None:
    """Two locks in two orders; each who waits is named, and even a shielded one is got rid of."""

    async def program(*, same: bool) -> None:
        one, other = trio.Lock(), trio.Lock()
        with trio.CancelScope(shield=shield):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_both, one, other)
                nursery.start_soon(_both, *((one, other) if same else (other, one)))

    async def orderly() -> None:
        await program(same=True)

    async def crosswise() -> None:
        await program(same=False)

    report = explore(crosswise)

    assert report.failure is not None
    assert report.failure.sort == "deadlock"
    assert report.failure.message.count("async with second") == 2
    assert explore(orderly).failure is None


def test_a_cancellation_comes_at_any_step() -> None:
    """A token that is taken before the `try` is lost if the cancellation comes between them."""

    async def program(*, safe: bool) -> None:
        tokens = trio.Semaphore(1)

        async def use() -> None:
            with cancel_at():
                if safe:
                    async with tokens:
                        await trio.lowlevel.checkpoint()
                    return
                await tokens.acquire()
                await trio.lowlevel.checkpoint()
                tokens.release()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(use)
            nursery.start_soon(use)
        assert tokens.value == 1, "a token is lost"

    async def careless() -> None:
        await program(safe=False)

    async def careful() -> None:
        await program(safe=True)

    report = explore(careless)

    assert report.failure is not None
    assert "the scope that use opened is cancelled" in report.story
    assert len(report.tape) == 1
    assert explore(careful, schedules=NEAR).failure is None


def test_a_timer_may_fire_while_tasks_are_runnable() -> None:
    """An answer and its timeout: only a process that is slow sees both."""

    async def program() -> None:
        answered = trio.Event()

        async def answer() -> None:
            await trio.sleep(0.9)
            answered.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer)
            with trio.move_on_after(1) as scope:
                await answered.wait()
                await trio.lowlevel.checkpoint()
        assert not scope.cancelled_caught, "it gave up on an answer that it had"

    assert explore(program, schedules=NEAR).failure is None
    report = explore(program, schedules=NEAR, stall=0.5)
    assert report.failure is not None
    assert "the process loses 0.1 s, and a timer fires" in report.story
    assert replay(report.tape, program, stall=0.5).story == report.story


def test_a_stream_is_cut() -> None:
    """Who takes each piece for a message is found; who reads to the end of the line is not."""

    async def program(*, whole: bool) -> None:
        near, far = trio.testing.memory_stream_pair()
        reading = cut(far)
        await near.send_all(b"hello\n")
        got = await reading.receive_some()
        while whole and not got.endswith(b"\n"):
            got += await reading.receive_some(2)
        assert got == b"hello\n", got
        await reading.send_all(b"x")
        await reading.wait_send_all_might_not_block()
        await reading.send_eof()
        assert (b"x", b"") == (await near.receive_some(), await near.receive_some())
        await reading.aclose()

    async def hasty() -> None:
        await program(whole=False)

    async def patient() -> None:
        await program(whole=True)

    report = explore(hasty)

    assert report.failure is not None
    assert "of 6 bytes only some come" in report.story
    assert explore(patient, schedules=NEAR).failure is None
    trio.run(patient)  # by itself, nothing is cut


def test_the_order_of_cancellation_is_chosen() -> None:
    """trio promises none; each of three may be told first."""

    async def program() -> None:
        told: list[str] = []

        async def wait(name: str) -> None:
            def abort(_: object) -> trio.lowlevel.Abort:
                told.append(name)
                return trio.lowlevel.Abort.SUCCEEDED

            await trio.lowlevel.wait_task_rescheduled(abort)

        async with trio.open_nursery() as nursery:
            for name in "abc":
                nursery.start_soon(wait, name)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        first.add(told[0])

    first: set[str] = set()
    assert explore(program, schedules=NEAR).failure is None
    assert first == {"a", "b", "c"}


# -- invariants and points -------------------------------------------------------------------------------


@pytest.mark.parametrize("inside", [False, True])
def test_an_invariant_is_looked_at_after_each_step(inside: bool) -> None:
    """Given from outside or by the program; broken if it raises, or is False."""
    holders: list[int] = []

    def one_holder() -> bool:
        return len(holders) < 2

    def checked() -> None:
        assert one_holder(), "two hold it"

    async def hold(number: int) -> None:
        for _ in range(number):
            await trio.lowlevel.checkpoint()
        holders.append(number)
        await trio.lowlevel.checkpoint()
        holders.remove(number)

    async def program() -> None:
        holders.clear()
        if inside:
            always(checked)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hold, 1)
            nursery.start_soon(hold, 2)

    report = explore(program, invariant=None if inside else one_holder)

    assert report.failure is not None
    assert report.failure.sort == "invariant"
    assert ("two hold it" if inside else "one_holder does not hold") in report.story
    assert len(report.tape) == 1


def test_what_is_fixed_is_not_explored() -> None:
    """A beginning and an end cost no runs; the program's own choices rest there too."""

    async def program() -> None:
        with fixed():
            assert choose(5) == 0
            async with trio.open_nursery() as nursery:
                for _ in range(5):
                    nursery.start_soon(trio.lowlevel.checkpoint)
        choose(3, "three ways")

    assert explore(program, schedules=NEAR).runs == 3


def test_the_program_chooses() -> None:
    """Each option is taken, and told by its name."""
    taken: set[int] = set()

    async def program() -> None:
        way = choose(4, "the way")
        taken.add(way)
        await trio.lowlevel.checkpoint()
        assert way != 3

    report = explore(program)

    assert taken == {0, 1, 2, 3}
    assert "the way: option 3" in report.story
    with pytest.raises(ValueError, match="options=0 is below 1"):
        choose(0)


async def test_points_do_nothing_outside() -> None:
    """A program that has them runs by itself."""
    always(lambda: False)
    with fixed(), cancel_at() as scope:
        await trio.lowlevel.checkpoint()

    assert choose(9) == 0
    assert not scope.cancel_called


def test_what_never_ends_is_called_so() -> None:
    """Even if it does not listen to its cancellation."""

    async def program() -> None:
        with trio.CancelScope(shield=True):
            while True:
                await trio.lowlevel.checkpoint()

    report = explore(program, max_steps=50)

    assert report.failure is not None
    assert report.failure.sort == "endless"
    assert "steps, first in, first out" in str(report) or report.failure.step == 50


def test_what_swallows_its_cancellation_is_given_up() -> None:
    """It waits again and again for what never comes."""

    async def program() -> None:
        while True:
            with contextlib.suppress(BaseException):
                await trio.sleep_forever()

    report = explore(program, max_steps=50)

    assert report.failure is not None
    assert report.failure.sort == "deadlock"


def test_what_breaks_trio_is_told() -> None:
    """A task that is woken twice: trio gives up, which is nobody's fault but the program's."""

    async def program() -> None:
        task = trio.lowlevel.current_task()

        async def wake() -> None:
            way = choose(2, "how often")
            for _ in range(1 + way):
                task._next_send_fn = None
                trio.lowlevel.reschedule(task)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wake)
            await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.FAILED)
            nursery.start_soon(trio.sleep, 1)

    report = explore(program)

    assert report.failure is not None
    assert report.failure.sort == "error"
    assert "trio itself broke" in report.story
    assert len(report.tape) == 1


# -- shrinking ---------------------------------------------------------------------------------------------


def test_the_fewest_deviations_are_told() -> None:
    """Of a drawn schedule with dozens of deviations those two remain that it takes."""

    async def program() -> None:
        async def idle() -> None:
            for _ in range(5):
                await trio.lowlevel.checkpoint()

        with fixed():
            await trio.lowlevel.checkpoint()
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(idle)
        ways = [choose(4, "a way") for _ in range(4)]
        assert not (ways[1] >= 2 and ways[3] >= 1), ways

    report = explore(program, schedules=[Randomly(100)])

    assert report.failure is not None
    assert len(report.tape) == 2
    assert [option for _, option in report.tape.deviations] == [2, 1]
    assert "[0, 2, 0, 1]" in report.story


# -- what it is not for ------------------------------------------------------------------------------------


def test_what_is_not_on_the_tape_is_noticed() -> None:
    """A program that remembers the run before is not accused, but told."""
    runs: list[int] = []

    async def program() -> None:
        runs.append(1)
        for _ in runs:
            await trio.lowlevel.checkpoint()

    with pytest.raises(NotDeterministicError, match=r"from step \d+ on"):
        explore(program)


def test_the_dice_of_the_program_fall_the_same() -> None:
    """Those of `random` start anew in each run, and go on afterwards as if nothing had been."""

    async def program() -> None:
        for _ in range(random.randrange(100)):
            await trio.lowlevel.checkpoint()

    random.seed(4)
    assert explore(program).failure is None
    after = random.random()

    assert after == random.Random(4).random()


def test_a_trio_that_differs_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one sentence that names it, before anything runs."""

    async def program() -> None:
        raise AssertionError("never")

    monkeypatch.setattr(reach, "_checked", False)
    monkeypatch.delattr(reach._run, "_ALLOW_DETERMINISTIC_SCHEDULING")

    with pytest.raises(UnsupportedTrioError) as caught:
        explore(program)
    said = str(caught.value)
    assert f"cannot explore with trio {trio.__version__}" in said
    assert "_ALLOW_DETERMINISTIC_SCHEDULING" in said
    assert "\n" not in said


@pytest.mark.parametrize("said", ["the order of tasks", "the order of cancellation", "the order of timers"])
def test_a_trio_that_does_not_obey_is_told_of(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The names are there, and another thing happens."""
    monkeypatch.setattr(reach, "_checked", False)
    match said:
        case "the order of tasks":
            monkeypatch.setattr(reach._Backwards, "order", lambda self, batch: batch.reverse())
        case "the order of cancellation":
            monkeypatch.setattr(reach._Backwards, "told_first", lambda self, among: 0)
        case _:
            falling = iter(range(100, 0, -1))
            monkeypatch.setattr(reach._Counting, "__call__", lambda self, thing: next(falling))

    with pytest.raises(UnsupportedTrioError, match=said):
        reach.check_trio()


def test_other_runs_are_left_alone() -> None:
    """Only the run of this thread obeys, and only while it is explored."""
    run = reach._run
    before = run._ALLOW_DETERMINISTIC_SCHEDULING, run._r
    seen: list[set[tuple[str, ...]]] = []

    async def order() -> tuple[str, ...]:
        ran: list[str] = []

        async def step(name: str) -> None:
            ran.append(name)
            await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            for name in "abc":
                nursery.start_soon(step, name)
        return tuple(ran)

    def elsewhere() -> None:
        seen.append({trio.run(order) for _ in range(40)})

    async def program() -> None:
        assert await order() == ("a", "b", "c")
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()

    explore(program, schedules=[Deviations(0)]).check()

    assert all(len(orders) > 1 for orders in seen)
    assert before == (run._ALLOW_DETERMINISTIC_SCHEDULING, run._r)
    assert "id" not in vars(run)


async def test_it_is_not_for_the_inside_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says so, and does not take this trio for one that differs."""
    monkeypatch.setattr(reach, "_checked", False)
    for use in (explore, partial(replay, "-")):
        with pytest.raises(RuntimeError, match="explore from a function that is not async"):
            use(_nothing)


def test_what_was_left_by_the_runs_before_is_noticed() -> None:
    """Who goes wrong in the twentieth run, whatever its choices, is not said to go wrong without any."""
    runs: list[int] = []

    async def program() -> None:
        runs.append(1)
        choose(100)
        assert len(runs) < 20

    with pytest.raises(NotDeterministicError, match="what the runs before have left: AssertionError"):
        explore(program)


@pytest.mark.parametrize("seconds", [0.0, 0.02])
def test_a_thread_is_told_of(seconds: float, capfd: pytest.CaptureFixture[str]) -> None:
    """At once or later: no tape has its time. It ends in peace, and nobody is accused of a deadlock."""

    async def program() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep, 1)
            await trio.sleep(0.5)
            await trio.to_thread.run_sync(time.sleep, seconds)

    with pytest.raises(NotDeterministicError) as caught:
        explore(program)
    said = str(caught.value)
    assert "program waits at test_explorer.py:" in said
    assert "await trio.to_thread.run_sync(time.sleep, seconds)" in said
    assert "trio.sleep waits at _timeouts.py" in said
    assert "\n" not in said
    assert capfd.readouterr() == ("", "")


def test_a_thread_that_does_not_end_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some moments it is given, then the run is given up."""
    monkeypatch.setattr(run, "_MOMENTS", 3)
    end = threading.Event()

    async def program() -> None:
        await trio.to_thread.run_sync(end.wait, abandon_on_cancel=True)

    try:
        with pytest.raises(NotDeterministicError, match=r"end\.wait"):
            explore(program)
    finally:
        end.set()


class _Own(BaseException):
    """As some test runners raise."""


@pytest.mark.parametrize("error", [_Own("mine"), BaseExceptionGroup("some", [_Own("mine"), ValueError()])])
def test_what_is_no_exception_is_a_failure_as_well(error: BaseException) -> None:
    """With its story, which says where it was raised."""

    async def program() -> None:
        if choose(2):
            raise error

    report = explore(program)
    assert report.failure is not None
    assert "_Own: mine, raised at test_explorer.py:" in report.failure.message
    assert report.failure.message.endswith("in program: raise error")
    assert len(report.tape) == 1


@pytest.mark.parametrize("order", [KeyboardInterrupt(), BaseExceptionGroup("", [_Own(), SystemExit(3)])])
def test_who_wants_the_program_to_end_is_obeyed(order: BaseException) -> None:
    """That is no failure of its."""

    async def program() -> None:
        raise order

    with pytest.raises(type(order)) as caught:
        explore(program)
    assert caught.value is order


async def _nothing() -> None:
    """A program without a fault."""


@pytest.mark.parametrize(
    ("use", "said"),
    [  # The types are wrong: that is the point.
        (lambda: explore(_nothing()), "program must be an async function"),  # type: ignore[arg-type]
        (lambda: explore(None), "program must be a function, not NoneType"),  # type: ignore[arg-type]
        (
            lambda: explore(_nothing, schedules=Deviations(1)),  # type: ignore[arg-type]
            "must be a sequence of schedules",
        ),
        (
            lambda: explore(_nothing, schedules=[1]),  # type: ignore[list-item]
            "a schedule must be an object with trials, not int",
        ),
        (lambda: explore(_nothing, stall=-1), "stall=-1 is below 0"),
        (lambda: explore(_nothing, max_steps=0), "max_steps=0 is below 1"),
        (
            lambda: explore(_nothing, invariant=True),  # type: ignore[arg-type]
            "invariant must be a function, not bool",
        ),
        (lambda: replay(None, _nothing), "a tape must be a ChoiceTape"),  # type: ignore[arg-type]
        (lambda: Deviations(-1), "most=-1 is below 0"),
        (lambda: Deviations(1, runs=-1), "runs=-1 is below 0"),
        (lambda: Randomly(1.5), "runs=1.5 is not an int"),  # type: ignore[arg-type]
        (lambda: Priorities(3, depth=0), "depth=0 is below 1"),
        (lambda: always(None), "check must be a function, not NoneType"),  # type: ignore[arg-type]
    ],
)
def test_what_is_of_no_use_is_told_before_anything_runs(use: Callable[[], object], said: str) -> None:
    """By its name."""
    with pytest.raises((TypeError, ValueError)) as caught:
        use()
    assert said in str(caught.value)


# -- tapes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["-", "3:1", "3:1 17:2"])
def test_a_tape_reads_what_it_writes(text: str) -> None:
    """The text is what one copies from a story."""
    tape = ChoiceTape.parse(text)

    assert str(tape) == text
    assert len(tape) == text.count(":")


@pytest.mark.parametrize("text", ["3", "3:1,", "a:1"])
def test_a_tape_that_is_none_is_refused(text: str) -> None:
    """With how one looks."""
    with pytest.raises(ValueError, match="a tape looks like"):
        ChoiceTape.parse(text)
