"""`gradsieve demo`: a real training step, sieved in every mode and run on the simulated engine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gradsieve.cli.options import (
    CommandError,
    ConfigArgument,
    JsonOption,
    PresetOption,
    UsageError,
    console,
    resolve_config,
    stages,
    write_json,
)

if TYPE_CHECKING:
    from concurrent.futures import Future

    from gradsieve.cli.demo_model import Sizes, Training, TrainingStep
    from gradsieve.cli.demo_sieves import Sieved
    from gradsieve.golden.types import Gradients, Tape
    from gradsieve.hw.config import EngineConfig

LARGEST = {"H": 64, "I": 64, "B": 16, "T": 32}
"""Sizes of the demo's LSTM, unless the engine takes only smaller ones."""

PICTURE = "demo.png"


@dataclass(frozen=True)
class Result:
    """One mode on the engine."""

    sieved: Sieved
    gradients: Gradients
    cycles: int
    speedup: float
    mismatches: int
    error: float
    rows: float
    elements: float

    @property
    def mode(self) -> str:
        """The name of the mode."""
        return self.sieved.sieve.mode.name.lower()

    def as_json(self) -> dict[str, Any]:
        """Every figure by its name."""
        return {
            "mode": self.mode,
            "tau": self.sieved.sieve.tau,
            "rows_kept": int(self.gradients.rows_kept.sum()),
            "rows_kept_share": self.rows,
            "elements_kept": int(self.gradients.elements_kept.sum()),
            "elements_kept_share": self.elements,
            "cycles": self.cycles,
            "indices": self.gradients.indices,
            "speedup": self.speedup,
            "mismatches": self.mismatches,
            "gradient_error": self.error,
        }


def command(
    config: ConfigArgument = None,
    preset: PresetOption = None,
    text: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Text to train on; Python's own documentation by default."),
    ] = None,
    steps: Annotated[int, typer.Option(help="Training steps.")] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of the training and of the stochastic sieve.")] = 1,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Directory of the picture.")] = Path(
        "build/demo"
    ),
    json: JsonOption = None,
) -> None:
    """Show the engine at work on a real training step, in a few minutes.

    A small character LSTM is trained for a short while. Then the backward pass of one more training step runs on the
    simulated engine, dense and with each sieve, and is compared with the golden model, to the last bit, and with
    PyTorch's float gradients. A picture shows which gate rows were kept and what that saved.

    *Examples:*

    gradsieve demo

    gradsieve demo --text my.txt --steps 3000 -o build/mine
    """
    engine = resolve_config(config, preset if config is not None or preset is not None else "default")
    if steps < 1:
        raise UsageError(f"--steps must be at least 1, got {steps}")
    if seed < 0:
        raise UsageError(f"--seed must be at least 0, got {seed}")
    with stages("demo") as stage:
        stage("loading PyTorch")
        from gradsieve.rtl_gen.verilator import verilator_env

        import_module("gradsieve.cli.demo_plot")  # what is missing is told before the work
        verilator_env()
        from gradsieve.cli.demo_model import Sizes, Training
        from gradsieve.training.text import read_text, source_name

    sizes = Sizes(**{name: min(top, getattr(engine, f"max_{name}")) for name, top in LARGEST.items()})
    source = source_name(text)
    training = Training(read_text(text), sizes, seed, source)
    _make_directory(output)
    _introduce(engine, sizes, source)
    with _simulator(engine) as built:
        losses = _train(training, steps)
        with stages("demo") as stage:
            stage(f"waiting for the simulator of {engine.name}, which is being built (minutes, only the first time)")
            built.result()
    step = training.training_step()
    results, saturated = _run(engine, step, seed)
    picture = output / PICTURE
    _draw(engine, results, steps, picture)
    _show(results, losses, picture)
    if json is not None:
        description = {
            "config": engine.model_dump(mode="json") | {"digest": engine.digest},
            "layer": vars(sizes),
            "training": {"steps": steps, "seed": seed, "symbols": len(training.vocabulary), "losses": losses},
            "saturated": saturated,
            "modes": [r.as_json() for r in results],
            "picture": str(picture),
        }
        write_json(json, description)
    wrong = sum(r.mismatches for r in results)
    if wrong:
        raise CommandError(f"{wrong} values differ from the golden model: the engine is not to be trusted")


def _make_directory(output: Path) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandError(f"{output}: cannot be made a directory ({error.strerror})") from None


def build_simulator(config: EngineConfig) -> None:
    """Fill the cache with the simulator of an engine."""
    from gradsieve.fpga.verilated import load

    load(config)


