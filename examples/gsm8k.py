"""Word problems with a calculator, judged by a scorer: a batch that can be interrupted and goes on.

Run it again, and only what is owed runs. Results are in `gsm8k-results/`.
"""

import ast
import json
import operator
import re
import sys
from pathlib import Path

import trio
from endpoint import MODEL, endpoint

import wspool
from wspool.server import ModelRequest, ModelTurn, function_call, message

TASKS = [
    {"id": "eggs", "input": "A hen lays 3 eggs a day. How many do 12 hens lay in 7 days?", "gold": "252"},
    {"id": "bus", "input": "A bus has 48 seats, 3/4 are taken. How many are free?", "gold": "12"},
    {"id": "wood", "input": "A board of 240 cm is sawn into pieces of 15 cm. How many?", "gold": "16"},
]
OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


def calculate(expression: str) -> float:
    """Work out an expression of numbers, + - * / and parentheses.

    Args:
        expression: such as 12 * (3 + 4).
    """

    def value(node: ast.expr) -> float:
        match node:
            case ast.Constant(value=int() | float() as number):
                return number
            case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
                return OPERATORS[type(op)](value(left), value(right))
        raise wspool.ToolError(f"only numbers and + - * / ( ), not {ast.unparse(node)}")

    return value(ast.parse(expression, mode="eval").body)


def score(answer: str, gold: str) -> bool:
    """Whether the last number of an answer is the right one."""
    numbers = re.findall(r"-?\d+(?:\.\d+)?", answer.replace(",", ""))
    return bool(numbers) and float(numbers[-1]) == float(gold)


class Solver:
    """Who answers without a key: calls the calculator once, and says what came of it."""

    sums = ("12 * 3 * 7", "48 - 48 * 3 / 4", "240 / 15")

    def respond(self, request: ModelRequest) -> ModelTurn:
        """Call, or answer."""
        if request.context[-1].get("type") == "function_call_output":
            return ModelTurn(output=[message(f"It is {request.context[-1]['output']}.")])
        number = next(n for n, task in enumerate(TASKS) if str(task["input"]) in json.dumps(request.context))
        return ModelTurn(output=[function_call("calculate", {"expression": self.sums[number]})])


async def main(url: str, out: Path) -> None:
    """Run what is owed, and append a line for each."""
    done = {json.loads(line)["id"] for line in out.read_text().splitlines()} if out.exists() else set()
    policy = wspool.PoolPolicy(max_size=16, refusal_patience=3600)
    with out.open("a") as results:
        async with wspool.open_pool(url, policy=policy) as pool, trio.open_nursery() as nursery:

            async def solve(task: dict[str, str]) -> None:
                async with pool.conversation(model=MODEL, store=False) as conversation:
                    response = await conversation.run(
                        task["input"], tools=[calculate], max_turns=10, retries=2
                    )
                    line = {"id": task["id"], "answer": response.output_text}
                    line["right"] = score(response.output_text, task["gold"])
                    print(json.dumps(line), file=results, flush=True)

            for task in TASKS:
                if task["id"] not in done:
                    nursery.start_soon(solve, task)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    print(f"{sum(line['right'] for line in lines)} of {len(TASKS)} right, {len(done)} were there already")


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "gsm8k-results")
    folder.mkdir(exist_ok=True)
    with endpoint(Solver()) as where:
        trio.run(main, where.url, folder / "results.jsonl")
