"""Shown: what watches a proxy, and what of it can be seen, put together."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from wspool.pool.instrument import Instrument
from wspool.proxy.access.gate import Gate
from wspool.proxy.page.live import Live
from wspool.proxy.page.scene import Scene
from wspool.proxy.records.metrics import Metrics, exposition
from wspool.proxy.records.record import Records
from wspool.proxy.visit import Handler

__all__ = ["Shown"]


class Shown:
    """Watches the pools and the records of one proxy, for its page and its metrics.

    Args:
        host: the endpoint's, for people.
    """

    def __init__(self, host: str) -> None:
        self._scene = Scene(host, f"wspool {_version()}")
        self._pools = _prometheus()

    def instruments(self, given: Instrument | Sequence[Instrument] | None) -> Sequence[Instrument]:
        """Return what watches the pools: *given*, and what is here."""
        if given is None:
            more: Sequence[Instrument] = ()
        else:
            more = (given,) if isinstance(given, Instrument) else given
        return [self._scene, *([] if self._pools is None else [self._pools]), *more]

    def routes(
        self, gate: Gate, records: Records, clients: Callable[[], int], stopping: Callable[[], bool]
    ) -> Mapping[str, Handler]:
        """Return what answers which path; from here on it watches *records*.

        Args:
            gate: who may see it.
            records: of the requests.
            clients: says how many connections of clients there are.
            stopping: says whether the proxy takes no further request.
        """
        metrics = Metrics(records, clients)
        records.add(self._scene.hear)
        records.add(metrics.hear)
        collectors: list[Any] = [metrics, *([] if self._pools is None else [self._pools])]
        return Live(self._scene, gate, stopping, lambda: exposition(collectors)).routes


def _version() -> str:
    try:
        return importlib.metadata.version("wspool")
    except importlib.metadata.PackageNotFoundError:  # not installed, as in a checkout
        return "of a checkout"


def _prometheus() -> Instrument | None:
    """Return what counts for Prometheus, if its library is installed."""
    try:
        from wspool.prometheus import PrometheusInstrument
    except ImportError:
        return None
    return cast("Instrument", PrometheusInstrument())
