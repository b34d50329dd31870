"""Twenty agents on four connections, and one budget for all of them."""

import trio
from endpoint import MODEL, endpoint

import wspool

QUESTIONS = [f"Name {number} rivers." for number in range(1, 21)]


async def agent(pool: wspool.Pool, question: str, budget: wspool.Budget) -> tuple[str, bool]:
    """Ask, have it made shorter three times; return the last answer, and whether the budget ended it."""
    answer = ""
    async with pool.conversation(model=MODEL, store=False, budget=budget) as conversation:
        try:
            for wish in (question, "Shorter.", "Shorter still.", "One line."):
                answer = (await conversation.respond(wish)).output_text
        except wspool.BudgetExceededError:
            return answer, True
    return answer, False


async def main(url: str) -> None:
    """Run them all; whom the budget stops has what it got so far."""
    budget = wspool.Budget(max_turns=40, max_tokens=200_000)
    answers: list[tuple[str, bool]] = []
    async with wspool.open_pool(url, policy=wspool.PoolPolicy(max_size=4)) as pool:

        async def work(question: str) -> None:
            answers.append(await agent(pool, question, budget))

        async with trio.open_nursery() as nursery:
            for question in QUESTIONS:
                nursery.start_soon(work, question)
        print(pool)
    print(f"{len(answers)} answers, {sum(stopped for _, stopped in answers)} of them cut short by the budget")
    print(f"{budget.turns} turns, {budget.spent.total} tokens")


if __name__ == "__main__":
    with endpoint() as where:
        trio.run(main, where.url)
