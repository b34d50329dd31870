"""The fault catalogue: what goes wrong between a pool and its endpoint, and what a user sees of it.

Each test is about one number; what needs a real network is in `tests/network`. The first line of its
docstring is its row in `docs/faults.md`, which `python -m tests.faults` writes.
"""
