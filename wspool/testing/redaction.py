"""No key gets into a file: what is hidden in what a cassette keeps.

Pure. Hidden is the text of known keys, whatever looks like one, and the values of fields that hold one. A
request is compared after the same treatment, so that what was hidden when it was recorded does not differ
later. Its time grows with what it is given, whatever that is, and no call of C takes long: it may be in a
thread beside a loop.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from wspool.server.models import is_array, is_object

__all__ = ["HIDDEN", "Redaction", "keys_of"]

HIDDEN: Final = "<hidden>"

#: Shorter ones are words that tests make up, and may be part of others.
_SHORTEST: Final = 12

#: Characters of a text that are looked through in one call, which other threads wait for: a millisecond.
_AT_ONCE: Final = 65_536

#: How one begins, and what it then looks like: the group is the key. No key is longer than one piece.
_Look: TypeAlias = tuple[str, re.Pattern[str]]

#: What providers' keys look like: xAI, OpenAI and others (sk-), Groq, Google, GitHub, and any JSON Web Token.
#: What only begins as a token is gone over as a whole: there may be a beginning at each of its letters.
_LOOKS: Final[Sequence[_Look]] = [
    (start, re.compile(rf"\b{pattern}"))
    for start, pattern in (
        ("xai-", r"(xai-[A-Za-z0-9_-]{12,65536}+)"),
        ("sk-", r"(sk-[A-Za-z0-9_-]{12,65536}+)"),
        ("gsk_", r"(gsk_\w{12,65536}+)"),
        ("AIza", r"(AIza[\w-]{20,65536}+)"),
        *((f"gh{kind}_", rf"(gh{kind}_\w{{20,65536}}+)") for kind in "opsu"),
        ("eyJ", r"(?:(eyJ[\w-]{8,65536}+\.[\w-]{8,65536}+\.[\w-]{8,65536}+)|eyJ[\w-]{0,65536}+)"),
        ("Bearer ", r"Bearer ([^\s\"',;]{12,65536}+)"),
    )
]

#: Fields whose values are keys, wherever they are; of `headers`, those of all fields.
_FIELDS: Final = frozenset({"authorization", "api_key", "api-key", "x-api-key"})

#: Names of environment variables that hold one.
_VARIABLE: Final = re.compile(r"(?:API_KEY|_TOKEN|_SECRET)$")


def keys_of(environment: Mapping[str, str]) -> list[str]:
    """The keys in the environment, going by the names of the variables."""
    return [
        value
        for name, value in environment.items()
        if _VARIABLE.search(name) and len(value) >= _SHORTEST and not re.search(r"[\s/]", value)
    ]


class Redaction:
    """Hides keys in JSON values."""

    def __init__(self, keys: Iterable[str]) -> None:
        long = sorted({key for key in keys if len(key) >= _SHORTEST}, key=len, reverse=True)
        self._looks = [*((key, re.compile(f"({re.escape(key)})")) for key in long), *_LOOKS]

    def text(self, text: str) -> str:
        """*text* without keys."""
        for start, look in self._looks:
            if len(text) > _AT_ONCE or start in text:
                text = _without(text, start, look)
        return text

    def value(self, value: Any) -> Any:
        """A JSON value without keys; what holds none is equal to what it was."""
        if isinstance(value, str):
            return self.text(value)
        if is_array(value):
            return [self.value(element) for element in value]
        if is_object(value):
            return {self.text(name): self._field(name, element) for name, element in value.items()}
        return value

    def _field(self, name: str, value: Any) -> Any:
        if name.lower() in _FIELDS and isinstance(value, str):
            return HIDDEN
        if name.lower() == "headers" and is_object(value):
            return dict.fromkeys(value, HIDDEN)
        return self.value(value)

    def events(self, events: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The events of one response without keys, also where one came in pieces; and without padding."""
        hidden = [self.value({k: v for k, v in event.items() if k != "obfuscation"}) for event in events]
        streams: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
        for event in hidden:
            if isinstance(event.get("delta"), str):
                where = tuple(
                    event.get(name) for name in ("type", "output_index", "content_index", "summary_index")
                )
                streams.setdefault(where, []).append(event)
        for deltas in streams.values():
            whole = "".join(event["delta"] for event in deltas)
            if (safe := self.text(whole)) != whole:
                for event in deltas:
                    event["delta"], safe = safe, ""
        return hidden


def _without(text: str, start: str, look: re.Pattern[str]) -> str:
    """*text* without what begins with *start* and looks so."""
    kept: list[str] = []
    done, place = 0, _find(text, start, 0)
    while place >= 0:
        found = look.match(text, place)
        if found is not None and found[1]:
            kept += [text[done : found.start(1)], HIDDEN]
            done = found.end()
        place = _find(text, start, place + 1 if found is None else found.end())
    return "".join([*kept, text[done:]]) if kept else text


def _find(text: str, start: str, place: int) -> int:
    for begin in range(place, len(text), _AT_ONCE):
        if (found := text.find(start, begin, begin + _AT_ONCE + len(start) - 1)) >= 0:
            return found
    return -1
