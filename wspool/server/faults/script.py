"""Faults: what goes wrong, where, and for which request.

A `Fault` names one of `FAULTS` and a place. A `FaultScript` gives faults to connections and requests: in
order, by rule, or at random from a seed. Both are told to `open_server`.

>>> script = FaultScript(
...     Fault("reset", at="response.output_text.delta", occurrence=2),
...     FaultRule(Fault("close", at="idle", delay=5, code=1001), connection=2),
... )
"""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import attrs

from wspool.server.faults import catalogue, refusals, sayings
from wspool.server.faults.catalogue import FAULTS, FaultKind
from wspool.server.faults.steps import Change, Cut, Encode, Ignore, Step, Treat
from wspool.server.protocol.grammar import TERMINAL
from wspool.server.protocol.shapes import RETRY_AFTER, SHAPES

__all__ = ["EVERY_FAULT", "FAULTS", "RETRY_AFTER", "SHAPES", "Fault", "FaultKind", "FaultRule", "FaultScript"]

# Modules that fill FAULTS when they are imported.
_CATALOGUES: Final = (catalogue, sayings, refusals)

#: The places that are no event of a turn, and the short names of those that are.
_HANDSHAKE: Final = frozenset({"handshake", "open"})
_NO_EVENT: Final = _HANDSHAKE | {"idle"}
_PLACES: Final = _HANDSHAKE | {"receipt", "delta", "terminal", "idle"}


@attrs.frozen(init=False)
class Fault:
    """One fault at one place.

    Raises:
      ValueError: there is no fault of that name, or no such place, or it can not happen there.
      TypeError: the fault does not have such an option.
    """

    name: str
    """One of `FAULTS`."""
    at: str
    """Where it happens; each fault has a usual place.

    - `handshake`: in the handshake's answer. `open`: right after it.
    - `receipt`: the request was read, and nothing was done with it.
    - the type of an event; `delta` is any delta, `terminal` any last event of a turn. If the turn ends
      without such an event, it happens before the last one.
    - `idle`: after the turn's last event.
    """
    after: bool
    """After the event, and not before it."""
    occurrence: int
    """The first such event of the turn, or a later one."""
    delay: float
    """Seconds between the place and the fault; what else happens meanwhile does not wait for it, if the place
    is `open` or `idle`.
    """
    options: Mapping[str, Any] = attrs.field(hash=False)
    """The arguments of the function in `FAULTS`."""
    steps: tuple[Step, ...] = attrs.field(repr=False, eq=False)
    """What is done, as its function has made it of the options."""

    def __init__(
        self,
        name: str,
        *,
        at: str | None = None,
        after: bool | None = None,
        occurrence: int = 1,
        delay: float = 0.0,
        **options: Any,
    ) -> None:
        kind = FAULTS.get(name)
        if kind is None:
            raise ValueError(f"there is no fault {name!r}; there are {', '.join(sorted(FAULTS))}")
        place = kind.at if at is None else at
        if place not in _PLACES and not place.startswith("response."):
            raise ValueError(f"at={place!r} is neither an event nor one of {', '.join(sorted(_PLACES))}")
        if occurrence < 1:
            raise ValueError(f"occurrence={occurrence} is not positive")
        if after is None:
            after = kind.after and at is None
        fields = {"name": name, "at": place, "after": after, "occurrence": occurrence, "delay": delay}
        for key, value in (fields | {"options": options, "steps": kind.make(**options)}).items():
            object.__setattr__(self, key, value)  # frozen from here on
        if (place == "handshake") != (kind.at == "handshake"):
            raise ValueError(f"{name!r} does not happen at {place!r}")
        if place in _NO_EVENT and self.needs_event():
            raise ValueError(f"{name!r} is about an event; there is none at {place!r}")

    @property
    def kind(self) -> FaultKind:
        """Its entry in `FAULTS`."""
        return FAULTS[self.name]

    def concerns_connection(self) -> bool:
        """Whether it happens before any request."""
        return self.at in _HANDSHAKE

    def needs_event(self) -> bool:
        """Whether it is about an event or a request, and is nothing without one."""
        return any(
            isinstance(step, Change | Encode | Ignore | Treat)
            or (isinstance(step, Cut) and step.outcome is not None)
            for step in self.steps
        )

    def matches(self, event_type: str) -> bool:
        """Whether an event of this type is the place."""
        if self.at == "delta":
            return event_type.endswith(".delta")
        if self.at == "terminal":
            return event_type in TERMINAL
        return event_type == self.at

    def __str__(self) -> str:
        options = ",".join(f"{key}={value!r:.40}" for key, value in self.options.items())
        where = f"after {self.at}" if self.after else self.at
        number = f"#{self.occurrence}" if self.occurrence > 1 else ""
        return f"{self.name}({options}) at {where}{number}"


