"""What is said of a command line that the option parser refuses: in the words of all other messages."""

from __future__ import annotations

import re
from collections.abc import Sequence

import typer

_LIMITS = {
    r"Input should be a valid integer.*": "an integer",
    r"Input should be a valid number.*": "a number",
    r"Input should be greater than or equal to (\S+)": r"at least \1",
    r"Input should be less than or equal to (\S+)": r"at most \1",
}
"""The parser's words for a bad value, and ours."""


def usage_message(error: typer.TyperException, arguments: Sequence[str], verbs: Sequence[str]) -> str:
    """One line: what must hold, the value that was given, and where help is.  Empty if help has been shown."""
    message = error.format_message()
    if not message:
        return ""
    raw = getattr(error, "message", None) or ""
    options: list[str] = list(getattr(getattr(error, "param", None), "opts", ()))
    for words, ours in _LIMITS.items():
        match = re.fullmatch(words, raw)
        given = _given(options, arguments)
        if match is not None and given is not None:
            option, value = given
            message = f"{option} must be {match.expand(ours)}, got {value!r}"
    verb = next((a for a in arguments if a in verbs), None)
    program = f"gradsieve {verb}" if verb else "gradsieve"
    return f"{message.removesuffix('.')} ({program} --help shows what there is)"


def empty_option(arguments: Sequence[str]) -> str | None:
    """The first option that was given an empty value, as an unset variable of a shell gives: none takes one."""
    for n, argument in enumerate(arguments):
        if argument == "" and n > 0 and arguments[n - 1].startswith("-"):
            return arguments[n - 1]
        if argument.startswith("--") and argument.endswith("="):
            return argument[:-1]
    return None


def _given(options: Sequence[str], arguments: Sequence[str]) -> tuple[str, str] | None:
    """The option as it was typed, and its value: `--steps 1.5`, `--steps=1.5` or `-s1.5`."""
    for n, argument in enumerate(arguments):
        for option in options:
            if argument == option and n + 1 < len(arguments):
                return option, arguments[n + 1]
            if argument.startswith(f"{option}=") and option.startswith("--"):
                return option, argument[len(option) + 1 :]
            if not option.startswith("--") and argument.startswith(option) and len(argument) > len(option):
                return option, argument[len(option) :]
    return None
