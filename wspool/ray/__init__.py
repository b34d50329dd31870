"""Ray: one batch on many machines, with one pool for each actor. Needs the extra `ray`.

::

    import wspool.ray

    summary = wspool.ray.run_sharded("tasks.jsonl", "results", model="gpt-5.2", actors=8, address="auto")

Ray is imported when it is used, and not before.
"""

from wspool.ray.batches import Conversations
from wspool.ray.sharded import run_sharded

__all__ = ["Conversations", "run_sharded"]
