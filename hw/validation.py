"""What configs and settings share: reading TOML, and one line on what is wrong with it."""

from __future__ import annotations

import reprlib
import tomllib
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

_QUOTED = 80
"""Most characters that a message quotes of a value."""

DEMANDS = {
    "greater_than": "be greater than {gt}",
    "greater_than_equal": "be at least {ge}",
    "less_than": "be less than {lt}",
    "less_than_equal": "be at most {le}",
    "finite_number": "be a finite number",
    "literal_error": "be one of {expected}",
    **dict.fromkeys(("int_type", "int_parsing", "int_parsing_size", "int_from_float"), "be an integer"),
    **dict.fromkeys(("float_type", "float_parsing"), "be a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "be true or false"),
    **dict.fromkeys(("string_type", "string_unicode"), "be a string"),
    "string_pattern_mismatch": "match {pattern}",
    "path_type": "be a path",
    "string_too_short": "have a length of at least {min_length}",
    "too_short": "have at least {min_length} items",
    "too_long": "have at most {max_length} items",
    "tuple_type": "be a list",
    "dict_type": "be a table",
    "model_type": "be a table of {noun}s",
}
"""What a value must do, by pydantic's error types; `_problem` knows some more."""


def toml_values(path: Path, failure: type[Exception]) -> dict[str, Any]:
    """The values of a TOML file, with or without a byte order mark.

    Raises `failure`, naming it, if it is unreadable or no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise failure(f"{path}: cannot be read ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise failure(f"{path}: is not a TOML text ({error})") from None


def explain(error: ValidationError, source: str, model: type[BaseModel]) -> str:
    """One line on what is wrong with each setting of `model`: its name, what it must be, and what was given.

    A validator of ours raises ValueError with a whole sentence that names settings in full, such as `sieve.target`, or
    with one that begins with `must`, to which the place of the value is added.
    """
    return f"{source}: " + "; ".join(problems(error, model))


def problems(error: ValidationError, model: type[BaseModel], noun: str = "setting") -> Iterator[str]:
    """The sentences of `explain`, one after the other; `noun` is what the fields of `model` are called."""
    found: list[dict[str, Any]] = [dict(e) for e in error.errors()]
    for e, following in zip(found, [*found[1:], None], strict=True):
        if e["type"] == "too_short" and len(e["input"]) >= e["ctx"]["min_length"]:
            continue  # only because an item was refused, and so said already
        if _lacks_item(e) and following and _lacks_item(following) and following["loc"][:-1] == e["loc"][:-1]:
            continue  # of the items that a list lacks, the last tells how many there must be
        yield _problem(e, model, noun)


def unknown(name: str, known: Sequence[str], noun: str = "setting") -> str:
    """The message on a setting, dotted, that does not exist; `known` are those of its section."""
    section, dot, last = name.rpartition(".")
    if close := get_close_matches(last, known, n=1):
        return f"unknown {noun} {name!r}; did you mean {section + dot + close[0]!r}?"
    return f"unknown {noun} {name!r}; there are {', '.join(known)}"


def quote(value: Any) -> str:
    """The repr of a value for a message: on one line, shortened."""
    shorten = reprlib.Repr()
    shorten.maxstring = shorten.maxother = _QUOTED
    return shorten.repr(value).replace("\n", " ")


def _plain(limit: Any) -> Any:
    return int(limit) if isinstance(limit, float) and limit.is_integer() else limit


def _lacks_item(e: dict[str, Any]) -> bool:
    return e["type"] == "missing" and isinstance(e["loc"][-1], int)


def _problem(e: dict[str, Any], model: type[BaseModel], noun: str) -> str:
    kind, where, context = e["type"], _place(e["loc"]), e.get("ctx", {})
    if kind == "value_error":
        message = str(context["error"])
        return f"{where} {message}" if message.startswith("must ") else message
    if kind == "extra_forbidden":
        return unknown(where, _fields(model, e["loc"][:-1]), noun)
    if kind == "invalid_key" or e["loc"][-1:] == ("[key]",):
        return f"names of {noun}s must be strings, got {quote(e['input'])}"
    if _lacks_item(e):
        where, demand = _place(e["loc"][:-1]), f"have {e['loc'][-1] + 1} items"
    elif kind == "missing":
        return f"{where} is missing"
    elif context.get("min_length") == 1:
        demand = "not be empty"
    elif kind in DEMANDS:
        demand = DEMANDS[kind].format(noun=noun, **{k: _plain(v) for k, v in context.items()})
    elif e["msg"].startswith("Input should "):
        demand = e["msg"].removeprefix("Input should ")
    else:
        return f"{where}: {e['msg']}; got {quote(e['input'])}"
    if kind == "literal_error":
        demand = demand.replace(" or ", ", ").replace("'", "")
    return f"{where} must {demand}{';' if ',' in demand else ','} got {quote(e['input'])}".lstrip()


def _place(path: tuple[int | str, ...]) -> str:
    """The name of a setting as a user writes it: `sieve.targets[0]`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


def _fields(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """The settings that there are in the section at `path`."""
    for name in (part for part in path if isinstance(part, str)):
        annotation = model.model_fields[name].annotation
        inner = [a for a in (annotation, *getattr(annotation, "__args__", ())) if isinstance(a, type)]
        model = next(a for a in inner if issubclass(a, BaseModel))
    return list(model.model_fields)
