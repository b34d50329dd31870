"""The SDK through the door while one request of seven goes wrong: nothing is done twice, or wrong, or never.

The program is the plainest there is: it sends its whole history each time and leaves retries to the SDK.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any, Final

import pytest

import wspool
import wspool.http
from wspool.runtime import Runtime
from wspool.server import (
    EVERY_FAULT,
    FaultScript,
    ModelRequest,
    ModelTurn,
    context_digest,
    function_call,
    message,
)
from wspool.server.models import text_of
from wspool.testing.local import LocalServer, local_server

openai: Any = pytest.importorskip("openai", reason="the openai SDK is not installed")

pytestmark = [pytest.mark.network, pytest.mark.clients]

CONVERSATIONS: Final = 40
TURNS: Final = 4
SHARE: Final = 0.15
TOOL: Final = {
    "type": "function",
    "name": "note",
    "strict": False,
    "parameters": {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]},
}


class Noting:
    """Asks for a note of each word that a user says, and says it once that is made."""

    def respond(self, request: ModelRequest) -> ModelTurn:
        last = request.context[-1]
        if last.get("type") == "function_call_output":
            return ModelTurn(output=[message(f"noted {last['output']}")])
        return ModelTurn(output=[function_call("note", {"word": text_of(last)})])


class Talk:
    """One conversation, and what it knows of itself.

    Attributes:
        asked: how often the SDK was asked, by the digest of what the model should see.
        notes: the words that its tool was called with.
        given_up: True if a turn could not be had at all.
    """

    def __init__(self, client: Any, number: int) -> None:
        self.asked: Counter[str] = Counter()
        self.notes: list[str] = []
        self.given_up = False
        self._client, self._number = client, number
        self._items: list[Any] = []

    async def run(self) -> None:
        """Say what there is to say; each word is noted, and each answer is about that word."""
        for turn in range(TURNS):
            word = f"word {self._number} {turn}"
            self._items.append({"role": "user", "content": word})
            call = (await self._response()).output[0]
            assert word == json.loads(call.arguments)["word"]
            self.notes.append(word)
            answer = {"type": "function_call_output", "call_id": call.call_id, "output": word}
            self._items.append(answer)
            assert f"noted {word}" == (await self._response()).output_text

    async def _response(self) -> Any:
        digest = context_digest(self._items)
        for _ in range(8):
            self.asked[digest] += 1
            try:
                response = await self._client.responses.create(
                    model="m", input=self._items, tools=[TOOL], store=False
                )
            except openai.APIError:
                continue  # what may have run is for the caller to ask again; here it is
            self._items += [item.to_dict() for item in response.output]
            return response
        raise AssertionError("a turn failed eight times in a row")


def executed(server: LocalServer) -> Counter[str]:
    """How often the model was run on what, by its digest: where the provider did not say that it failed."""
    return Counter(
        str(entry["context_sha256"])
        for entry in server.ledger
        if entry["started"] is not None and entry["outcome"] not in ("rejected", "failed")
    )


@pytest.mark.parametrize("rate", [0.0, SHARE])
def test_forty_conversations(rate: float, thinned: bool) -> None:
    """The model sees exactly what plain full requests would show it, and each no oftener than was asked."""
    talkers = CONVERSATIONS // 4 if thinned else CONVERSATIONS
    talks: list[Talk] = []
    script = FaultScript(rate=rate, seed=7, faults=EVERY_FAULT)
    policy = wspool.PoolPolicy(max_size=CONVERSATIONS, min_idle=0)
    runtime = Runtime()

    async def main(base_url: str) -> None:
        door = wspool.http.async_client(runtime=runtime, policy=policy)
        async with openai.AsyncOpenAI(
            api_key="k", base_url=base_url, http_client=door, max_retries=4
        ) as client:
            talks.extend(Talk(client, number) for number in range(talkers))
            async with asyncio.timeout(100):
                await asyncio.gather(*[talk.run() for talk in talks])

    try:
        with local_server(model=Noting(), faults=script) as server:
            asyncio.run(main(server.base_url))
    finally:
        runtime.close()
    asked = sum((talk.asked for talk in talks), Counter[str]())
    ran = executed(server)
    assert set(asked) == set(ran)
    twice = {digest for digest, count in ran.items() if count > asked[digest]}
    assert [] == [
        f"{entry['context_sha256']}: {entry['outcome']} {entry['error_code']} {entry['fault']}"
        for entry in server.ledger
        if entry["context_sha256"] in twice
    ]
    assert talkers * TURNS == len({word for talk in talks for word in talk.notes})
    faults = sum(entry["fault"] is not None for entry in server.ledger)
    if rate == 0:
        server.expect(requests=2 * talkers * TURNS)
        # While connections are being dialled, a newcomer may be given a lane that another goes on from.
        continued = sum(entry["parent_from"] is not None for entry in server.ledger)
        assert continued >= 0.9 * talkers * (2 * TURNS - 1)
    else:
        assert faults > 0.75 * talkers
