"""The training report's plots, as inline SVG whose colours are the page's."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from gradsieve.hw.config import GATES
from gradsieve.training.history import LayerRecord, Record, Result

SIZE = (420 / 72, 250 / 72)
"""Inches of 72 points: near the width of a phone, so that no text gets small there."""
FONT = 12
GAP = "\u00a0"
"""Between a number and its unit: a blank at which lines do not break."""
SUFFIXES = "kMGTPE"
SERIES = {
    "#2a78d6": "var(--s1)",
    "#eb6834": "var(--s2)",
    "#1baf7a": "var(--s3)",
    "#b98500": "var(--s4)",
    "#d55181": "var(--s5)",
    "#4a3aa7": "var(--s6)",
    "#008300": "var(--s7)",
    "#8a5a3c": "var(--s8)",
}
"""Colours that stand for the page's in the SVG: light and dark mode each have their own."""
INK, GRID = "#0b0b0c", "#e1e1e2"
COLOURS = SERIES | {INK: "var(--muted)", GRID: "var(--grid)"}
DASHES = ("", "6 2.5", "1.5 2", "7 2 1.5 2")
NICE = (1, 2, 5, 10)
"""Steps between ticks, times a power of ten."""
ALL_KEPT = "#8f8f8f"
TAU_UNIT = "tau is in units of the gradient of the loss summed over the tokens of a window."
KINDS_SHOWN = 6
MARKED = 40
"""Lines of at most so many points get a mark at each."""


def percent(share: float | None) -> str:
    """A share of 0 to 1 (or a change, with a sign of its own) as in `12.3 %`; a dash for None and for NaN."""
    if share is None or math.isnan(share):
        return "–"
    # Means of shares may miss 1 by a rounding.
    value = round(100 * share, 6)
    if value in (0, 100):
        return f"{value:.0f}{GAP}%"
    # 99.96 stays apart from 100, and 0.0004 from 0.
    text = f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.2g}"
    return f"{text}{GAP}%"


def count(value: float) -> str:
    """A number of things, as in `9,999` or, rounded to three digits, `1.23 M`."""
    if abs(value) < 9_999.5:
        return f"{value:,.0f}" if value == round(value) else f"{value:.3g}"
    power = 0
    while abs(value) >= 999.5 and power < len(SUFFIXES):
        value /= 1000
        power += 1
    return f"{value:.3g}{GAP}{SUFFIXES[power - 1]}"


def number(value: float) -> str:
    """A real number in three digits, as in `0.00123` or `1.23·10⁻⁷`."""
    mantissa, _, exponent = f"{value:.3g}".partition("e")
    return f"{mantissa}·10{superscript(int(exponent))}" if exponent else mantissa


def superscript(exponent: int) -> str:
    """An exponent as raised digits."""
    return str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


@dataclass(frozen=True)
class Line:
    """A line of a plot, and its entry in the legend."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    """NaN breaks the line."""
    colour: str
    dash: str = ""
    width: float = 1.8
    marked: bool = True

    @property
    def stroke(self) -> str:
        """The page's colour."""
        return SERIES[self.colour]

    @property
    def points(self) -> int:
        """Points that can be drawn."""
        return int((np.isfinite(self.x) & np.isfinite(self.y)).sum())


@dataclass(frozen=True)
class HeatScale:
    """What the colours of a heat map mean: `gradient` is a CSS background from no rows to the share `top`."""

    gradient: str
    top: str


@dataclass(frozen=True)
class Panel:
    """A plot with its title; `svg` is None where there is nothing to plot, and then `note` says why."""

    title: str
    svg: str | None = None
    legend: tuple[Line, ...] = ()
    note: str = ""
    heat: HeatScale | None = None


def loss(title: str, unit: str, x: Callable[[Record], int], runs: Sequence[Result]) -> Panel:
    """Training and validation loss of the runs, the first one the report's, against what `x` takes from a record."""
    lines = []
    for run, colour in zip(runs, SERIES, strict=False):
        valid = [r for r in run.records if r.valid_loss is not None]
        lines += [
            Line(
                f"{run.name}: validation",
                [x(r) for r in valid],
                [float(r.valid_loss or 0) for r in valid],
                colour,
            ),
            Line(
                f"{run.name}: training",
                [x(r) for r in run.records],
                [r.train_loss for r in run.records],
                colour,
                width=0.8,
                marked=False,
            ),
        ]
    if not any(x(r) for r in runs[0].records):
        return Panel(title, note=f"No {unit} were counted in this run.")
    finite = all(np.isfinite(line.y).all() for line in lines)
    note = "" if finite else "Not shown: records whose loss is no finite number."
    return _plot(Panel(title, note=note), lines, unit, "loss, nats a token")


