"""`gradsieve build`: a config becomes the bitstream of a board, and a report of what was reached."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gradsieve.cli.options import (
    BoardOption,
    CommandError,
    ConfigArgument,
    JsonOption,
    PresetOption,
    console,
    errors,
    resolve_config,
    stages,
    write_json,
)

if TYPE_CHECKING:
    from gradsieve.fpga.toolchain.report import BuildReport

REMARKS = (0.2, 20.0)
"""Least seconds between two remarks on one stage: on a terminal, and in a log."""


def command(
    board: BoardOption,
    config: ConfigArgument = None,
    preset: PresetOption = None,
    seeds: Annotated[int, typer.Option(metavar="N", help="Try N placements; the fastest is taken.", min=1)] = 3,
    clock: Annotated[
        float | None,
        typer.Option(metavar="MHZ", help="Clock of the engine; by default the board's own.", show_default=False),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Directory to write.")] = Path("build"),
    json: JsonOption = None,
) -> None:
    """Build the bitstream of an engine for an FPGA board.

    Without a config the engine is the board's own. The directory gets BOARD_CONFIG.bit (or .fs) and, beside it, the
    report as BOARD_CONFIG.json. Synthesis runs once, placement and routing once a seed; finished stages are kept, so
    that a build that was interrupted goes on, and more seeds only cost their own time. The same input gives the same
    bytes. No bitstream is written if it would be too slow for its clock. For boards with a Xilinx part the directory
    gets a Vivado project instead.

    *Examples:*

    gradsieve build --board ulx3s --preset tiny --seeds 1

    gradsieve build --board ulx3s my_engine.toml --clock 80 -o build/my_engine
    """
    from gradsieve.fpga.boards.registry import board as board_named
    from gradsieve.fpga.toolchain.build import build

    chosen = board_named(board)
    engine = chosen.config if config is None and preset is None else resolve_config(config, preset)
    with stages(f"building {engine.name} for {chosen.name}") as stage:
        report = build(
            chosen, engine, output=output, clock_mhz=clock, seeds=range(1, seeds + 1), progress=_spaced(stage)
        )
    if json is not None:
        write_json(json, report.as_json())
    _show(report)
    if report.seeds and report.refusal:
        raise CommandError(f"no bitstream was written: {report.refusal}")


def _spaced(stage: Callable[[str], None]) -> Callable[[str, str], None]:
    """A progress function that passes every stage on, and its remarks no more often than people can read."""
    interval = REMARKS[0] if errors().is_terminal else REMARKS[1]
    last = 0.0

    def progress(name: str, remark: str) -> None:
        nonlocal last
        now = time.monotonic()
        if not remark or now - last >= interval:
            last = now
            stage(f"{name}: {remark}" if remark else name)

    return progress


def _show(report: BuildReport) -> None:
    from rich.table import Table

    screen = console()
    resources = Table(title=f"{report.config.name} on {report.board.title} ({report.board.part})")
    resources.add_column("resource")
    for heading in ("used", "available", "left", "%"):
        resources.add_column(heading, justify="right")
    for r in report.resources.values():
        share = f"{100 * r.used / r.available:.0f}"
        resources.add_row(r.title, f"{r.used:,}", f"{r.available:,}", f"{r.left:,}", share)
    screen.print(resources)

    facts = Table(show_header=False)
    facts.add_column()
    facts.add_column(overflow="fold")
    for name, fact in report.facts():
        facts.add_row(name, fact)
    screen.print(facts)
    for path in report.files:
        screen.print(str(path), highlight=False, markup=False, soft_wrap=True)
