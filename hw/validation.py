"""What configs and settings share: reading TOML, and one line on what is wrong with it."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError


def toml_values(path: Path, failure: type[Exception]) -> dict[str, Any]:
    """The values of a TOML file.  Raises `failure`, naming it, if it is unreadable or no TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise failure(f"{path}: cannot be read ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise failure(f"{path}: is not a TOML text ({error})") from None


def explain(error: ValidationError, source: str, model: type[BaseModel]) -> str:
    """One line on what is wrong: each place, the value, and what is accepted."""
    lines = []
    for e in error.errors():
        where = ".".join(str(p) for p in e["loc"])
        message = e["msg"].removeprefix("Value error, ")
        if e["type"] == "extra_forbidden":
            message = f"there is no such setting; there are {', '.join(_fields(model, e['loc'][:-1]))}"
        elif e["type"] == "missing":
            message = "missing: it has no default"
        elif e["type"] != "value_error":
            message = f"{e['input']!r} is not accepted: {message[0].lower()}{message[1:]}"
        lines.append(f"{where}: {message}" if where else message)
    return f"{source}: " + "; ".join(lines)


def _fields(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """The settings that there are in the section at `path`."""
    for name in path:
        annotation = model.model_fields[str(name)].annotation
        inner = [a for a in (annotation, *getattr(annotation, "__args__", ())) if isinstance(a, type)]
        model = next(a for a in inner if issubclass(a, BaseModel))
    return list(model.model_fields)
