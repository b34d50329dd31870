"""Attempt: events in, events out, one end."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
import trio
import trio.testing

from tests.helpers import completed, created, delta, error_frame, types
from wspool.core.events.turn import Reception
from wspool.core.frames import Event, parse_event
from wspool.pool.attempt import Attempt


def sent_attempt() -> Attempt:
    """An attempt whose request is on its way."""
    attempt = Attempt(None)
    attempt.machine.handed()
    return attempt


def feed(attempt: Attempt, *events: Mapping[str, Any]) -> Reception:
    """Give *attempt* all events as one batch; return what was said of the last."""
    reception = Reception.IGNORE
    for event in events:
        reception = attempt.feed(parse_event(json.dumps(event)), 0.0)
    attempt.wake()
    return reception


async def read(attempt: Attempt) -> list[Event]:
    """All events until the end."""
    events: list[Event] = []
    while more := await attempt.more():
        events += more
    return events


async def test_events_come_out_in_order_and_then_no_more(autojump_clock) -> None:
    """The consumer gets every event once, in order, and then no more."""
    attempt = sent_attempt()
    feed(attempt, created("r"), delta("a"), completed("r"))

    expected = ["response.created", "response.output_text.delta", "response.completed"]
    assert expected == types(await read(attempt))
    assert [] == await attempt.more()
    assert expected == types(attempt.events)


async def test_a_batch_wakes_the_consumer_once(autojump_clock) -> None:
    """A burst of events costs one wake-up, not one each."""
    attempt = sent_attempt()
    steps = 0

    class Steps(trio.abc.Instrument):
        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            nonlocal steps
            steps += task.name.endswith("consume")

    async def consume() -> None:
        await read(attempt)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(consume)
        await trio.testing.wait_all_tasks_blocked()
        trio.lowlevel.add_instrument(instrument := Steps())
        feed(attempt, created("r"), *[delta("x")] * 100, completed("r"))
        await trio.testing.wait_all_tasks_blocked()
        trio.lowlevel.remove_instrument(instrument)

    assert steps == 1


async def test_a_cancelled_consumer_loses_nothing(autojump_clock) -> None:
    """Cancelling the wait for an event leaves all events for the next try."""
    attempt = sent_attempt()
    with trio.move_on_after(1) as scope:
        await attempt.more()
    assert scope.cancelled_caught

    feed(attempt, created("r"))
    with trio.CancelScope() as scope:
        scope.cancel()
        await attempt.more()
    assert scope.cancelled_caught

    feed(attempt, completed("r"))
    assert ["response.created", "response.completed"] == types(await read(attempt))


async def test_a_second_consumer_is_refused(autojump_clock) -> None:
    """A second task that waits for events of the same turn is told so."""
    attempt = sent_attempt()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(attempt.more)
        await trio.testing.wait_all_tasks_blocked()
        for wait in (attempt.more, attempt.end):
            with pytest.raises(trio.BusyResourceError, match="another task reads"):
                await wait()
        nursery.cancel_scope.cancel()


async def test_a_loss_wakes_the_consumer(autojump_clock) -> None:
    """The consumer of a lost turn learns of it at once."""
    attempt = sent_attempt()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(read, attempt)
        await trio.testing.wait_all_tasks_blocked()
        attempt.lose(1006)

    assert (True, True, 1006) == (attempt.lost, attempt.ended, attempt.close_code)


async def test_an_end_is_final(autojump_clock) -> None:
    """What dies after the terminal event does not make a turn lost, and a loss happens once."""
    attempt = sent_attempt()
    feed(attempt, created("r"), completed("r"))
    attempt.lose(1006)
    assert (False, None) == (attempt.lost, attempt.close_code)

    other = sent_attempt()
    other.lose(1001)
    other.lose(1006)
    assert other.close_code == 1001


async def test_a_refusal_is_no_event(autojump_clock) -> None:
    """An error frame that refuses the request ends the attempt and is not delivered."""
    attempt = sent_attempt()

    assert Reception.END is feed(attempt, error_frame("nope"))
    assert [] == await attempt.more()
    assert attempt.machine.refused


async def test_an_error_inside_a_response_is_an_event(autojump_clock) -> None:
    """An error frame after `response.created` is delivered like any other event."""
    attempt = sent_attempt()

    assert Reception.DELIVER is feed(attempt, created("r"), error_frame("nope"))
    attempt.machine.expire_failing()
    assert ["response.created", "error"] == types(await read(attempt))


async def test_nothing_foreign_is_kept(autojump_clock) -> None:
    """What is not of this turn never gets into its events."""
    attempt = sent_attempt()

    assert Reception.DIRTY is feed(attempt, created("r"), created("other"))
    assert Reception.IGNORE is feed(attempt, completed("other"))
    assert Reception.IGNORE is feed(attempt, {"type": "keepalive"})
    assert ["response.created"] == types(attempt.events)


async def test_the_reader_waits_for_room(autojump_clock) -> None:
    """The reader pauses while more than the limit is unread, and goes on when it was taken."""
    attempt = sent_attempt()
    feed(attempt, created("r"), delta("x" * 100))
    assert attempt.unread == sum(len(event.raw) for event in attempt.events)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(attempt.room, 10)
        await trio.testing.wait_all_tasks_blocked()
        feed(attempt, delta("y" * 100))
        await trio.testing.wait_all_tasks_blocked()
        assert nursery.child_tasks, "still too much is unread"
        await attempt.more()
        with trio.fail_after(1):
            while nursery.child_tasks:
                await trio.lowlevel.checkpoint()

    assert attempt.unread == 0


async def test_giving_up_makes_room_for_good(autojump_clock) -> None:
    """Nobody's events take no room, and those that still come are not kept."""
    attempt = sent_attempt()
    feed(attempt, created("r"), delta("x" * 100))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(attempt.room, 10)
        await trio.testing.wait_all_tasks_blocked()
        attempt.drop()

    assert Reception.END is feed(attempt, delta("y" * 100), completed("r"))
    assert (0, 2) == (attempt.unread, len(attempt.events))
    assert attempt.ended


