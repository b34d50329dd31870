"""Programs that nobody here wrote, unchanged, against the reference server and through the proxy.

They are large, so nothing of this runs unless it is asked for: `WSPOOL_CLIENTS=FOLDER pytest tests/clients`.
What is not in FOLDER yet is installed into it, from npm and PyPI, by name; that takes a minute or two and two
gigabytes, once. `WSPOOL_OPENRESPONSES=FOLDER`, a clone of the official conformance suite, adds that.
"""
