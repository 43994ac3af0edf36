"""`gradsieve verify --coverage`: which lines and bits of the generated Verilog the benches reached, and why not all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gradsieve.cli.options import console

if TYPE_CHECKING:
    from gradsieve.tb.coverage_reasons import Explained
    from gradsieve.tb.line_coverage import Coverage

LEAST_LINES = 95.0
"""Lines that must run, in percent."""


def percent(share: tuple[int, int]) -> float:
    """A share of (reached, all) in percent; 100 of nothing."""
    reached, there = share
    return 100.0 * reached / there if there else 100.0


def total(shares: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The sum of shares."""
    return sum(reached for reached, _ in shares), sum(there for _, there in shares)


def as_dict(report: Sequence[Coverage], explained: Explained) -> dict[str, object]:
    """All of it, for JSON: by block, by gap, and the bits that never went one way or the other by module."""
    return {
        "blocks": [{"block": c.block, "lines": c.lines, "toggles": c.toggles, "not_toggled": c.still} for c in report],
        "lines": total([c.lines for c in report]),
        "toggles": total([c.toggles for c in report]),
        "gaps": [
            {"block": gap.block, "module": gap.module, "text": gap.text, "reason": why} for gap, why in explained.gaps
        ],
    }


def show(engine: str, report: Sequence[Coverage], explained: Explained) -> None:
    """Print lines and toggles by block, and every gap with its reason."""
    from rich.markup import escape
    from rich.table import Table

    screen = console()
    table = Table(title=f"coverage of the Verilog of {engine}")
    table.add_column("block", overflow="fold")
    for heading in ("lines run", "of", "lines", "toggles"):
        table.add_column(heading, justify="right")
    rows = [(c.block, c.lines, c.toggles) for c in report]
    lines, toggles = total([c.lines for c in report]), total([c.toggles for c in report])
    for block, of_lines, of_toggles in (*rows, ("all", lines, toggles)):
        table.add_row(
            block,
            f"{of_lines[0]:,}",
            f"{of_lines[1]:,}",
            f"{percent(of_lines):.1f} %",
            f"{percent(of_toggles):.1f} %",
        )
    screen.print(table)
    for gap, why in explained.gaps:
        because = escape(why) if why else "[bold red]no reason given[/]"
        screen.print(f"[bold]{gap.block}[/]: {escape(gap.text)}\n  {because}", highlight=False, soft_wrap=True)
    unexplained = sum(why is None for _, why in explained.gaps)
    screen.print(
        f"{percent(lines):.2f} % of {lines[1]:,} lines ran, {percent(toggles):.1f} % of {toggles[1]:,} toggles; "
        f"{len(explained.gaps)} gaps, {unexplained} without a reason",
        highlight=False,
    )