@attrs.frozen
class FaultRule:
    """Which connections or requests get a fault. Everything that is given has to hold."""

    fault: Fault
    """What they get."""
    connection: int | None = attrs.field(default=None, kw_only=True)
    """The number of the connection, as in the ledger."""
    create: int | None = attrs.field(default=None, kw_only=True)
    """The number of the request in the order of receipt, over all connections, from 1."""
    sequence: int | None = attrs.field(default=None, kw_only=True)
    """The number of the request on its connection, from 1."""
    body: Callable[[Mapping[str, Any]], bool] | None = attrs.field(default=None, kw_only=True)
    """What the request has to look like."""
    times: int | None = attrs.field(default=1, kw_only=True)
    """How often the rule applies; None is without end."""


#: One of every kind as it usually happens, except those that only a client's own clock finds out, and those
#: of warm-ups.
EVERY_FAULT: Final[tuple[Fault, ...]] = tuple(
    Fault(name)
    for name, kind in FAULTS.items()
    if not kind.silent and kind.at not in _HANDSHAKE and name != "warm_up_generates"
)


def _rule(rule: object) -> FaultRule:
    # Said here: what is none would be found out by the server's connections, and told to nobody.
    if not isinstance(rule, Fault | FaultRule):
        raise TypeError(f"a script is made of faults and rules, FaultScript(rule, ...), not of {rule!r:.60}")
    return rule if isinstance(rule, FaultRule) else FaultRule(rule)


class FaultScript:
    """Gives faults to connections and requests. One script serves one server, once.

    A rule goes before chance, and an earlier rule before a later one. A bare fault is a rule for the next
    connection or request that nothing before it has taken, once.
    """

    def __init__(
        self,
        *rules: Fault | FaultRule,
        rate: float = 0.0,
        seed: int = 0,
        faults: Sequence[Fault] = EVERY_FAULT,
    ) -> None:
        """Args:
        rate: the share of requests, from 0 to 1, that get one of *faults* by chance.
        seed: the same seed gives the request of the same number the same fault.
        """
        if not 0.0 <= rate <= 1.0:
            raise ValueError(f"rate={rate} is not between 0 and 1")
        self._rules = [_rule(rule) for rule in rules]
        self._left = [rule.times for rule in self._rules]
        self._rate, self._seed, self._faults = rate, seed, tuple(faults)
        self._creates = 0

    def add(self, rule: Fault | FaultRule) -> None:
        """Add a rule behind the others, for what has not happened yet. May be called from another thread."""
        rule = _rule(rule)
        self._left.append(rule.times)
        self._rules.append(rule)

    def for_connection(self, connection: int) -> tuple[Fault, ...]:
        """The faults of a new connection that need no request."""
        return tuple(
            self._take(number)
            for number, rule in enumerate(self._rules)
            if rule.fault.concerns_connection()
            and self._left[number] != 0
            and rule.connection in (None, connection)
        )

    def for_create(self, connection: int, sequence: int, body: Mapping[str, Any]) -> Fault | None:
        """The fault of the next request, or None. Counts it."""
        self._creates += 1
        for number, rule in enumerate(self._rules):
            if (
                not rule.fault.concerns_connection()
                and self._left[number] != 0
                and rule.connection in (None, connection)
                and rule.create in (None, self._creates)
                and rule.sequence in (None, sequence)
                and (rule.body is None or rule.body(body))
            ):
                return self._take(number)
        if self._rate > 0:
            chance = random.Random(f"{self._seed} {self._creates}")
            if chance.random() < self._rate:
                return chance.choice(self._faults)
        return None

    def _take(self, number: int) -> Fault:
        left = self._left[number]
        if left is not None:
            self._left[number] = left - 1
        return self._rules[number].fault