def by_gate(records: Sequence[Record]) -> Panel:
    """Rows kept of each gate, over all layers."""
    # Layers of one model have equally many rows, so the mean of their shares is the share of all.
    shares = [_mean([layer.rows_by_gate for layer in r.layers]) if r.layers else (math.nan,) * 4 for r in records]
    lines = [
        Line(f"gate {gate}", [r.step for r in records], [share[k] for share in shares], colour, DASHES[k])
        for k, (gate, colour) in enumerate(zip(GATES, SERIES, strict=False))
    ]
    return _shares(Panel("Rows kept by gate"), lines)


def by_layer(records: Sequence[Record]) -> Panel:
    """Rows kept of each layer, over all gates."""
    return _shares(Panel("Rows kept by layer"), _layer_lines(records, lambda layer: sum(layer.rows_by_gate) / 4))


def thresholds(records: Sequence[Record]) -> Panel:
    """The threshold of each layer, on a logarithmic axis."""
    # Only what is positive has a place on the axis: a threshold of 0 keeps every row.
    lines = _layer_lines(records, lambda layer: layer.tau if layer.tau and layer.tau > 0 else math.nan)
    zero = any(layer.tau == 0 for r in records for layer in r.layers)
    left_out = f" Records with tau{GAP}={GAP}0, which keep every row, are left out." if zero else ""
    return _plot(Panel("Threshold tau", note=TAU_UNIT + left_out), lines, "steps", "tau", _logarithmic)


def saturations(records: Sequence[Record]) -> Panel:
    """Values that left their number format, by kind, summed over the steps so far."""
    last = records[-1].saturations
    kinds = sorted((kind for kind, n in last.items() if n), key=lambda kind: -last[kind])
    shown = kinds if len(kinds) <= KINDS_SHOWN else kinds[: KINDS_SHOWN - 1]
    steps = [r.step for r in records]
    lines = [
        Line(kind, steps, [r.saturations.get(kind, 0) for r in records], *style(k)) for k, kind in enumerate(shown)
    ]
    if rest := kinds[len(shown) :]:
        sums = [sum(r.saturations.get(kind, 0) for kind in rest) for r in records]
        lines.append(Line(f"{len(rest)} other kinds", steps, sums, *style(len(shown))))
    return _plot(Panel("Saturations so far"), lines, "steps", "values", _from_zero)


def heat_maps(records: Sequence[Record]) -> list[Panel]:
    """Rows kept of each layer by step of the training and time step of the window."""
    # A record speaks of the steps since the one before it; one that covers no step has no width.
    edges, covered = [0], []
    for r in records:
        if r.step > edges[-1]:
            edges.append(r.step)
            covered.append(r)
    maps = {name: _time_map(covered, name) for name in _names(covered)}
    partial = np.concatenate([m[m < 1].ravel() for m in maps.values()] or [np.zeros(0)])
    titles = {name: f"Rows kept by time step, {name}" for name in maps}
    if len(covered) < 2:
        return [Panel(titles[name], note="There are fewer than two records to plot.") for name in maps]
    if not len(partial):
        return [Panel(titles[name], note="Every row was kept at every time step.") for name in maps]
    top = float(partial.max())
    if top == 0:
        return [Panel(titles[name], note="No row was kept, or all were.") for name in maps]
    return [_heat_map(titles[name], edges, m, top) for name, m in maps.items()]


def _heat_map(title: str, edges: Sequence[int], shares: np.ndarray, top: float) -> Panel:
    figure, ax = axes("steps", "time step of the window")
    # Fully kept rows, as in a warm-up, get a colour of their own: the scale is left to what the sieve does.
    colours = matplotlib.colormaps["viridis"].with_extremes(over=ALL_KEPT, bad=(0, 0, 0, 0))
    window = np.arange(shares.shape[0] + 1) + 0.5
    ax.pcolormesh(edges, window, shares, cmap=colours, vmin=0, vmax=top, rasterized=True)
    ax.grid(False)
    ax.yaxis.set_major_locator(MaxNLocator(6, steps=NICE, integer=True))
    stops = ", ".join(matplotlib.colors.to_hex(colours(k / 6)) for k in range(7))
    note = "Grey: every row kept." if (shares >= 1).any() else ""
    heat = HeatScale(f"linear-gradient(to right, {stops})", percent(top))
    return Panel(title, svg(figure, title), note=note, heat=heat)


