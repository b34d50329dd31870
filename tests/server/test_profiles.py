"""What only some providers do."""

from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from wspool.server import (
    CLOSING_GATEWAY,
    LITELLM_NATIVE,
    NO_WARM_UP,
    OPENAI,
    PROFILES,
    REFUSES_BUSY,
    UNANNOUNCED,
    VERCEL,
    VLLM,
    EchoModel,
    ModelTurn,
    Rejection,
    ScriptedModel,
    ServerProfile,
    message,
    open_server,
)

from .client import connected, text

SLOW = ScriptedModel([ModelTurn(output=[message("late")], delay=400)])


def test_profiles_are_found_by_name() -> None:
    """Every profile is in the table."""
    assert {VERCEL, VLLM, LITELLM_NATIVE, CLOSING_GATEWAY, NO_WARM_UP, REFUSES_BUSY, UNANNOUNCED} <= set(
        PROFILES.values()
    )
    assert all(name == profile.name for name, profile in PROFILES.items())


async def test_a_gateway_closes_after_each_error(autojump_clock: MockClock) -> None:
    """The error, then 1011."""
    async with (
        open_server(EchoModel(), port=None, profile=CLOSING_GATEWAY) as server,
        connected(server) as client,
    ):
        await client.turn(previous_response_id="resp_none")
        assert await client.closed() == 1011


async def test_a_server_that_does_not_know_generate(autojump_clock: MockClock) -> None:
    """A warm-up is answered by the model."""
    async with (
        open_server(EchoModel(), port=None, profile=NO_WARM_UP) as server,
        connected(server) as client,
    ):
        assert text(await client.respond("hi", generate=False)) == "hi"


async def test_a_server_that_refuses_while_busy(autojump_clock: MockClock) -> None:
    """The second request is refused, the first one goes on."""
    async with open_server(SLOW, port=None, profile=REFUSES_BUSY) as server, connected(server) as client:
        await client.create()
        await client.create()
        frames = await client.finish()
        assert (frames[-1]["status"], frames[-1]["error"]["code"]) == (409, "concurrent_request")
        assert (await client.finish())[-1]["type"] == "response.completed"


async def test_a_server_that_never_announces_its_limit(autojump_clock: MockClock) -> None:
    """The connection is gone, in the middle of a turn."""
    async with (
        open_server(SLOW, port=None, profile=UNANNOUNCED, lifetime=100) as server,
        connected(server) as client,
    ):
        await client.create()
        assert [(await client.receive())["type"] for _ in range(2)] == [
            "response.created",
            "response.in_progress",
        ]
        assert await client.closed() == 1006


async def test_vercel_hangs_up_on_idle_connections(autojump_clock: MockClock) -> None:
    """After five minutes without a turn or a ping; a turn is not idle however long it is."""
    async with open_server(SLOW, port=None, profile=VERCEL) as server, connected(server) as client:
        start = trio.current_time()
        await client.turn()
        await trio.sleep(299)
        await client.websocket.ping(b"x")
        assert await client.closed() == 1001
        # 400 s for the turn; but the connection may live for 780 s only.
        assert trio.current_time() - start == pytest.approx(780, abs=1)
    async with open_server(EchoModel(), port=None, profile=VERCEL) as server, connected(server) as client:
        start = trio.current_time()
        await trio.sleep(200)
        await client.websocket.ping(b"x")
        assert await client.closed() == 1001
        assert trio.current_time() - start == pytest.approx(500, abs=1)


async def test_vercel_has_one_model_for_a_connection(autojump_clock: MockClock) -> None:
    """Another model is an error, and errors end connections."""
    async with open_server(EchoModel(), port=None, profile=VERCEL) as server, connected(server) as client:
        await client.respond()
        frames = await client.turn(model="another")
        assert frames[-1]["error"]["code"] == "model_mismatch"
        assert await client.closed() == 1008


async def test_credits_may_run_out(autojump_clock: MockClock) -> None:
    """Then connections are closed with 4402 and no word."""
    profile = attrs.evolve(VERCEL, credits=1)
    async with open_server(EchoModel(), port=None, profile=profile) as server, connected(server) as client:
        await client.respond()
        await client.create()
        assert await client.closed() == 4402


async def test_litellm_keeps_the_first_model(autojump_clock: MockClock) -> None:
    """Whatever later requests say."""
    async with (
        open_server(EchoModel(), port=None, profile=LITELLM_NATIVE) as server,
        connected(server) as client,
    ):
        await client.respond(model="first")
        assert (await client.respond(model="second"))["model"] == "first"


@pytest.mark.parametrize(("status", "code"), [(401, 1008), (403, 1008), (429, 1013), (503, 1011)])
async def test_litellm_judges_after_the_upgrade(status: int, code: int, autojump_clock: MockClock) -> None:
    """The handshake succeeds, and then the connection closes."""
    async with open_server(EchoModel(), port=None, profile=LITELLM_NATIVE) as server:
        server.reject_handshakes(Rejection(status=status))
        async with connected(server) as client:
            assert await client.closed() == code


async def test_vllm(autojump_clock: MockClock) -> None:
    """404 for a lost parent, bare warm-ups, nothing stored, and a notice before the end."""
    async with open_server(SLOW, port=None, profile=VLLM) as server, connected(server) as client:
        warm = await client.turn(generate=False)
        assert [(frame["type"], frame["sequence_number"]) for frame in warm] == [
            ("response.created", -1),
            ("response.completed", -1),
        ]
        assert text(await client.respond(previous_response_id=warm[-1]["response"]["id"])) == "late"
        first = await client.respond(store=True)
        await client.respond(store=True)
        refusal = (await client.turn(previous_response_id=first["id"]))[-1]
        assert (refusal["status"], refusal["error"]["code"]) == (404, "previous_response_not_found")

        await trio.sleep(3300 - trio.current_time() - 200)
        await client.create()
        types: list[Any] = []
        while "response.completed" not in types:
            frame = await client.receive()
            types.append(frame["type"] if frame["type"] != "error" else frame["error"]["code"])
        assert types[1:4] == ["response.in_progress", "connection_expiring", "response.output_item.added"]
        assert await client.closed() == 1000
        assert trio.current_time() == pytest.approx(3600, abs=1)


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
async def test_every_profile_serves_a_conversation(profile: ServerProfile, autojump_clock: MockClock) -> None:
    """Two turns, the second of which continues the first; steering only where it is offered."""
    async with open_server(EchoModel(), port=None, profile=profile) as server, connected(server) as client:
        first = await client.respond(store=True)
        await client.respond(store=True, previous_response_id=first["id"])
        await client.send({"type": "response.steer", "previous_response_id": "r", "input": "x"})
        code = (await client.receive())["error"]["code"]

    assert code == ("response_not_found" if profile is OPENAI else "steering_not_supported")
