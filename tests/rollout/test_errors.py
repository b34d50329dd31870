"""Why tasks failed: counted by what they say, however many say it in words of their own."""

import tracemalloc

from wspool.rollout.errors import Errors
from wspool.rollout.tasks import Failure


def test_the_commonest_are_named() -> None:
    """With the first task of each, and where that was raised."""
    errors = Errors()
    for number, kind in enumerate("abacabad"):
        errors.add(str(number), Failure(type="E", code="c", message=kind + 300 * "x", traceback=f"{kind}!"))

    named = errors.commonest()
    assert [("a", 4), ("b", 2), ("c", 1), ("d", 1)] == [(each["message"][0], each["count"]) for each in named]
    assert [("0", "a!"), ("1", "b!"), ("3", "c!"), ("7", "d!")] == [
        (each["task"], each["traceback"]) for each in named
    ]
    assert {("E", "c", 200)} == {(each["type"], each["code"], len(each["message"])) for each in named}


def test_many_kinds_take_little() -> None:
    """Of a hundred thousand that each fail with what the model said a tenth took a hundred megabytes. What
    turns out to be common later is named with a traceback as well.
    """
    errors = Errors()
    tracemalloc.start()
    try:
        for number in range(5000):
            message = f"no number in {number}: {4000 * 'x'}"
            errors.add(str(number), Failure(type="E", message=message, traceback=f"{number} {4000 * 'y'}"))
        for number in range(200):
            errors.add(str(number), Failure(type="F", message="late", traceback="where"))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert held < 10e6
    first = errors.commonest()[0]
    assert (200, "F", "0", "where") == (first["count"], first["type"], first["task"], first["traceback"])
