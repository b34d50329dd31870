"""The server says goodbye: every close code, idle and in mid-turn."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import wspool
from wspool.server import OPENAI, Fault, FaultRule, Rejection

from .scene import QUESTION, Make, faulty

CLOSE = 0x88

#: Nobody may send the same again after these, however the pool is told to replay.
ALWAYS = {"replay": "always"}


@pytest.mark.parametrize("code", [1000, 1001])
async def test_f14_goodbye_while_idle(make: Make, code: int, autojump_clock) -> None:
    """F14: close 1000 or 1001 on an idle connection -> nothing: it is retired, the next turn goes out in
    full on another.
    """
    async with (
        faulty(make, Fault("close", at="idle", delay=5, code=code)) as scene,
        scene.pool.conversation(model="m") as conversation,
    ):
        (await scene.ask("one", conversation=conversation)).assert_answer("one")
        await trio.sleep(10)
        assert 0 == scene.pool.statistics().size
        (await scene.ask("two", conversation=conversation)).assert_answer("two", took=0)

        assert [(1, "completed"), (2, "completed")] == scene.outcomes
        conversation.close()
        await scene.assert_well(creates=2, connection=2)


@pytest.mark.parametrize("at", ["delta", "terminal"])
@pytest.mark.parametrize("code", [1000, 1001])
async def test_f15_goodbye_in_mid_turn(make: Make, code: int, at: str, autojump_clock) -> None:
    """F15: close 1000 or 1001 in mid-turn -> `TurnLostError` at once: `accepted`; a polite close is no
    success.
    """
    async with faulty(make, Fault("close", at=at, code=code)) as scene:
        (await scene.ask()).assert_lost("accepted", close_code=code, events=4 if at == "delta" else 11)

        await scene.assert_well(creates=1, connection=2)


@pytest.mark.parametrize("code", [1002, 1003, 1007])
async def test_f16_protocol_error_codes(make: Make, code: int, autojump_clock) -> None:
    """F16: close 1002, 1003 or 1007: one side broke the protocol -> `TurnLostError` with the code; nothing
    is sent again.
    """
    async with faulty(make, Fault("close", at="delta", code=code)) as scene:
        (await scene.ask()).assert_lost("accepted", close_code=code, events=4)

        await scene.assert_well(creates=1, connection=2)


async def test_f17_policy_violation(make: Make, autojump_clock) -> None:
    """F17: close 1008 (policy, key) -> `TurnLostError` with code and `close_reason`, the reason in its text;
    nothing is sent again.
    """
    async with faulty(make, Fault("close", at="receipt", code=1008, reason="no such project")) as scene:
        lost = (await scene.ask()).assert_lost("ambiguous", close_code=1008, events=0)
        assert "no such project" == lost.close_reason
        assert "code 1008 ('no such project')" in str(lost)

        await scene.assert_well(creates=1, connection=2)


@pytest.mark.parametrize("code", [1008, 1013])
async def test_f17_f20_close_behind_the_handshake(make: Make, code: int, autojump_clock) -> None:
    """F17: the same right behind each handshake -> dials go on in pairs, with growing pauses.
    F20: the same right behind each handshake -> the same.
    """
    async with faulty(make, limits={"min_idle": 2}) as scene:
        scene.server.reject_handshakes(*[Rejection(status=101, close_code=code)] * 1000)
        scene.pool.clear()
        await trio.sleep(600)
        assert 2 * 600 // 30 <= scene.pool.statistics().dialed <= 200
        assert scene.pool.statistics().degraded


async def test_f18_request_too_big(make: Make, autojump_clock) -> None:
    """F18: close 1009: the request is over a limit of the endpoint -> `TurnLostError`, code 1009; never sent
    again, whatever `replay` says. Over the limit of the `Provider`: `RequestTooLargeError`, nothing is sent.
    """
    profile = attrs.evolve(OPENAI, max_message=10_000)
    async with faulty(make, profile=profile, limits=ALWAYS) as scene:
        (await scene.ask("x" * 20_000)).assert_lost("ambiguous", close_code=1009, events=0)
        await scene.assert_well(creates=0, connection=2)

    provider = wspool.Provider(name="small", max_request=10_000)
    async with faulty(make, profile=profile, pool_options={"provider": provider}) as scene:
        story = await scene.ask("x" * 20_000)
        assert isinstance(story.error, wspool.RequestTooLargeError)
        assert ("not_sent", 10_000) == (story.delivery, story.error.limit)
        await scene.assert_well(creates=0, connection=1)


async def test_f18_response_too_big(make: Make, autojump_clock) -> None:
    """F18: a message is over `max_message_size` -> `TurnLostError`, code 1009, the limit in its text; never
    sent again, whatever `replay` says.
    """
    limits: dict[str, Any] = {**ALWAYS, "max_message_size": 100_000}
    async with faulty(make, Fault("big_terminal", size=200_000), limits=limits) as scene:
        lost = (await scene.ask()).assert_lost("accepted", close_code=1009, events=11)
        assert "100000" in str(lost)
        assert "max_message_size" in str(lost)

        await scene.assert_well(creates=1, connection=2)


@pytest.mark.parametrize(("at", "delivery"), [("receipt", "ambiguous"), ("delta", "accepted")])
async def test_f19_internal_error(make: Make, at: str, delivery: str, autojump_clock) -> None:
    """F19: close 1011 -> `TurnLostError` at once: `ambiguous` before `response.created`, `accepted` after;
    nothing is sent again.
    """
    async with faulty(make, Fault("close", at=at, code=1011)) as scene:
        (await scene.ask()).assert_lost(delivery, close_code=1011)

        await scene.assert_well(creates=1, connection=2)


@pytest.mark.parametrize("code", [1012, 1013])
async def test_f20_service_restart(make: Make, code: int, autojump_clock) -> None:
    """F20: close 1012 or 1013 (restart, try again later) -> `TurnLostError` with the code; new turns go out
    on new connections as soon as there are any.
    """
    faults = Fault("close", at="delta", code=code), FaultRule(Fault("close", at="idle", code=code), create=2)
    async with faulty(make, *faults) as scene:
        (await scene.ask()).assert_lost("accepted", close_code=code)
        await scene.assert_well(creates=1, connection=2)
        scene.server.reject_handshakes(503, 503)
        await wait_all_tasks_blocked()
        story = await scene.ask()
        story.assert_answer(took=5)
        assert 3 == scene.server.statistics().creates
        assert 2 == scene.pool.statistics().dial_failures


@pytest.mark.parametrize(
    ("fault", "codes"),
    [
        (Fault("close_without_code", at="delta"), {1005}),
        (Fault("close_malformed", at="delta"), {1002}),
        (Fault("close_with_odd_reason", at="delta"), {1002, 1007, 1011}),
        (Fault("close", at="delta", code=1011, reason="r" * 123), {1011}),
        (Fault("close", at="delta", code=3000), {3000}),
        (Fault("close", at="delta", code=4402, reason="no credits"), {4402}),
        (Fault("close", at="delta", code=4999), {4999}),
        # These are never to be sent: what one wire reports, another takes for a broken frame.
        *((Fault("close", at="delta", code=code), {code, 1002}) for code in (0, 999, 1005, 1006, 1015, 2999)),
    ],
    ids=str,
)
async def test_f21_odd_close_codes(make: Make, fault: Fault, codes: set[int], autojump_clock) -> None:
    """F21: close 1005, 1006, 1015, private codes, long or broken reasons -> `TurnLostError` with the code,
    or 1002 where the close frame itself is illegal.
    """
    async with faulty(make, fault) as scene:
        story = await scene.ask()
        assert isinstance(story.error, wspool.TurnLostError)
        assert story.error.close_code in codes
        story.assert_lost("accepted", close_code=story.error.close_code, events=4)
        if fault.options.get("reason"):
            assert fault.options["reason"] == story.error.close_reason

        await scene.assert_well(creates=1, connection=2)


async def test_f22_ping_after_close(make: Make, autojump_clock) -> None:
    """F22: a ping arrives after our close frame -> nothing: it is ignored; the closing handshake ends, and
    no other connection notices.
    """
    rule = FaultRule(Fault("ping_after_close"), times=None)
    async with faulty(make, rule, limits={"min_idle": 10}) as scene:
        await scene.pool.wait_ready(10)
        async with scene.pool.conversation(model="m") as conversation:
            await conversation.respond("one")
            scene.pool.clear()
            await trio.sleep(3)
            (await scene.ask("two", conversation=conversation)).assert_answer("two", took=0)
        assert all(1 == tap.count(CLOSE) for tap in scene.taps[:9])
        began = trio.current_time()
        await scene.pool.aclose()
        assert trio.current_time() - began <= 2


async def test_f22_close_never_answered(make: Make, autojump_clock) -> None:
    """F22: our close frame is never answered -> nothing: leaving the pool takes `close_timeout` (2 s), no
    more.
    """
    async with faulty(make, FaultRule(Fault("close_unanswered"), times=None)) as scene:
        (await scene.ask(QUESTION)).assert_answer()
        began = trio.current_time()
        await scene.pool.aclose()
        assert trio.current_time() - began <= 2.5