def _time_map(records: Sequence[Record], name: str) -> np.ndarray:
    """(time steps, records); NaN where a record says nothing."""
    columns = [layer.rows_by_time if (layer := _layer(r, name)) else () for r in records]
    out = np.full((max(1, *map(len, columns)), len(columns)), np.nan)
    for k, column in enumerate(columns):
        out[: len(column), k] = column
    return out.round(5)


def _layer_lines(records: Sequence[Record], value: Callable[[LayerRecord], float]) -> list[Line]:
    steps = [r.step for r in records]
    lines = []
    for k, name in enumerate(_names(records)):
        y = [value(layer) if (layer := _layer(r, name)) else math.nan for r in records]
        lines.append(Line(name, steps, y, *style(k)))
    return lines


def style(k: int) -> tuple[str, str]:
    """Colour and dash of the k-th line of a plot."""
    # The dash moves on with the colour, so that lines differ in print, and once more where the colours come round.
    return list(SERIES)[k % len(SERIES)], DASHES[(k + k // len(SERIES)) % len(DASHES)]


def _names(records: Sequence[Record]) -> list[str]:
    return list(dict.fromkeys(layer.layer for r in records for layer in r.layers))


def _layer(record: Record, name: str) -> LayerRecord | None:
    return next((layer for layer in record.layers if layer.layer == name), None)


def _mean(rows: Sequence[Sequence[float]]) -> list[float]:
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


def _shares(panel: Panel, lines: list[Line]) -> Panel:
    def axis(ax: Axes) -> None:
        _from_zero(ax)
        ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:.6g}{GAP}%"))

    if not any(y > 0 for line in lines for y in line.y):
        return replace(panel, note="No gate row was kept.")
    return _plot(panel, lines, "steps", "rows kept", axis)


def _from_zero(ax: Axes) -> None:
    ax.set_ylim(0, 1.06 * ax.dataLim.y1)
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: count(y)))


def _logarithmic(ax: Axes) -> None:
    low, high = ax.dataLim.y0 / 1.25, ax.dataLim.y1 * 1.25
    ax.set_yscale("log")
    ax.set_ylim(low, high)
    decades = LogLocator(subs=(1, 2, 5) if high / low < 200 else (1,), numticks=8)
    ax.yaxis.set_major_locator(decades if high / low > 8 else MaxNLocator(5, steps=NICE))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: number(y)))


def _plot(
    panel: Panel, lines: Sequence[Line], unit: str, label: str, axis: Callable[[Axes], None] = lambda _: None
) -> Panel:
    """The panel with the lines drawn, or with a note where none of them has two points."""
    drawn = [line for line in lines if line.points]
    if not any(line.points > 1 for line in drawn):
        return replace(panel, note="There are fewer than two points to plot.")
    figure, ax = axes(unit, label)
    for line in drawn:
        dash = (0, [float(n) for n in line.dash.split()]) if line.dash else "-"
        mark = "o" if line.points == 1 or (line.marked and line.points <= MARKED) else ""
        # Thin lines lie below: the thick one carries the message.
        style: dict[str, Any] = {
            "color": line.colour,
            "linestyle": dash,
            "marker": mark,
            "markersize": 3.2,
            "zorder": 2 + line.width,
        }
        ax.plot(np.asarray(line.x, float), np.asarray(line.y, float), linewidth=line.width, **style)
    axis(ax)
    return replace(panel, svg=svg(figure, panel.title), legend=tuple(drawn))


def axes(unit: str, label: str) -> tuple[Figure, Axes]:
    """An empty plot of something against counts of `unit`."""
    figure = Figure(figsize=SIZE, layout="constrained")
    FigureCanvasSVG(figure)
    ax = figure.subplots()
    ax.set_xlabel(unit, color=INK, fontsize=FONT)
    ax.set_ylabel(label, color=INK, fontsize=FONT)
    ax.grid(True, linewidth=0.8, color=GRID)
    ax.spines[:].set_color(GRID)
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_axisbelow(True)
    ax.tick_params(color=GRID, labelcolor=INK, labelsize=FONT)
    ax.xaxis.set_major_locator(MaxNLocator(6, steps=NICE, integer=True))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: count(x)))
    return figure, ax


def svg(figure: Figure, title: str) -> str:
    """An element to put into a page: no ids that a second plot could have, no size of its own, the page's colours."""
    name = re.sub(r"[^a-z0-9]+", "-", title.lower())
    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(file, format="svg", dpi=144, transparent=True, metadata=nothing)
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.S)
    opening = text[: text.index(">")]
    text = text.replace(opening, re.sub(r' (width|height)="[^"]*"', "", opening), 1)
    text = re.sub(r'( id="|"#|url\(#)', rf"\g<1>{name}-", text)
    for colour, variable in COLOURS.items():
        text = text.replace(colour, variable)
    return text.strip()
