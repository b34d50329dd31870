"""A trio connection pool for the Responses API over WebSocket.

========================  ==================================================================
Pool                      owns the connections of one endpoint and one credential identity
Connection                one WebSocket
Lane                      one serial track on a connection; most providers have exactly one
Lease                     the exclusive right to one lane of one connection
Turn                      one `response.create` until its terminal event
Conversation              a chain of turns with its history; may outlive several leases
Waiter                    a task in line for a lease
Wire                      the adapter that moves frames
Provider                  what an endpoint can do: lifetime, lanes, frame limit, quirks
========================  ==================================================================
"""

import importlib as _importlib
import typing as _typing

from wspool import errors
from wspool.core import version as _version
from wspool.core.begun import LeaseRecord, ToolBegun, TurnBegun, TurnContent
from wspool.core.commands import CloseReason
from wspool.core.effects import Effect
from wspool.core.error import Delivery
from wspool.core.events.response import Response
from wspool.core.events.steering import Steer, SteerState
from wspool.core.frames import Event
from wspool.core.policy import AZURE, OPENAI, PROVIDERS, VERCEL, XAI, PoolPolicy, Provider
from wspool.core.sending.brought import http_only
from wspool.core.statistics import (
    CloseRecord,
    ConversationStatistics,
    DialRecord,
    GrantRecord,
    Move,
    MoveReason,
    PoolRecord,
    PoolStatistics,
    ToolRecord,
    TurnInFlight,
    TurnRecord,
    TurnStatus,
)
from wspool.core.usage import Budget, Usage
from wspool.errors import *  # noqa: F403  # all of them are public
from wspool.pool.conversation import Conversation, Input
from wspool.pool.credentials import ApiKey
from wspool.pool.effects import EffectLedger, FileLedger
from wspool.pool.http_answer import http_status
from wspool.pool.instrument import Instrument, LoggingInstrument
from wspool.pool.lease import Lease
from wspool.pool.open import DEFAULT_URL, open_pool
from wspool.pool.pool import Pool
from wspool.pool.toolbox import DefinedTool, Tool, ToolError, tool
from wspool.pool.turn import Turn

if _typing.TYPE_CHECKING:
    from wspool import aio as aio, blocking as blocking, http as http
    from wspool.runtime import Runtime

__version__ = _version.VERSION
# fmt: off
__all__ = [
    "AZURE", "DEFAULT_URL", "OPENAI", "PROVIDERS", "VERCEL", "XAI", "ApiKey", "Budget", "CloseReason",
    "CloseRecord", "Conversation", "ConversationStatistics", "DefinedTool", "Delivery", "DialRecord",
    "Effect", "EffectLedger", "Event", "FileLedger",
    "GrantRecord", "Input", "Instrument", "Lease", "LeaseRecord", "LoggingInstrument", "Move", "MoveReason",
    "Pool", "PoolPolicy", "PoolRecord", "PoolStatistics", "Provider", "Response", "Runtime", "Steer",
    "SteerState", "Tool", "ToolBegun", "ToolError", "ToolRecord", "Turn", "TurnBegun", "TurnContent",
    "TurnInFlight", "TurnRecord", "TurnStatus", "Usage",
    "http_only", "http_status", "open_pool", "tool",
]
# fmt: on
__all__ += errors.__all__


def __getattr__(name: str) -> _typing.Any:
    # The doors for other worlds: who is on trio needs neither asyncio nor a thread, nor an HTTP client.
    if name in ("aio", "blocking", "http"):
        return _importlib.import_module(f"wspool.{name}")
    if name == "Runtime":
        return _importlib.import_module("wspool.runtime").Runtime
    raise AttributeError(f"module 'wspool' has no attribute {name!r}")