async def test_waiting_for_the_end_lets_everything_pass(autojump_clock) -> None:
    """Nobody is woken on the way, nothing counts as unread, and all events are kept."""
    attempt = sent_attempt()
    feed(attempt, created("r"), delta("a"))
    ended = trio.Event()

    async def wait() -> None:
        await attempt.end()
        ended.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        assert 0 == attempt.unread
        feed(attempt, delta("b"), delta("c"))
        await trio.testing.wait_all_tasks_blocked()
        assert 0 == attempt.unread
        assert not ended.is_set()
        feed(attempt, completed("r"))
        await ended.wait()

    assert 5 == len(attempt.events)
    assert [] == await attempt.more()


async def test_waiting_for_the_end_makes_room_for_the_reader(autojump_clock) -> None:
    """A reader that paused for what is unread goes on."""
    attempt = sent_attempt()
    feed(attempt, created("r"), delta("a" * 100))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(attempt.room, 10)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(attempt.end)
        await trio.testing.wait_all_tasks_blocked()
        feed(attempt, completed("r"))


async def test_after_a_cancelled_wait_for_the_end_events_can_be_read_on(autojump_clock) -> None:
    """What comes after it is delivered, and counted as unread until then."""
    attempt = sent_attempt()
    feed(attempt, created("r"))
    with trio.move_on_after(1):
        await attempt.end()
    feed(attempt, delta("b"), completed("r"))

    assert attempt.unread > 0
    assert ["response.output_text.delta", "response.completed"] == types(await read(attempt))
    assert 0 == attempt.unread


async def test_who_wants_no_event_twice_keeps_none_that_were_taken(autojump_clock) -> None:
    """They are counted, and those that wait are there."""
    attempt = sent_attempt()
    attempt.keeps = False
    feed(attempt, created("r"), delta("a"))

    assert 2 == len(attempt.events)
    assert 2 == len(await attempt.more())
    assert attempt.is_taken
    feed(attempt, delta("b"), completed("r"))

    assert (4, 2, False) == (attempt.count, len(attempt.events), attempt.is_taken)
    assert ["response.output_text.delta", "response.completed"] == types(await attempt.more())
    assert [] == await attempt.more()
    assert (4, []) == (attempt.count, attempt.events)


async def test_who_waits_for_the_end_only_keeps_none_either(autojump_clock) -> None:
    """Neither what came before, nor what comes meanwhile."""
    attempt = sent_attempt()
    attempt.keeps = False
    feed(attempt, created("r"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(attempt.end)
        await trio.testing.wait_all_tasks_blocked()
        feed(attempt, delta("a"), delta("b"))
        assert [] == attempt.events
        feed(attempt, completed("r"))

    assert (4, 0, []) == (attempt.count, attempt.unread, attempt.events)
