"""Listening: what whoever serves HTTP on a developer's machine has to be careful about.

Who may ask (`admission`), how much of a request is taken in and how fast (`intake`), what its body unpacks to
(`decoding`), and where it listens (`listen`). Used by the local provider (`wspool.server`) and by the proxy.
"""
