"""A local provider of the Responses API: over WebSocket, and over HTTP beside it.

Not a mock. It speaks the whole event grammar, keeps the memory that a provider keeps and forgets what a
provider forgets, has lanes, limits and profiles, steers and compacts, and writes a ledger that a client's
account can be checked against. Whatever can go wrong on its side can be asked for by name (`Fault`). What it
answers comes from a model behind a small protocol. `open_server` is the way in.
"""

from wspool.server.faults import EVERY_FAULT as EVERY_FAULT
from wspool.server.faults import FAULTS as FAULTS
from wspool.server.faults import RETRY_AFTER as RETRY_AFTER
from wspool.server.faults import SHAPES as SHAPES
from wspool.server.faults import Fault as Fault
from wspool.server.faults import FaultKind as FaultKind
from wspool.server.faults import FaultRule as FaultRule
from wspool.server.faults import FaultScript as FaultScript
from wspool.server.grammar import Event as Event
from wspool.server.handshake import Rejection as Rejection
from wspool.server.ledger import Entry as Entry
from wspool.server.ledger import Outcome as Outcome
from wspool.server.ledger import context_digest as context_digest
from wspool.server.models import EchoModel as EchoModel
from wspool.server.models import Item as Item
from wspool.server.models import Model as Model
from wspool.server.models import ModelRequest as ModelRequest
from wspool.server.models import ModelTurn as ModelTurn
from wspool.server.models import ScriptedModel as ScriptedModel
from wspool.server.models import TurnError as TurnError
from wspool.server.models import function_call as function_call
from wspool.server.models import message as message
from wspool.server.profiles import AZURE as AZURE
from wspool.server.profiles import CLOSING_GATEWAY as CLOSING_GATEWAY
from wspool.server.profiles import LITELLM as LITELLM
from wspool.server.profiles import LITELLM_NATIVE as LITELLM_NATIVE
from wspool.server.profiles import LOCALAI as LOCALAI
from wspool.server.profiles import NO_WARM_UP as NO_WARM_UP
from wspool.server.profiles import OPENAI as OPENAI
from wspool.server.profiles import PROFILES as PROFILES
from wspool.server.profiles import REFUSES_BUSY as REFUSES_BUSY
from wspool.server.profiles import UNANNOUNCED as UNANNOUNCED
from wspool.server.profiles import VERCEL as VERCEL
from wspool.server.profiles import VLLM as VLLM
from wspool.server.profiles import XAI as XAI
from wspool.server.profiles import LimitMode as LimitMode
from wspool.server.profiles import ServerProfile as ServerProfile
from wspool.server.server import Server as Server
from wspool.server.server import ServerStatistics as ServerStatistics
from wspool.server.server import open_server as open_server

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
