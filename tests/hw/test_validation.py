"""What is wrong with a config, settings, a study or a result is told in one line, whatever it is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import pytest
import torch
from pydantic import BaseModel, ConfigDict, HttpUrl, ValidationError

from gradsieve.hw.config import EngineConfig
from gradsieve.hw.validation import explain, problems, quote, unknown
from gradsieve.training.history import Result
from gradsieve.training.settings import Settings
from gradsieve.training.studies.study import RunSpec, StudySpec

MODELS = (EngineConfig, Settings, StudySpec, RunSpec, Result)
NAME = "^[a-z][a-z0-9]*(_[a-z0-9]+)*$"
SIZES = {"R": 2, "C": 2, "max_H": 8, "max_I": 8, "max_B": 6, "max_T": 6}
RESULT = {"name": "x", "settings": {}, "records": [], "measured": True, "parameters": 1}

CASES: list[tuple[str, type[BaseModel], Any, str]] = [
    ("greater_than_equal", EngineConfig, SIZES | {"R": 0}, "R must be at least 1, got 0"),
    ("less_than_equal", EngineConfig, SIZES | {"C": 65}, "C must be at most 64, got 65"),
    ("greater_than", Settings, {"training": {"rate": 0.0}}, "training.rate must be greater than 0, got 0.0"),
    ("less_than", Settings, {"text": {"valid_share": 1}}, "text.valid_share must be less than 1, got 1"),
    ("less_than_equal", Settings, {"sieve": {"dense_tail": 1.5}}, "sieve.dense_tail must be at most 1, got 1.5"),
    ("finite_number", Settings, {"training": {"clip": float("nan")}}, "training.clip must be a finite number, got nan"),
    (
        "literal_error",
        Settings,
        {"backend": {"kind": "gpu"}},
        "backend.kind must be one of float, golden, simulated; got 'gpu'",
    ),
    (
        "literal_error",
        EngineConfig,
        SIZES | {"gate_rows_per_cycle": 3},
        "gate_rows_per_cycle must be one of 1, 2, 4; got 3",
    ),
    ("int_type", EngineConfig, SIZES | {"R": "2"}, "R must be an integer, got '2'"),
    ("int_type", EngineConfig, SIZES | {"R": True}, "R must be an integer, got True"),
    ("int_parsing", Settings, {"model": {"hidden": "many"}}, "model.hidden must be an integer, got 'many'"),
    ("int_from_float", Settings, {"model": {"layers": 1.5}}, "model.layers must be an integer, got 1.5"),
    ("int_parsing_size", Settings, {"model": {"layers": "1" * 5000}}, "model.layers must be an integer, got '1111"),
    ("float_type", Settings, {"sieve": {"tau": []}}, "sieve.tau must be a number, got []"),
    ("float_parsing", Settings, {"sieve": {"tau": "low"}}, "sieve.tau must be a number, got 'low'"),
    ("bool_type", Result, RESULT | {"finished": []}, "finished must be true or false, got []"),
    ("bool_parsing", Result, RESULT | {"finished": "yess"}, "finished must be true or false, got 'yess'"),
    ("string_type", Settings, {"name": 3}, "name must be a string, got 3"),
    ("string_unicode", Settings, {"name": b"\xff"}, "name must be a string, got b'\\xff'"),
    ("string_too_short", RunSpec, {"name": ""}, "name must not be empty, got ''"),
    (
        "string_pattern_mismatch",
        EngineConfig,
        SIZES | {"name": "A"},
        "name must match ^[a-z][a-z0-9]*(_[a-z0-9]+)*$, got 'A'",
    ),
    ("path_type", Settings, {"text": {"file": 3}}, "text.file must be a path, got 3"),
    ("tuple_type", StudySpec, {"run": [{}], "seeds": 3}, "seeds must be a list, got 3"),
    ("too_short", StudySpec, {"run": []}, "run must not be empty, got []"),
    (
        "too_long",
        Settings,
        {"sieve": {"targets": [[0, 1, 1]]}},
        "sieve.targets[0] must have at most 2 items, got [0, 1",
    ),
    ("missing", Settings, {"sieve": {"targets": [[0, 1], []]}}, "sieve.targets[1] must have 2 items, got []"),
    ("missing", Settings, {"sparse_weights": {}}, "sparse_weights.density is missing"),
    ("dict_type", RunSpec, {"name": "x", "grid": 3}, "grid must be a table, got 3"),
    ("model_type", Settings, {"sieve": "row"}, "sieve must be a table of settings, got 'row'"),
    ("model_type", Settings, 3, "must be a table of settings, got 3"),
    ("invalid_key", Settings, {1: 2}, "names of settings must be strings, got 1"),
    ("string_type", StudySpec, {"run": [{}], "base": {1: 2}}, "names of settings must be strings, got 1"),
    ("extra_forbidden", Settings, {"traning": {}}, "unknown setting 'traning'; did you mean 'training'?"),
    (
        "extra_forbidden",
        EngineConfig,
        SIZES | {"formats": {"weights": "16.13"}},
        "unknown setting 'formats.weights'; did you mean 'formats.weight'?",
    ),
    (
        "extra_forbidden",
        Settings,
        {"model": {"x": 1}},
        "unknown setting 'model.x'; there are hidden, embedding, layers",
    ),
    ("value_error", RunSpec, {"name": "x", "seeds": [1, 1]}, "seeds must be distinct, got [1, 1]"),
    (
        "value_error",
        EngineConfig,
        SIZES | {"formats": {"cell": 16.11}},
        "formats.cell must be a string 'width.fraction', such as '16.13'; got 16.11",
    ),
    (
        "value_error",
        Settings,
        {"backend": {"kind": "golden", "lanes": 0}},
        "backend.lanes must be at least 1 with backend.kind 'golden', got 0",
    ),
]
"""Error type, model, data, the problem as it is told."""


def refused(model: type[BaseModel], data: Any) -> ValidationError:
    """The error of the data, which a result takes as JSON, as it is read."""
    with pytest.raises(ValidationError) as error:
        model.model_validate_json(json.dumps(data)) if model is Result else model.model_validate(data)
    return error.value


@pytest.mark.parametrize(("kind", "model", "data", "message"), CASES)
def test_every_error_in_one_line(kind: str, model: type[BaseModel], data: Any, message: str) -> None:
    error = refused(model, data)
    assert {e["type"] for e in error.errors()} == {kind}
    told = explain(error, "some.toml", model)
    assert told.startswith(f"some.toml: {message}")
    assert "\n" not in told and len(told) < 200


@dataclass
class Schema:
    """What pydantic's schemas of some models can refuse, and for which models."""

    strict: bool = False
    models: set[type] = field(default_factory=set)

    LEAVES = {
        "any": (),
        "int": ("int_type", "int_parsing", "int_parsing_size", "int_from_float", "finite_number"),
        "float": ("float_type", "float_parsing", "finite_number"),
        "bool": ("bool_type", "bool_parsing"),
        "str": ("string_type", "string_unicode"),
        "literal": ("literal_error",),
        "is-instance": ("is_instance_of",),
    }
    CONSTRAINTS = {
        "gt": "greater_than",
        "ge": "greater_than_equal",
        "lt": "less_than",
        "le": "less_than_equal",
        "pattern": "string_pattern_mismatch",
    }
    PLAIN = {"type", "metadata", "strict", "expected", "cls", "serialization", "ref"}

    def errors(self, node: dict[str, Any]) -> Iterator[str]:
        """The error types of a schema; KeyError and AssertionError for one that this test does not know."""
        kind = node["type"]
        if kind in self.LEAVES:
            yield from self.LEAVES[kind]
            for constraint in node.keys() - self.PLAIN:
                length = {"min_length": "string_too_short", "max_length": "string_too_long"} if kind == "str" else {}
                yield (self.CONSTRAINTS | length)[constraint]
            return
        yield from getattr(self, "_" + kind.replace("-", "_"))(node)

    def _within(self, node: dict[str, Any]) -> Iterator[str]:
        yield from self.errors(node["schema"])

    _default = _nullable = _model_field = _within

    def _definitions(self, node: dict[str, Any]) -> Iterator[str]:
        for each in (node["schema"], *node["definitions"]):
            yield from self.errors(each)

    def _definition_ref(self, node: dict[str, Any]) -> Iterator[str]:
        yield from ()

    def _function(self, node: dict[str, Any]) -> Iterator[str]:
        yield "value_error"
        yield from self.errors(node["schema"])

    _function_before = _function_after = _function

    def _model(self, node: dict[str, Any]) -> Iterator[str]:
        self.models.add(node["cls"])
        self.strict = node["config"].get("strict", False)
        yield "model_type"
        if node["config"].get("extra_fields_behavior") == "forbid":
            yield from ("extra_forbidden", "invalid_key")
        yield from self.errors(node["schema"])

    def _model_fields(self, node: dict[str, Any]) -> Iterator[str]:
        for each in node["fields"].values():
            if each["schema"]["type"] != "default":
                yield "missing"
            yield from self.errors(each)

    def _tuple(self, node: dict[str, Any]) -> Iterator[str]:
        yield "tuple_type"
        if "variadic_item_index" not in node:
            yield from ("missing", "too_long")
        yield from (name for key, name in (("min_length", "too_short"), ("max_length", "too_long")) if key in node)
        for each in node["items_schema"]:
            yield from self.errors(each)

    def _dict(self, node: dict[str, Any]) -> Iterator[str]:
        assert node.keys() <= {"keys_schema", "values_schema", *self.PLAIN}
        yield "dict_type"
        yield from self.errors(node["keys_schema"])
        yield from self.errors(node["values_schema"])

    def _lax_or_strict(self, node: dict[str, Any]) -> Iterator[str]:
        yield from self.errors(node["strict_schema" if self.strict else "lax_schema"])

    def _json_or_python(self, node: dict[str, Any]) -> Iterator[str]:
        yield from self.errors(node["json_schema"])
        yield from self.errors(node["python_schema"])

    def _union(self, node: dict[str, Any]) -> Iterator[str]:
        yield node["custom_error_type"]


