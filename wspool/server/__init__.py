"""A local provider of the Responses API: over WebSocket, and over HTTP beside it.

Not a mock. It speaks the whole event grammar, keeps the memory that a provider keeps and forgets what a
provider forgets, has lanes, limits and profiles, steers and compacts, and writes a ledger that a client's
account can be checked against. Whatever can go wrong on its side can be asked for by name (`Fault`). What it
answers comes from a model behind a small protocol. `open_server` is the way in.
"""

from wspool.server.echo import EchoModel as EchoModel
from wspool.server.faults.script import (
    EVERY_FAULT as EVERY_FAULT,
    FAULTS as FAULTS,
    RETRY_AFTER as RETRY_AFTER,
    SHAPES as SHAPES,
    Fault as Fault,
    FaultKind as FaultKind,
    FaultRule as FaultRule,
    FaultScript as FaultScript,
)
from wspool.server.handshake import Rejection as Rejection
from wspool.server.ledger import Entry as Entry, Outcome as Outcome, context_digest as context_digest
from wspool.server.models import (
    AgentTurn as AgentTurn,
    Item as Item,
    Model as Model,
    ModelRequest as ModelRequest,
    ModelTurn as ModelTurn,
    ScriptedModel as ScriptedModel,
    TurnError as TurnError,
    function_call as function_call,
    message as message,
)
from wspool.server.protocol.grammar import Event as Event
from wspool.server.protocol.profiles import (
    AZURE as AZURE,
    CLOSING_GATEWAY as CLOSING_GATEWAY,
    LITELLM as LITELLM,
    LITELLM_NATIVE as LITELLM_NATIVE,
    LOCALAI as LOCALAI,
    NO_WARM_UP as NO_WARM_UP,
    OPENAI as OPENAI,
    PROFILES as PROFILES,
    REFUSES_BUSY as REFUSES_BUSY,
    UNANNOUNCED as UNANNOUNCED,
    VERCEL as VERCEL,
    VLLM as VLLM,
    XAI as XAI,
    LimitMode as LimitMode,
    ServerProfile as ServerProfile,
)
from wspool.server.server import (
    Server as Server,
    ServerStatistics as ServerStatistics,
    open_server as open_server,
)

__all__ = [
    "AZURE",
    "CLOSING_GATEWAY",
    "EVERY_FAULT",
    "FAULTS",
    "LITELLM",
    "LITELLM_NATIVE",
    "LOCALAI",
    "NO_WARM_UP",
    "OPENAI",
    "PROFILES",
    "REFUSES_BUSY",
    "RETRY_AFTER",
    "SHAPES",
    "UNANNOUNCED",
    "VERCEL",
    "VLLM",
    "XAI",
    "AgentTurn",
    "EchoModel",
    "Entry",
    "Event",
    "Fault",
    "FaultKind",
    "FaultRule",
    "FaultScript",
    "Item",
    "LimitMode",
    "Model",
    "ModelRequest",
    "ModelTurn",
    "Outcome",
    "Rejection",
    "ScriptedModel",
    "Server",
    "ServerProfile",
    "ServerStatistics",
    "TurnError",
    "context_digest",
    "function_call",
    "message",
    "open_server",
]
