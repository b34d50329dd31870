"""The judge: compares what the callers of a scene were told with what the server said.

The rules by name, as they stand in tables and failures:

=======  ==================================================================================================
answer   no response of one request is told to the caller of another
event    no event of one request is shown to the caller of another
twice    no question is run twice
parent   no request names a parent of another conversation
lost     no innocent turn is lost, nor one that was tampered with where anything proves what it says: an id,
         an item, a number, or the last event's own output
status   what is told is what the type of the last event says
never    no caller waits longer than a moment after the end was said, and nobody for ever
line     nobody stays in line for ever
items    what is told as complete is all there, in order
notice   what is harmless changes nothing
history  the history, and the next full send, are what the caller was told
crash    nothing is raised but the errors of the pool
=======  ==================================================================================================
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import attrs

from .peer import Create
from .scripts import Frame
from .stage import Run, Scene, Told, dicts, play, text_of
from .tampering import Wanted

#: Seconds between the end of a turn and its caller being told, at most: the grace for an end, and a moment.
MOMENT: Final = 6.0
#: The same where its own frames contradict each other: the grace for an end in doubt, and a moment.
DOUBT: Final = 16.0

#: Turns that are refused by what may pass: they are asked again, after a while.
_WAITED_OUT: Final = ("busy-status", "refused-no-code")

_NUMBER: Final = re.compile(r"(?<=[A-Z][0-9])\.[0-9]+»|(?<=_k)[0-9]+")
_MARK: Final = re.compile(r"«(!?)([A-Z][0-9]+)\.")


@attrs.frozen
class Violation:
    """One rule that was broken."""

    rule: str
    question: str
    text: str

    def __str__(self) -> str:
        return f"[{self.rule}] {self.question}: {self.text}"


def judge(run: Run) -> list[Violation]:
    """Return every rule that was broken in a scene, none if all is well."""
    if run.crash is not None:
        return [Violation("crash", "-", f"the pool ended with {run.crash!r}")]
    found: list[Violation] = []
    for told in run.told.values():
        own = [create for create in run.creates if create.question == told.question]
        # Who was told at the same moment at which it was sending has no request that the peer knows of.
        blurred = any(create.blurred for create in (own or run.creates))
        found += _foreign(told, own, blurred)
        found += _waits(told, own)
        if not blurred:
            found += _runs(run, told, own)
            found += _outcome(run, told, own)
            found += _items(run, told, own)
    found += _histories(run)
    if run.mutation is not None and run.mutation.harmless:
        plain = undisturbed(run.scene)
        if not judge(plain):
            found += _differences(run, plain)
    return found


def _foreign(told: Told, own: list[Create], blurred: bool) -> Iterator[Violation]:
    """Marks of other questions, where they can be told apart."""
    for where, text in told.shown.items():
        marks = {(bool(bang), question) for bang, question in _MARK.findall(text)}
        for bang, question in sorted(marks):
            if question == told.question:
                continue
            if bang and (blurred or any("amidst" in create.touched for create in own)):
                continue  # an error without number in a running response cannot be told from its own
            if blurred and not bang:
                continue
            if where == "events" and any(create.mixed for create in own):
                continue
            rule = "event" if where == "events" else "answer"
            yield Violation(
                rule, told.question, f"was shown {'the error' * bang} of {question} in its {where}"
            )


def _waits(told: Told, own: list[Create]) -> Iterator[Violation]:
    if told.outcome == "crash":
        yield Violation("crash", told.question, f"{type(told.error).__name__}: {told.error}")
    elif told.outcome == "waiting":
        yield Violation("never" if own else "line", told.question, "was told nothing")
    elif (
        own
        and own[-1].ended is not None
        and told.at > own[-1].ended + (DOUBT if any(create.tampered for create in own) else MOMENT)
    ):
        late = told.at - own[-1].ended
        yield Violation(
            "never", told.question, f"was told {told.outcome} {late:.1f} s after its end was said"
        )


def _runs(run: Run, told: Told, own: list[Create]) -> Iterator[Violation]:
    ran = [create.number for create in own if create.ran]
    if len(ran) > 1:
        yield Violation("twice", told.question, f"was run {len(ran)} times, by requests {ran}")
    for create in own:
        if create.parent_of is not None and create.parent_of != create.who:
            text = f"names {create.parent}, a response to {create.parent_of}"
            yield Violation("parent", told.question, text)


def _truth(own: list[Create]) -> str:
    """What a caller is to be told if nobody tampers."""
    last = own[-1].said if own else None
    return last.outcome if last is not None else "nothing"


def _outcome(run: Run, told: Told, own: list[Create]) -> Iterator[Violation]:
    truth = _truth(own)
    tampered = any(create.tampered for create in own)
    wanted: Wanted = run.mutation.wanted if tampered and run.mutation is not None else "honest"
    touched = {where for create in own for where in create.touched}
    if touched == {"known"} and run.scene.variant.output and not tampered:
        allowed = {truth}  # what is provably foreign reaches nobody, and what is ours is not lost for it
    elif touched:
        allowed = {truth, "lost"} | ({"failed"} if any("amidst" in c.touched for c in own) else set())
    elif wanted == "honest":
        allowed = {truth}
    elif wanted == "any":
        allowed = {"completed", "incomplete", "failed", "lost"}
    else:
        allowed = {wanted, "lost"}
    if not own and told.at in run.strays:
        allowed = {"lost"}  # the connection was found out while the request was being sent
    if told.outcome not in allowed | {"waiting", "crash"}:
        why = f"{type(told.error).__name__}: {told.error}" if told.error is not None else ""
        text = f"was told {told.outcome}, not {' or '.join(sorted(allowed))}; {why}"
        rule = "lost" if told.outcome in ("lost", "failed") else "status"
        yield Violation(rule, told.question, text)


def _items(run: Run, told: Told, own: list[Create]) -> Iterator[Violation]:
    if told.outcome not in ("completed", "incomplete") or not own or own[-1].said is None:
        return
    said = own[-1].said
    if said.outcome == "failed":
        return  # retyped: what is left of a failed turn has no right items
    if own[-1].tampered and run.mutation is not None and run.mutation.plausible:
        return
    rest = iter(said.items)
    if told.outcome == "incomplete" and all(item in rest for item in told.output):
        return  # the caller knows that something is missing
    if told.output != said.items:
        yield Violation("items", told.question, f"was told {told.outcome} with {_brief(told.output)}")


def _brief(items: Any) -> str:
    return text_of(
        [
            [item.get("type"), item.get("id")] if isinstance(item, dict) else item
            for item in (items if isinstance(items, list) else [items])
        ]
    )


def _histories(run: Run) -> Iterator[Violation]:
    for who, items in run.histories.items():
        right: list[Frame] = []
        for told in run.told.values():
            ended = told.outcome in ("completed", "incomplete")
            if ended and told.question[0] == who and told.question[1:] != "9":
                right += [*told.given, *dicts(told.output)]
        if items != right:
            yield Violation("history", who, f"has {_brief(items)}, was told {_brief(right)}")
            continue
        last = [create for create in run.creates if create.question == f"{who}9"]
        if not last:
            continue
        if last[0].parent is not None:
            yield Violation("history", who, f"names {last[0].parent} on a new connection")
            continue
        meant = [*right, *run.told[f"{who}9"].given[:-1]]
        if [_gist(item) for item in last[0].input[:-1]] != [_gist(_taken(item)) for item in meant]:
            yield Violation("history", who, f"sends {_brief(last[0].input)}, was told {_brief(right)}")


def _taken(item: Frame) -> Frame:
    """The item as a server takes it: a message whose content is neither a text nor parts says nothing."""
    strange = item.get("type") == "message" and not isinstance(item.get("content"), (str, list))
    return {**item, "content": []} if strange else item


def _gist(item: Frame) -> list[Any]:
    """What must not change when an item is sent again."""
    return [
        item.get(name) for name in ("type", "role", "call_id", "arguments", "content", "output", "summary")
    ]


def _unmarked(output: Any) -> str:
    """An output without what depends on the number of its request."""
    return _NUMBER.sub("", text_of(output))


def _differences(run: Run, plain: Run) -> Iterator[Violation]:
    """What a harmless notice has changed."""
    for told, before in zip(run.told.values(), plain.told.values(), strict=True):
        if (told.outcome, _unmarked(told.output)) != (before.outcome, _unmarked(before.output)):
            yield Violation("notice", told.question, f"told {told.outcome}, without it {before.outcome}")
    if run.dials != plain.dials:
        yield Violation("notice", "-", f"{run.dials} connections, without it {plain.dials}")
    if run.scene.kind in _WAITED_OUT:
        # Who was held back goes on at a moment that is drawn, so the order is not the notice's doing.
        asked = Counter(create.question for create in run.creates)
        if asked != Counter(create.question for create in plain.creates):
            yield Violation("notice", "-", f"requests asked {asked}")
        if _unmarked(run.histories) != _unmarked(plain.histories):
            yield Violation("notice", "-", "the histories differ")
        return
    ways = [(c.question, c.connection, c.parent) for c in run.creates]
    if ways != [(c.question, c.connection, c.parent) for c in plain.creates]:
        yield Violation("notice", "-", f"requests went {ways}")
    if run.histories != plain.histories:
        yield Violation("notice", "-", "the histories differ")


@functools.lru_cache(maxsize=256)
def undisturbed(scene: Scene) -> Run:
    """The same scene without any mutation."""
    return play(scene, None)
