"""The explorer: finds the schedule under which a trio program goes wrong, and tells it in the fewest words.

    from wspool.testing.explore import explore

    explore(program).check()

trio leaves open which of the runnable tasks is next, and a test sees one order of thousands. Here a tape
decides: it is drawn, searched through, replayed and shortened. See docs/explore.md.
"""

from wspool.testing.explore.points import CutStream, always, cancel_at, choose, cut, fixed
from wspool.testing.explore.reach import UnsupportedTrioError
from wspool.testing.explore.report import FoundError, Report
from wspool.testing.explore.run import Failure, NotDeterministicError, Program
from wspool.testing.explore.schedules import Deviations, Priorities, Randomly, Schedule
from wspool.testing.explore.search import explore, replay
from wspool.testing.explore.tape import ChoiceTape

__all__ = [
    "ChoiceTape",
    "CutStream",
    "Deviations",
    "Failure",
    "FoundError",
    "NotDeterministicError",
    "Priorities",
    "Program",
    "Randomly",
    "Report",
    "Schedule",
    "UnsupportedTrioError",
    "always",
    "cancel_at",
    "choose",
    "cut",
    "explore",
    "fixed",
    "replay",
]
