"""A column of answers for a Ray data set. Needs `pip install 'ray[data]'`."""

import ray.data
from endpoint import MODEL, endpoint

import wspool.ray

if __name__ == "__main__":
    with endpoint() as where:
        rows = ray.data.from_items([{"input": f"Is {n} even?"} for n in range(40)])
        answered = rows.map_batches(
            wspool.ray.Conversations,
            fn_constructor_kwargs={"fields": {"model": MODEL}, "url": where.url},
            compute=ray.data.ActorPoolStrategy(size=2),
            batch_size=10,
        )
        answers = answered.take_all()
    print(f"{len(answers)} answers, {sum(bool(row['error']) for row in answers)} errors")
