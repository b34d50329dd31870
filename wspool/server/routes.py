"""The routes: what is at which path, but for the turns themselves.

Any prefix will do (`/v1`, `/openai/v1`, none), for real endpoints differ in it. Everything here is answered
at once, with one JSON object.
"""

import re
from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import parse_qsl, unquote

import attrs

from wspool.server.engine import Engine
from wspool.server.models import Item, TurnError
from wspool.server.protocol.fields import invalid_request
from wspool.server.protocol.listing import page

__all__ = ["Route", "route_of"]

_PATH: Final = re.compile(
    r"(?:.*/)?(?:(?P<collection>responses|models)(?:/(?P<name>[^/]+)(?:/(?P<part>input_items|cancel))?)?|(?P<health>health))/?"
)

#: What a list of models names; the server answers to any other name as well.
_MODELS: Final = ("gpt-5.2", "gpt-6-astra")


@attrs.frozen
class Route:
    """A path, and what may be done there."""

    kind: str
    """`create`, `compact`, `count`, `response`, `input_items`, `cancel`, `models`, `model`, `health`; or
    nothing.
    """
    name: str = ""
    """Of the response or model."""
    query: Mapping[str, str] = attrs.field(factory=dict[str, str])

    def misuse(self, method: str) -> TurnError | None:
        """Why *method* is of no use there, or None."""
        if not self.kind:
            return invalid_request("Invalid URL.", status=404)
        if self.kind == "create" and method == "GET":
            return TurnError(
                type="invalid_request_error",
                code="websocket_upgrade_required",
                message="This endpoint answers GET only as a WebSocket upgrade.",
                status=426,
                headers={"Upgrade": "websocket"},
            )
        allowed = _METHODS.get(self.kind, ("GET", "HEAD"))
        if method not in allowed:
            return TurnError(
                type="invalid_request_error",
                message="Not allowed to use this method.",
                status=405,
                headers={"Allow": ", ".join(allowed)},
            )
        return None

    @property
    def is_turn(self) -> bool:
        """A request for it is a turn, which takes its time."""
        return self.kind == "create"

    @property
    def has_body(self) -> bool:
        """A request for it brings what a turn is made of."""
        return self.kind in ("create", "compact", "count")

    def answer(self, engine: Engine, method: str, body: Item) -> Item | TurnError:
        """The whole answer of anything but a turn.

        Args:
          body: what came, if anything is wanted there.
        """
        if self.kind == "response" and method == "DELETE":
            return _deleted(engine, self)
        return _ANSWERS[self.kind](engine, self) if self.kind in _ANSWERS else _made(engine, self.kind, body)


_METHODS: Final = {
    "create": ("POST",),
    "compact": ("POST",),
    "count": ("POST",),
    "cancel": ("POST",),
    "response": ("GET", "HEAD", "DELETE"),
}


def route_of(target: str) -> Route:
    """What the request target *target* leads to."""
    path, _, query = target.partition("?")
    found = _PATH.fullmatch(path)
    if found is None:
        return Route("")
    collection, name, part = found["collection"], unquote(found["name"] or ""), found["part"]
    given = dict(parse_qsl(query[:4096], keep_blank_values=True))
    if found["health"]:
        return Route("health")
    if collection == "models":
        return Route("") if part else Route("model" if name else "models", name)
    if not name:
        return Route("create")
    if part is None and name in _NAMED:
        return Route(_NAMED[name])
    return Route(part or "response", name, given)


_NAMED: Final = {"compact": "compact", "input_tokens": "count"}


def _made(engine: Engine, kind: str, body: Item) -> Item | TurnError:
    return engine.compact(body) if kind == "compact" else engine.count(body)


def _not_found(name: str) -> TurnError:
    return invalid_request(f"Response with id '{name}' not found.", status=404)


def _response(engine: Engine, route: Route) -> Item | TurnError:
    return engine.store.response(route.name) or _not_found(route.name)


def _deleted(engine: Engine, route: Route) -> Item | TurnError:
    if not engine.store.remove(route.name):
        return _not_found(route.name)
    return {"id": route.name, "object": "response", "deleted": True}


def _input_items(engine: Engine, route: Route) -> Item | TurnError:
    items = engine.store.input_items(route.name)
    return _not_found(route.name) if items is None else page(items, route.query)


def _cancelled(engine: Engine, route: Route) -> Item | TurnError:
    if engine.store.get(route.name) is None:
        return _not_found(route.name)
    return invalid_request("Cannot cancel a synchronous response.")


def _models(engine: Engine, route: Route) -> Item:
    return {"object": "list", "data": [_model_named(name) for name in _MODELS]}


def _model(engine: Engine, route: Route) -> Item:
    return _model_named(route.name)


def _model_named(name: str) -> Item:
    return {"id": name, "object": "model", "created": 1_795_000_000, "owned_by": "wspool"}


def _health(engine: Engine, route: Route) -> Item:
    return {"status": "ok"}


_ANSWERS: Final[dict[str, Callable[[Engine, Route], Item | TurnError]]] = {
    "response": _response,
    "input_items": _input_items,
    "cancel": _cancelled,
    "models": _models,
    "model": _model,
    "health": _health,
}
