"""What a pool does, for Prometheus: a page to scrape, beside agents at work. Needs `wspool[prometheus]`."""

import sys
import urllib.request

import prometheus_client
import trio
from endpoint import MODEL, endpoint

import wspool
from wspool.prometheus import PrometheusInstrument

SHOWN = (
    "wspool_turns_total",
    "wspool_turn_tokens_total",
    "wspool_connections{",
    "wspool_turn_requests_total",
)


async def main(url: str, port: int) -> None:
    """Take some turns, and look at the page as Prometheus would."""
    registry = prometheus_client.CollectorRegistry()
    watching = PrometheusInstrument(registry=registry)
    page, serving = prometheus_client.start_http_server(port, "127.0.0.1", registry)
    async with wspool.open_pool(url, policy=wspool.PoolPolicy(max_size=4), instrument=watching) as pool:

        async def agent(number: int) -> None:
            async with pool.conversation(model=MODEL, store=False) as conversation:
                for text in ("Hello.", f"I am number {number}."):
                    await conversation.respond(text)

        async with trio.open_nursery() as nursery:
            for number in range(4):
                nursery.start_soon(agent, number)

        def scrape() -> str:
            with urllib.request.urlopen(f"http://127.0.0.1:{page.server_port}/metrics") as answer:
                return answer.read().decode()

        for line in (await trio.to_thread.run_sync(scrape)).splitlines():
            if line.startswith(SHOWN):
                print(line)
    page.shutdown()
    serving.join()
    page.server_close()


if __name__ == "__main__":
    with endpoint() as where:
        trio.run(main, where.url, int(sys.argv[1]) if len(sys.argv) > 1 else 0)
