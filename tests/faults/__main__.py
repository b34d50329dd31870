"""Write the table of faults: `python -m tests.faults`."""

from __future__ import annotations

from tests.faults.table import DOCUMENT, render

DOCUMENT.parent.mkdir(exist_ok=True)
DOCUMENT.write_text(render(), encoding="utf-8")
