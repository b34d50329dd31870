"""Effects: whether a call that was begun before is made again."""

from __future__ import annotations

import pytest

from wspool.core.effects import Effect, UnknownEffects, Verdict, key_of, verdict
from wspool.core.frames import encode
from wspool.core.items import Item


def call(name: str = "f", call_id: str | None = "c", arguments: str = '{"a": 1}') -> Item:
    """One call."""
    return {"type": "function_call", "name": name, "call_id": call_id, "arguments": arguments}


@pytest.mark.parametrize(
    ("effect", "repeatable", "unknown", "what"),
    [
        (None, False, "stop", "make"),
        (None, True, "tell", "make"),
        (Effect("done"), False, "stop", "answer"),
        (Effect(""), True, "tell", "answer"),
        (Effect([]), True, "tell", "answer"),
        (Effect(), True, "stop", "make"),
        (Effect(), False, "tell", "tell"),
        (Effect(), False, "stop", "stop"),
    ],
)
def test_what_becomes_of_a_call(
    effect: Effect | None, repeatable: bool, unknown: UnknownEffects, what: Verdict
) -> None:
    """What has ended is never made again; what was begun only if that may be."""
    assert what == verdict(effect, repeatable=repeatable, unknown=unknown)


def test_a_call_is_found_again_by_what_it_asks_for() -> None:
    """However its arguments are written, and not by that of another one."""
    history = [encode(call())]
    same = key_of(call(arguments='{"a":1}'), history)

    assert same == key_of(call(), history)
    others = [call("g"), call(arguments='{"a": 2}'), call(call_id="d"), call(call_id=None)]
    assert 5 == len({same, *(key_of(other, history) for other in others)})


def test_a_server_that_gives_the_same_ids_in_every_turn() -> None:
    """Its second call is another one, and it is the same one after a crash."""
    output = encode({"type": "function_call_output", "call_id": "c", "output": "x"})
    history = [encode(call())]
    longer = [*history, output, encode(call())]

    assert key_of(call(), history) != key_of(call(), longer)
    assert key_of(call(), longer) == key_of(call(), [*longer])
    nameless = [encode(call(call_id=None))]
    assert key_of(call(call_id=None), nameless) != key_of(call(call_id=None), [*nameless, output, *nameless])
    assert key_of(call(call_id="\ud800"), history), "whatever a server says"
    assert "7e1190b2c9e0afff19095b3981a4c525" == key_of(call(), []), (
        "what was noted by an earlier version is found"
    )
