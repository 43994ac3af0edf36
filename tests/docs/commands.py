"""Commands in documents: whether the command line takes them, without running them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import typer

from gradsieve.cli.application import application


def parsed(arguments: Sequence[str]) -> dict[str, Any]:
    """The parameters of the verb as given and by default.  Raises what the command line raises for bad ones."""
    verb, *rest = arguments
    group: Any = typer.main.get_command(application())
    assert verb in group.commands, f"there is no verb {verb!r}"
    context = group.commands[verb].make_context(verb, rest)
    return dict(context.params)
