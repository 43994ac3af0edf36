"""`gradsieve verify`: runs the testbenches for a config and says what they compared and covered."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gradsieve.cli.options import (
    ConfigArgument,
    JsonOption,
    PresetOption,
    UsageError,
    console,
    errors,
    resolve_config,
    write_json,
)

if TYPE_CHECKING:
    from rich.progress import Progress

    from gradsieve.tb.runner import BenchResult


def command(
    config: ConfigArgument = None,
    preset: PresetOption = None,
    block: Annotated[
        list[str] | None,
        typer.Option("--block", "-b", metavar="NAME", help="Only this block's bench; may be repeated."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", "-s", min=0, help="Seed of all random values.")] = 1,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Repeat the random tests so many times.")] = 1,
    waves: Annotated[bool, typer.Option("--waves", help="Keep a waveform file of each bench (slow).")] = False,
    coverage: Annotated[
        bool, typer.Option("--coverage", help="Also report which lines and bits of the Verilog were reached (slow).")
    ] = False,
    json: JsonOption = None,
) -> int:
    """Simulate an engine and its blocks, and compare every result with the golden model, to the last bit.

    Each block has a bench of its own; the bench `engine` drives the whole engine through its buses. The first run
    builds the simulations, later ones find them built. The exit status is 0 only if every bench passed.

    With --coverage, Verilator counts the lines that ran and the bits that toggled; lines that never ran are listed with
    the reason, where one is known. At least 95 % of the lines must run. It builds every simulation anew: ten minutes or
    more.

    *Examples:*

    gradsieve verify --preset tiny

    gradsieve verify my_engine.toml --block engine --seed 7 --waves

    gradsieve verify --preset tiny --coverage
    """
    from gradsieve.cli import verify_coverage
    from gradsieve.tb.blocks import BLOCKS
    from gradsieve.tb.coverage_reasons import explain, known_reasons
    from gradsieve.tb.line_coverage import merge
    from gradsieve.tb.runner import run_bench

    if coverage and (waves or block):
        raise UsageError(f"--coverage takes all blocks and no waveforms, got {'--waves' if waves else '--block'} too")
    engine = resolve_config(config, preset)
    names = list(dict.fromkeys(block)) if block else list(BLOCKS)
    for name in names:
        if name not in BLOCKS:
            raise UsageError(f"--block must be one of {', '.join(BLOCKS)}; got {name!r}")
    results: list[BenchResult] = []
    with _progress() as progress, tempfile.TemporaryDirectory() as folder:
        counts = {name: Path(folder) / name for name in names} if coverage else {}
        task = progress.add_task(f"verifying {engine.name}", total=len(names))
        for name in names:
            progress.update(task, description=f"verifying {engine.name}: {name}")
            if name in counts:
                counts[name].mkdir()
            results.append(run_bench(name, engine, seed=seed, waves=waves, rounds=rounds, counts=counts.get(name)))
            progress.advance(task)
        report = merge(counts)
    explained = explain(report, known_reasons())
    if json is not None:
        of_verilog = {"coverage": verify_coverage.as_dict(report, explained)} if coverage else {}
        benches = [r.as_dict() for r in results]
        write_json(json, {"config": engine.name, "seed": seed, "benches": benches, **of_verilog})
    _show(engine.name, results)
    if coverage:
        verify_coverage.show(engine.name, report, explained)
    enough = verify_coverage.percent(verify_coverage.total([c.lines for c in report])) >= verify_coverage.LEAST_LINES
    return 0 if enough and all(r.passed for r in results) else 1


def _progress() -> Progress:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    screen = errors()
    return Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal)


def _show(engine: str, results: list[BenchResult]) -> None:
    from rich.markup import escape
    from rich.table import Table

    screen = console()
    table = Table(title=f"verification of {engine}")
    table.add_column("block", overflow="fold")
    for heading in ("tests", "comparisons", "mismatches", "coverage", "cycles", "seconds"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for r in results:
        table.add_row(
            r.block,
            f"{r.tests - len(r.failures)}/{r.tests}",
            f"{r.comparisons:,}",
            f"{r.mismatches:,}",
            f"{r.coverage:.1f} %",
            f"{r.cycles:,}",
            f"{r.seconds:.1f}",
            "[green]passed[/]" if r.passed else "[bold red]failed[/]",
        )
    screen.print(table)
    for r in results:
        for test, message in r.failures.items():
            first = message.splitlines()[0] if message else ""
            screen.print(f"[bold red]{r.block}.{test}[/]: {escape(first)}", highlight=False, soft_wrap=True)
        if r.waves:
            screen.print(f"waveforms of {r.block}: {r.waves}", highlight=False, markup=False, soft_wrap=True)
    passed = sum(r.passed for r in results)
    comparisons, mismatches = sum(r.comparisons for r in results), sum(r.mismatches for r in results)
    screen.print(
        f"{passed} of {len(results)} benches passed; {comparisons:,} comparisons, {mismatches:,} mismatches",
        highlight=False,
    )
