"""Comparing: which answers another run has changed, of the attempts that both have.

1. Attempts are paired by their keys; one whose task says something else by now is not compared.
2. Of each attempt of the first run a few bytes are kept, and the places of its line; texts are read again.
3. A difference of mean scores is of pairs, and so is its standard error.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import attrs

from wspool.core.plain import plain
from wspool.report.figures import Figures, Mean, standard_error
from wspool.report.making import facts_of, write_page
from wspool.report.numbers import amount, count, ratio, seconds
from wspool.report.plots import bars
from wspool.report.reading import Line, Reading
from wspool.report.sections import COLOURS, Row, Section, Table
from wspool.report.transcript import text_of
from wspool.rollout.tasks import OUTCOMES

__all__ = ["COMPARISON", "make_comparison"]

#: Name of the file in the directory of the second run.
COMPARISON: Final = "compare.html"
#: Changed answers that are shown of each kind.
_MOST: Final = 60
#: Characters of an answer.
_LONGEST: Final = 600


@attrs.frozen
class _Kept:
    place: int
    outcome: str
    score: float | None
    answer: bytes
    digest: str | None


@attrs.define
class _Changes:
    """What is different: pairs of places, by kind, and counts."""

    pairs: int = 0
    outcomes: Counter[tuple[str, str]] = attrs.field(factory=Counter[tuple[str, str]])
    kinds: dict[str, list[tuple[str, int, int]]] = attrs.field(
        factory=lambda: {"worse": [], "better": [], "other": []}
    )
    counts: Counter[str] = attrs.field(factory=Counter[str])
    only_second: int = 0
    other_text: int = 0
    #: Differences of scores, by task.
    scores: dict[str, Mean] = attrs.field(factory=dict[str, Mean])


def make_comparison(one: Path, other: Path, path: Path) -> None:
    """Write what the run in *other* has changed to *path*.

    Raises:
      NoResultsError: one of them has no results.
      OSError: the file cannot be written.
    """
    first, second = Reading(one), Reading(other)
    kept: dict[str, _Kept] = {}
    figures, others, changes = Figures(), Figures(), _Changes()
    for line in first.lines():
        figures.add(line)
        kept[line.key] = _Kept(line.place, line.outcome, line.score, _hash(line), line.digest)
    for line in second.lines():
        others.add(line)
        _compare(kept.pop(line.key, None), line, changes)
    names = _names(first, second)
    sections = [
        _sides(names, figures, others),
        _outcomes(names, changes, only_first=len(kept)),
        *_changed(first, second, changes),
    ]
    page = {
        "title": f"{names[0]} and {names[1]}",
        "facts": _facts(first, second),
        "sections": sections,
        "notes": [
            plain(f"{name}: {note}")
            for name, reading in zip(names, (first, second), strict=True)
            for note in reading.notes
        ],
        "has_tasks": False,
        "tasks": (),
    }
    write_page(path, page)


def _names(first: Reading, second: Reading) -> tuple[str, str]:
    one, other = (plain(each.directory.resolve().name, 60) for each in (first, second))
    return (one, other) if one != other else (f"{one} (first)", f"{other} (second)")


def _hash(line: Line) -> bytes:
    return hashlib.sha256(json.dumps(line.answer, sort_keys=True).encode()).digest()[:8]


def _compare(before: _Kept | None, line: Line, changes: _Changes) -> None:
    if before is None:
        changes.only_second += 1
        return
    if None not in (before.digest, line.digest) and before.digest != line.digest:
        changes.other_text += 1
        return
    changes.pairs += 1
    changes.outcomes[before.outcome, line.outcome] += 1
    if before.score is not None and line.score is not None:
        changes.scores.setdefault(line.id, Mean()).add(line.score - before.score)
    kind = _kind(before, line)
    if kind is not None:
        changes.counts[kind] += 1
        if len(changes.kinds[kind]) < _MOST:
            changes.kinds[kind].append((line.key, before.place, line.place))


def _kind(before: _Kept, line: Line) -> str | None:
    """How the answer has changed, None if it has not."""
    if before.score is not None and line.score is not None and before.score != line.score:
        return "worse" if line.score < before.score else "better"
    if (before.outcome == "failed") != (line.outcome == "failed"):
        return "worse" if line.outcome == "failed" else "better"
    if before.outcome != line.outcome or before.answer != _hash(line):
        return "other"
    return None


def _facts(first: Reading, second: Reading) -> list[tuple[str, str]]:
    """How both were made: each once if it is the same."""
    one, other = dict(facts_of(first.run)), dict(facts_of(second.run))
    return [
        (name, one.get(name, "-") if one.get(name) == other.get(name) else _both(one, other, name))
        for name in {**one, **other}
    ]


def _both(one: Mapping[str, str], other: Mapping[str, str], name: str) -> str:
    return f"{one.get(name, '-')}  →  {other.get(name, '-')}"


def _side(figures: Figures) -> dict[str, str]:
    """What is said of one run."""
    its = figures.all
    return {
        "results": count(its.count),
        **{outcome: count(its.outcomes[outcome]) for outcome in OUTCOMES},
        "mean score": amount(its.score.value),
        "standard error of it": amount(figures.standard_error),
        "tokens of a task, mean": count(its.tokens.value),
        "cost": amount(figures.cost.sum if figures.cost.values else None),
        "time of a task, mean": seconds(its.seconds.value),
        "time of a task, p95": seconds(next(iter(figures.seconds.percentiles(95)), None)),
        "requests with only what was new": ratio(_delta(figures)),
    }


def _sides(names: tuple[str, str], figures: Figures, others: Figures) -> Section:
    sides = (figures, others)
    one, other = map(_side, sides)
    rows: list[Row] = [
        (name, one[name], other[name]) for name in one if (one[name], other[name]) != ("0", "0")
    ]
    parts = {
        name: {outcome: float(number) for outcome, number in each.all.outcomes.items()}
        for name, each in zip(names, sides, strict=True)
    }
    plot = bars(parts, COLOURS, "Outcomes of both runs; the numbers are in the table.", shown=count)
    return Section(title="Both runs", plots=[plot], tables=[Table(("", *names), rows)])


def _delta(figures: Figures) -> float | None:
    sent = figures.requests
    requests = sent["delta"] + sent["full"]
    return sent["delta"] / requests if requests else None


def _outcomes(names: tuple[str, str], changes: _Changes, *, only_first: int) -> Section:
    before = [each for each in OUTCOMES if any(one == each for one, _ in changes.outcomes)]
    after = [each for each in OUTCOMES if any(other == each for _, other in changes.outcomes)]
    rows: list[Row] = [(one, *(count(changes.outcomes[one, other]) for other in after)) for one in before]
    words = [
        f"{count(changes.pairs)} attempts are in both: of {count(changes.counts['worse'])} the answer got "
        f"worse, of {count(changes.counts['better'])} better, and of {count(changes.counts['other'])} it "
        "changed without a better or a worse."
    ]
    differences = [each.value for each in changes.scores.values() if each.value is not None]
    if differences:
        mean, error = sum(differences) / len(differences), standard_error(differences)
        words.append(
            f"The mean score changed by {mean:+,.4g}, with a standard error of {amount(error)} "
            f"({count(len(differences))} tasks)."
        )
    if only_first or changes.only_second:
        words.append(
            f"{count(only_first)} attempts are in the first only, {count(changes.only_second)} in the second "
            "only."
        )
    if changes.other_text:
        words.append(
            f"{count(changes.other_text)} attempts are at tasks that say something else by now, and are not "
            "compared."
        )
    head = (f"{names[0]} ↓  {names[1]} →", *after)
    return Section(title="What changed", words=words, tables=[Table(head, rows)] if rows else [])


def _changed(first: Reading, second: Reading, changes: _Changes) -> list[Section]:
    titles = {"worse": "Worse answers", "better": "Better answers", "other": "Other answers"}
    return [
        Section(
            title=title,
            words=[f"The first {_MOST} of {count(changes.counts[kind])}."]
            if changes.counts[kind] > _MOST
            else [],
            tables=[
                Table(
                    ("task", "outcome", "score", "before", "after"),
                    [_pair(key, first.again(one), second.again(other)) for key, one, other in found],
                )
            ],
        )
        for kind, title in titles.items()
        if (found := changes.kinds[kind])
    ]


def _pair(key: str, before: Line | None, after: Line | None) -> Row:
    name = plain(key.replace("\0", ", attempt "), 100)
    if before is None or after is None:
        return (name, "-", "-", "-", "-")
    outcome = after.outcome if before.outcome == after.outcome else f"{before.outcome} → {after.outcome}"
    score = amount(after.score)
    if before.score != after.score:
        score = f"{amount(before.score)} → {score}"
    return (name, outcome, score, _answer(before), _answer(after))


def _answer(line: Line) -> str:
    said = line.error.get("message") if line.outcome == "failed" else line.answer
    return text_of("" if said is None else said, _LONGEST)
