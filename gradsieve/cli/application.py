"""The application: registers the verbs and turns errors into one line and an exit status."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import Annotated

import typer
from rich.markup import escape

from gradsieve.cli.options import UsageError, error_status, errors
from gradsieve.cli.streams import take_closed, watched
from gradsieve.cli.usage import empty_option, usage_message
from gradsieve.rtl_gen.extras import missing

VERBS = ("generate", "verify", "bench", "speed", "demo", "train", "compare", "build", "board", "deploy")
"""Each is a module of this package whose function `command` is the verb; it imports what is slow only when it runs."""

HELP = """
Generate, verify and measure a sparse-gradient LSTM backward engine, and train with sieved gradients.

The backward pass of an LSTM multiplies gate gradients, most of which are near zero. gradsieve generates a
systolic engine, as portable Verilog, that does only the work that survives a sieve.

An engine is described by a config: a TOML file, or one of the presets **tiny**, **edge**, **default** and **ptb**.

*Start here:*  gradsieve generate --preset tiny -o build/tiny, or gradsieve train --method row --target 0.2
"""


def _show_versions(asked: bool) -> None:
    if asked:
        from gradsieve.cli.versions import versions

        print(versions())
        raise typer.Exit


_VERSION = typer.Option(
    "--version", help="Show the versions of gradsieve and its tools.", is_eager=True, callback=_show_versions
)


def application() -> typer.Typer:
    """The typer application with every verb."""
    app = typer.Typer(
        name="gradsieve",
        help=HELP,
        no_args_is_help=True,
        rich_markup_mode="markdown",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback()
    def root(version: Annotated[bool, _VERSION] = False) -> None:
        pass

    for verb in VERBS:
        app.command(verb)(import_module(f"gradsieve.cli.{verb}").command)
    return app


def _end(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0, 1 if the verb failed, 2 if it was called wrongly.

    `arguments` are those of the process by default; SIGTERM then ends it as Ctrl-C does, with all that it has started.
    Errors that the user can act on, and an output that takes no more, end as one line on the standard error stream;
    anything else is a defect and keeps its traceback.
    """
    if arguments is None:
        signal.signal(signal.SIGTERM, _end)
    if not take_closed():
        _complain("standard output must be open, got a closed one")
        return 1
    with watched() as (output, errors_output):
        try:
            status = _run(arguments)
        except OSError:
            if not (output.failure or errors_output.failure):
                raise
            status = 1
        failure, unsaid = output.close_down(), errors_output.close_down()
        if failure is not None and not isinstance(failure, BrokenPipeError):  # as of `gradsieve ... | head`
            _complain(f"standard output must take all that is printed, got {failure.strerror!r}")
        return status or int(bool(failure or unsaid))


def _no_memory(error: Exception) -> bool:
    """PyTorch raises a RuntimeError where the memory of the CPU ends."""
    told = str(error)
    return isinstance(error, MemoryError) or "can't allocate memory" in told or "Storage size calculation" in told


def _complain(message: str) -> None:
    with suppress(OSError):
        errors().print(f"[bold red]error:[/] [red]{escape(message)}[/]", soft_wrap=True, highlight=False)


def _run(given: Sequence[str] | None) -> int:
    arguments = sys.argv[1:] if given is None else list(given)
    try:
        if (option := empty_option(arguments)) is not None:
            raise UsageError(f"{option} must not be empty, got ''")
        result = application()(args=arguments, standalone_mode=False)
        return result if isinstance(result, int) else 0
    except (typer.Abort, KeyboardInterrupt):
        errors().print("interrupted")
        return 130
    except ModuleNotFoundError as error:
        advice = missing(error.name or "")
        if advice is None:
            raise
        _complain(advice)
        return 1
    except Exception as error:
        status = error_status(error)
        if status is None and isinstance(error, MemoryError | RuntimeError) and _no_memory(error):
            _complain("memory must hold the sizes that were asked for, got too little: choose smaller ones")
            return 1
        if status is None:
            raise
        message = str(error)
        if isinstance(error, typer.TyperException):
            message = usage_message(error, arguments, VERBS)
            if not message:  # the help was asked for by giving no verb, and has been shown
                return status
        _complain(message)
        return status
