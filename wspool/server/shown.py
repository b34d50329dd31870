"""What a model is shown: items as the protocol has them in full, however short the client wrote them; and who
hears of it if the model fails, in which words.
"""

import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import attrs

from wspool.server.models import Model, ModelRequest, ModelTurn, TurnError
from wspool.server.protocol.items import in_full

__all__ = ["ModelProblemError", "WatchedModel", "of_model"]

#: Characters of what an exception says, and frames of where it was raised, that its client is told.
_LONGEST: Final = 300
_MOST_FRAMES: Final = 5
_OURS: Final = Path(__file__).parents[1]


class ModelProblemError(Exception):
    """The model's own code has raised, or it has said what is no turn. Its cause is what was raised."""

    @property
    def error(self) -> TurnError:
        """What the client is told."""
        return _told(self.__cause__ or self, str(self))


@contextmanager
def of_model(how: str) -> Generator[None, None, None]:
    """Whatever is raised in the block is the model's.

    Args:
      how: what the model has done then, as "raised".

    Raises:
      ModelProblemError: something was.
    """
    try:
        yield
    except Exception as problem:  # whatever it is
        raise ModelProblemError(how) from problem


def _told(problem: BaseException, how: str) -> TurnError:
    """Return what the client is told of an exception of the model's own code.

    No provider says this, whose `server_error` may pass: the same request would meet the same mistake, so
    nobody is to wait it out. The code is the one that wspool's own clients know.
    """
    frames = [
        f"{Path(frame.filename).name}:{frame.lineno} in {frame.name}"
        for frame in traceback.extract_tb(problem.__traceback__)
        if _OURS not in Path(frame.filename).parents
    ]
    try:
        words = str(problem)[:_LONGEST]
    except Exception:  # whatever its __str__ raises
        words = "?"
    where = f" ({', '.join(frames[-_MOST_FRAMES:])})" if frames else ""
    return TurnError(
        message=f"the model {how} {type(problem).__name__}: {words}{where}", code="model_exception"
    )


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
