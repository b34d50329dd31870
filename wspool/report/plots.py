"""Plots: drawn by pygal into the page, in the page's colours.

1. pygal is asked for shapes only. The script that it puts into each plot is taken out, and every colour is a
   variable of the page, so that a plot is dark where the page is.
2. A plot says nothing that no table says: it is one picture to who cannot see it.
3. Plots are small and their letters large, for on a telephone they are half as wide.
"""

import importlib
import math
import sys
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final
from xml.etree import ElementTree

import attrs

from wspool.core.plain import plain

__all__ = ["Plot", "bars", "curves", "histogram"]

_SVG: Final = "http://www.w3.org/2000/svg"
#: Units of a plot, which is as wide as its place.
_WIDTH: Final = 560
_HEIGHT: Final = 260
#: Units of a row of bars, and of what is around the rows.
_ROW: Final = 26
_AROUND: Final = 48
#: Characters of a label.
_LONGEST: Final = 22


@attrs.frozen
class Plot:
    """One plot.

    Attributes:
      svg: what goes into the page.
      words: what it shows, for who cannot see it.
      legend: what its colours stand for, by name.
    """

    svg: str
    words: str
    legend: Mapping[str, str]


def bars(
    rows: Mapping[str, Mapping[str, float]],
    colours: Mapping[str, str],
    words: str,
    *,
    shown: Callable[[float], str],
) -> Plot:
    """Return rows of bars, each a row of parts one after the other.

    Args:
      rows: by their labels, from top to bottom, the parts by their names.
      colours: of the parts, in their order.
      words: what it shows.
      shown: how a number is written.
    """
    legend = {
        name: colour for name, colour in colours.items() if any(parts.get(name) for parts in rows.values())
    }
    chart = _chart("HorizontalStackedBar", legend.values(), _AROUND + _ROW * len(rows), shown)
    chart.y_labels = _ticks(max(sum(parts.values()) for parts in rows.values()))
    upwards = list(rows.items())[::-1]  # it begins at the bottom
    chart.x_labels = [_label(label) for label, _ in upwards]
    for name in legend:
        chart.add(name, [parts.get(name, 0) for _, parts in upwards])
    return _plot(chart, words, legend)


def curves(
    lines: Mapping[str, Sequence[tuple[float, float]]],
    colours: Mapping[str, str],
    words: str,
    *,
    across: Callable[[float], str],
) -> Plot:
    """Return lines through points, with *across* for how what is on the horizontal axis is written."""
    chart = _chart("XY", [colours[name] for name in lines], _HEIGHT, lambda value: f"{value:g}")
    chart.stroke, chart.show_dots, chart.x_value_formatter = True, False, across
    chart.y_labels = _ticks(max(y for points in lines.values() for _, y in points))
    chart.x_labels = _ticks(max(x for points in lines.values() for x, _ in points))
    for name, points in lines.items():
        chart.add(name, points)
    return _plot(chart, words, colours)


def histogram(values: Sequence[float], words: str, *, shown: Callable[[float], str]) -> Plot:
    """Return how many of *values* lie where."""
    low, high = min(values), max(values)
    count = min(20, max(1, round(math.sqrt(len(values)))))
    width = (high - low) / count or 1.0
    counts = [0] * count
    for value in values:
        counts[min(count - 1, int((value - low) / width))] += 1
    chart = _chart("Histogram", ["var(--run)"], _HEIGHT, lambda value: f"{value:,.0f}")
    chart.x_value_formatter = shown
    chart.y_labels = _ticks(max(counts))
    chart.x_labels = [low + width * count * part / 4 for part in range(5)]
    chart.add("", [(size, low + n * width, low + (n + 1) * width) for n, size in enumerate(counts)])
    return _plot(chart, words, {})


def _ticks(most: float) -> list[float]:
    """Round numbers from zero on, about five of them, the last not below *most*."""
    if most <= 0:
        return [0.0, 1.0]
    step: float = 10 ** math.floor(math.log10(most / 4))
    step *= next(factor for factor in (1, 2, 2.5, 5, 10) if step * factor * 4 >= most * 0.999)
    return [step * n for n in range(math.ceil(most / step * 0.999) + 1)]


def _chart(kind: str, colours: Iterable[str], height: int, shown: Callable[[float], str]) -> Any:
    pygal, style = _library()
    sizes = {
        f"{name}_font_size": 13 for name in ("label", "major_label", "legend", "value", "tooltip", "title")
    }
    looks = style.Style(
        background="transparent",
        plot_background="transparent",
        foreground="var(--ink)",
        foreground_strong="var(--ink)",
        foreground_subtle="var(--soft)",
        guide_stroke_color="var(--line)",
        major_guide_stroke_color="var(--line)",
        colors=tuple(colours) or ("var(--run)",),
        font_family="inherit",
        opacity="1",
        stroke_opacity="1",
        stroke_width="2",
        transition="0s",
        **sizes,
    )
    return getattr(pygal, kind)(
        style=looks,
        js=[],
        width=_WIDTH,
        height=height,
        explicit_size=False,
        show_legend=False,
        truncate_label=-1,
        margin=8,
        margin_right=34,
        spacing=6,
        value_formatter=shown,
    )


def _library() -> tuple[Any, Any]:
    """pygal and its styles: without types, and not there where the extra is not installed."""
    found = importlib.import_module("pygal"), importlib.import_module("pygal.style")
    # It looks for maps whenever anything is imported, in a way that Python warns of; there are none here.
    # Only its own finder goes: what it imports may have brought others, that are needed.
    sys.meta_path[:] = [each for each in sys.meta_path if type(each).__module__ != "pygal"]
    return found


def _label(text: str) -> str:
    return plain(text, _LONGEST)


def _plot(chart: Any, words: str, legend: Mapping[str, str]) -> Plot:
    chart.uuid = f"{zlib.crc32(words.encode()):x}"  # the same in every run
    root = ElementTree.fromstring(chart.render(is_unicode=True))
    for above in root.iter():
        for element in [each for each in above if each.tag == f"{{{_SVG}}}script"]:
            above.remove(element)
    _quiet(root)
    return Plot(_text(root), words, legend)


def _quiet(root: ElementTree.Element) -> None:
    root.set("focusable", "false")
    root.set("aria-hidden", "true")


def _text(root: ElementTree.Element) -> str:
    for element in root.iter():
        element.tag = str(element.tag).rpartition("}")[2]
        for name in [name for name in element.attrib if name.startswith("{")]:
            del element.attrib[name]  # links to elsewhere
    return ElementTree.tostring(root, encoding="unicode")
