"""mini-swe-agent: `--model-class wspool.contrib.minisweagent.Model`.

::

    mini-extra swebench --model gpt-5.2 --model-class wspool.contrib.minisweagent.Model -w 32

All agents of a process, each in its thread, share one pool for each endpoint. An agent sends its whole
history each time; only what is new goes over the wire (`Pool.turn`). litellm is not used.
"""

# pyright: basic, reportMissingImports=false

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs

from wspool import blocking
from wspool.core.events.response import Response
from wspool.core.policy import PoolPolicy
from wspool.core.usage import Usage

__all__ = ["Model", "ModelConfig"]

#: Seconds that a turn waits by itself while the endpoint refuses everybody, unless a policy says otherwise.
_PATIENCE: Final = 3600.0
#: What litellm takes of `model_kwargs`, and no request has.
_OF_LITELLM: Final = frozenset({"drop_params", "parallel_tool_calls_supported", "api_base", "api_key"})
#: As mini-swe-agent has it.
_OBSERVATION: Final = (
    "{% if output.exception_info %}<exception>{{output.exception_info}}</exception>\n{% endif %}"
    "<returncode>{{output.returncode}}</returncode>\n<output>\n{{output.output}}</output>"
)


@attrs.frozen(kw_only=True)
class ModelConfig:
    """What a model is made with: the section `model` of a configuration of mini-swe-agent.

    Attributes:
        model_name: the model; a leading `openai/` is for litellm, and left out.
        url: the endpoint, ws:// or wss://; by default OpenAI's.
        model_kwargs: fields of each request.
        policy: limits of the pool, as for `wspool.PoolPolicy`.
        price: of a million tokens of input, of input from the cache, and of output; without it nothing costs.
        observation_template: how an observation is written.
        format_error_template: what the model is told that did not call the tool as it should.
        multimodal_regex: what in a text is an image; empty for nothing.
    """

    model_name: str
    url: str | None = None
    model_kwargs: Mapping[str, Any] = attrs.field(factory=dict[str, Any])
    policy: Mapping[str, Any] = attrs.field(factory=dict[str, Any])
    price: Sequence[float] | None = None
    observation_template: str = _OBSERVATION
    format_error_template: str = "{{ error }}"
    multimodal_regex: str = ""

    def model_dump(self, *, mode: str = "python") -> dict[str, Any]:
        """Return it as a dict, as the agent writes it down: without a key that was given for litellm."""
        fields = attrs.asdict(self)
        fields["model_kwargs"].pop("api_key", None)
        return fields


class Model:
    """A model of mini-swe-agent over a shared pool. For any number of threads.

    Args:
        **settings: fields of `ModelConfig`; what only litellm's models have is left out.
    """

    def __init__(self, **settings: Any) -> None:
        known = attrs.fields_dict(ModelConfig)
        self.config = ModelConfig(**{name: value for name, value in settings.items() if name in known})

    def query(self, messages: Sequence[Mapping[str, Any]], **overrides: Any) -> dict[str, Any]:
        """Take a turn and return its response, with the `actions` that it asks for in `extra`.

        Waits; Ctrl-C gives the turn up.

        Raises:
            FormatError: the response calls no tool, or calls it wrongly; mini-swe-agent tells the model.
            WsPoolError: what `Conversation.respond` raises.
        """
        from minisweagent.exceptions import FormatError
        from minisweagent.models import GLOBAL_MODEL_STATS
        from minisweagent.models.utils.actions_toolcall_response import (
            BASH_TOOL_RESPONSE_API,
            finish_reason_from_responses_api,
            parse_toolcall_actions_response,
        )

        config = self.config
        fields = {name: value for name, value in config.model_kwargs.items() if name not in _OF_LITELLM}
        body = {
            "model": config.model_name.removeprefix("openai/"),
            "input": _items(messages),
            "tools": [BASH_TOOL_RESPONSE_API],
            **fields,
            **overrides,
        }
        with _pool(config).turn(body) as turn:
            response: Response = turn.result()
        answer = dict(response.data)
        cost = 0.0 if config.price is None else Usage.of(answer.get("usage")).cost(config.price)
        GLOBAL_MODEL_STATS.add(cost)
        try:
            actions = parse_toolcall_actions_response(
                answer["output"],
                format_error_template=config.format_error_template,
                template_kwargs={"finish_reason": finish_reason_from_responses_api(answer)},
            )
        except FormatError as error:
            error.messages[0]["extra"].update(cost=cost, response=answer)  # it was paid for
            raise
        return {**answer, "extra": {"actions": actions, "cost": cost, "timestamp": time.time()}}

    def format_message(self, **message: Any) -> dict[str, Any]:
        """Return a message as the history has it."""
        from minisweagent.models.utils.openai_multimodal import expand_multimodal_content

        expanded: dict[str, Any] = expand_multimodal_content(message, pattern=self.config.multimodal_regex)
        return expanded

    def format_observation_messages(
        self,
        message: Mapping[str, Any],
        outputs: list[dict[str, Any]],
        template_vars: dict[str, Any] | None = None,
    ) -> list[dict[str, Any]]:
        """Return what came of the actions of *message* as outputs of its calls."""
        from minisweagent.models.utils.actions_toolcall_response import format_toolcall_observation_messages

        observed: list[dict[str, Any]] = format_toolcall_observation_messages(
            actions=message.get("extra", {}).get("actions", []),
            outputs=outputs,
            observation_template=self.config.observation_template,
            template_vars=template_vars,
            multimodal_regex=self.config.multimodal_regex,
        )
        return observed

    def get_template_vars(self, **_: Any) -> dict[str, Any]:
        """Return what templates may name."""
        return self.config.model_dump()

    def serialize(self) -> dict[str, Any]:
        """Return what a trajectory says of the model."""
        kind = f"{type(self).__module__}.{type(self).__name__}"
        return {"info": {"config": {"model": self.config.model_dump(), "model_type": kind}}}


def _items(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the history as input items: of responses, what they put out."""
    items: list[dict[str, Any]] = []
    for message in messages:
        said = message["output"] if message.get("object") == "response" else [message]
        items += [{name: value for name, value in item.items() if name != "extra"} for item in said]
    return items


_lock = threading.Lock()
# Never closed: the process's `Runtime` says goodbye for them when the interpreter exits.
_pools: dict[tuple[object, ...], blocking.Pool] = {}


def _pool(config: ModelConfig) -> blocking.Pool:
    """Return the pool of this process for that endpoint and policy, opened at its first use."""
    limits: dict[str, Any] = {"refusal_patience": _PATIENCE, **config.policy}
    policy = PoolPolicy(**limits)
    key = (config.url, policy)
    with _lock:
        if key not in _pools:
            where = () if config.url is None else (config.url,)
            _pools[key] = blocking.open_pool(*where, policy=policy).__enter__()
        return _pools[key]
