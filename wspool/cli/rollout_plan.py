"""What a rollout will do, made of what the command was given; every mistake is named before anything runs.

What is for the bundled batch, such as its server, its model and its tools, is for no other: a user's own
tasks go to the endpoint of the user, as they are.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

import wspool
from wspool.cli.rollout_input import name_unsent, read_batch
from wspool.cli.rollout_method import make_method, set_fields
from wspool.cli.rollout_options import Given, Place
from wspool.cli.target import Target, find_target, named_provider, no_key
from wspool.cli.usage import usage_error
from wspool.rollout.limits import Limits
from wspool.rollout.method import Method
from wspool.rollout.provenance import BUNDLED, Provenance, directory_for, source_digest
from wspool.rollout.scoring import SCORES
from wspool.rollout.tasks import Task
from wspool.wire.secret import Secret

__all__ = ["Plan", "make_plan"]

#: Connections for the bundled tasks: far fewer than conversations, so that they have to share.
_BUNDLED_CONNECTIONS: Final = 8

#: The model of the bundled server: any name will do, and this one says who answers.
_BUNDLED_MODEL: Final = "lookup"

#: Turns of a task in the tool loop: a model may call tools for ever.
_MOST_TURNS: Final = 100


@attrs.frozen(kw_only=True)
class Plan:
    """A rollout before it begins.

    Attributes:
      given: what the command was given.
      batch: the tasks.
      own: True if they are the user's, False for the bundled ones.
      target: where they go; None for a server in this process.
      method: how each is done.
      out: the directory of the results.
      provider: what the endpoint can do; None to find out.
      limits: what the run and each task may take.
    """

    given: Given
    batch: Sequence[Task]
    own: bool
    target: Target | None
    method: Method
    out: Path
    provider: wspool.Provider | None
    limits: Limits

    @property
    def policy(self) -> wspool.PoolPolicy:
        """The policy of the pool."""
        place = self.given.place
        most = place.max_connections or (place.concurrency if self.own else _BUNDLED_CONNECTIONS)
        patience = math.inf if place.max_wait is None else place.max_wait
        idle = self.given.limiting.idle_timeout
        return attrs.evolve(
            self.method.policy(most, patience),
            max_lifetime=place.max_lifetime,
            first_event_timeout=idle,
            silence_timeout=idle,
        )

    @property
    def resume(self) -> bool | None:
        """Whether to go on with what is there; None to do so only if it has not ended."""
        if self.given.state.resume is None and (self.own or self.given.state.out):
            return True
        # The bundled batch without a place of its own is a demonstration: running it again runs it again.
        return self.given.state.resume

    def provenance(self) -> Provenance:
        """What is to be known of the results. No secret is in it."""
        method, given = self.method, self.given
        settings = {
            "url": str(self.target) if self.target is not None else BUNDLED,
            "provider": given.place.provider,
            "model": {**method.defaults, **method.overrides}.get("model"),
            "agent": given.how.agent,
            "agent_source": source_digest(method.agent) if method.agent is not None else None,
            "agent_args": method.agent_arguments or None,
            "tools": given.how.tools,
            "tools_source": None if method.repeatable else source_digest(*method.tools.values()),
            "set": method.overrides or None,
            "score": given.how.score,
            "right_from": given.how.right_from,
            "score_source": _score_source(given, method),
            "input_field": given.input.input_field,
            "expected_field": given.input.expected_field,
            "leave_out": sorted(given.input.leave_out) or None,
        }
        more = {"options": _shown(given), "command": "rollout", "wspool": wspool.__version__}
        return Provenance.of(given.input.tasks, self.batch, settings, more)


def _shown(given: Given) -> dict[str, Any]:
    """The options by name, less those that may hold a secret."""
    groups: dict[str, dict[str, Any]] = attrs.asdict(given)
    options = {name: value for group in groups.values() for name, value in group.items()}
    return {
        name: str(value) if isinstance(value, Path) else value
        for name, value in options.items()
        if name not in ("url", "proxy", "header")
    }


def _score_source(given: Given, method: Method) -> str | None:
    """Of a function of the user's; ours are known by their names."""
    if method.scorer is None or given.how.score in SCORES:
        return None
    return source_digest(method.scorer.function)


