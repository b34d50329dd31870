"""A real pipeline of Ray Data: a pool in each actor, and no row is lost when one of them dies.

Slow, and so only where it is asked for: `WSPOOL_RAY=1 python -m pytest -n 0 tests/ray`.
"""

import importlib
import importlib.util
import os
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import wspool
from wspool import aio
from wspool.ray import Conversations
from wspool.testing import local_server

pytestmark = [
    pytest.mark.ray,
    pytest.mark.network,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="not installed: ray"),
    pytest.mark.skipif("WSPOOL_RAY" not in os.environ, reason="WSPOOL_RAY is not set"),
    pytest.mark.filterwarnings("ignore"),  # of Ray and what it brings along
]

ROWS, ACTORS, CONNECTIONS = 1000, 3, 4


@pytest.fixture
def data() -> Iterator[Any]:
    """Ray Data, on a cluster of its own on this machine."""
    ray: Any = importlib.import_module("ray")
    path = os.pathsep.join([str(Path(wspool.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    ray.init(
        "local",
        num_cpus=ACTORS + 1,
        include_dashboard=False,
        logging_level="ERROR",
        runtime_env={"env_vars": {"PYTHONPATH": path}},
    )
    yield importlib.import_module("ray.data")
    ray.shutdown()


def answers(data: Any, agent: Any, url: str) -> list[dict[str, Any]]:
    rows = data.from_items([{"number": n, "input": f"say {n}"} for n in range(ROWS)])
    answered = rows.map_batches(
        Conversations,
        fn_constructor_args=(agent,),
        fn_constructor_kwargs={
            "fields": {"model": "m"},
            "url": url,
            "policy": wspool.PoolPolicy(max_size=CONNECTIONS, min_idle=0, refusal_patience=600),
        },
        compute=data.ActorPoolStrategy(size=ACTORS),
        batch_size=50,
    )
    found: list[dict[str, Any]] = answered.take_all()
    return sorted(found, key=lambda row: row["number"])


def test_a_thousand_rows(data: Any) -> None:
    """Each is answered, over few connections: a pool in each actor, which lives as long as that."""
    with local_server() as server:
        found = answers(data, None, server.url)
        dialed = len({entry["connection"] for entry in server.ledger})
        assert ROWS == len(server.requests)
    assert [(n, f"say {n}", "") for n in range(ROWS)] == [
        (row["number"], row["answer"], row["error"]) for row in found
    ]
    assert ACTORS <= dialed <= ACTORS * CONNECTIONS


async def dying(grave: str, conversation: aio.Conversation, row: Mapping[str, Any]) -> object:
    """Answers; the first one to come to row 500 takes its process along."""
    if row["number"] == 500:
        try:
            os.mkdir(grave)
        except FileExistsError:
            pass
        else:
            os._exit(1)
    return (await conversation.respond(row["input"])).output_text


def test_an_actor_dies(data: Any, tmp_path: Path) -> None:
    """Ray Data begins its batches again in another one: each row is there once."""
    grave = tmp_path / "grave"
    with local_server() as server:
        found = answers(data, partial(dying, str(grave)), server.url)
    assert grave.is_dir()
    assert [(n, f"say {n}", "") for n in range(ROWS)] == [
        (row["number"], row["answer"], row["error"]) for row in found
    ]
