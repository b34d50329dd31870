"""A batch on three Ray actors, with an agent of yours: one result file, one pace, one budget.

Run it again, and only what is owed runs. Results are in `ray-results/`.
"""

import json
from pathlib import Path
from typing import Any

from endpoint import MODEL, endpoint

import wspool.ray


async def agent(conversation: wspool.Conversation, row: dict[str, Any]) -> str:
    """Ask, and ask again. It runs in an actor, and so does what it calls."""
    await conversation.respond(row["input"])
    response = await conversation.respond(f"Say only the number: {row['number']}")
    return response.output_text.split()[-1]


if __name__ == "__main__":
    rows = [
        {"id": f"row-{n}", "input": f"How many is {n}?", "number": n, "expected": f"{n}"} for n in range(60)
    ]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with endpoint() as where:
        summary = wspool.ray.run_sharded(
            "rows.jsonl",
            "ray-results",
            agent=agent,
            model=MODEL,
            actors=3,
            concurrency=30,
            budget=wspool.Budget(max_tokens=1_000_000),
            url=where.url,
        )
    print(f"{summary.right} of {summary.tasks} right, {summary.skipped} were there already")
