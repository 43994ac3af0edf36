"""`gradsieve bench`: how many cycles a layer takes on the simulated engine at each share of kept rows."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    from gradsieve.cli.bench_case import Case
    from gradsieve.cli.bench_report import Bench, Level
    from gradsieve.fpga.device import Device
    from gradsieve.hw.config import EngineConfig

LIFETIME = ("LOAD_CYCLES", "READOUT_CYCLES")
"""Counters that go on from run to run."""

DEFAULT_CYCLES = 4_000_000
"""Cycles that a dense run of the default layer may take: it bounds T."""


def command(
    config: ConfigArgument = None,
    preset: PresetOption = None,
    layer: Annotated[
        str | None,
        typer.Option(
            metavar="H,I,B,T", help="Sizes of the layer; the engine's largest by default.", show_default=False
        ),
    ] = None,
    kept: Annotated[
        str, typer.Option(metavar="SHARES", help="Shares of the gate rows to keep.")
    ] = "1,0.5,0.2,0.1,0.05",
    seed: Annotated[int, typer.Option(help="Seed of the synthetic tapes.")] = 1,
    json: JsonOption = None,
) -> None:
    """Measure the engine in simulation at several shares of kept rows.

    At each share the rows that stay are drawn at random for every step and batch tile, exactly that share of them, by a
    synthetic tape whose other rows have gradients of exactly zero and a row sieve with the threshold 1. The dense
    run, in dense mode, is always made: speedups refer to it. Every result is compared with the golden model.

    The engine is the preset *default* unless another is named. The first run of an engine builds its simulator, which
    takes a minute or two.

    *Examples:*

    gradsieve bench

    gradsieve bench --preset ptb --layer 200,200,20,20 --json bench.json
    """
    engine = resolve_config(config, preset if config is not None or preset is not None else "default")
    sizes = default_layer(engine) if layer is None else parse_layer(engine, layer)
    shares = parse_shares(kept)
    if seed < 0:
        raise UsageError(f"--seed must be at least 0, got {seed}")
    result = measure(engine, sizes, shares, seed)
    _finish(result, json)


def _finish(result: Bench, json: Path | None) -> None:
    from gradsieve.cli.bench_report import as_json, show

    show(result, console())
    if json is not None:
        write_json(json, as_json(result))
    wrong = sum(level.mismatches for level in result.runs)
    if wrong:
        raise CommandError(f"{wrong} values differ from the golden model: the engine is not to be trusted")


def default_layer(config: EngineConfig) -> tuple[int, int, int, int]:
    """The largest layer of the engine, with as many steps as keep the bench under a minute."""
    step = 2 * config.gate_rows * config.tiles * config.batch_tiles
    return config.max_H, config.max_I, config.max_B, max(1, min(config.max_T, DEFAULT_CYCLES // step))


def parse_layer(config: EngineConfig, text: str) -> tuple[int, int, int, int]:
    """H, I, B, T of `text`.  Raises UsageError if it is not four whole numbers, ConfigError over the engine's sizes."""
    parts = text.split(",")
    if len(parts) != 4:
        raise UsageError(f"--layer must be four integers H,I,B,T, such as 64,64,16,32; got {text!r}")
    names = ("H", "I", "B", "T")
    sizes = []
    for name, part in zip(names, parts, strict=True):
        if not (part.strip().isascii() and part.strip().isdigit()):
            raise UsageError(
                f"--layer must be four integers H,I,B,T, such as 64,64,16,32; got {name} = {part!r} in {text!r}"
            )
        sizes.append(int(part))
    H, I, B, T = sizes
    config.check_run(H=H, I=I, B=B, T=T)
    return H, I, B, T


def parse_shares(text: str) -> list[float]:
    """The shares of `text`, in its order.  Raises UsageError, quoting the first that is not above 0 and at most 1."""
    shares = []
    for part in text.split(","):
        try:
            share = float(part)
        except ValueError:
            raise UsageError(f"--kept must be numbers, such as 0.5,0.2; got {part!r} in {text!r}") from None
        if not 0 < share <= 1:
            raise UsageError(f"--kept must be greater than 0 and at most 1, got {part.strip()} in {text!r}")
        shares.append(share)
    return shares


def measure(config: EngineConfig, sizes: tuple[int, int, int, int], shares: list[float], seed: int) -> Bench:
    """Run the dense level and one for each share on the simulated engine.

    Raises CommandError if a run keeps other rows than were chosen or counts the impossible, ToolError if the simulator
    cannot be built.
    """
    with stages(f"simulator of {config.name}") as stage:
        stage("building, unless it is cached")
        from gradsieve.cli.bench_case import make_case
        from gradsieve.cli.bench_report import Bench
        from gradsieve.cli.progress import steps
        from gradsieve.fpga.device import Device
        from gradsieve.fpga.simulator import Simulator

        simulator = Simulator(config)
    seconds, cycles = 0.0, 0
    measured: dict[float, Level] = {}
    wanted = list(dict.fromkeys([1.0, *shares]))
    with Device(config, simulator) as device, steps("measuring", len(wanted)) as step:
        for share in wanted:
            step(f"{100 * share:g} % of rows kept")
            case = make_case(config, sizes, share, seed)
            before, begin = simulator.cycles, time.thread_time()
            measured[share], work = _level(device, case, share, measured.get(1.0))
            seconds, cycles = seconds + work - begin, cycles + simulator.cycles - before
    return Bench(
        config=config,
        sizes=sizes,
        dense=measured[1.0],
        levels=[measured[share] for share in shares],
        cycles_per_second=cycles / seconds,
    )


def _level(device: Device, case: Case, share: float, dense: Level | None) -> tuple[Level, float]:
    """One run against the golden model, and the thread time at which the engine was done."""
    from gradsieve.cli.bench_report import Level
    from gradsieve.golden.backward import backward

    start = device.counters()
    gradients = device.backward(case.weights, case.tape, case.sieve)
    counters = device.counters()
    done = time.thread_time()
    wrong = int((gradients.rows_kept != case.rows).sum())
    if wrong:
        raise CommandError(f"at {100 * share:g} % the engine kept or dropped {wrong} rows against the sieve's orders")
    if counters["CYCLES"] < counters["INDICES"]:
        raise CommandError(
            f"at {100 * share:g} % the engine counts {counters['INDICES']} indices in {counters['CYCLES']} cycles, "
            "more than one a cycle: its counters do not cover the same time"
        )
    expected = backward(device.config, case.weights, case.tape, case.sieve)
    level = Level(
        kept=share,
        rows=case.rows.numel(),
        rows_kept=int(gradients.rows_kept.sum()),
        counters={name: n - (start[name] if name in LIFETIME else 0) for name, n in counters.items()},
        peak_macs=device.config.peak_macs,
        mismatches=gradients.mismatches(expected),
        dense=dense,
    )
    return level, done
