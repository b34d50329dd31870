"""CARRIES: bytes and frames between one peer and one connection.

The rule of this package: it decides nothing. It reports facts (which phase of a
dial failed, which close code came) and knows neither `wspool.core` nor the pool.
"""
