"""The credential: checked before any library sees it, shown nowhere.

A key goes into one header of the upgrade request, built for one dial at a time. It may outlive that dial in
two places: in the frames of an exception, which crash reporters print with all variables, and in what a
server says, if that echoes its request. `forget` clears both of an exception.

After the dial its `Redactor` stays with the connection. Every text of ours that repeats what a server said (a
close reason, an error frame, the type of a strange event) goes through it, and is made plain. The events
themselves are not: they are the caller's, as they came.
"""

from __future__ import annotations

import functools
import inspect
import re
import traceback
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, ParamSpec, TypeAlias, TypeVar, cast

import attrs

from wspool.core.plain import MOST, plain
from wspool.core.server_error import ServerError
from wspool.errors import WsPoolError
from wspool.wire.answer import Answer
from wspool.wire.secret import Secret
from wspool.wire.wire import ConnectError, WireClosedError

__all__ = [
    "NO_SECRETS",
    "ApiKey",
    "CredentialError",
    "Redactor",
    "discreet",
    "forget",
    "is_secret",
    "names_a_secret",
    "secret_source",
]

#: A key, or a function that returns one, async or not; it is asked once per dial, and once more if that key
#: is refused with 401. A plain function is called where everything else waits for it: one that asks over a
#: network or a disk should be async. What it raises counts as a failed dial that may work in a moment, except
#: TypeError, NameError, ImportError and NotImplementedError: these, and whatever it returns that is no key,
#: are refused as `AuthenticationError`.
ApiKey: TypeAlias = str | Callable[[], str | Awaitable[str]]

_P = ParamSpec("_P")
_T = TypeVar("_T")

#: Classes of exceptions that this package raises with a text that says enough.
_FAULTS: Final = (ConnectError, WireClosedError)
_REFUSALS: Final = (*_FAULTS, ValueError, ImportError, WsPoolError)

_HIDDEN: Final = "<hidden>"

#: Names of headers whose values are nobody's business: Authorization, api-key, Cookie, X-Auth-Token ...
_SECRET_NAME: Final = re.compile("auth|cookie|key|secret|token", re.IGNORECASE)

#: What is shorter is no secret, and taking it out of texts would only spoil them.
_SHORTEST: Final = 8

#: What stands between the words of such a header: a scheme and its credential, the cookies of a request.
_SEPARATOR: Final = re.compile(r"[\s;,]+")

#: Of a longer secret so many characters from its beginning count as well: a close reason ends after 123
#: bytes, and a log line somewhere too. More than what keys have in common ("sk-proj-").
_PIECE: Final = 16


#: What a function raises that will never do better. Anything else is a vault's bad moment.
_MISTAKES: Final = (TypeError, NameError, ImportError, NotImplementedError)


class CredentialError(ConnectError):
    """The `api_key` function gave no key.

    Attributes:
        permanent: True when the function itself is wrong, so that asking it again cannot help.
    """

    def __init__(self, message: str, *, permanent: bool = False) -> None:
        super().__init__(f"the api_key function {message}", phase="upgrade")
        self.permanent = permanent


class _NoKeyError(Exception):
    """It returned something else. The text says what, and never quotes it."""


