"""`gradsieve board`: a virtual board behind a pseudo-terminal, for all that a board on a serial port can do."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
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
    from gradsieve.fpga.virtual_board import VirtualBoard


def command(
    config: ConfigArgument = None,
    preset: PresetOption = None,
    virtual: Annotated[bool, typer.Option("--virtual", help="Simulate the board (there is no other kind).")] = False,
    divisor: Annotated[
        int, typer.Option("--divisor", metavar="N", help="Clock cycles of a bit on the serial line: 4 or more.")
    ] = 4,
    link: Annotated[
        Path | None,
        typer.Option("--link", metavar="PATH", help="Also give the port this name.", show_default=False),
    ] = None,
    json: JsonOption = None,
) -> None:
    """Run a board that needs no hardware: what a bitstream holds, simulated to the clock cycle, behind a serial port.

    Prints the name of its port, a pseudo-terminal, and runs until it is interrupted (Ctrl-C). Whatever works on a
    board's serial port works on this one. The first run of a config builds the simulation, which takes a minute or
    more. SIGUSR1 presses the board's reset button.

    *Examples:*

    gradsieve board --virtual --preset tiny --link /tmp/board

    gradsieve deploy --port /tmp/board --check --preset tiny  # in another terminal
    """
    from gradsieve.fpga.link.protocol import DIVISOR_MIN
    from gradsieve.fpga.virtual_board import VirtualBoard

    if not virtual:
        raise UsageError("only a virtual board can be run: give --virtual (gradsieve deploy loads a real one)")
    if divisor < DIVISOR_MIN:
        raise UsageError(f"--divisor must be at least {DIVISOR_MIN}, got {divisor}")
    engine = resolve_config(config, preset)
    _check_link(link)
    with stages(f"building the virtual board of {engine.name}") as progress:
        progress("simulation")
        board = VirtualBoard(engine, divisor)
    try:
        with _signals(board), _linked(link, board.port):
            print(f"virtual board of {engine.name} on {link or board.port}")
            print(f"Ctrl-C stops it; kill -USR1 {os.getpid()} presses its reset button", flush=True)
            board.serve()
    finally:
        board.close()
    rate = board.cycles / board.seconds if board.seconds else 0.0
    console().print(
        f"{board.cycles:,} cycles, {rate:,.0f} a second; {board.bytes_sent:,} bytes to the board, "
        f"{board.bytes_received:,} from it",
        highlight=False,
    )
    if json is not None:
        figures = {name: getattr(board, name) for name in ("cycles", "seconds", "bytes_sent", "bytes_received")}
        write_json(json, {"config": engine.name, "digest": engine.digest, "divisor": divisor, **figures})


@contextmanager
def _signals(board: VirtualBoard) -> Iterator[None]:
    """Let signals stop the board, and press its button."""
    handlers = {
        signal.SIGINT: board.stop,
        signal.SIGTERM: board.stop,
        signal.SIGUSR1: board.press_reset,
    }
    before = {number: signal.signal(number, lambda n, _: handlers[signal.Signals(n)]()) for number in handlers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _check_link(link: Path | None) -> None:
    """Refuse a name that is taken by anything but the link of an earlier virtual board."""
    if link is None or (link.is_symlink() and os.readlink(link).startswith("/dev/")):
        return
    if os.path.lexists(link) or not os.access(link.parent, os.W_OK):
        raise UsageError(f"--link must be a free name in a writable folder, got {link}")


@contextmanager
def _linked(link: Path | None, port: str) -> Iterator[None]:
    """A symbolic link to the port, as long as this block lasts."""
    if link is None:
        yield
        return
    try:
        link.unlink(missing_ok=True)
        link.symlink_to(port)
    except OSError as error:
        raise CommandError(f"--link {link}: cannot be made ({error.strerror})") from None
    try:
        yield
    finally:
        # another board may have taken the name over
        if link.is_symlink() and os.readlink(link) == port:
            link.unlink()
