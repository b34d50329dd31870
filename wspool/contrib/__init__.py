"""Packages for hosts: what each plugs in, in its own way.

One module for each host, which imports the host when it is used and not before. What goes through a client of
the OpenAI SDK goes through `wspool.http`; what has no such client holds a pool itself.
"""

__all__: list[str] = []
