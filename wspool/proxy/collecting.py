"""Collecting: when Python's collector looks at everything, in a process that is a proxy and nothing else.

All clients wait while it looks, with hundreds of them for a fifth of a second; and by itself it looks when
many objects have come, which is when many clients have. Where as many objects go as come it seldom looks at
the young ones either, and then at all that hundreds of turns are made of. Rules of this module:

* A turn leaves no cycles (tests/proxy/test_collecting.py), so that there is little to find, and no hurry: it
  looks when nothing is being answered.
* It does look after a while, also where something always is: what goes wrong may leave some.
* What is there when a request ends, or before the first, modules above all, is only looked at then: by itself
  the collector looks at what has come since.
* All that is for a whole process. A program that opens a proxy beside other things keeps its own ways.
"""

from __future__ import annotations

import gc
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from wspool.proxy.records.record import Record, Records

__all__ = ["collected_in_quiet", "is_due"]

#: Requests from one look to the next, if nothing is being answered then; and if something is. As many that
#: went wrong would leave some ten thousands of kilobytes.
_IN_QUIET: Final = 1_000
_AT_MOST: Final = 20_000

#: Younger collections, of which there have to be so many, are few enough that this is never reached.
_NEVER: Final = 2**30


def is_due(ended: int, running: int) -> bool:
    """Return whether everything is looked at now.

    Args:
        ended: requests that have ended since the last time.
        running: requests that are being answered.
    """
    return ended >= (_AT_MOST if running else _IN_QUIET)


@contextmanager
def collected_in_quiet(records: Records) -> Generator[None]:
    """Have everything looked at in quiet moments only, while the body runs."""
    ended, before = 0, gc.get_threshold()

    def note(record: Record) -> None:
        nonlocal ended
        if record.outcome is None:
            return
        ended += 1
        if is_due(ended, len(records.running)):
            ended = 0
            gc.unfreeze()
            gc.collect()
        gc.freeze()  # moves lists, whatever is in them

    gc.collect()
    gc.freeze()
    gc.set_threshold(before[0], before[1], _NEVER)
    try:
        with records.listen(note):
            yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
