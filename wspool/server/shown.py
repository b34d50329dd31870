"""What a model is shown: items as the protocol has them in full, however short the client wrote them; and who
hears of it if the model fails.
"""

from collections.abc import Callable

import attrs

from wspool.server.models import Item, Model, ModelRequest, ModelTurn

__all__ = ["WatchedModel", "in_full"]


def in_full(item: Item) -> Item:
    """*item* with its `type`, and with a text that is its whole content as the part that it stands for.

    What is in full already is returned as it is; nothing is changed in place.
    """
    content, kind, role = item.get("content"), item.get("type"), item.get("role")
    if kind is None and role is not None:
        item = {"type": "message", **{key: value for key, value in item.items() if key != "type"}}
    if isinstance(content, str) and role is not None:
        part = "output_text" if role == "assistant" else "input_text"
        item = item | {"content": [{"type": part, "text": content}]}
    return item


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
