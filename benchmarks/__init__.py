"""Measurements: `python -m benchmarks` lists them, `python -m benchmarks NAME` makes one."""
