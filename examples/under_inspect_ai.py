"""Under inspect_ai, on trio: the model is `wspool/NAME`, found by its entry point.

On a command line: `INSPECT_ASYNC_BACKEND=trio inspect eval task.py --model wspool/gpt-5.2 -M max_size=64`.
"""

import os
import tempfile

os.environ.setdefault("INSPECT_ASYNC_BACKEND", "trio")

from endpoint import MODEL, endpoint
from inspect_ai import Task, eval as evaluate
from inspect_ai.dataset import Sample
from inspect_ai.model import get_model
from inspect_ai.scorer import includes
from inspect_ai.solver import generate


def capitals() -> Task:
    """Questions whose answer is in the question, so that an echo is right."""
    samples = [
        Sample(input=f"Repeat: {city}.", target=city)
        for city in ("Paris", "Madrid", "Rome", "Vienna", "Lisbon", "Prague")
    ]
    return Task(dataset=samples, solver=generate(), scorer=includes())


def main(base_url: str, key: str) -> None:
    """Evaluate, and say what came of it."""
    model = get_model(f"wspool/{MODEL}", base_url=base_url, api_key=key, max_size=4)
    with tempfile.TemporaryDirectory() as logs:
        (log,) = evaluate(capitals(), model=model, log_dir=logs, display="none")
    print(log.status, log.results.scores[0].metrics["accuracy"].value if log.results else log.error)


if __name__ == "__main__":
    with endpoint() as where:
        main(where.base_url, where.sdk_key)