@contextmanager
def _simulator(config: EngineConfig) -> Iterator[Future[None]]:
    """The simulator's build, in a process of its own: it takes a minute or two, and training need not wait for it."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        yield pool.submit(build_simulator, config)


def _train(training: Training, steps: int) -> list[float]:
    from gradsieve.cli.progress import counted

    with counted(f"demo: training for {steps} steps", steps) as progress:
        return training.run(steps, lambda done, loss: progress(done, f"({loss:.2f} nats a character)"))


def _run(config: EngineConfig, step: TrainingStep, seed: int) -> tuple[list[Result], dict[str, int]]:
    """Every mode on the engine, and how many values of each tensor saturated when they were made integers."""
    from gradsieve.cli.demo_sieves import TARGETS, sieves
    from gradsieve.cli.progress import steps
    from gradsieve.fpga.device import simulated
    from gradsieve.golden.quantize import quantize_tape, quantize_weights
    from gradsieve.hw.config import RANDOM_SEED

    tape, saturated = quantize_tape(config, step.tape)
    weights, saturated_weights = quantize_weights(config, step.w_ih, step.w_hh)
    results: list[Result] = []
    with simulated(config) as device, steps("demo: backward pass", len(TARGETS)) as begin:
        begin(TARGETS[0].mode.name.lower())
        for n, sieved in enumerate(sieves(config, weights, tape, RANDOM_SEED ^ seed or 1), start=1):
            gradients = device.backward(weights, tape, sieved.sieve)
            cycles = device.counters()["CYCLES"]
            dense = results[0].cycles if results else cycles
            results.append(_compare(config, step, tape, sieved, gradients, cycles, dense))
            if n < len(TARGETS):
                begin(TARGETS[n].mode.name.lower())
    return results, saturated | saturated_weights


def _compare(
    config: EngineConfig, step: TrainingStep, tape: Tape, sieved: Sieved, gradients: Gradients, cycles: int, dense: int
) -> Result:
    from gradsieve.cli.demo_model import relative_error
    from gradsieve.cli.demo_sieves import shares
    from gradsieve.golden.quantize import dequantize

    rows, elements = shares(gradients, 4 * tape.i.numel())
    return Result(
        sieved=sieved,
        gradients=gradients,
        cycles=cycles,
        speedup=dense / cycles,
        mismatches=gradients.mismatches(sieved.expected),
        error=relative_error(dequantize(config, gradients), step.gradients),
        rows=rows,
        elements=elements,
    )


def _draw(config: EngineConfig, results: list[Result], steps: int, path: Path) -> None:
    from gradsieve.cli.demo_plot import Bar, draw

    bars = [Bar(r.mode, r.gradients.rows_kept, r.cycles, r.gradients.indices, r.speedup) for r in results]
    title = f"One backward pass of a character LSTM after {steps:,} training steps, on the engine {config.name}"
    try:
        draw(bars, title, path)
    except OSError as error:
        raise CommandError(f"{path}: cannot be written ({error.strerror})") from None


def _introduce(config: EngineConfig, sizes: Sizes, source: str) -> None:
    screen = console()
    for line in (
        f"A character LSTM (H = {sizes.H}, I = {sizes.I}) is trained on {source}; then the backward pass of one more",
        f"training step (B = {sizes.B}, T = {sizes.T}) runs on the simulated engine {config.name}, in each mode.",
        "A sieve drops gate gradients near zero; the engine spends cycles only on the rows that are left.",
        "",
    ):
        screen.print(line, highlight=False, markup=False, soft_wrap=True)


def _show(results: list[Result], losses: list[float], picture: Path) -> None:
    from rich.table import Table

    screen = console()
    headings = ("rows kept", "elements kept", "cycles", "speedup", "mismatches", "gradient error")
    table = Table(title=f"one training step, after training from {losses[0]:.2f} to {losses[-1]:.2f} nats a character")
    table.add_column("mode")
    for heading in headings:
        table.add_column(heading, justify="right")
    for r in results:
        table.add_row(
            r.mode,
            f"{100 * r.rows:.1f} %",
            f"{100 * r.elements:.1f} %",
            f"{r.cycles:,}",
            f"{r.speedup:.2f}×",
            f"{r.mismatches:,}",
            f"{100 * r.error:.3g} %",
        )
    screen.print(table)
    for line in (
        "mismatches: values that differ from the golden model in any bit.",
        "elements kept: gate gradients that are not zero in the number format of the engine.",
        "gradient error: of dW, db and dx against PyTorch's float autograd, relative, in the Euclidean norm; that of",
        "the dense run is due to the number formats. The stochastic sieve's is noise that averages out over steps.",
        "",
        f"picture: {picture}",
        "next: gradsieve bench, or gradsieve demo --text with a text of your own",
    ):
        screen.print(line, highlight=False, markup=False, soft_wrap=True)
