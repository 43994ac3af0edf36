"""Sieves, backends and masks as plain values, so that a saved module loads without a list of their classes."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from gradsieve.hw.config import EngineConfig
from gradsieve.training.backends import FloatBackend, GoldenBackend
from gradsieve.training.methods.masks import WeightMasks
from gradsieve.training.methods.sieves import METHODS
from gradsieve.training.methods.structured_dropout import StructuredDropout

_KIND = "gradsieve"
"""The key that marks a plain value; after it comes the name of what it was."""


def to_plain(value: Any) -> Any:
    """A dict of plain values and tensors for what this project defines; anything else stays as it is."""
    kind = type(value)
    for name, method in METHODS.items():
        if kind is method:
            return {_KIND: "sieve", "method": name, "tau": value.tau, "target": value.target}
    if kind is StructuredDropout:
        return {_KIND: "structured dropout", **asdict(value)}
    if kind is WeightMasks:
        return {_KIND: "weight masks", "columns": value.columns, "masks": dict(value.masks)}
    if kind is FloatBackend:
        options = {"lanes": value.lanes, "columns": value.columns, "dense_where_faster": value.dense_where_faster}
        return {_KIND: "float", **options}
    if kind is GoldenBackend:
        config = None if value.config is None else value.config.model_dump(mode="json")
        return {_KIND: "golden", "config": config, "lanes": value.lanes, "columns": value.columns}
    return value


def from_plain(value: Any) -> Any:
    """What `to_plain` was given."""
    if not isinstance(value, dict) or _KIND not in value:
        return value
    kind, options = value[_KIND], {name: v for name, v in value.items() if name != _KIND}
    if kind == "sieve":
        return METHODS[options["method"]](tau=options["tau"], target=options["target"])
    if kind == "golden" and options["config"] is not None:
        return GoldenBackend(EngineConfig.model_validate(options["config"], strict=False))
    if kind == "golden":
        return GoldenBackend(lanes=options["lanes"], columns=options["columns"])
    makers: dict[str, Any] = {
        "structured dropout": StructuredDropout,
        "weight masks": WeightMasks,
        "float": FloatBackend,
    }
    return makers[kind](**options)
