"""What is stored is bounded in bytes: every item once, and nothing that nobody holds."""

import json
from types import SimpleNamespace
from typing import cast

from hypothesis import given, strategies as st

from wspool.server.protocol.cache import Remembered, Store
from wspool.server.protocol.weight import Weight

from .client import Frame

SETTINGS: Frame = {"object": "response", "model": "m"}


def size(items: list[Frame]) -> int:
    return sum(len(json.dumps(item, separators=(",", ":"))) for item in items)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4)), max_size=30))
def test_each_item_is_counted_once(steps: list[tuple[int, int]]) -> None:
    """Whatever is held and let go, the weight is that of the items that somebody holds."""
    items: list[Frame] = [{"id": "ab"[number % 2], "content": "x" * number} for number in range(6)]
    weight, held = Weight(), list[list[Frame]]()
    for first, count in steps:
        if held and count == 0:
            weight.let_go(held.pop(first % len(held)))
        else:
            held.append([items[(first + n) % 6] for n in range(count)])
            weight.hold(held[-1])
        alive = {id(item): item for context in held for item in context}
        assert size(list(alive.values())) == weight.bytes
        names = {item["id"] for item in alive.values()}
        assert [name in names for name in "ab"] == [weight.item(name) is not None for name in "ab"]


def test_the_store_is_bounded_in_bytes() -> None:
    """The oldest make room; what responses share is there once; the newest stays, whatever it weighs."""

    def put(number: int, *context: Frame) -> None:
        one = SimpleNamespace(response_id=f"resp_{number}", context=context, given=context[-1:])
        store.put(cast("Remembered", one), SETTINGS | {"id": "x", "output": [*context]})

    store, conversation = Store(max_bytes=10_000), list[Frame]()
    for number in range(50):
        conversation.append({"role": "user", "content": f"{number:0100}"})
        put(number, *conversation)
    assert (50, size(conversation) + 50 * size([SETTINGS])) == (len(store), store.weight.bytes)

    put(49, *conversation)
    assert (50, size(conversation) + 50 * size([SETTINGS])) == (len(store), store.weight.bytes)
    for number in range(100, 200):
        put(number, {"role": "user", "content": "x" * 900})
        assert store.weight.bytes <= 10_000
    assert 10 == len(store)
    put(1000, {"role": "user", "content": "x" * 90_000})
    assert (1, True) == (len(store), store.get("resp_1000") is not None)
    put(1001, {"content": ""})
    assert (1, size([{"content": ""}, SETTINGS])) == (len(store), store.weight.bytes)
    assert [True, False] == [store.remove("resp_1001") for _ in range(2)]
    assert (0, 0) == (len(store), store.weight.bytes)
