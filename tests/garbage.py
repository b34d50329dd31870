"""Collecting garbage where other threads run."""

from __future__ import annotations

import gc
import threading
from typing import Any

__all__ = ["collect"]


def collect() -> None:
    """Collect all garbage that there is: `gc.collect()` does nothing while another thread collects."""
    here, looked = threading.get_ident(), False

    def note(phase: str, told: dict[str, Any]) -> None:
        nonlocal looked
        looked |= phase == "stop" and told["generation"] == 2 and threading.get_ident() == here

    gc.callbacks.append(note)
    try:
        while not looked:
            gc.collect()
    finally:
        gc.callbacks.remove(note)
