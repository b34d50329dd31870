"""The facades are the native API: the same names, signatures and docstrings, but for what stands here."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

import wspool
from wspool import aio, blocking

#: What a facade has not, and why.
LEFT_OUT = {
    # What conversations and turns use of it, in the steps of the trio run that they are part of.
    "Lease": {
        "begin",
        "check_size",
        "give_up",
        "gone",
        "heed_size",
        "lane",
        "prepare",
        "send",
        "steer",
        "stream_id",
    },
    # For the exchange of an HTTP door.
    "Pool": {"failure"},
    # For the facade.
    "Conversation": {"prepare"},
    # For who passes events on, as the facade does, and that exchange; and for who calls what the caller gave.
    "Turn": {
        "added",
        "at_hand",
        "awaited",
        "batch",
        "begun",
        "ended",
        "events",
        "failure",
        "headers",
        "leave",
        "mended",
        "received",
        "record",
        "transport",
    },
}
#: Of the world: the protocols of blocks and iterators, and one name.
WORLD = {"aclose": "close"}
CLASSES = ["Conversation", "Lease", "Pool", "Turn"]


def public(kind: type) -> dict[str, Any]:
    """The public members of a class, and its attributes that are set on instances."""
    return {name: member for name, member in inspect.getmembers(kind) if not name.startswith("_")}


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("world", [aio, blocking])
def test_every_public_name_is_there(world: Any, name: str) -> None:
    native, facade = public(getattr(wspool, name)), public(getattr(world, name))
    rename = WORLD if world is blocking else {}
    expected = {rename.get(each, each) for each in native if each not in LEFT_OUT[name]}
    attributes = {"Pool": {"policy", "provider"}, "Lease": set[str]()}.get(name, set())
    assert expected | attributes == set(facade)


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("world", [aio, blocking])
def test_each_has_the_same_signature_and_docstring(world: Any, name: str) -> None:
    native, facade = public(getattr(wspool, name)), public(getattr(world, name))
    back = {theirs: ours for ours, theirs in WORLD.items()} if world is blocking else {}
    compared = 0
    for each, member in facade.items():
        origin = native.get(back.get(each, each))
        if inspect.isfunction(member) and origin is not None:
            assert inspect.signature(origin) == inspect.signature(member), each
            assert inspect.getdoc(origin) == inspect.getdoc(member), each
            compared += 1
        elif isinstance(member, property) and isinstance(origin, property):
            assert inspect.getdoc(origin) == inspect.getdoc(member), each
            compared += 1
    assert compared >= 4


@pytest.mark.parametrize("world", [aio, blocking])
def test_so_has_open_pool(world: Any) -> None:
    assert inspect.signature(wspool.open_pool) == inspect.signature(world.open_pool)
    assert wspool.open_pool.__doc__ == world.open_pool.__doc__


@pytest.mark.parametrize("name", CLASSES)
def test_what_waits_is_async_there_and_plain_here(name: str) -> None:
    for each, member in public(getattr(wspool, name)).items():
        if inspect.iscoroutinefunction(member) and each not in LEFT_OUT[name]:
            assert inspect.iscoroutinefunction(getattr(getattr(aio, name), each)), each
            assert not inspect.iscoroutinefunction(getattr(getattr(blocking, name), WORLD.get(each, each))), (
                each
            )
