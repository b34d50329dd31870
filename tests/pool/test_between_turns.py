"""Between turns: whatever ended a turn, and whatever its caller does now, nobody is kept from its lane."""

from __future__ import annotations

from typing import Final

import pytest
import trio

import wspool
from tests.helpers import FakeConnector, completed, created, delta, echo, error_frame, fake_pool, policy

SMALL: Final = wspool.Provider(name="small", max_request=400)
LONG_AGO: Final = 3600.0


async def ends_well(conversation: wspool.Conversation, wire: FakeConnector) -> None:
    await conversation.respond("x")


async def is_refused(conversation: wspool.Conversation, wire: FakeConnector) -> None:
    wire.on_request = lambda wire, request: wire.push(error_frame("invalid_prompt"))
    with pytest.raises(wspool.ResponseFailedError):
        await conversation.respond("x")


async def fails(conversation: wspool.Conversation, wire: FakeConnector) -> None:
    failed = {"type": "response.failed", "response": {"id": "f", "status": "failed", "error": {}}}
    wire.on_request = lambda wire, request: wire.push(created("f"), failed)
    with pytest.raises(wspool.ResponseFailedError):
        await conversation.respond("x")


async def is_drained(conversation: wspool.Conversation, wire: FakeConnector) -> None:
    wire.on_request = lambda wire, request: wire.push(created("d"))
    with trio.move_on_after(1):
        await conversation.respond("x")
    wire.wire.push(delta("x"), completed("d"))


async def is_too_large(conversation: wspool.Conversation, wire: FakeConnector) -> None:
    with pytest.raises(wspool.RequestTooLargeError):
        await conversation.respond("x" * 500)


async def is_no_json(conversation: wspool.Conversation, wire: FakeConnector) -> None:
    with pytest.raises(TypeError):
        await conversation.respond("x", metadata=object())


async def is_left_by_an_exception_at_its_end(conversation: wspool.Conversation, wire: FakeConnector) -> None:
    with pytest.raises(ZeroDivisionError):  # noqa: PT012 (the whole block raises)
        async with conversation.turn("x") as turn:
            await turn.result()
            raise ZeroDivisionError


async def is_read_and_not_left(conversation: wspool.Conversation, wire: FakeConnector) -> None:
    async with conversation.turn("x") as turn:
        await turn.result()
        await trio.sleep(LONG_AGO)


async def is_not_even_read(conversation: wspool.Conversation, wire: FakeConnector) -> None:
    async with conversation.turn("x"):
        await trio.sleep(LONG_AGO)


async def fails_and_is_not_left(conversation: wspool.Conversation, wire: FakeConnector) -> None:
    wire.on_request = lambda wire, request: wire.push(error_frame("invalid_prompt"))
    async with conversation.turn("x"):
        await trio.sleep(LONG_AGO)


ENDS: Final = {
    function.__name__: function
    for function in (
        ends_well,
        is_refused,
        fails,
        is_drained,
        is_too_large,
        is_no_json,
        is_left_by_an_exception_at_its_end,
        is_read_and_not_left,
        is_not_even_read,
        fails_and_is_not_left,
    )
}


@pytest.mark.parametrize("first", [True, False], ids=["its first turn", "a later turn"])
@pytest.mark.parametrize("end", ENDS)
async def test_without_a_turn_in_flight_nobody_is_kept_from_a_lane(
    end: str, first: bool, autojump_clock
) -> None:
    """However a turn has ended, and whatever its caller does then: who starves gets its lane."""
    connector = FakeConnector(echo)
    limits = policy(max_size=1, patience=2.0, on_cancel="drain", max_buffered=100)
    async with (
        fake_pool(connector, limits=limits, provider=SMALL) as pool,
        trio.open_nursery() as nursery,
        pool.conversation(model="m") as conversation,
    ):
        if not first:
            await conversation.respond("before")
        nursery.start_soon(ENDS[end], conversation, connector)
        await trio.sleep(2)
        connector.on_request = echo
        async with pool.conversation(model="m") as other:
            began = trio.current_time()
            await other.respond("y")
            assert trio.current_time() - began <= limits.patience
        nursery.cancel_scope.cancel()


async def test_a_resend_that_cannot_be_sent_keeps_no_lane(autojump_clock) -> None:
    """All of the history is too large, and the lane that was got for it goes back before the turn is left."""
    connector = FakeConnector(echo)
    limits = policy(max_size=1, replay="always")
    async with (
        fake_pool(connector, limits=limits, provider=SMALL) as pool,
        pool.conversation(model="m") as conversation,
    ):
        for _ in range(2):
            await conversation.respond("x" * 80)
        connector.on_request = lambda wire, request: wire.hang_up()
        async with conversation.turn("x") as turn:
            with pytest.raises(wspool.RequestTooLargeError) as caught:
                await turn.result()
            assert "ambiguous" == caught.value.delivery
            assert (0, 1) == (pool.statistics().leased, pool.statistics().idle)
