"""Notices on a real pool, on a scripted wire: a sample of what the notice machine of `tests/core` puts in."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

import pytest

from tests.core.test_notices import BLANKS, NOTICES, STORIES, Frame, Story
from tests.helpers import FakeConnector, FakeWire, fake_pool, policy
from wspool import ResponseFailedError

#: Those that a pool without lanes asks by itself: no lane, nothing steered, and an answer that is whole.
PLAIN = [
    story
    for story in STORIES
    if "stream_id" not in story.request
    and all(frame["type"] != "response.steer" for frame in story.said)
    and "limit_reached" not in json.dumps(story.said)
]

#: All but the one that lets the connection go, in its own time.
HARMLESS: list[Frame | str] = [*(one for one in NOTICES if one["type"] != "error"), *BLANKS]


def noticed(story: Story, chance: random.Random) -> list[Frame | str]:
    """What is said, with a few notices; a numbered heartbeat counts as all else does."""
    said: list[Frame | str] = []
    shift = 0
    for frame in story.said:
        number = frame.get("sequence_number")
        for _ in range(chance.choice((0, 0, 1, 3))):
            notice = chance.choice(HARMLESS)
            if number is not None and isinstance(notice, dict) and chance.random() < 0.5:
                notice = {**notice, "sequence_number": number + shift}
                shift += 1
            said.append(notice)
        said.append(frame if number is None else {**frame, "sequence_number": number + shift})
    return said


async def told(story: Story, said: Sequence[Frame | str], idle: Sequence[Frame | str]) -> tuple[Any, ...]:
    """What the caller is told, how often it is dialled, and what becomes of the next request."""

    def answer(wire: FakeWire, request: Frame) -> None:
        wire.push(*(said if len(wire.sent) == 1 else story.said))

    connector = FakeConnector(answer)
    outcomes: list[Any] = []
    async with fake_pool(connector, limits=policy(max_size=1, max_resends=0)) as pool:
        body = {name: value for name, value in story.request.items() if name != "type"}
        async with pool.lease() as lease:
            try:
                async with lease.create(**body) as turn:
                    outcomes.append((await turn.result()).data)
            except ResponseFailedError as error:
                outcomes.append((error.code, str(error), error.delivery))
        connector.wire.push(*idle)
        async with pool.lease() as lease:
            outcomes.append(lease.connection)
    return (*outcomes, connector.dials)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("story", PLAIN, ids=str)
async def test_notices_change_nothing(story: Story, seed: int, autojump_clock: object) -> None:
    """In the turn, and behind it on an idle connection: the same answer, and the same connection goes on."""
    chance = random.Random(f"{story}/{seed}")
    idle = [chance.choice(HARMLESS) for _ in range(3)]

    plain = await told(story, story.said, [])

    assert plain == await told(story, noticed(story, chance), idle)
    assert plain[-1] == 1
