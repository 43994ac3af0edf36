"""`gradsieve train`: a language model on a text, with any method and any backend."""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gradsieve.cli.options import JsonOption, UsageError, console, stages, write_json

if TYPE_CHECKING:
    from gradsieve.training.history import Result
    from gradsieve.training.settings import Settings

_OPTIONS = {
    "text.file": "--text",
    "text.valid": "--valid",
    "text.level": "--level",
    "sieve.method": "--method",
    "sieve.target": "--target",
    "backend.kind": "--backend",
    "backend.forward": "--forward",
    "training.steps": "--steps",
    "training.seed": "--seed",
}
"""What the settings are called on the command line."""
INTERRUPTED = 130
"""Exit status of a training that Ctrl-C stopped, as of any interrupted command."""


def command(
    config: Annotated[
        Path | None, typer.Option(metavar="TOML", help="Settings of the training; options overrule them.")
    ] = None,
    text: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Text to train on; Python's own documentation by default.")
    ] = None,
    valid: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Text to validate on; the end of the other by default.")
    ] = None,
    level: Annotated[str | None, typer.Option(metavar="LEVEL", help="Tokens are of level char or word.")] = None,
    method: Annotated[str | None, typer.Option(metavar="SIEVE", help="dense, element, row or stochastic.")] = None,
    target: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Rows to keep (elements, for the sieve element).")
    ] = None,
    backend: Annotated[
        str | None, typer.Option(metavar="BACKEND", help="float, golden (integers) or simulated (the RTL).")
    ] = None,
    forward: Annotated[
        str | None, typer.Option(metavar="PLACE", help="Forward passes by float (the default) or the backend (golden).")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything that is drawn.")] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Directory of the result, report and checkpoint.")
    ] = Path("build/train"),
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint in the directory.")] = False,
    json: JsonOption = None,
) -> int:
    """Train an LSTM language model with sieved gradients, and report what that saves in hardware.

    The directory gets result.json, report.html and checkpoint.pt. Ctrl-C ends the step, saves everything, and --resume
    goes on exactly there. docs/training.md lists every setting that a TOML file may have.

    *Examples:*

    gradsieve train --method row --target 0.2

    gradsieve train --text my.txt --level word --method stochastic --target 0.1 --steps 3000 -o build/mine

    gradsieve train --config my.toml --backend simulated
    """
    chosen = settings_of(
        config,
        {
            "text": {"file": text, "valid": valid, "level": level},
            "sieve": {"method": method, "target": target},
            "backend": {"kind": backend, "forward": forward},
            "training": {"steps": steps, "seed": seed},
        },
    )
    with stages("train") as stage:
        stage("loading PyTorch")
        from gradsieve.training.trainer import CHECKPOINT, train

    checkpoint = output / CHECKPOINT
    if checkpoint.exists() and not resume:
        raise UsageError(
            f"{checkpoint} is there already: --resume goes on from it, -o names another directory for a new training"
        )
    if resume and not checkpoint.exists():
        raise UsageError(f"{checkpoint} is not there: leave --resume out to begin a training")
    if chosen.backend.kind == "simulated":
        from gradsieve.rtl_gen.files import claimed
        from gradsieve.training.errors import TrainingError

        with claimed(output, TrainingError):  # at once, not when the simulator has been built
            _build_simulator(chosen)
    from gradsieve.cli.progress import counted

    total = chosen.training.steps
    with _interrupt() as stop, counted(f"training: {chosen.title}", total) as progress:
        result = train(chosen, output, progress, resume, stop.is_set)
    if result.records:
        _show(result, output)
    if json is not None:
        write_json(json, result.model_dump(mode="json"))
    if not result.finished:
        console().print("interrupted: the checkpoint is kept, and the same command with --resume goes on")
        return INTERRUPTED
    return 0


def settings_of(config: Path | None, options: dict[str, dict[str, Any]]) -> Settings:
    """The settings of the file, overruled by the options that were given.

    Raises SettingsError, which calls a setting by its option if it was given by one, or if there is no file.
    """
    from gradsieve.training.errors import SettingsError
    from gradsieve.training.settings import make, merge, read_toml

    data = read_toml(config) if config is not None else {}
    given = {
        section: {name: value for name, value in values.items() if value is not None}
        for section, values in options.items()
    }
    sieve = given["sieve"]
    if "method" in sieve and isinstance(data.get("sieve"), dict):
        # Another method starts from a clean slate: a target of the file may make no sense for it.
        keep = {"method", "tau", "target", "targets"} if sieve["method"] == "dense" or "target" in sieve else {"method"}
        data = data | {"sieve": {name: value for name, value in data["sieve"].items() if name not in keep}}
    # A section that the file gives as a plain value stays, to be refused, unless options were given for it.
    over = {section: values for section, values in given.items() if values}
    try:
        return make(merge(data, over), "options" if config is None else str(config))
    except SettingsError as error:
        message = str(error)
        for setting, option in _OPTIONS.items():
            section, name = setting.split(".")
            if config is None or name in given.get(section, {}):
                message = re.sub(rf"\b{re.escape(setting)}\b", option, message)
        raise SettingsError(message) from None


def _build_simulator(settings: Settings) -> None:
    """Build it under a name: it takes a minute or two the first time."""
    from gradsieve.fpga.verilated import load
    from gradsieve.training.construction import engine_of

    engine = engine_of(settings)
    with stages(f"simulator of {engine.name}") as stage:
        stage("building, unless it is cached")
        load(engine)


@contextmanager
def _interrupt() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets; the second one interrupts at once."""
    stop = threading.Event()

    def handler(number: int, frame: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = signal.signal(signal.SIGINT, handler)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


def _show(result: Result, folder: Path) -> None:
    from rich.table import Table

    from gradsieve.training.trainer import REPORT, RESULT

    last, work = result.last, result.last.work
    cycles = "counted by the RTL" if result.measured else "by the cycle model"
    table = Table(title=f"{result.name}, after {last.step:,} steps", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    if any(r.valid_loss is not None for r in result.records):
        table.add_row("validation loss, nats a token", f"{result.valid_loss:.4f}")
    table.add_row("rows kept at the end", f"{100 * last.rows:.1f} %")
    table.add_row("elements kept at the end", f"{100 * last.elements:.1f} %")
    table.add_row("multiply-accumulates of training skipped", f"{100 * work.skipped:.1f} %")
    table.add_row("the same, of single elements", f"{100 * work.redundant:.1f} %")
    table.add_row(f"engine cycles, {cycles}", f"{work.cycles:,}")
    table.add_row("engine cycles, dense over these", f"{work.dense_cycles / max(1, work.cycles):.2f}×")
    table.add_row("seconds of training steps", f"{last.seconds:.1f}")
    if last.saturations:
        table.add_row("saturations", f"{sum(last.saturations.values()):,}")
    screen = console()
    screen.print(table)
    screen.print(f"report: {folder / REPORT}", highlight=False, markup=False, soft_wrap=True)
    screen.print(f"figures: {folder / RESULT}", highlight=False, markup=False, soft_wrap=True)
