"""How the conversation about one task is held: by an agent of the user's, in a tool loop, or in one turn."""

import math
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Any, Final, cast

import attrs
import trio

import wspool
from wspool.core.calls import OpenCalls
from wspool.core.effects import UnknownEffects
from wspool.core.encoding import Encoded
from wspool.errors import ResponseFailedError, TurnLostError
from wspool.pool.effects import EffectLedger
from wspool.pool.toolbox import Toolbox
from wspool.pool.tools import Tool, open_calls
from wspool.rollout.outcomes import outcome_of
from wspool.rollout.scoring import SCORES, Score, Scorer, compared
from wspool.rollout.tasks import Outcome, Task
from wspool.rollout.tools import NoFilesError, patient

__all__ = ["RETRIES", "Agent", "Method"]

#: How often a turn of a task is taken again, if nobody says it.
RETRIES: Final = 2
#: As pools have it: a turn may be sent again for more than that it was lost.
_RESENDS: Final = wspool.PoolPolicy().max_resends

#: Called with a conversation, the line of the task file that it is about, and the agent's own arguments. It
#: holds the conversation, and returns the answer: a response, or any JSON.
Agent = Callable[..., Awaitable[object]]


@attrs.frozen(kw_only=True)
class Method:
    """How tasks are done.

    Attributes:
      agent: holds the conversations; if there is none, `tools` are called until there is an answer, and
        without any a task is one turn.
      agent_arguments: what it is called with besides, by name.
      tools: what the model may call, by name.
      definitions: of those tools, for tasks that define none; not needed for those that have their own.
      repeatable: True if they only read, so that each call may be made again.
      unknown_effects: what becomes of calls that a crash has interrupted, see `Conversation.run`.
      defaults: request fields for tasks that lack them.
      overrides: request fields for all tasks; one that is an object goes into that of the task.
      scorer: scores the answers; without one those are compared that are known.
      right_from: the score from which on an answer is right; None for 1 is right and 0 is wrong.
      retries: how often a turn of a task is taken again that was lost, or failed for a moment. For an agent
        the policy of its pool says that.
    """

    agent: Agent | None = None
    agent_arguments: Mapping[str, Any] = attrs.field(factory=dict[str, Any])
    tools: Mapping[str, Tool] = attrs.field(factory=dict[str, Tool])
    definitions: Sequence[Mapping[str, Any]] = ()
    repeatable: bool = False
    unknown_effects: UnknownEffects = "tell"
    defaults: Mapping[str, Any] = attrs.field(factory=dict[str, Any])
    overrides: Mapping[str, Any] = attrs.field(factory=dict[str, Any])
    scorer: Scorer | None = None
    right_from: float | None = None
    retries: int = 0

    @classmethod
    def of(
        cls,
        agent: Agent | None,
        tools: Iterable[Callable[..., object]],
        score: Callable[..., object] | str | None,
        model: str | None,
    ) -> "Method":
        """What a program has said of it: its agent or its tools, its score or the name of one of ours.

        Raises:
          TypeError, ValueError: that is not usable; the text says why.
        """
        made = Toolbox([*tools], {}).tools
        if agent is not None and made:
            raise ValueError("agent= and tools= both say how a task is done; an agent calls its tools itself")
        if isinstance(score, str) and score not in SCORES:
            raise ValueError(f"score={score!r} must be a function or one of {', '.join(SCORES)}")
        scorer = SCORES[score] if isinstance(score, str) else score
        try:
            return cls(
                agent=agent,
                tools=made,
                defaults={"model": model} if model is not None else {},
                scorer=Scorer.of(scorer) if scorer is not None else None,
                retries=RETRIES,
            )
        except TypeError as problem:
            raise TypeError(f"score={scorer!r} cannot be called: {problem}") from None

    def policy(self, most: int, patience: float = math.inf) -> "wspool.PoolPolicy":
        """That of a pool for these tasks: the endpoint's trouble is none of theirs, nor of a user's agent.

        Args:
          most: connections.
          patience: seconds for which such trouble is waited out.
        """
        return wspool.PoolPolicy(
            max_size=most,
            min_idle=0,
            refusal_patience=patience,
            # What is lost of the turns of an agent the pool takes again; for others `hold` does.
            replay="always" if self.agent is not None and self.retries else "proven",
            max_resends=max(_RESENDS, self.retries),
            give_up_after=max(patience, 1.0),
        )

    def fields(self, task: Task) -> dict[str, Any]:
        """The request fields that go with every turn of *task*."""
        body = _merged({**self.defaults, **task.body}, self.overrides)
        if self.tools and self.definitions:
            body.setdefault("tools", self.definitions)
        body.pop("input", None)
        if body.get("background") is False:  # which is what it is here; another value is refused
            del body["background"]
        if self._is_one_turn and body.get("store") is False:
            # What is not gone on with need not hold what going on would need: it is sent as it is.
            body.setdefault("include", [])
        return body

    def goes_on(self, items: Sequence[Mapping[str, Any]]) -> bool:
        """Whether a conversation with this history can be gone on with."""
        return self.agent is not None or (bool(self.tools) and bool(open_calls([dict(i) for i in items])))

    def goes_on_from(self, items: Sequence[bytes]) -> bool:
        """The same of a history that is JSON."""
        return self.agent is not None or (
            bool(self.tools) and bool(OpenCalls().of(cast("Sequence[Encoded]", items), 0))
        )

    async def hold(
        self,
        conversation: "wspool.Conversation",
        task: Task,
        give_up: Callable[[NoFilesError], None],
        *,
        resumed: bool,
        ledger: EffectLedger | None = None,
    ) -> object:
        """Hold *conversation*, and return the answer: a response, or what the agent returned.

        A checkpoint. Cancelling gives the turn up that is running.

        Args:
          give_up: told of a tool that cannot be had; it must cancel this.
          resumed: whether its history ends with calls of an earlier run.
          ledger: of its effects; an agent brings its own.

        Raises:
          BaseException: whatever the agent raises, or `Conversation.run`.
        """
        if self.agent is not None:
            # Its own: what it does to them changes neither what is written nor another task.
            row, arguments = deepcopy((dict(task.source), dict(self.agent_arguments)))
            return await self.agent(conversation, row, **arguments)
        new = task.body.get("input", [])
        if self.tools:
            given = None if resumed else new
            if self.repeatable:
                return await conversation.run(given, tools=patient(self.tools, give_up), retries=self.retries)
            return await conversation.run(
                given,
                tools=self.tools,
                retries=self.retries,
                ledger=ledger,
                unknown_effects=self.unknown_effects,
            )
        left = self.retries
        while True:
            try:
                return await conversation.respond(new)
            except (TurnLostError, ResponseFailedError) as error:
                passes = isinstance(error, TurnLostError) or error.may_pass
                if not (left and passes):
                    raise
                left -= 1

    async def judge(
        self,
        task: Task,
        answer: object,
        response: Mapping[str, Any] | None,
        items: Sequence[Mapping[str, Any]],
    ) -> tuple[Outcome, Score | None]:
        """How *task* ended that did not fail, and its score; None if nobody can say one. A checkpoint.

        Raises:
          BaseException: whatever the user's function raises.
        """
        await trio.lowlevel.checkpoint()
        outcome = outcome_of(response)
        if self.scorer is None and task.expected is None:
            return outcome, None
        if outcome not in ("done", "called"):
            return outcome, Score(0.0)  # it is no answer, and so no right one
        if self.scorer is not None:
            score = await self.scorer.score(task, answer, response, items)
        else:
            score = compared(answer, task.expected)
        match score.is_right(self.right_from):
            case True:
                return "right", score
            case False:
                return "wrong", score
            case None:
                return outcome, score  # it was answered, and not only rightly or wrongly

    @property
    def _is_one_turn(self) -> bool:
        return self.agent is None and not self.tools


def _merged(body: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(body)
    for name, value in over.items():
        before: object = merged.get(name)
        if isinstance(value, dict) and isinstance(before, dict):
            value = _merged(cast("dict[str, Any]", before), cast("dict[str, Any]", value))
        merged[name] = value
    return merged