def discreet(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Return *function* such that no exception shows its arguments, nor what it made of them.

    For what is not async and takes credentials: crash reporters print the variables of all frames.
    """

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return function(*args, **kwargs)
        except BaseException as error:  # noqa: ASYNC103 # raised again below
            forget(error, told=_REFUSALS)
            problem = error
        del args, kwargs
        try:
            raise problem
        finally:
            del problem  # whose traceback holds this frame

    return call


@discreet
def secret_source(api_key: ApiKey) -> Callable[[], Awaitable[Secret]]:
    """Return a function that gives the key for one dial.

    Raises:
        ValueError: *api_key* is no usable key.
    """
    if not callable(api_key):
        fixed = Secret(api_key)

        # No checkpoint: the dial that follows has many.
        async def give() -> Secret:  # noqa: ASYNC124  # as a function of the caller's is awaited
            return fixed

        return give
    ask = api_key

    async def ask_and_check() -> Secret:
        try:
            return await _asked(ask)
        except _NoKeyError as error:
            problem, permanent = str(error), True
        except _MISTAKES as error:
            problem, permanent = f"is wrong ({type(error).__name__})", True
        except Exception as error:
            problem, permanent = f"failed ({type(error).__name__}); it is asked again", False
        # The text of a foreign error may hold the key; its class does not. Raised out here, so that the
        # foreign error is not even the context of ours, and the key not in a frame that it came through.
        raise CredentialError(problem, permanent=permanent)

    return ask_and_check


async def _asked(ask: Callable[[], object]) -> Secret:
    answer = ask()
    if inspect.isawaitable(answer):
        answer = await answer
    if not isinstance(answer, str):
        raise _NoKeyError(f"returned {type(answer).__name__}; it must return the key, a str")
    try:
        return Secret(answer)
    except ValueError as error:
        raise _NoKeyError(f"returned no key ({error})") from None


def names_a_secret(name: str) -> bool:
    """Return whether *name*, of a header or a subprotocol, says that a credential is with it."""
    return _SECRET_NAME.search(name) is not None


def is_secret(name: str, value: str) -> bool:
    """Return whether *value* of header *name* has to be taken out of what a server says."""
    return len(value) >= _SHORTEST and names_a_secret(name)


class Redactor:
    """Takes the secrets of one upgrade request out of texts.

    Args:
        headers: the headers of that request.
        subprotocols: those that it offers; there are endpoints that take a key as the last word of one.
    """

    __slots__ = ("_secrets",)

    def __init__(self, headers: Sequence[tuple[str, str]] = (), subprotocols: Sequence[str] = ()) -> None:
        offered = ((name, name.replace(".", " ")) for name in subprotocols)
        self._secrets = tuple(
            Secret(word)
            for name, value in (*headers, *offered)
            if is_secret(name, value)
            for word in _SEPARATOR.split(value)
            if len(word) >= _SHORTEST
        )

    def text(self, text: str) -> str:
        """Return *text* without them, nor a long beginning of one. Takes as long as *text* is."""
        for secret in self._secrets:
            text = _without(text, secret.reveal())
        return text

    def shown(self, text: str, most: int = MOST) -> str:
        """Return *text*, of a server, as a text of ours may repeat it: without them, and plain."""
        return plain(self.text(text), most)

    def data(self, data: bytes) -> bytes:
        """Return *data* without them, nor a long beginning of one."""
        return self.text(data.decode("latin-1")).encode("latin-1") if self._secrets else data

    def server_error(self, error: ServerError) -> ServerError:
        """Return *error* with texts that can be shown. Its `raw` stays the frame as it came."""
        return attrs.evolve(
            error,
            code=error.code and self.shown(error.code),
            type=error.type and self.shown(error.type),
            message=self.shown(error.message),
            param=error.param and self.shown(error.param),
        )

    def answer(self, answer: Answer) -> Answer:
        """Return *answer* with a body and headers that can be shown."""
        return attrs.evolve(answer, body=self.data(answer.body), headers=self.headers(answer.headers))

    def headers(self, headers: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
        """Return *headers* with values that can be shown."""
        return tuple((name, self.text(value)) for name, value in headers)


#: For what was said before there was a secret.
NO_SECRETS: Final = Redactor()


def _without(text: str, secret: str) -> str:
    text = text.replace(secret, _HIDDEN)
    piece = secret[:_PIECE]
    if (at := text.find(piece)) < 0:
        return text
    # In one pass, each character copied once: a server that has been told the key can repeat its beginning as
    # often as a message is long.
    parts: list[str] = []
    done = 0
    while at >= 0:
        parts += text[done:at], _HIDDEN
        done = at + _agreement(text, at, secret)
        at = text.find(piece, done)
    return "".join([*parts, text[done:]])


def _agreement(text: str, at: int, secret: str) -> int:
    """Return how many characters of *text* from *at* on are the beginning of *secret*; a piece of it is."""
    least, most = min(_PIECE, len(secret)), len(secret)
    while least < most:
        # Doubled first: what is repeated to keep us busy is mostly short.
        longer = min(2 * least, (least + most + 1) // 2)
        if text.startswith(secret[:longer], at):
            least = longer
        else:
            most = longer - 1
    return least


def forget(
    error: BaseException,
    redactor: Redactor = NO_SECRETS,
    *,
    told: tuple[type[BaseException], ...] = _FAULTS,
) -> None:
    """Take secrets out of *error*, of its causes and of the frames that they came through.

    Args:
        error: what ended a dial, or a connection.
        redactor: takes out of its texts what a server may have echoed.
        told: classes whose text says enough.

    The frames go as a whole: clearing them would close coroutines that are still running. Of an
    exception of another class than *told* the lines that they were at stay, as a note.
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
        _redact(one, redactor)
        if one.__traceback__ is not None and not isinstance(one, told):
            # Without the marks below a line, for which it is parsed: that costs, and it disturbs who does it
            # in another thread then (CPython before 3.11.8, gh-106905).
            frames = traceback.StackSummary.extract(traceback.walk_tb(one.__traceback__))
            one.add_note("".join(frames.format()).rstrip())
        one.__traceback__ = None


def _members(error: BaseException) -> Sequence[BaseException]:
    if not isinstance(error, BaseExceptionGroup):
        return ()
    return cast("BaseExceptionGroup[BaseException]", error).exceptions


def _redact(error: BaseException, redactor: Redactor) -> None:
    if isinstance(error, ConnectError):  # its text is ours
        error.body = redactor.data(error.body)
        error.headers = redactor.headers(error.headers)
        return
    if isinstance(error, WireClosedError):
        error.reason = redactor.shown(error.reason)
        error.args = (redactor.shown(str(error)),)
        return
    if _is_shown(error.args, redactor):
        error.args = (_HIDDEN,)
    for name, value in vars(error).items():
        if _is_shown(value, redactor):
            setattr(error, name, _HIDDEN)


def _is_shown(value: object, redactor: Redactor) -> bool:
    text = repr(value)
    return redactor.text(text) != text
