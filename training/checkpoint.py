"""Checkpoints of a training: whole files, refused in plain words where they do not fit."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import torch

from gradsieve.training.errors import TrainingError


def difference(old: dict[str, Any], new: dict[str, Any], path: str = "") -> str:
    """The first setting in which two configurations differ, and how; empty if none does."""
    for key in sorted(old.keys() | new.keys()):
        a, b = old.get(key), new.get(key)
        where = f"{path}{key}"
        if a == b:
            continue
        if isinstance(a, dict) and isinstance(b, dict):
            inner = difference(a, b, f"{where}.")
            if inner:
                return inner
            continue
        return f"{where} was {a!r} and is {b!r}"
    return ""


def save_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Write a checkpoint, whole or not at all.  Raises TrainingError if that fails."""
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            try:
                torch.save(state, file)
                file.close()
                os.replace(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise
    except OSError as error:
        raise TrainingError(f"{path}: cannot be written ({error.strerror})") from None


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint.  Raises TrainingError, naming it, if it cannot be read or is none."""
    try:
        saved = torch.load(path, weights_only=True)
    except OSError as error:
        raise TrainingError(f"{path}: cannot be read ({error.strerror})") from None
    except Exception as error:
        raise TrainingError(f"{path}: is no checkpoint, or a damaged one ({type(error).__name__})") from None
    if not (isinstance(saved, dict) and {"settings", "text", "engine"} <= saved.keys()):
        raise TrainingError(f"{path}: is no checkpoint of a training, or one of an older version of gradsieve")
    return saved
