"""What the verbs share: the choice of a config, machine-readable results, consoles, and the errors that end a verb."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

if TYPE_CHECKING:
    from gradsieve.hw.config import EngineConfig

ConfigArgument = Annotated[
    Path | None, typer.Argument(metavar="CONFIG.toml", help="Config file of the engine.", show_default=False)
]
PresetOption = Annotated[
    str | None,
    typer.Option("--preset", "-p", metavar="NAME", help="Take a preset instead: tiny, edge, default or ptb."),
]


BoardOption = Annotated[
    str, typer.Option("--board", metavar="NAME", help="Board: ulx3s, ecpix5, orangecrab, tang_primer_20k or arty_a7.")
]


def _writable(path: Path | None) -> Path | None:
    """Refuse a file that could not be written, before any work."""
    if path is not None:
        folder, device = path.parent, path.exists() and not path.is_file() and not path.is_dir()
        if path.is_dir() or not folder.is_dir() or not os.access(path if device else folder, os.W_OK):
            raise typer.BadParameter(f"must be a file name in an existing, writable folder, got {path}")
    return path


JsonOption = Annotated[
    Path | None,
    typer.Option("--json", metavar="FILE", help="Also write the result to FILE, as JSON.", callback=_writable),
]


class UsageError(Exception):
    """The command line asks for something that makes no sense; the message says what would."""


class CommandError(Exception):
    """A verb cannot do what it was asked to; the message says why."""


def error_status(error: Exception) -> int | None:
    """The exit status of an error that the user can act on; None if the error is a defect of the program."""
    from gradsieve.fpga.boards.board import BoardError
    from gradsieve.fpga.errors import DeviceError
    from gradsieve.hw.config import ConfigError
    from gradsieve.rtl_gen.generate import GenerateError
    from gradsieve.rtl_gen.netlist import NetlistError
    from gradsieve.rtl_gen.verilator import ToolError
    from gradsieve.training.errors import SettingsError, TrainingError
    from gradsieve.training.text import TextError

    if isinstance(error, UsageError | BoardError | ConfigError | SettingsError):
        return 2
    if isinstance(
        error, CommandError | DeviceError | GenerateError | NetlistError | TextError | ToolError | TrainingError
    ):
        return 1
    if isinstance(error, typer.TyperException):
        return error.exit_code
    return None


PLAIN_WIDTH = 120
"""Columns of results that go to a file or a pipe."""


def console() -> Console:
    """The console of results: plain text, wide enough for every table, if it is no terminal."""
    return Console(file=sys.stdout, width=None if sys.stdout.isatty() else PLAIN_WIDTH)


def errors() -> Console:
    """The console of errors and progress."""
    return Console(file=sys.stderr)


def resolve_config(path: Path | None, preset: str | None) -> EngineConfig:
    """The config of the file or preset.  Raises UsageError unless just one is given, ConfigError if it is bad."""
    from gradsieve.hw import config

    if path is not None and preset is not None:
        raise UsageError(f"{path} and --preset {preset} are both given: give one of them")
    if path is not None:
        return config.load(path)
    if preset is not None:
        return config.preset(preset)
    raise UsageError(f"there is no config: give a CONFIG.toml, or --preset with one of {', '.join(config.PRESETS)}")


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` as JSON, whole or not at all.  Raises CommandError if that fails."""
    from gradsieve.rtl_gen.files import write_text

    try:
        write_text(path, json.dumps(value, indent=2) + "\n")
    except OSError as error:
        raise CommandError(f"{path}: cannot be written ({error.strerror})") from None


@contextmanager
def stages(doing: str) -> Iterator[Callable[[str], None]]:
    """A function to be called with the name of each stage: a spinner on a terminal, a line a stage elsewhere."""
    screen = errors()
    if not screen.is_terminal:
        yield lambda stage: screen.print(f"{doing}: {stage}", highlight=False, markup=False, soft_wrap=True)
        return
    with screen.status(doing) as status:
        yield lambda stage: status.update(f"{doing}: {stage}")
