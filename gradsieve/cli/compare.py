"""`gradsieve compare`: methods × settings × seeds from one TOML file, trained in parallel and put side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from gradsieve.cli.options import CommandError, JsonOption, UsageError, console, errors, write_json
from gradsieve.cli.progress import counted

if TYPE_CHECKING:
    from rich.console import Console

    from gradsieve.training.studies.cluster import Outcome
    from gradsieve.training.studies.comparison import Comparison
    from gradsieve.training.studies.study import Study

FILES = ("comparison.json", "comparison.md", "comparison.html")


def command(
    study: Annotated[Path, typer.Argument(metavar="STUDY.toml", help="What to train and compare.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            help="Directory of the runs; build/compare/STUDY by default.",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(metavar="N", help="Processes of this machine; one for each core by default.", show_default=False),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Run on the workers of an existing Dask scheduler, such as tcp://host:8786. They share the file "
            "system with this machine, and have the same gradsieve.",
            show_default=False,
        ),
    ] = None,
    json: JsonOption = None,
) -> None:
    """Train methods, settings and seeds in parallel, and compare them with a baseline.

    STUDY.toml has the settings of `gradsieve train` that all runs share under *base*, and the rest under *run*:

        seeds = [1, 2, 3]

        [base.training]
        steps = 2000

        [[run]]
        name = "dense"

        [[run]]
        name = "row sieve"
        sieve = { method = "row" }
        grid = { "sieve.target" = [0.1, 0.2] }

    Every combination of a grid's values is a run. *baseline* names the run that others are compared with, the first by
    default; a run can have a baseline and seeds of its own. Files are relative to the study's directory.

    A finished run is not repeated and an interrupted one goes on: give the same command again. A run that fails does
    not stop the others. DIR gets the tables as comparison.json, comparison.md and comparison.html, and every run's
    own report.

    *Examples:*

    gradsieve compare study.toml

    gradsieve compare study.toml -o results/study --scheduler tcp://host:8786
    """
    from gradsieve.training.studies.study import read_study

    if workers is not None and workers < 1:
        raise UsageError(f"--workers must be at least 1, got {workers}")
    if workers is not None and scheduler is not None:
        raise UsageError(
            f"--workers {workers} and --scheduler {scheduler} are both given: a scheduler has its own workers"
        )
    found = read_study(study)
    out = Path("build/compare") / study.stem if output is None else output
    from gradsieve.rtl_gen.files import claimed

    with claimed(out, CommandError):
        finish(found, run(found, out, workers, scheduler), out, json)


def run(study: Study, out: Path, workers: int | None = None, scheduler: str | None = None) -> list[Outcome]:
    """Train what is not finished, showing each training as it ends.  Raises ClusterError as `run_study`."""
    from gradsieve.training.studies.cluster import run_study
    from gradsieve.training.trainer import train

    total, ended = len(study.tasks), 0
    screen = errors()
    try:
        with counted(f"training {total} runs", total) as progress:

            def end(outcome: Outcome) -> None:
                nonlocal ended
                ended += 1
                progress(ended, "")
                screen.print(f"{ended} of {total}: {_sentence(outcome)}", markup=False, highlight=False, soft_wrap=True)

            return run_study(study, out, train, workers=workers, scheduler=scheduler, ended=end)
    except KeyboardInterrupt:
        screen.print(
            f"{ended} of {total} runs have ended, and are kept as the others' states are: the same command goes on",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        raise


def finish(study: Study, outcomes: list[Outcome], out: Path, json: Path | None) -> None:
    """Show and write the comparison.  Raises CommandError if a training failed or a file cannot be written."""
    from gradsieve.rtl_gen.files import write_text
    from gradsieve.training.studies.comparison import compare
    from gradsieve.training.studies.comparison_page import write_page
    from gradsieve.training.studies.comparison_table import as_json, as_markdown

    comparison = compare(study, outcomes)
    show(comparison, console())
    files = [out / name for name in FILES]
    write_json(files[0], as_json(comparison))
    try:
        write_text(files[1], as_markdown(comparison))
        write_page(comparison, files[2])
    except OSError as error:
        raise CommandError(f"{error.filename or out}: cannot be written ({error.strerror})") from None
    if json is not None:
        write_json(json, as_json(comparison))
    console().print(f"written: {', '.join(map(str, files))}", markup=False, highlight=False, soft_wrap=True)
    if comparison.failures:
        for outcome in comparison.failures:
            errors().print(_sentence(outcome), markup=False, highlight=False, soft_wrap=True)
        n = len(comparison.failures)
        raise CommandError(f"{n} of {len(outcomes)} runs failed; the others are kept, and the same command tries again")


def show(comparison: Comparison, screen: Console) -> None:
    """Print the tables, and what their columns mean."""
    from rich.table import Table

    from gradsieve.training.studies.comparison_table import TABLES, cells, notes

    for title, headings, figures in TABLES:
        table = Table(title=title)
        for heading in headings:
            table.add_column(heading, overflow="fold")
        for figure in figures:
            table.add_column(figure.heading, justify="right")
        for row in comparison.rows:
            table.add_row(*map(escape, cells(row, headings, figures)))
        screen.print(table)
    for heading, note in notes():
        screen.print(f"{heading}: {note}", markup=False, highlight=False, soft_wrap=True)


def _sentence(outcome: Outcome) -> str:
    from gradsieve.training.studies.comparison import final_loss

    what = f"{outcome.task.run}, seed {outcome.task.seed}"
    if outcome.result is None:
        return f"{what}: failed: {outcome.error}"
    loss = final_loss(outcome.result)
    figure = "not evaluated" if loss is None else f"validation loss {loss:.3f}"
    return f"{what}: {figure}{', finished before' if outcome.reused else ''}"
