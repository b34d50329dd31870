"""A client as most are: it keeps its history and sends all of it, by server-sent events, and asks again.

It asks again as the SDKs do (`openai`: connection errors, 408, 409, 429 and 5xx, unless the answer says
otherwise; the same bytes, and the number of the try in a header); an answer that was cut off or failed is
asked for anew by the program, as a new request.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, Final

import attrs

from benchmarks.proxied.asking import MODEL, Answer, Caller, request

__all__ = ["TOOL", "Talk", "Talker", "events_of"]

#: What the model is offered.
TOOL: Final = {"type": "function", "name": "read", "strict": False, "parameters": {"type": "object"}}

#: So often a turn is asked for, at most; something is wrong with who needs more.
_MOST: Final = 60

#: Seconds before the next try. SDKs wait 0.5 to 8, and as long as they are told to.
_WAIT: Final = 0.1


def events_of(content: bytes) -> list[dict[str, Any]]:
    """Return the events of a body, chunks and all."""
    plain, rest = bytearray(), content
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size, 16)
        plain += rest[:length]
        rest = rest[length + 2 :]
    return [json.loads(line[6:]) for line in bytes(plain).split(b"\n") if line.startswith(b"data: {")]


@attrs.define
class Talk:
    """What became of a conversation.

    Attributes:
        asked: requests for each turn.
        ended: turns that were answered in full.
        retries: requests that repeated one.
        problems: what must not be.
    """

    asked: list[int] = attrs.field(factory=list[int])
    ended: int = 0
    retries: int = 0
    problems: list[str] = attrs.field(factory=list[str])


class Talker:
    """One client. Blocks.

    Args:
        base_url: what it is told.
        name: what its first message says, so that its turns can be told from those of others.
        key: what it shows.
        output: makes the output of a tool.
        caller: its connection, if not one that reads what it is sent.
    """

    def __init__(
        self,
        base_url: str,
        name: str,
        key: str,
        output: Callable[[int], str],
        caller: Caller | None = None,
    ) -> None:
        self.talk = Talk()
        self._base_url, self._key, self._output = base_url, key, output
        self._caller = Caller(base_url) if caller is None else caller
        self._items: list[dict[str, Any]] = [{"role": "user", "content": name}]

    def run(self) -> None:
        """Talk until the model calls no tool any more, or something is wrong."""
        try:
            while self._turn():
                pass
        except Exception as problem:
            self.talk.problems.append(f"{type(problem).__name__}: {problem}")
        finally:
            self._caller.close()

    def _turn(self) -> bool:
        """Take one turn; return whether there is another."""
        body = {"model": MODEL, "input": self._items, "tools": [TOOL], "stream": True, "store": False}
        content = json.dumps(body).encode()
        self.talk.asked.append(0)
        response = self._answered(content)
        self.talk.ended += 1
        self._items += response["output"]
        calls = [item for item in response["output"] if item["type"] == "function_call"]
        for call in calls:
            said = self._output(json.loads(call["arguments"])["part"])
            self._items.append({"type": "function_call_output", "call_id": call["call_id"], "output": said})
        return bool(calls)

    def _answered(self, content: bytes) -> dict[str, Any]:
        tries = 0
        while self.talk.asked[-1] < _MOST:
            self.talk.asked[-1] += 1
            self.talk.retries += tries > 0
            try:
                answer = self._caller.ask(request(self._base_url, content, key=self._key, tries=tries))
            except (OSError, ValueError):  # what was said of a length, too, may be cut off
                self._caller.close()
                time.sleep(0.05)
                tries += 1
                continue
            if answer.status != 200:
                if not _again(answer):
                    if answer.status < 500:
                        raise RuntimeError(f"{answer.status} {answer.content[:300]!r}")
                    tries = -1  # the SDK gives up, and the program asks anew
                time.sleep(_WAIT)
                tries += 1
                continue
            last = events_of(answer.content)[-1]
            if last["type"] == "response.completed":
                response: dict[str, Any] = last["response"]
                return response
            if last["type"] not in ("response.failed", "response.incomplete"):
                self.talk.problems.append(f"a stream ended with {last['type']}")
            tries = 0
        raise RuntimeError("no answer")


def _again(answer: Answer) -> bool:
    return answer.again and (answer.status in (408, 409, 429) or answer.status >= 500)
