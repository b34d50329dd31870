"""Index: which earlier turn does this request go on from?

Nearly all hosts send the whole history each time. Kept is not the history, which the request in hand has, but
per turn that ended well a running hash over its items, as they count (`canonical`), its response's id
and how many items there are. A request that begins with the same items, and adds some, goes on from there.

Rules of this module:

* Equal items make equal hashes, so a hash has as many turns as ended there. All that are found go on from
  the very same words; which of them a request means is a guess, and a wrong one costs bytes, never context.
* Reasoning has only its place in the hash. Each one is compared with the candidate's: the same `id`, or the
  same `encrypted_content`; where neither can be compared there is no match. A request may leave out all of
  it, as some hosts do, and goes on from where the server knows more; some of it is no match.
* An `item_reference` counts as the item that it names. A name that two different items have had names none,
  and then nothing is matched.
* What repeats a history and adds nothing matches only what it adds to. Another model's turn never matches.
* Keys of sessions, and ids of items, only put candidates in order: sub-agents share them, hosts invent them.
* A request that names its parent goes on from there, as it says.
* In any doubt there is no match. Then all of it is sent, which costs bytes and nothing else.
* What is kept is bounded in bytes and in age; who was not gone on from for longest goes first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from itertools import zip_longest
from typing import Any, Final, cast

from wspool.core.commands import LaneKey
from wspool.core.matching.canonical import canonical, kind_of
from wspool.core.matching.known import (
    NO_NAME,
    Given,
    Known,
    Thoughts,
    likelihood,
    name_of,
    thinks_the_same,
    thoughts_of,
)

__all__ = ["Given", "Index", "Known", "digest_of", "read_alone"]

#: Bytes of a hash: nobody finds two histories that have the same one.
_HASH: Final = 16

#: Turns with equal words that are kept: more tell a request nothing that these do not.
MOST_ALIKE: Final = 1024

# What one of each takes in CPython 3.11 to 3.13, in bytes, with its places in dictionaries (measured by
# tests/core/test_matching.py).
_COST_OF_TURN: Final = 680
_COST_OF_THOUGHTS: Final = 110
_COST_OF_REFERENCE: Final = 290
_COST_OF_SPOKEN: Final = 230

#: Items whose digest is not that of their words.
_ELSEWHERE: Final = frozenset({"reasoning", "item_reference"})

#: Fields of a body that put something before its input that no item says.
_BEFORE_INPUT: Final = ("conversation", "prompt")


def _digest(data: bytes) -> bytes:
    return blake2b(data, digest_size=_HASH).digest()


#: What reasoning is: a place in the history.
_REASONING: Final = _digest(b"reasoning")


def digest_of(item: Mapping[str, Any]) -> bytes | None:
    """Return the digest of *item*, if that depends on nothing else; None if it does, or has none."""
    try:
        return None if kind_of(item) in _ELSEWHERE else _digest(canonical(item))
    except (AttributeError, TypeError, ValueError, RecursionError):
        return None


def read_alone(body: Mapping[str, Any], digests: Sequence[bytes | None]) -> Given | None:
    """Return what a request says whatever turns are known; None if that depends on them.

    It can be called in a thread, so that nobody has to wait for one of many items.

    Args:
        digests: of the items of its input (`digest_of`).
    """
    given = Index(max_bytes=0, max_age=0.0).read(body, 0.0, digests=digests)
    if not given.certain or any(
        digest is None and kind_of(item) == "item_reference"
        for item, digest in zip(given.items, digests, strict=True)
    ):
        return None
    return given


def _hashes(known: Known) -> tuple[bytes, ...]:
    """By which a turn is found."""
    return (known.hash,) if known.spoken is None else (known.hash, known.spoken)


class Index:
    """The turns that requests may go on from: of one endpoint and one credential.

    Args:
        max_bytes: most memory of what is kept, in bytes.
        max_age: seconds after which a turn that nobody went on from is forgotten.

    Attributes:
        size: memory of what is kept, in bytes.
        trusts_store: False once the server did not find a response that it was asked to store: then it keeps
            no data, whatever is asked.
    """

    def __init__(self, *, max_bytes: int, max_age: float) -> None:
        self.size = 0
        self.trusts_store = True
        self._max_bytes = max_bytes
        self._max_age = max_age
        #: All of them, those that were not used for longest first.
        self._turns: OrderedDict[Known, None] = OrderedDict()
        self._by_hash: dict[bytes, list[Known]] = {}
        #: How many turns have an id, if there are or were more than one: it says nothing then.
        self._by_id: dict[str, Known | int] = {}
        #: Ids of output items: the digest, None if it is not known which, and the turn that said it last.
        self._references: dict[str, tuple[bytes | None, Known]] = {}

    def __len__(self) -> int:
        return len(self._turns)

    def read(
        self,
        body: Mapping[str, Any],
        now: float,
        *,
        session: Iterable[str] = (),
        digests: Sequence[bytes | None] = (),
        alone: Given | None = None,
    ) -> Given:
        """Read a request. Never raises: what cannot be understood is not certain.

        Args:
            body: the body of the request, JSON values.
            now: seconds.
            session: what else names the conversation that it may belong to, such as its headers.
            digests: of the items of its input (`digest_of`), if they are known.
            alone: what `read_alone` has made of *body*.
        """
        self._expire(now)
        given = body.get("input")
        if isinstance(given, str):
            given = [{"role": "user", "content": given}]
        known = isinstance(given, (list, tuple))
        items = cast("Sequence[Mapping[str, Any]]", given) if known else ()
        parent, model = body.get("previous_response_id"), body.get("model")
        parent = parent if isinstance(parent, str) and parent else None
        keys = [key for key in (*session, body.get("prompt_cache_key")) if isinstance(key, str) and key]
        read = Given(items, parent, name_of(model), name_of("\0".join(keys)))
        read.certain = known and not any(body.get(field) for field in _BEFORE_INPUT)
        if parent is not None:
            origin = self._by_id.get(parent)
            # Nobody here knows the items of an unknown one, nor which of two a name means.
            if isinstance(origin, Known) and origin.model == read.model:
                read.base, read.origin, read.spoken = origin.hash, origin, origin.spoken
                self._touch(origin, now)
            else:
                read.certain = False
        if read.certain and alone is not None:
            read.say(alone)
        elif read.certain:
            self.extend(read, items, now, digests)
        return read

    def extend(
        self,
        given: Given,
        items: Sequence[Mapping[str, Any]],
        now: float,
        known: Sequence[bytes | None] = (),
    ) -> list[bytes]:
        """Let *given* have *items* behind it; return the hash of each, fewer if they are not certain.

        Args:
            known: those of *items* that are known already.
        """
        digests: list[bytes] = []
        hashes, running = given.hashes, given.hash
        try:
            for item, digest in zip_longest(items, known):
                kind = None if digest is not None else kind_of(item)
                if kind == "reasoning":
                    digest = _REASONING
                    recognised = name_of(item.get("id")) + name_of(item.get("encrypted_content"))
                    given.thoughts.append((len(hashes), recognised))
                elif kind == "item_reference" and (named := self._references.get(str(item.get("id")))):
                    digest, owner = named
                    if digest is None:
                        raise ValueError("a name of two items")
                    if digest == _REASONING:
                        given.thoughts.append((len(hashes), name_of(item.get("id")) + NO_NAME))
                    self._touch(owner, now)
                if digest is None:
                    digest = _digest(canonical(item))
                if digest == _REASONING:
                    given.spoken = given.spoken or running
                elif given.spoken is not None:
                    given.spoken = _digest(given.spoken + digest)
                running = _digest(running + digest)
                hashes.append(running)
                digests.append(digest)
        except (AttributeError, TypeError, ValueError, RecursionError):
            given.certain = False  # no items, or such as nobody can compare
        return digests

    def find(self, given: Given, now: float) -> list[Known]:
        """Return the turns that a request goes on from, the likeliest first; none if there is any doubt.

        `Given.skip` says how many items of its input need not be sent.
        """
        if not given.certain or given.parent is not None:
            return []
        hashes, by_hash = given.hashes, self._by_hash
        for length in range(len(hashes) - 1, 0, -1):
            if (alike := by_hash.get(hashes[length - 1])) is None:
                continue
            found = [known for known in reversed(alike) if thinks_the_same(known, given, length)]
            if found:
                given.skip = length
                found.sort(key=lambda known: likelihood(known, given), reverse=True)
                for known in reversed(found):
                    self._touch(known, now)
                given.origin = found[0]
                return found
        return []

    def remember(
        self,
        given: Given,
        response_id: str,
        output: Sequence[Mapping[str, Any]],
        now: float,
        *,
        lane: LaneKey | None = None,
        stored: bool = False,
        refers: bool = True,
    ) -> Known | None:
        """A turn has ended well: return what is known of it, None if its request was not certain.

        Args:
            given: its request, which has *output* behind it from now on.
            response_id: the id of its response.
            output: the items of its response.
            now: seconds.
            lane: the lane that has it.
            stored: True if the server was asked to store it and all that it continues from.
            refers: True if its items may be referred to by their ids.
        """
        digests = self.extend(given, output, now) if given.certain else []
        if not given.certain:
            return None
        before = given.origin
        length = len(given.hashes)
        if before is not None:
            before.continued = True
            length += before.length if given.parent is not None else 0
        known = Known(response_id, length, lane, stored=stored, hash=given.hash, used=now)
        known.model, known.session = given.model, given.session
        known.names = b"".join([name_of(item.get("id")) for item in output])
        # One that ends in a thought cannot be told, without it, from what came before.
        if given.spoken is not None and digests[-1:] != [_REASONING]:
            known.spoken = given.spoken
        known.thoughts = thoughts_of(given, before)
        self._hold(known.thoughts)
        if refers:
            known.references = self._refer(known, output, digests)
        known.cost = (
            _COST_OF_TURN
            + len(response_id)
            + len(known.names)
            + _COST_OF_REFERENCE * len(known.references)
            + (_COST_OF_SPOKEN if known.spoken is not None else 0)
        )
        self._add(known)
        self._expire(now)
        return known

    def forget(self, known: Known) -> None:
        """*known* cannot be gone on from. Forgetting it twice does nothing."""
        if known not in self._turns:
            return
        del self._turns[known]
        for hash in _hashes(known):
            alike = self._by_hash[hash]
            alike.remove(known)
            if not alike:
                del self._by_hash[hash]
        named = self._by_id[known.response_id]
        if isinstance(named, Known) or named == 1:
            del self._by_id[known.response_id]
        else:
            self._by_id[known.response_id] = named - 1
        for name in known.references:
            if name in self._references and self._references[name][1] is known:
                del self._references[name]
        self._release(known.thoughts)
        self.size -= known.cost

    def _add(self, known: Known) -> None:
        self._turns[known] = None
        self.size += known.cost
        named = self._by_id.get(known.response_id)
        self._by_id[known.response_id] = (
            known if named is None else 2 if isinstance(named, Known) else named + 1
        )
        for hash in _hashes(known):
            alike = self._by_hash.setdefault(hash, [])
            alike.append(known)
            if len(alike) > MOST_ALIKE:
                self.forget(alike[0])

    def _refer(
        self, known: Known, output: Sequence[Mapping[str, Any]], digests: Sequence[bytes]
    ) -> tuple[str, ...]:
        """Let the items of *output* be referred to by their ids; return these."""
        names: list[str] = []
        for item, digest in zip(output, digests, strict=True):
            name = item.get("id")
            if isinstance(name, str) and name:
                before = self._references.get(name)
                same = before is None or before[0] == digest
                self._references[name] = (digest if same else None, known)
                names.append(name)
        return tuple(names)

    def _touch(self, known: Known, now: float) -> None:
        known.used = now
        self._turns.move_to_end(known)

    def _expire(self, now: float) -> None:
        while self._turns:
            oldest = next(iter(self._turns))
            if self.size <= self._max_bytes and now - oldest.used <= self._max_age:
                return
            self.forget(oldest)

    def _hold(self, thoughts: Thoughts | None) -> None:
        while thoughts is not None:
            thoughts.users += 1
            if thoughts.users > 1:
                return
            self.size += _COST_OF_THOUGHTS + len(thoughts.own)
            thoughts = thoughts.before

    def _release(self, thoughts: Thoughts | None) -> None:
        while thoughts is not None:
            thoughts.users -= 1
            if thoughts.users:
                return
            self.size -= _COST_OF_THOUGHTS + len(thoughts.own)
            thoughts = thoughts.before
