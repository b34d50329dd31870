"""The credential: checked before any library sees it, shown nowhere.

A key goes into one header of the upgrade request, built for one dial at a time. It may outlive that dial in
two places: in the frames of an exception, which crash reporters print with all variables, and in what a
server says, if that echoes its request. `forget` clears both.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeAlias, cast

from wspool.wire.secret import Secret
from wspool.wire.wire import ConnectError

__all__ = ["ApiKey", "CredentialError", "forget", "is_secret", "secret_source"]

#: A key, or an async function that returns one; it is asked once per dial.
ApiKey: TypeAlias = "str | Callable[[], Awaitable[str]]"

_HIDDEN: Final = "<hidden>"

#: Names of headers whose values are nobody's business: Authorization, api-key, Cookie, X-Auth-Token ...
_SECRET_NAME: Final = re.compile("auth|cookie|key|secret|token", re.IGNORECASE)

#: What is shorter is no secret, and taking it out of texts would only spoil them.
_SHORTEST: Final = 8


class CredentialError(ConnectError):
    """The `api_key` function failed, or returned something that is no key."""


def secret_source(api_key: ApiKey) -> Callable[[], Awaitable[Secret]]:
    """Return a function that gives the key for one dial.

    Raises:
        ValueError: *api_key* is no usable key.
    """
    if not callable(api_key):
        fixed = Secret(api_key)

        async def give() -> Secret:  # no checkpoint: the dial that follows has many
            return fixed

        return give
    ask = api_key

    async def ask_and_check() -> Secret:
        try:
            return Secret(await ask())
        except Exception as error:
            problem = type(error).__name__
        # The text of a foreign error may hold the key; its class does not. Raised out here, so that the
        # foreign error is not even the context of ours.
        raise CredentialError(
            f"the api_key function failed ({problem}); it must return a usable key", phase="upgrade"
        )

    return ask_and_check


def is_secret(name: str, value: str) -> bool:
    """Return whether *value* of header *name* has to be taken out of what a server says."""
    return len(value) >= _SHORTEST and _SECRET_NAME.search(name) is not None


def forget(error: BaseException, secrets: Sequence[str] = ()) -> None:
    """Take secrets out of *error*, of its causes and of the frames that they came through.

    Args:
        error: what ended a dial.
        secrets: what must not be in its texts, where a server may have echoed it.

    The frames go as a whole: clearing them would close coroutines that are still running. Of a foreign
    exception the lines that they were at stay, as a note.
    """
    seen: set[int] = set()
    todo: list[BaseException | None] = [error]
    while todo:
        one = todo.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        todo += [one.__cause__, one.__context__]
        todo += _members(one)
        for secret in secrets:
            _redact(one, secret)
        if one.__traceback__ is not None and not isinstance(one, ConnectError):
            one.add_note("".join(traceback.format_tb(one.__traceback__)).rstrip())
        one.__traceback__ = None


def _members(error: BaseException) -> Sequence[BaseException]:
    if not isinstance(error, BaseExceptionGroup):
        return ()
    return cast("BaseExceptionGroup[BaseException]", error).exceptions


def _redact(error: BaseException, secret: str) -> None:
    if isinstance(error, ConnectError):  # its text is ours
        error.body = error.body.replace(secret.encode(), _HIDDEN.encode())
        error.headers = tuple((name, value.replace(secret, _HIDDEN)) for name, value in error.headers)
        return
    if secret in repr(error.args):
        error.args = (_HIDDEN,)
    for name, value in vars(error).items():
        if secret in repr(value):
            setattr(error, name, _HIDDEN)
