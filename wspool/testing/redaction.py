"""No key gets into a file: what is hidden in what a cassette keeps.

Pure. Hidden is the text of known keys, whatever looks like one, and the values of fields that hold one. A
request is compared after the same treatment, so that what was hidden when it was recorded does not differ
later.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from wspool.server.models import is_array, is_object

__all__ = ["HIDDEN", "Redaction", "keys_of"]

HIDDEN: Final = "<hidden>"

#: Shorter ones are words that tests make up, and may be part of others.
_SHORTEST: Final = 12

#: What providers' keys look like: OpenAI and others (sk-), xAI, Groq, Google, GitHub, and any JSON Web Token.
_LOOKS: Final = re.compile(
    r"\b(?:sk|xai)-[A-Za-z0-9_-]{12,}|\bgsk_\w{12,}|\bAIza[\w-]{20,}|\bgh[opsu]_\w{20,}"
    r"|\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,}|(?<=\bBearer )[^\s\"',;]{12,}"
)

#: One of these is in each of them; most texts have none, and are done with sooner.
_HINTS: Final = ("sk-", "xai-", "gsk_", "AIza", "ghp_", "gho_", "ghs_", "ghu_", "eyJ", "Bearer ")

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
        self._known = re.compile("|".join(map(re.escape, long))) if long else None

    def text(self, text: str) -> str:
        """*text* without keys."""
        if self._known is not None:
            text = self._known.sub(HIDDEN, text)
        return _LOOKS.sub(HIDDEN, text) if any(hint in text for hint in _HINTS) else text

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
