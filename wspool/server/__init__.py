"""A local provider of the Responses API: over WebSocket, and over HTTP beside it.

Not a mock. It speaks the whole event grammar, keeps the memory that a provider keeps and forgets what a
provider forgets, has lanes, limits and profiles, and writes a ledger that a client's account can be checked
against. What it answers comes from a model behind a small protocol. `open_server` is the way in.
"""

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
from wspool.server.profiles import LITELLM as LITELLM
from wspool.server.profiles import LOCALAI as LOCALAI
from wspool.server.profiles import OPENAI as OPENAI
from wspool.server.profiles import PROFILES as PROFILES
from wspool.server.profiles import VERCEL as VERCEL
from wspool.server.profiles import XAI as XAI
from wspool.server.profiles import LimitMode as LimitMode
from wspool.server.profiles import ServerProfile as ServerProfile
from wspool.server.server import Server as Server
from wspool.server.server import ServerStatistics as ServerStatistics
from wspool.server.server import open_server as open_server

__all__ = [
    "AZURE",
    "LITELLM",
    "LOCALAI",
    "OPENAI",
    "PROFILES",
    "VERCEL",
    "XAI",
    "EchoModel",
    "Entry",
    "Event",
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
