"""A proxy: any program, in any language, through one pool.

Programs that take a base URL and nothing else (Codex, opencode, Cline, SDKs of other languages, containers)
ask it as they would ask the provider over HTTP; it goes to the provider over WebSocket, with one pool for
each identity, and sends only what is new of a history. `open_proxy` is the way in, or `wspool proxy`.
"""

from wspool.proxy.access.gate import Token as Token
from wspool.proxy.access.tokens import TokenFile as TokenFile
from wspool.proxy.entrance.listeners import Where as Where
from wspool.proxy.open import Proxy as Proxy, open_proxy as open_proxy
from wspool.proxy.records.record import Record as Record, Records as Records
from wspool.proxy.settings import Settings as Settings

__all__ = ["Proxy", "Record", "Records", "Settings", "Token", "TokenFile", "Where", "open_proxy"]
