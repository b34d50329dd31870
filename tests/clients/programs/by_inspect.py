"""inspect_ai: two evaluations in a row, by asyncio or by trio, with a tool."""

import json
import os
import sys
import tempfile

from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.model import get_model
from inspect_ai.scorer import includes
from inspect_ai.solver import generate, use_tools
from inspect_ai.tool import tool

import wspool.http


@tool
def weather():
    async def execute(city: str):
        """The weather of a city.

        Args:
            city: Which.
        """
        return "sunny" if city == "Paris" else "rain"

    return execute


def evaluated(number):
    model = get_model(
        "openai/gpt-5.2",
        api_key="sk-test",
        base_url=os.environ["BASE_URL"],
        responses_api=True,
        http_client=wspool.http.async_client(),
        memoize=False,
    )
    samples = [Sample(input=f"Is it nice in Paris, {number} {n}?", target="sunny") for n in range(4)]
    task = Task(dataset=samples, solver=[use_tools(weather()), generate()], scorer=includes())
    (log,) = eval(task, model=model, display="none", log_dir=tempfile.mkdtemp())
    assert log.status == "success", log.error
    return [sample.output.completion for sample in log.samples]


sys.stdout.write("\n" + json.dumps(evaluated(0) + evaluated(1)) + "\n")
