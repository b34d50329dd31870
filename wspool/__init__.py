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

from wspool.core.events.response import Response as Response
from wspool.core.events.steering import (
    Steer as Steer,
)
from wspool.core.frames import Event as Event
from wspool.core.policy import (
    AZURE as AZURE,
    OPENAI as OPENAI,
    PROVIDERS as PROVIDERS,
    VERCEL as VERCEL,
    XAI as XAI,
    PoolPolicy as PoolPolicy,
    Provider as Provider,
)
from wspool.core.statistics import (
    ConversationStatistics as ConversationStatistics,
    DialRecord as DialRecord,
    Move as Move,
    PoolStatistics as PoolStatistics,
    TurnRecord as TurnRecord,
)
from wspool.errors import (
    AuthenticationError as AuthenticationError,
    ConnectionLimitError as ConnectionLimitError,
    DialFailedError as DialFailedError,
    ForeignUseError as ForeignUseError,
    LeaseRefusedError as LeaseRefusedError,
    MalformedMessageError as MalformedMessageError,
    MaxTurnsError as MaxTurnsError,
    PoolClosedError as PoolClosedError,
    PreviousResponseNotFoundError as PreviousResponseNotFoundError,
    RateLimitedError as RateLimitedError,
    RequestTooLargeError as RequestTooLargeError,
    ResponseFailedError as ResponseFailedError,
    SteeringRefusedError as SteeringRefusedError,
    TooManyWaitingError as TooManyWaitingError,
    TurnInFlightError as TurnInFlightError,
    TurnLostError as TurnLostError,
    WebSocketNotOfferedError as WebSocketNotOfferedError,
    WsPoolError as WsPoolError,
)
from wspool.pool.conversation import Conversation as Conversation
from wspool.pool.instrument import Instrument as Instrument
from wspool.pool.lease import Lease as Lease
from wspool.pool.open import DEFAULT_URL as DEFAULT_URL, open_pool as open_pool
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
