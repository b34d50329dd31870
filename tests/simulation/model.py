"""Model: what the server of a world says, and what goes wrong in its turns."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from typing import Any, Final

import attrs

from tests.simulation.odd import ANSWERS, company
from wspool.server import (
    Fault,
    FaultScript,
    Item,
    ModelRequest,
    ModelTurn,
    TurnError,
    function_call,
    message,
)
from wspool.server.models import text_of

__all__ = ["Mishaps", "WorldModel"]

#: What may befall a request by chance. All of it ends the request, and some the connection.
_MISHAPS: Final = (
    Fault("rate_limited", retry_after=2.0),
    Fault("rate_limited", retry_after=30.0, spelling="frame_header"),
    Fault("overloaded"),
    Fault("error"),
    Fault("parent_lost"),
    Fault("busy"),
    Fault("stream_error"),
    Fault("stream_error", occurrence=2),
    Fault("failed"),
)

_GENERATES: Final = Fault("warm_up_generates")


class WorldModel:
    """Does what the last item asks for: `<verb> <seconds> <words>`; anything else is echoed.

    Args:
        odd: True to say it in odd company.
    """

    def __init__(self, *, odd: bool = False) -> None:
        self._odd = odd

    def respond(self, request: ModelRequest) -> ModelTurn:
        """Answer; a function of the request alone."""
        turn = self._respond(request)
        if not (self._odd and turn.output):
            return turn
        return attrs.evolve(turn, output=company(turn.output[0], json.dumps(request.context[-1])))

    def _respond(self, request: ModelRequest) -> ModelTurn:
        last: Item = request.context[-1] if request.context else {}
        if last.get("type") in ANSWERS.values():
            return ModelTurn(output=[message(str(last["output"]))])
        verb, _, rest = text_of(last).partition(" ")
        seconds, _, words = rest.partition(" ")
        delay = float(seconds or 0)
        match verb:
            case "call":
                return ModelTurn(output=[function_call("work", {"word": words})], delay=delay)
            case "fail":
                return ModelTurn(output=[message(words)], status="failed", delay=delay)
            case "reject":
                error = TurnError(message="No.", code="rate_limit_exceeded", status=429)
                return ModelTurn(status="rejected", error=error, delay=delay)
            case "full":
                hint = {"Retry-After": str(1 + len(words) % 20)}
                error = TurnError(message="Later.", code="server_is_overloaded", status=503, headers=hint)
                return ModelTurn(status="rejected", error=error, delay=delay)
            case "stop":
                return ModelTurn(output=[message(words)], status="incomplete", delay=delay)
            case _:
                return ModelTurn(output=[message(words)], delay=delay)


class Mishaps(FaultScript):
    """Gives faults to a share of the requests, and to all or none of the warm-ups, until it is calm."""

    def __init__(self, rate: float, generates: bool, seed: int, calm: Callable[[], bool]) -> None:
        super().__init__()
        self._share, self._generates, self._calm = rate, generates, calm
        self._choice = random.Random(seed)

    def for_create(self, connection: int, sequence: int, body: Mapping[str, Any]) -> Fault | None:
        """The fault of the next request, or None."""
        if body.get("generate") is False:
            return _GENERATES if self._generates else None
        struck = self._choice.random() < self._share
        return self._choice.choice(_MISHAPS) if struck and not self._calm() else None
