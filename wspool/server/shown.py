"""What a model is shown: items as the protocol has them in full, however short the client wrote them; and who
hears of it if the model fails.
"""

from collections.abc import Callable

import attrs

from wspool.server.models import Model, ModelRequest, ModelTurn
from wspool.server.protocol.items import in_full

__all__ = ["WatchedModel"]


class WatchedModel:
    """A model that is shown items in full, and whose first exception is kept."""

    def __init__(self, model: Model, failed: Callable[[], object] | None = None) -> None:
        """Args:
        failed: called with each exception, at once and in the task that asked.
        """
        self.failure: Exception | None = None
        self._model = model
        self._failed = failed

    def respond(self, request: ModelRequest) -> ModelTurn:
        """What the model says."""
        try:
            return self._model.respond(
                attrs.evolve(request, context=[in_full(item) for item in request.context])
            )
        except Exception as error:  # whatever the model raises, which goes on to whoever asked
            self.failure = self.failure or error
            if self._failed is not None:
                self._failed()
            raise