def subclasses(model: type) -> Iterator[type]:
    for each in model.__subclasses__():
        yield each
        yield from subclasses(each)


def test_every_error_that_the_models_can_have_is_a_case() -> None:
    schema = Schema()
    possible = {kind for model in MODELS for kind in schema.errors(model.__pydantic_core_schema__)}  # type: ignore[arg-type]
    assert {kind for kind, *_ in CASES} == possible
    ours = {
        c for c in subclasses(BaseModel) if c.__module__.startswith("gradsieve.") and not c.__name__.startswith("_")
    }
    assert ours == schema.models


class Odd(BaseModel):
    """A type that no setting has."""

    model_config = ConfigDict(extra="forbid")

    day: date | None = None
    page: HttpUrl | None = None
    part: float = 0.0


def test_any_other_error_is_told_in_pydantics_words() -> None:
    error = refused(Odd, {"day": [], "page": 3})
    assert explain(error, "x", Odd) == (
        "x: day must be a valid date, got []; page: URL input should be a string or URL; got 3"
    )


def test_all_problems_are_told() -> None:
    error = refused(Settings, {"model": {"hidden": 0, "layer": 1}, "sieve": {"targets": [[], [0]]}})
    assert explain(error, "my.toml", Settings) == (
        "my.toml: model.hidden must be at least 1, got 0; "
        "unknown setting 'model.layer'; did you mean 'model.layers'?; "
        "sieve.targets[0] must have 2 items, got []; sieve.targets[1] must have 2 items, got [0]"
    )
    bad_item = refused(StudySpec, {"run": [3]})
    assert explain(bad_item, "s", StudySpec) == "s: run[0] must be a table, got 3"  # not: run must not be empty


def test_fields_of_what_is_no_settings() -> None:
    error = refused(Odd, {"prat": 1})
    assert list(problems(error, Odd, "field")) == ["unknown field 'prat'; did you mean 'part'?"]
    record = {"records": [{"steps": 1}]}
    assert "unknown field 'records[0].steps'; did you mean 'records[0].step'?" in [
        *problems(refused(Result, RESULT | record), Result, "field")
    ]
    assert unknown("x", ["alpha", "beta"]) == "unknown setting 'x'; there are alpha, beta"


def test_quotes_are_short_and_on_one_line() -> None:
    assert quote("a\nb") == r"'a\nb'"
    assert quote(torch.eye(2)) == "tensor([[1., 0.],         [0., 1.]])"
    assert len(quote("x" * 500)) <= 80 and len(quote(list(range(500)))) <= 80
