"""A comparison as text, JSON and Markdown; every form shows the same rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from gradsieve.training.reports.report_plots import GAP
from gradsieve.training.studies.comparison import COSTS, FIGURES, RESULTS, Cell, Comparison, Figure, Row

NONE = "–"
NOT_REACHED = "not reached"
TABLES = (("results", ("run", "seeds"), RESULTS), ("costs", ("run", "baseline"), COSTS))
"""Title, first headings and figures of each table."""


def cells(row: Row, headings: tuple[str, ...], figures: tuple[Figure, ...]) -> list[str]:
    """The texts of a row: those under the first headings, and one for each figure."""
    first = {"run": row.name, "baseline": row.baseline, "seeds": seeds(row)}
    return [*(first[heading] for heading in headings), *(text(row, figure) for figure in figures)]


def seeds(row: Row) -> str:
    """The seeds that are finished, and how many are not."""
    done = ", ".join(str(seed) for seed in row.seeds) or "none"
    return f"{done} ({len(row.failed)} failed)" if row.failed else done


def text(row: Row, figure: Figure) -> str:
    """Mean ± spread, the spread a dash for one seed; of how many seeds, if not of all that are finished."""
    cell, finished = row.cells[figure.key], len(row.seeds)
    if cell.mean is None:
        return NOT_REACHED if cell.not_reached else "not finite" if cell.values else NONE
    mean, spread = _number(cell.mean, figure), NONE if cell.spread is None else _digits(cell.spread, figure)
    part = f" ({len(cell.known)} of {finished} seeds)" if len(cell.known) < finished else ""
    return f"{mean} ± {spread}".replace(" ", GAP) + part


def _number(value: float, figure: Figure) -> str:
    digits = _digits(value, figure)
    if figure.unit == "change":
        # A true minus is as wide as the plus.
        return f"{'+' if value >= 0 else ''}{digits} %".replace("-", "−")
    return digits + {"loss": "", "share": " %", "ratio": "×"}[figure.unit]


def _digits(value: float, figure: Figure) -> str:
    if figure.unit == "loss":
        return f"{value:.3f}"
    if figure.unit == "ratio":
        return f"{value:.2f}"
    return f"{100 * value:.{2 if figure.unit == 'change' else 1}f}"


def notes(figures: tuple[Figure, ...] = FIGURES) -> list[tuple[str, str]]:
    """Each heading and what it means."""
    return [(figure.heading, figure.note) for figure in figures]


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Every figure by its key: mean, spread and the value of each seed."""
    return {
        "study": comparison.source,
        "figures": {f.key: {"heading": f.heading, "unit": f.unit, "meaning": f.note} for f in FIGURES},
        "runs": [
            {
                "name": row.name,
                "baseline": row.baseline,
                "seeds": list(row.seeds),
                "failed": list(row.failed),
                **{figure.key: row.cells[figure.key].as_json() for figure in FIGURES},
            }
            for row in comparison.rows
        ],
        "failures": [{"run": o.task.run, "seed": o.task.seed, "error": o.error} for o in comparison.failures],
    }


def rows_of(data: Mapping[str, Any]) -> tuple[Row, ...]:
    """The rows of a comparison that `as_json` wrote, without the trainings' results."""
    return tuple(
        Row(
            name=run["name"],
            baseline=run["baseline"],
            seeds=tuple(run["seeds"]),
            failed=tuple(run["failed"]),
            cells={figure.key: Cell.from_json(run[figure.key]) for figure in FIGURES},
        )
        for run in data["runs"]
    )


def markdown(rows: Iterable[Row], headings: tuple[str, ...], figures: tuple[Figure, ...]) -> str:
    """One table, for a document."""
    lines = [[*headings, *(figure.heading for figure in figures)]]
    lines.append(["---"] * len(headings) + ["---:"] * len(figures))
    lines += [cells(row, headings, figures) for row in rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def as_markdown(comparison: Comparison) -> str:
    """The tables and what their columns mean, for a document."""
    parts = [markdown(comparison.rows, headings, figures).rstrip("\n") for _, headings, figures in TABLES]
    parts.append("\n".join(f"- *{heading}*: {note}." for heading, note in notes()))
    parts.append(f"Mean ± sample standard deviation over the seeds; {NONE}: not known, or one seed only.")
    parts += [f"Failed: {o.task.run}, seed {o.task.seed}: {o.error}" for o in comparison.failures]
    return "\n\n".join(parts) + "\n"
