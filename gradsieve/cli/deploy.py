"""`gradsieve deploy`: loads a bitstream into a board, and checks the engine behind its serial port."""

from __future__ import annotations

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
    from gradsieve.fpga.boards.board import Board
    from gradsieve.fpga.check import ModeCheck
    from gradsieve.fpga.loader import Loaded
    from gradsieve.hw.config import EngineConfig


def command(
    config: ConfigArgument = None,
    preset: PresetOption = None,
    board: Annotated[
        str | None,
        typer.Option("--board", metavar="NAME", help="Load a bitstream into this board.", show_default=False),
    ] = None,
    bitstream: Annotated[
        Path | None,
        typer.Option(
            "--bitstream",
            metavar="FILE",
            help="The bitstream; by default the one that `gradsieve build` wrote to the folder build.",
            show_default=False,
        ),
    ] = None,
    write_flash: Annotated[
        bool, typer.Option("--write-flash", help="Write the flash memory, so that the board keeps the bitstream.")
    ] = False,
    cable: Annotated[
        str | None,
        typer.Option(
            "--cable", metavar="ARGS", help="openFPGALoader's arguments for another cable.", show_default=False
        ),
    ] = None,
    port: Annotated[
        str | None,
        typer.Option("--port", metavar="PORT", help="Serial port of a real or virtual board.", show_default=False),
    ] = None,
    baud: Annotated[
        int | None,
        typer.Option("--baud", min=1, metavar="N", help="Rate of the serial line, if not the board's usual one."),
    ] = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="Run training steps on the board behind the port (with --board: always)."),
    ] = False,
    seed: Annotated[int, typer.Option("--seed", "-s", min=0, help="Seed of the check's random values.")] = 1,
    json: JsonOption = None,
) -> int:
    """Load a board, and check that its engine computes what it must.

    With --board the bitstream is loaded through the board's USB cable; nothing is written unless the file is whole and
    made for the device on the board. With --port the engine behind that serial port must be the one of the config (by
    default the board's own). --check runs a training step in each mode of the sieve there and compares every number
    with the golden model. The exit status is 0 only if all were equal. docs/boards.md explains boards, cables and
    errors.

    *Examples:*

    gradsieve deploy --port /dev/ttyUSB0 --check --preset default

    gradsieve deploy --board ulx3s --port /dev/ttyUSB0
    """
    for option, given, needed, there in (
        ("--check", check, "--port", port),
        ("--baud", baud, "--port", port),
        ("--bitstream", bitstream, "--board", board),
        ("--cable", cable, "--board", board),
        ("--write-flash", write_flash, "--board", board),
    ):
        if given and there is None:
            raise UsageError(f"{option} needs {needed}")
    if board is None and port is None:
        raise UsageError("there is nothing to do: give --board NAME to load a board, --port PORT --check to check one")
    result: dict[str, Any] = {}
    chosen = None
    if board is not None:
        from gradsieve.fpga.boards.registry import board as board_named

        chosen = board_named(board)
    own = chosen.config if chosen is not None and config is None and preset is None else None
    engine = own or resolve_config(config, preset)
    if chosen is not None:
        asked = f" --preset {preset}" if preset else f" {config}" if config else ""
        file = bitstream or _built(chosen, engine, asked)
        loaded = _load(chosen, file, cable, write_flash)
        result["loaded"] = {
            "board": chosen.name,
            "bitstream": str(file),
            "sha256": loaded.bitstream.sha256,
            "flash": loaded.flash,
            "seconds": loaded.seconds,
        }
    checks: list[ModeCheck] = []
    if port is not None:
        checks = _check(engine, port, baud or _usual_baud(chosen), seed, steps=check or chosen is not None)
        result["check"] = {"config": engine.name, "digest": engine.digest, "port": port, "seed": seed}
        result["check"]["modes"] = [_figures(c) for c in checks]
    if json is not None:
        write_json(json, result)
    return 1 if any(c.mismatches for c in checks) else 0


def _built(board: Board, engine: EngineConfig, asked: str) -> Path:
    """The bitstream that `gradsieve build` writes by default for what is `asked` for; CommandError without it."""
    stem = Path("build") / f"{board.name}_{engine.name}"
    for suffix in (".bit", ".fs"):
        if stem.with_suffix(suffix).is_file():
            return stem.with_suffix(suffix)
    raise CommandError(
        f"build holds no bitstream of {engine.name} for {board.name}: make it by `gradsieve build --board "
        f"{board.name}{asked}`, or name another by --bitstream FILE"
    )


def _usual_baud(board: Board | None) -> int:
    from gradsieve.fpga.serial_port import BAUD

    return BAUD if board is None else board.clocking().baud


def _load(board: Board, file: Path, cable: str | None, write_flash: bool) -> Loaded:
    from gradsieve.fpga.loader import load

    with stages(f"loading {board.title}") as progress:
        loaded = load(
            file, board.loader if cable is None else cable, part=board.part, write_flash=write_flash, report=progress
        )
    where = "flash memory" if loaded.flash else "configuration memory"
    console().print(
        f"{file} is in the {where} of {board.title} ({loaded.seconds:.1f} s)", highlight=False, markup=False
    )
    return loaded


def _check(engine: EngineConfig, port: str, baud: int, seed: int, steps: bool) -> list[ModeCheck]:
    from gradsieve.fpga.check import check
    from gradsieve.fpga.device import Device
    from gradsieve.fpga.serial_port import SerialTransport

    transport = SerialTransport(port, baud)
    try:
        device = Device(engine, transport)
        console().print(
            f"{port} holds the engine {engine.name} (digest {engine.digest})", highlight=False, markup=False
        )
        if not steps:
            return []
        with stages(f"checking {engine.name}") as progress:
            checks = list(
                check(device, transport.statistics, seed, report=lambda mode: progress(f"mode {mode.name.lower()}"))
            )
    finally:
        transport.close()
    _show(checks)
    return checks


def _say(line: str) -> None:
    console().print(line, highlight=False, markup=False, soft_wrap=True)


def _figures(c: ModeCheck) -> dict[str, Any]:
    return {**vars(c), "mode": c.mode.name.lower(), "mismatches": c.mismatches, "other_seconds": c.other_seconds}


def _show(checks: list[ModeCheck]) -> None:
    from rich.table import Table

    H, I, B, T = checks[0].sizes
    table = Table(title=f"training steps of H = {H}, I = {I}, B = {B}, T = {T} on the board")
    table.add_column("mode")
    headings = (
        "compared",
        "mismatches",
        "round trip",
        "transfer",
        "compute",
        "other",
        "sent",
        "received",
        "array busy",
    )
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for c in checks:
        table.add_row(
            c.mode.name.lower(),
            f"{c.values:,}",
            f"[bold red]{c.mismatches:,}[/]" if c.mismatches else "0",
            *(f"{s:.3f} s" for s in (c.seconds, c.transfer_seconds, c.compute_seconds, c.other_seconds)),
            *(f"{n:,}" for n in (c.bytes_sent, c.bytes_received, c.array_cycles)),
        )
    screen = console()
    screen.print(table)
    screen.print(
        "compute: the share of the run in which the engine did not wait for the tape, by its counters; "
        "transfer: the rest of the time in which packets moved; other: registers and the host's own work; "
        "sent and received in bytes, array in clock cycles that it worked",
        highlight=False,
        soft_wrap=True,
    )
    for c in checks:
        for name, wrong in c.differences.items():
            screen.print(f"[bold red]{c.mode.name.lower()}.{name}[/]: {wrong:,} differ from golden", highlight=False)
