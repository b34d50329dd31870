"""Sections: what the page shows of a run, as words, tables and plots. How it looks is in `page.html`."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import attrs

from wspool.core.plain import plain
from wspool.report.figures import Figures, Grouping, Spread
from wspool.report.numbers import amount, bytes_, count, ratio, seconds
from wspool.report.picked import MOST_SHOWN, Pick, Picked
from wspool.report.plots import Plot, bars, curves, histogram
from wspool.report.reading import Line, Reading, number, part
from wspool.report.transcript import Said, said_in, text_of
from wspool.rollout.phases import PHASES
from wspool.rollout.tasks import OUTCOMES

__all__ = ["COLOURS", "Cell", "Row", "Section", "Shown", "Table", "of_run", "shown_task", "told"]

#: The page's colour of each outcome.
COLOURS: Final[Mapping[str, str]] = {
    "right": "var(--good)",
    "done": "var(--run)",
    "called": "var(--call)",
    "wrong": "var(--full)",
    "truncated": "var(--cut)",
    "filtered": "var(--cut2)",
    "refused": "var(--cut3)",
    "unanswered": "var(--wait)",
    "failed": "var(--bad)",
}
_PHASES: Final[Mapping[str, tuple[str, str]]] = {
    "held": ("held", "var(--cut3)"),
    "line": ("in line", "var(--wait)"),
    "dial": ("dial", "var(--cut2)"),
    "first_event": ("first event", "var(--full)"),
    "stream": ("stream", "var(--good)"),
    "tools": ("tools", "var(--run)"),
    "rest": ("the rest", "var(--cut)"),
}
#: Rows of a table of groups, and of a plot of them.
_MOST_GROUPS: Final = 40
_MOST_BARS: Final = 15


@attrs.frozen
class Cell:
    """What stands in a table: a text, which may lead somewhere in the page."""

    text: str
    to: str = ""


Row = Sequence[str | Cell]


@attrs.frozen
class Table:
    """A table; its first column names the rows."""

    head: Sequence[str]
    rows: Sequence[Row]
    caption: str = ""


@attrs.frozen(kw_only=True)
class Section:
    """A part of the page with a heading."""

    title: str
    words: Sequence[str] = ()
    plots: Sequence[Plot] = ()
    tables: Sequence[Table] = ()


@attrs.frozen(kw_only=True)
class Shown:
    """A task as it is shown whole: what is known of it, and its transcript."""

    anchor: str
    title: str
    facts: Sequence[tuple[str, str]]
    trace: str
    said: Sequence[Said]


def of_run(reading: Reading, figures: Figures, picked: Picked, anchors: Mapping[int, str]) -> list[Section]:
    """Return the sections of one run; *anchors* lead to the transcripts, by the places of lines."""
    made = [
        _outcomes(reading, figures),
        _scores(figures),
        _tokens(figures),
        _times(figures),
        _requests(figures),
        _connections(reading),
        _troubles(picked, anchors),
        *_lists(picked, anchors),
    ]
    return [section for section in made if section is not None]


def told(names: Iterable[tuple[str, object]]) -> list[tuple[str, str]]:
    """Return facts of which something is known, as texts."""
    known = [(name, value) for name, value in names if value not in (None, "", [], {})]
    return [(plain(name, 60), text_of(value, 300)) for name, value in known]


def _owed(reading: Reading, figures: Figures) -> int | None:
    total: Any = reading.run.more.get("task_count") if reading.run is not None else None
    return max(0, total - figures.all.count) if isinstance(total, int) else None


def _outcomes(reading: Reading, figures: Figures) -> Section:
    owed = _owed(reading, figures)
    words = [f"{count(figures.all.count)} results, {count(figures.turns)} turns, " + _calls(figures)]
    if owed:
        words.append(f"{count(owed)} tasks are owed: they have not ended, and the same command runs them.")
    rows = {"all": {name: float(number) for name, number in figures.all.outcomes.items()}}
    tables = [_outcome_table(figures)]
    for name, grouping in figures.groupings.items():
        if not _is_telling(name, grouping, figures):
            continue
        groups = grouping.largest_first()
        if name != "model":
            rows = {
                group: {outcome: float(number) for outcome, number in its.outcomes.items()}
                for group, its in groups[:_MOST_BARS]
            }
        tables.append(_group_table(name, grouping))
    if not figures.all.count:
        return Section(title="Outcomes", words=words)
    plot = bars(
        rows, COLOURS, "Outcomes of all tasks, or by group; the numbers are in the tables.", shown=count
    )
    return Section(title="Outcomes", words=words, plots=[plot], tables=tables)


def _calls(figures: Figures) -> str:
    return f"{count(figures.tool_calls)} tool calls, {count(figures.moves)} moves between connections."


def _is_telling(name: str, grouping: Grouping, figures: Figures) -> bool:
    """Whether groups say something: one is none, and hundreds that nobody asked for are no groups either."""
    size = len(grouping.groups)
    if name == "model":
        return size > 1
    if name == "beginning of the id":
        return 2 <= size <= _MOST_GROUPS and size <= figures.all.count / 2
    return size > 0


def _outcome_table(figures: Figures) -> Table:
    total = figures.all.count
    rows = [
        (outcome, count(number), ratio(number / total))
        for outcome in OUTCOMES
        if (number := figures.all.outcomes[outcome])
    ]
    return Table(("outcome", "tasks", "share"), rows, "How they ended")


def _group_table(name: str, grouping: Grouping) -> Table:
    groups = grouping.largest_first()
    outcomes = [each for each in OUTCOMES if any(group.outcomes[each] for _, group in groups)]
    costs = any(group.cost.count for _, group in groups)
    rows = [
        (
            plain(label, 80),
            count(group.count),
            *(count(group.outcomes[each]) for each in outcomes),
            amount(group.score.value),
            seconds(group.seconds.value),
            count(group.tokens.value),
            *([amount(group.cost.value)] if costs else []),
        )
        for label, group in groups[:_MOST_GROUPS]
    ]
    head = (
        name,
        "tasks",
        *outcomes,
        "mean score",
        "mean time",
        "mean tokens",
        *(["mean cost"] if costs else []),
    )
    more = f", the largest {_MOST_GROUPS} of {len(groups)}" if len(groups) > _MOST_GROUPS else ""
    return Table(head, rows, f"By {name}{more}")


def _scores(figures: Figures) -> Section | None:
    if not figures.scores.values:
        return None
    error = figures.standard_error
    rows: list[Row] = [
        ("mean", amount(figures.all.score.value)),
        ("standard error of the mean", amount(error)),
        ("scored attempts", count(len(figures.scores.values))),
    ]
    if figures.attempts:
        rows += [(f"pass@{k}", amount(share)) for k, share in figures.tally.pass_at().items()]
    rows += [(f"mean of {plain(name, 60)}", amount(each.value)) for name, each in figures.parts.items()]
    words = ["An attempt without an answer has the score 0; one that failed has none."]
    plots: list[Plot] = []
    if len(set(figures.scores.values)) > 2:
        plots = [histogram(figures.scores.values, "How many attempts have which score.", shown=amount)]
    return Section(title="Scores", words=words, plots=plots, tables=[Table(("", ""), rows)])


def _tokens(figures: Figures) -> Section | None:
    usage = figures.usage
    if not usage.total:
        return None
    fresh = usage.input - usage.cached
    parts = {
        "input, not cached": fresh,
        "input, cached": usage.cached,
        "output": usage.output - usage.reasoning,
        "reasoning": usage.reasoning,
    }
    colours = dict(zip(parts, ("var(--full)", "var(--good)", "var(--run)", "var(--cut2)"), strict=True))
    rows: list[Row] = [(name, count(number), ratio(number / usage.total)) for name, number in parts.items()]
    spread: list[Row] = [_spread_row("tokens", figures.tokens, count)]
    words = [f"{count(usage.total)} tokens, failed turns included."]
    if figures.cost.values:
        spread.append(_spread_row("cost", figures.cost, amount))
        words.append(f"They cost {amount(figures.cost.sum)}, by the price that was given.")
    plot = bars(
        {"tokens": {name: float(number) for name, number in parts.items()}},
        colours,
        "Tokens by kind; the numbers are in the table.",
        shown=count,
    )
    head = ("of a task", "all", "mean", "p50", "p95", "most")
    return Section(
        title="Tokens and cost",
        words=words,
        plots=[plot],
        tables=[Table(("tokens", "", "share"), rows), Table(head, spread)],
    )


def _spread_row(name: str, spread: Spread, shown: Any) -> Row:
    size = len(spread.values)
    return (
        name,
        shown(spread.sum),
        shown(spread.sum / size if size else None),
        *(shown(each) for each in spread.percentiles(50, 95, 100)),
    )


def _times(figures: Figures) -> Section | None:
    if not figures.seconds.values:
        return None
    head = ("of a task", "all", "mean", "p50", "p95", "most")
    rows: list[Row] = [_spread_row("whole time", figures.seconds, seconds)]
    known = {name: spread for name, spread in figures.phases.items() if spread.values}
    rows += [_spread_row(_PHASES[name][0], spread, seconds) for name, spread in known.items()]
    plots: list[Plot] = []
    sums = {_PHASES[name][0]: spread.sum for name, spread in known.items()}
    if any(sums.values()):
        words = "Time of all tasks by phase; the numbers are in the table."
        plots.append(bars({"time": sums}, dict(_PHASES.values()), words, shown=seconds))
    if len(figures.seconds.values) > 1:
        words = "How many tasks took how long."
        plots.append(histogram(figures.seconds.values, words, shown=seconds))
    words_shown = [
        "Held: waiting until the endpoint takes more; in line: waiting for a connection; dial: the part of "
        "that in which it was being made; first event: from the request to the first event; tools: once "
        "where several ran together; the rest is the agent's own."
    ]
    if figures.began:
        words_shown.append(f"From {plain(figures.began, 40)} to {plain(figures.ended, 40)}.")
    return Section(title="Time", words=words_shown, plots=plots, tables=[Table(head, rows)])


def _requests(figures: Figures) -> Section | None:
    sent = figures.requests
    requests = sent["delta"] + sent["full"]
    if not requests:
        return None
    whole = sent["bytes_sent"] + sent["bytes_saved"]
    rows: list[Row] = [
        ("with only what was new", count(sent["delta"]), ratio(sent["delta"] / requests)),
        ("with the whole history", count(sent["full"]), ratio(sent["full"] / requests)),
        ("bytes sent", bytes_(sent["bytes_sent"]), ratio(sent["bytes_sent"] / whole if whole else None)),
        ("bytes saved", bytes_(sent["bytes_saved"]), ratio(sent["bytes_saved"] / whole if whole else None)),
    ]
    plot = bars(
        {"requests": {"delta": sent["delta"], "full": sent["full"]}},
        {"delta": "var(--good)", "full": "var(--full)"},
        "Requests with only what was new, and with the whole history.",
        shown=count,
    )
    return Section(title="Requests", plots=[plot], tables=[Table(("requests", "", "share"), rows)])


def _connections(reading: Reading) -> Section | None:
    samples = reading.samples()
    if len(samples) < 2:
        return None
    names = {"open": "var(--good)", "dialing": "var(--cut2)", "turns": "var(--run)", "waiting": "var(--wait)"}
    lines = {name: [(each["seconds"], each.get(name, 0.0)) for each in samples] for name in names}
    rows: list[Row] = [
        (name, count(max(y for _, y in points)), f"{sum(y for _, y in points) / len(points):.1f}")
        for name, points in lines.items()
    ]
    plot = curves(lines, names, "Connections, turns and tasks in line, over the time.", across=seconds)
    words = ["Time that passed between runs is left out."]
    return Section(
        title="Connections", words=words, plots=[plot], tables=[Table(("", "most", "mean of samples"), rows)]
    )


def _troubles(picked: Picked, anchors: Mapping[int, str]) -> Section | None:
    troubles = picked.troubles
    if not troubles:
        return None
    rows: list[Row] = [
        (
            each.outcome,
            count(each.count),
            plain(each.type + (f" ({each.code})" if each.code else ""), 120),
            plain(each.message, 200),
            _link(each.first, anchors),
        )
        for each in troubles[:MOST_SHOWN]
    ]
    more = len(troubles) - MOST_SHOWN
    words = [f"{more} kinds more are not shown."] if more > 0 else []
    head = ("outcome", "tasks", "error", "message", "first")
    return Section(title="Errors and answers that are none", words=words, tables=[Table(head, rows)])


def _lists(picked: Picked, anchors: Mapping[int, str]) -> Iterable[Section | None]:
    yield _list("Lowest scores", "score", [(-each.rank, each) for each in picked.lowest], amount, anchors)
    by = "cost" if picked.by_cost else "tokens"
    shown = amount if picked.by_cost else count
    yield _list("Costliest tasks", by, [(each.rank, each) for each in picked.costliest], shown, anchors)
    yield _list("Slowest tasks", "time", [(each.rank, each) for each in picked.slowest], seconds, anchors)


def _list(
    title: str, of: str, picks: Sequence[tuple[float, Pick]], shown: Any, anchors: Mapping[int, str]
) -> Section | None:
    if not picks:
        return None
    rows: list[Row] = [(_link(pick, anchors), shown(value)) for value, pick in picks]
    return Section(title=title, tables=[Table(("task", of), rows)])


def _link(pick: Pick, anchors: Mapping[int, str]) -> Cell:
    return Cell(_named(pick.key), anchors.get(pick.place, ""))


def _named(key: str) -> str:
    return plain(key.replace("\0", ", attempt "), 100)


def shown_task(line: Line, anchor: str) -> Shown:
    """Return a task as it is shown whole."""
    ours, error = line.ours, line.error
    usage = ours.get("usage")
    facts = told(
        [
            ("outcome", line.outcome),
            ("answer", line.answer),
            ("expected", ours.get("expected")),
            ("score", ours.get("score")),
            ("scores", ours.get("scores")),
            ("error", f"{error.get('type') or ''} {error.get('code') or ''}".strip()),
            ("message", error.get("message")),
            ("time", seconds(line.seconds)),
            ("phases", ", ".join(f"{name} {seconds(value)}" for name, value in _phases(line))),
            ("turns", ours.get("turns")),
            ("tool calls", ours.get("tool_calls")),
            ("tokens", count(line.tokens) if usage else None),
            ("cost", ours.get("cost")),
            ("model", ours.get("model")),
            ("began", ours.get("began")),
        ]
    )
    trace = error.get("traceback")
    return Shown(
        anchor=anchor,
        title=_named(line.key),
        facts=facts,
        trace=text_of(trace, 6000) if isinstance(trace, str) else "",
        said=said_in(line),
    )


def _phases(line: Line) -> list[tuple[str, float]]:
    phases = part(line.ours, "phases")
    spent = [(_PHASES[name][0], number(phases.get(name))) for name in PHASES]
    return [(name, value) for name, value in spent if value is not None]
