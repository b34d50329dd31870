"""Eight agents in a live terminal: what each is saying, while it says it. Needs rich (`wspool[cli]`)."""

import trio
from endpoint import MODEL, endpoint
from rich.console import Console
from rich.live import Live
from rich.table import Table

import wspool

TOPICS = ("rivers", "bridges", "harbours", "lighthouses", "ferries", "canals", "locks", "docks")


def picture(said: dict[str, str], pool: wspool.Pool) -> Table:
    """One row for each agent, and the pool below."""
    table = Table("agent", "says", caption=repr(pool), expand=True)
    for topic, text in said.items():
        table.add_row(topic, text[-70:])
    return table


async def main(url: str) -> None:
    """Stream all of them into one table, ten times a second."""
    said = dict.fromkeys(TOPICS, "")
    console = Console()
    async with wspool.open_pool(url, policy=wspool.PoolPolicy(max_size=4)) as pool:

        async def agent(topic: str) -> None:
            async with pool.conversation(model=MODEL, store=False) as conversation:
                async with conversation.turn(f"Say three sentences about {topic}.") as turn:
                    async for event in turn:
                        if event.type == "response.output_text.delta":
                            said[topic] += event.data["delta"]

        async def show(live: Live) -> None:
            while True:
                live.update(picture(said, pool))
                await trio.sleep(0.1)

        with Live(picture(said, pool), console=console, auto_refresh=True) as live:
            async with trio.open_nursery() as watching:
                watching.start_soon(show, live)
                async with trio.open_nursery() as agents:
                    for topic in TOPICS:
                        agents.start_soon(agent, topic)
                live.update(picture(said, pool))
                watching.cancel_scope.cancel()


if __name__ == "__main__":
    with endpoint() as where:
        trio.run(main, where.url)
