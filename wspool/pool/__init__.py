"""PERFORMS: the trio shell around the core.

The law of this package:

1. Ask the core, then perform all its commands in the same synchronous block: no `await`
   between the decision and the act.
2. A command that takes time runs as a task of the pool and is reported back exactly once.
3. Only the shell reads the clock; one timekeeper ticks with `max(deadline, now)`.
4. A lease is handed over inside the wake-up of its waiter, never through a shared attribute.
5. Each connection lives in a nursery of its own; whatever comes out of it means that this one
   connection is dead.
6. A send that did not return normally poisons its connection.
7. On the way out bodies unwind first, while readers still run; then goodbyes, bounded; then force.
"""