def make_plan(given: Given) -> Plan:
    """Return what to do. A mistake ends the command."""
    own = given.input.tasks is not None
    if given.how.unknown_effects == "stop" and not given.state.checkpoint_turns:
        usage_error("--unknown-effects is of the calls that --checkpoint-turns notes; give both")
    batch = read_batch(given)
    overrides = set_fields(given.how.set)
    target = _target(given, batch, overrides)
    model = target.model if target is not None else given.place.model or _BUNDLED_MODEL
    method = make_method(given.how, batch, model, overrides, own=own)
    name_unsent(batch, method)
    return Plan(
        given=given,
        batch=batch,
        own=own,
        target=target,
        method=method,
        out=given.state.out or _directory(given),
        provider=named_provider(given.place.provider),
        limits=_limits(given),
    )


def _target(given: Given, batch: Sequence[Task], overrides: Mapping[str, Any]) -> Target | None:
    """Where the tasks go, when all that can be known beforehand is right; None for a server in here."""
    place = given.place
    if place.model == "":
        usage_error("--model must be the name of a model")
    if place.local:
        if place.url is not None:
            usage_error("--url and --local both say where the tasks go; give one of them")
        _refuse_ways(place)
        return None
    if place.url is None and given.input.tasks is None:
        _refuse_ways(place)
        return None
    target = find_target(
        place.url,
        place.model,
        place.api_key_env,
        place.proxy,
        wspool.PoolPolicy(),
        headers=place.header,
    )
    if target.key is None and not target.local and not target.headers:
        usage_error(
            f"the tasks go to {target} ({target.source}), and {no_key(target.key_name)}, or say --local, and "
            "the bundled server answers"
        )
    if target.key is not None:
        try:
            Secret(target.key, f"the API key in {target.key_name}")
        except ValueError as problem:
            usage_error(str(problem))
    if target.model is None and "model" not in overrides:
        nameless = [task.id for task in batch if "model" not in task.body]
        if nameless:
            usage_error(
                f"{len(nameless)} tasks name no model (the first is {nameless[0]!r}); say which with --model"
            )
    return target


def _refuse_ways(place: Place) -> None:
    """The server in here is reached without them: who gives one means another."""
    for option, value in (
        ("--proxy", place.proxy),
        ("--header", place.header),
        ("--api-key-env", place.api_key_env),
    ):
        if value:
            usage_error(f"{option} is for an endpoint; say which with --url, or leave it out")


def _limits(given: Given) -> Limits:
    price: tuple[float, ...] | None = None
    if given.limiting.price is not None:
        try:
            price = tuple(float(part) for part in given.limiting.price.split(","))
        except ValueError:
            usage_error(f"--price {given.limiting.price!r} must be three numbers: IN,CACHED,OUT")
    limits = Limits(
        max_tokens=given.limiting.max_tokens,
        max_cost=given.limiting.max_cost,
        price=price,
        max_errors=given.limiting.max_errors,
        max_seconds=given.limiting.max_seconds,
        task_timeout=given.limiting.task_timeout,
        task_max_tokens=given.limiting.task_max_tokens,
        max_turns=given.limiting.max_turns or (None if given.how.agent is not None else _MOST_TURNS),
    )
    try:
        limits.of_run()
    except ValueError as problem:
        usage_error(f"--price and --max-cost: {problem}")
    return limits


def _directory(given: Given) -> Path:
    """Where the results go, if nobody says so: each shard has its own place."""
    place = directory_for(given.input.tasks)
    if given.input.shard is None:
        return place
    return place.with_name(f"{place.name}-shard-{given.input.shard.replace('/', '-of-')}")
