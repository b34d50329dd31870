"""How a task ended: what its answer is, and whether it is one.

A batch that counts a truncated answer, or none at all, as done has wrong results that nobody sees. So what
the server and the model said of a response is looked at, and not only that there is one.
"""

import json
from collections.abc import Mapping
from typing import Any, Final, cast

import wspool
from wspool.core.meanings import Meaning, meaning_of_status, meaning_of_word
from wspool.errors import DialFailedError, ResponseFailedError
from wspool.rollout.tasks import Outcome

__all__ = ["answer_of", "ends_run", "outcome_of"]

#: Items that ask the client to do something. Source: the API's `ResponseOutputItem`, less what the server
#: does by itself.
_CALLS: Final = frozenset(
    {
        "apply_patch_call",
        "computer_call",
        "custom_tool_call",
        "function_call",
        "local_shell_call",
        "mcp_approval_request",
        "shell_call",
    }
)
#: Items that are on the way to an answer, and none.
_ON_THE_WAY: Final = frozenset(
    {
        "code_interpreter_call",
        "compaction",
        "file_search_call",
        "mcp_call",
        "mcp_list_tools",
        "reasoning",
        "tool_search_call",
        "tool_search_output",
        "web_search_call",
    }
)


def answer_of(returned: object) -> tuple[Any, Mapping[str, Any] | None]:
    """Return what an agent returned as JSON, and the response if it was one.

    The answer that a response holds is its text, or the calls that it ends with if it has none.

    Raises:
        TypeError: it is neither a response nor JSON.
    """
    if isinstance(returned, wspool.Response):
        calls = _calls(returned)
        return calls if calls and not returned.output_text else returned.output_text, returned.data
    try:
        # Its own: who returned it may go on to change it.
        return json.loads(json.dumps(returned, allow_nan=False)), None
    except (TypeError, ValueError, RecursionError) as problem:
        raise TypeError(f"the agent must return a response or JSON, not {_shown(returned)}") from problem


def outcome_of(response: Mapping[str, Any] | None) -> Outcome:
    """Return how a task ended that did not fail, whatever its answer is worth.

    Args:
        response: of `answer_of`.
    """
    missing = _missing(wspool.Response(dict(response))) if response is not None else None
    if missing is not None:
        return missing
    return "called" if response is not None and _calls(wspool.Response(dict(response))) else "done"


def ends_run(error: BaseException) -> bool:
    """Return whether every other task would only find out the same as *error*: no endpoint is there, the key
    is refused, or the money is spent."""
    if isinstance(error, DialFailedError):
        return True
    if not isinstance(error, ResponseFailedError):
        return False
    meaning = meaning_of_word(error.code)
    if meaning is None and error.status == 404 and error.code is None:
        return True  # that is said of a URL; of a model, with a code
    return (meaning or meaning_of_status(error.status)) in (Meaning.SPENT, Meaning.CREDENTIAL)


def _missing(response: "wspool.Response") -> Outcome | None:
    """Why *response* is no answer, or None if it is one."""
    if response.status == "incomplete":
        reason = (response.incomplete_details or {}).get("reason")
        return "filtered" if reason == "content_filter" else "truncated"
    parts = [part for item in response.output for part in _parts(item)]
    if response.output_text or _calls(response):
        return None
    if any(part.get("type") == "refusal" for part in parts):
        return "refused"
    if any(part.get("type") == "output_text" for part in parts):
        return None  # an empty text is what was said
    kinds = {item.get("type") for item in response.output} - _ON_THE_WAY - {"message"}
    return None if kinds else "unanswered"


def _calls(response: "wspool.Response") -> list[dict[str, Any]]:
    return [item for item in response.output if item.get("type") in _CALLS]


def _parts(item: Mapping[str, Any]) -> list[dict[str, Any]]:
    content: object = item.get("content") if item.get("type") == "message" else None
    if not isinstance(content, list):
        return []
    return [cast("dict[str, Any]", part) for part in cast("list[object]", content) if isinstance(part, dict)]


def _shown(value: object) -> str:
    try:
        return f"{value!r:.100}"
    except Exception as problem:  # whatever its __repr__ raises, or recursion
        return f"{type(value).__name__} that cannot be shown ({type(problem).__name__})"
