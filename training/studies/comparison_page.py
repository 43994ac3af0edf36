"""A comparison as one HTML page that needs no other file and no network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from gradsieve.rtl_gen.files import write_text
from gradsieve.training.history import Record
from gradsieve.training.reports import report_plots as plots
from gradsieve.training.reports.report_plots import Line, Panel
from gradsieve.training.studies import comparison_table as table
from gradsieve.training.studies.comparison import Comparison, Row

TEMPLATE = "comparison.html.jinja"
BAND = 0.18
"""Opacity of the range over the seeds."""


@dataclass(frozen=True)
class Course:
    """A run's validation loss over the training: mean, least and most over its seeds, against their mean cost."""

    line: Line
    low: np.ndarray
    high: np.ndarray


def write_page(comparison: Comparison, path: Path) -> None:
    """Write the tables, and the validation loss against steps and backward MACs.  Raises OSError."""
    here = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=here, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.lstrip_blocks = True
    tables = [
        (
            title,
            (*headings, *(f.heading for f in figures)),
            [table.cells(r, headings, figures) for r in comparison.rows],
        )
        for title, headings, figures in table.TABLES
    ]
    page = environment.get_template(TEMPLATE).render(
        title=Path(comparison.source).stem,
        comparison=comparison,
        tables=tables,
        text_columns=2,
        notes=table.notes(),
        panels=[
            panel("Validation loss against steps", "steps", lambda r: r.step, comparison.rows),
            panel("Validation loss against backward MACs", "backward MACs", lambda r: r.work.backward, comparison.rows),
        ],
    )
    write_text(path, page)


def panel(title: str, unit: str, x: Callable[[Record], float], rows: tuple[Row, ...]) -> Panel:
    """The plot of all runs that have been evaluated twice or more, with what `x` takes from a record."""
    drawn = [c for k, row in enumerate(rows) if row.results and (c := course(row, x, k)).line.points > 1]
    if not drawn:
        return Panel(title, note="There are fewer than two points to plot.")
    figure, ax = plots.axes(unit, "validation loss, nats a token")
    for c in drawn:
        dash = (0, [float(n) for n in c.line.dash.split()]) if c.line.dash else "-"
        ax.fill_between(c.line.x, c.low, c.high, color=c.line.colour, alpha=BAND, linewidth=0)
        mark = "o" if c.line.points <= plots.MARKED else ""
        style: dict[str, Any] = {"color": c.line.colour, "linestyle": dash, "marker": mark, "markersize": 3.2}
        ax.plot(c.line.x, c.line.y, linewidth=c.line.width, **style)
    return replace(Panel(title), svg=plots.svg(figure, title), legend=tuple(c.line for c in drawn))


def course(row: Row, x: Callable[[Record], float], k: int) -> Course:
    """The course of the run in place `k`, at the steps at which every seed was evaluated."""
    runs = [{r.step: r for r in result.records if r.valid_loss is not None} for result in row.results.values()]
    steps = sorted(set.intersection(*(set(run) for run in runs)))
    losses = np.array([[run[step].valid_loss for step in steps] for run in runs], float)
    costs = np.array([[x(run[step]) for step in steps] for run in runs], float)
    colour, dash = plots.style(k)
    line = Line(row.name, costs.mean(axis=0).tolist(), losses.mean(axis=0).tolist(), colour, dash)
    return Course(line, losses.min(axis=0), losses.max(axis=0))
