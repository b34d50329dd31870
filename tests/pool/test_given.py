"""What is given wrongly is told at the call, by name, and nothing is dialed or changed for it."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import wspool
from tests.helpers import FakeConnector, FakeWire, echo, fake_pool, policy

BODY = {"model": "m", "input": "x"}

OPEN: list[tuple[str, object]] = [
    ("url", 5),
    ("url", b"ws://localhost/"),
    ("policy", {"max_size": 2}),
    ("policy", wspool.PoolPolicy),
    ("provider", 5),
    ("provider", wspool.Provider),
    ("proxy", 5),
    ("wire", 5),
    ("wire", FakeConnector),
    ("warm_up", "hello"),
    ("trace", 5),
    ("instrument", 5),
    ("instrument", [wspool.LoggingInstrument]),
]


@pytest.mark.parametrize(("name", "value"), OPEN, ids=lambda value: f"{value!r:.30}")
def test_open_pool(name: str, value: object) -> None:
    """Before there is a pool."""
    given: Any = {"url": "ws://localhost/", "wire": FakeConnector(), name: value}
    with pytest.raises(TypeError, match=f"^{name}( must be|=)"):
        wspool.open_pool(**given)


# Each `ignore` is for the mistake that is made there on purpose: who has types checked is told before.
CALLS: list[tuple[str, Callable[[wspool.Pool, wspool.Conversation], object]]] = [
    ("grace=nan", lambda pool, _: pool.aclose(grace=math.nan)),
    ("grace=-1", lambda pool, _: pool.aclose(grace=-1)),
    ("grace=None", lambda pool, _: pool.aclose(grace=None)),  # type: ignore[arg-type]
    ("lanes=-1", lambda pool, _: pool.wait_ready(-1)),
    ("lanes='1'", lambda pool, _: pool.wait_ready("1")),  # type: ignore[arg-type]
    ("max_size='2'", lambda pool, _: pool.resize(max_size="2")),  # type: ignore[arg-type]
    ("min_idle=True", lambda pool, _: pool.resize(min_idle=True)),
    ("min_remaining='5'", lambda pool, _: pool.acquire(min_remaining="5")),  # type: ignore[arg-type]
    ("budget must be a Budget", lambda pool, _: pool.conversation(budget=5)),  # type: ignore[arg-type]
    ("body must be", lambda pool, _: pool.turn([1])),  # type: ignore[arg-type]
    ("body must be", lambda _, __: wspool.http_only(None)),  # type: ignore[arg-type]
    ("the name of a field must be a str, not int", lambda pool, _: pool.turn({**BODY, 5: 1})),  # type: ignore[dict-item]
    (
        "the name of a field must be a str, not int",
        lambda pool, _: pool.conversation(resume={"version": 1, "items": [], "defaults": {5: 1}}),
    ),
    ("session='abc'", lambda pool, _: pool.turn(BODY, session="abc")),
    ("session=5", lambda pool, _: pool.turn(BODY, session=5)),  # type: ignore[arg-type]
    ("notice must be a function", lambda pool, _: pool.turn(BODY, notice=5)),  # type: ignore[arg-type]
    ("input must be", lambda _, talk: talk.respond(None)),  # type: ignore[arg-type]
    ("input must be", lambda _, talk: talk.respond({"role": "user"})),  # type: ignore[arg-type]
    ("input must be", lambda _, talk: talk.turn(b"x")),  # type: ignore[arg-type]
    ("a history is a list", lambda _, talk: talk.edit({})),  # type: ignore[arg-type]
    ("on_event must be a function", lambda _, talk: talk.run("x", tools={}, on_event=5)),  # type: ignore[arg-type]
    ("eager must be True or False", lambda _, talk: talk.run("x", tools={}, eager="no")),  # type: ignore[arg-type]
    ("ledger must be an object with", lambda _, talk: talk.run("x", tools={}, ledger=5)),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("text", "call"), CALLS)
async def test_a_call(text: str, call: Callable[..., Any], autojump_clock: object) -> None:
    """Before anything is asked for, and all goes on as if it had not been called."""
    connector = FakeConnector(echo)
    async with (
        fake_pool(connector, limits=policy(max_size=2, min_idle=0)) as pool,
        pool.conversation(model="m") as conversation,
    ):
        with pytest.raises((TypeError, ValueError), match=text):
            await call(pool, conversation)

        assert 0 == connector.dials
        assert "ok" == (await conversation.respond("x")).output_text
        assert not pool.statistics().closed_pool


SECRET = "what nobody else shall read"
MESSAGE = {"type": "message", "role": "user", "content": SECRET}

WRONG: dict[str, Any] = {
    "a list of texts": [SECRET],
    "an item that stands alone": MESSAGE,
    "bytes": SECRET.encode(),
    "a set in it": [{**MESSAGE, "content": {SECRET}}],
    "no number beside it": [{**MESSAGE, "x": math.nan}],
    "a list in a list": [[SECRET]],
    "bytes in it": [{**MESSAGE, "content": SECRET.encode()}],
    "a key that is none": [{**MESSAGE, (SECRET, 1): 1}],
}

DOORS: dict[str, Callable[[wspool.Pool, wspool.Conversation], Callable[[Any], object]]] = {
    "turn": lambda _, talk: talk.turn,
    "edit": lambda _, talk: talk.edit,
    "instructions": lambda _, talk: lambda wrong: talk.turn("x", instructions=[wrong, {1}]),
    "a request": lambda pool, _: lambda wrong: pool.turn({"model": "m", "input": wrong}),
    "a snapshot": lambda pool, _: lambda wrong: pool.conversation(resume=wrong),
    "its items": lambda pool, _: lambda wrong: pool.conversation(resume={"version": 1, "items": [wrong, 5]}),
    "a response": lambda pool, _: lambda wrong: pool.conversation(previous_response_id=wrong),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
async def test_no_error_says_what_was_given(
    door: Callable[..., Any], wrong: Any, autojump_clock: object
) -> None:
    """Errors are written down, and prompts are not to be: one names what is wrong by its kind, and where."""
    async with fake_pool(FakeConnector(echo)) as pool, pool.conversation(model="m") as conversation:
        with pytest.raises((TypeError, ValueError)) as caught:
            async with door(pool, conversation)(wrong):
                pytest.fail("it was taken")

    assert SECRET not in str(caught.value)


async def test_a_ledger_of_many_conversations_is_that_of_none(autojump_clock: object, tmp_path: Path) -> None:
    """Which one it is has to be said, and is missed before a turn is paid for."""
    async with fake_pool(FakeConnector(echo)) as pool, pool.conversation(model="m") as conversation:
        with wspool.FileLedger(tmp_path / "effects.jsonl") as ledger:
            with pytest.raises(TypeError, match="ledger must be an object with past"):
                await conversation.run("x", tools={}, ledger=ledger)  # type: ignore[arg-type]
            await conversation.run("x", tools={}, ledger=ledger.of("a"))


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"max_tokens": "5"}, "max_tokens='5' is not a number"),
        ({"max_turns": True}, "max_turns=True is not a number"),
        ({"max_tokens": math.nan}, "max_tokens=nan is below 0"),
        ({"max_cost": "1", "price": (1, 1, 1)}, "max_cost='1' is not a number"),
        ({"price": "123"}, "price='123' must be"),
        ({"price": 5}, "price=5 must be"),
        ({"price": (1, "x", 1)}, "price='x' is not a number"),
        ({"within": 5}, "within must be a Budget, not int"),
        ({"within": wspool.Budget}, "within must be a Budget, not the class Budget"),
        ({"name": 5}, "name must be a str"),
    ],
)
def test_a_budget(given: Any, text: str) -> None:
    """It is told before anything is spent."""
    with pytest.raises((TypeError, ValueError), match=text):
        wspool.Budget(**given)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"logger": "wspool"}, "logger must be an object with isEnabledFor and log, not str"),
        ({"level": "INFO"}, "level='INFO' is not an int"),
        ({"slow": math.nan}, "slow=nan is below 0"),
    ],
)
def test_an_instrument(given: Any, text: str) -> None:
    """It would only be told by what it does not write."""
    with pytest.raises((TypeError, ValueError), match=text):
        wspool.LoggingInstrument(**given)


async def test_what_a_block_is_asked_for_with_is_written_down_then(autojump_clock: object) -> None:
    """Not when it is entered: what happens to it in between changes nothing."""
    sent: list[dict[str, Any]] = []

    def told(wire: FakeWire, request: dict[str, Any]) -> None:
        sent.append(request)
        echo(wire, request)

    connector = FakeConnector(told)
    about: dict[str, Any] = {"topic": "one"}
    more: dict[str, Any] = {"topic": "two"}
    async with fake_pool(connector) as pool:
        block = pool.conversation(model="m", metadata=about)
        about["topic"] = "changed"
        async with block as conversation:
            await conversation.respond("first")
            snapshot: Any = conversation.snapshot()
            branch = conversation.fork(metadata=more)
            resumed = pool.conversation(resume=snapshot)
            more["topic"] = "changed"
            snapshot["defaults"].clear()
            snapshot["items"].clear()
            async with branch, resumed as other:
                assert 2 == len(other.items)
                assert {"model": "m", "metadata": {"topic": "one"}} == other.snapshot()["defaults"]
            async with conversation.fork(metadata={"topic": "two"}) as branched:
                assert {"topic": "two"} == branched.snapshot()["defaults"]["metadata"]

    assert {"topic": "one"} == sent[0]["metadata"]
