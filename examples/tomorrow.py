"""Save a conversation after each turn, and go on with it tomorrow, in another process.

The first run begins it, each further one goes on: `python tomorrow.py conversation.json`.
"""

import json
import sys
from pathlib import Path

import trio
from endpoint import MODEL, endpoint

import wspool


async def main(url: str, file: Path) -> None:
    """Take one turn, and write everything down."""
    snapshot = json.loads(file.read_text()) if file.exists() else None
    begin = {} if snapshot else {"model": MODEL, "store": False}
    async with wspool.open_pool(url) as pool:
        async with pool.conversation(resume=snapshot, **begin) as conversation:
            text = f"This is visit {len(conversation.items) // 2 + 1}."
            print((await conversation.respond(text)).output_text)
            # Written beside it and moved there: whoever is killed in between has the old one.
            new = file.with_suffix(".new")
            new.write_text(json.dumps(conversation.snapshot()))
            new.replace(file)
            print(f"{len(conversation.items)} items are in {file.name}")


if __name__ == "__main__":
    with endpoint() as where:
        trio.run(main, where.url, Path(sys.argv[1] if len(sys.argv) > 1 else "conversation.json"))
