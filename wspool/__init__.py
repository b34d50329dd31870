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

from wspool.core.frames import Event as Event
from wspool.core.policy import (
    AZURE as AZURE,
)
from wspool.core.policy import (
    OPENAI as OPENAI,
)
from wspool.core.policy import (
    PROVIDERS as PROVIDERS,
)
from wspool.core.policy import (
    VERCEL as VERCEL,
)
from wspool.core.policy import (
    XAI as XAI,
)
from wspool.core.policy import (
    PoolPolicy as PoolPolicy,
)
from wspool.core.policy import (
    Provider as Provider,
)
from wspool.core.response import Response as Response
from wspool.core.statistics import (
    ConversationStatistics as ConversationStatistics,
)
from wspool.core.statistics import (
    DialRecord as DialRecord,
)
from wspool.core.statistics import (
    Move as Move,
)
from wspool.core.statistics import (
    PoolStatistics as PoolStatistics,
)
from wspool.core.statistics import (
    TurnRecord as TurnRecord,
)
from wspool.core.steering import (
    Steer as Steer,
)
from wspool.errors import (
    AuthenticationError as AuthenticationError,
)
from wspool.errors import (
    ConnectionLimitError as ConnectionLimitError,
)
from wspool.errors import (
    DialFailedError as DialFailedError,
)
from wspool.errors import (
    ForeignUseError as ForeignUseError,
)
from wspool.errors import (
    LeaseRefusedError as LeaseRefusedError,
)
from wspool.errors import (
    MalformedMessageError as MalformedMessageError,
)
from wspool.errors import (
    MaxTurnsError as MaxTurnsError,
)
from wspool.errors import (
    PoolClosedError as PoolClosedError,
)
from wspool.errors import (
    PreviousResponseNotFoundError as PreviousResponseNotFoundError,
)
from wspool.errors import (
    RateLimitedError as RateLimitedError,
)
from wspool.errors import (
    RequestTooLargeError as RequestTooLargeError,
)
from wspool.errors import (
    ResponseFailedError as ResponseFailedError,
)
from wspool.errors import (
    SteeringRefusedError as SteeringRefusedError,
)
from wspool.errors import (
    TooManyWaitingError as TooManyWaitingError,
)
from wspool.errors import (
    TurnInFlightError as TurnInFlightError,
)
from wspool.errors import (
    TurnLostError as TurnLostError,
)
from wspool.errors import (
    WebSocketNotOfferedError as WebSocketNotOfferedError,
)
from wspool.errors import (
    WsPoolError as WsPoolError,
)
from wspool.pool.conversation import Conversation as Conversation
from wspool.pool.instrument import Instrument as Instrument
from wspool.pool.lease import Lease as Lease
from wspool.pool.open import DEFAULT_URL as DEFAULT_URL
from wspool.pool.open import open_pool as open_pool
from wspool.pool.pool import Pool as Pool
from wspool.pool.turn import Turn as Turn

__version__ = "0.1.0"

__all__ = [
    "AZURE",
    "DEFAULT_URL",
    "OPENAI",
    "PROVIDERS",
    "VERCEL",
    "XAI",
    "AuthenticationError",
    "ConnectionLimitError",
    "Conversation",
    "ConversationStatistics",
    "DialFailedError",
    "DialRecord",
    "Event",
    "ForeignUseError",
    "Instrument",
    "Lease",
    "LeaseRefusedError",
    "MalformedMessageError",
    "MaxTurnsError",
    "Move",
    "Pool",
    "PoolClosedError",
    "PoolPolicy",
    "PoolStatistics",
    "PreviousResponseNotFoundError",
    "Provider",
    "RateLimitedError",
    "RequestTooLargeError",
    "Response",
    "ResponseFailedError",
    "Steer",
    "SteeringRefusedError",
    "TooManyWaitingError",
    "Turn",
    "TurnInFlightError",
    "TurnLostError",
    "TurnRecord",
    "WebSocketNotOfferedError",
    "WsPoolError",
    "open_pool",
]
