"""A study: methods × settings × seeds from one TOML file, each a training run of its own."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from gradsieve.hw.config import ConfigError, load
from gradsieve.hw.validation import explain, quote, unknown
from gradsieve.training.errors import SettingsError
from gradsieve.training.settings import Settings, make, merge, read_toml
from gradsieve.training.text import TextError, text_digest

SECTIONS = tuple(name for name in Settings.model_fields if name != "name")
PATHS = (("text", "file"), ("text", "valid"), ("backend", "config"))
"""Settings that name files, relative to the study's folder."""
SLUG = 60
"""Most characters that a run's name gives to a folder's."""

Seeds = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
Values = Annotated[tuple[Any, ...], Field(min_length=1)]
Spec = TypeVar("Spec", bound=BaseModel)


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    @field_validator("seeds", check_fields=False)
    @classmethod
    def _no_seed_twice(cls, seeds: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if _twice(seeds or ()):
            raise ValueError(f"must be distinct, got {list(seeds or ())}")
        return seeds


class StudySpec(_Spec):
    """The top of the file."""

    baseline: str | None = None
    """The run that others are compared with; by default the first."""
    seeds: Seeds = (1,)
    base: dict[str, Any] = {}
    """Settings that all runs share."""
    run: Annotated[tuple[dict[str, Any], ...], Field(min_length=1)]


class RunSpec(_Spec):
    """What a `[[run]]` has beside the sections of settings."""

    name: str = Field(min_length=1)
    baseline: str | None = None
    seeds: Seeds | None = None
    grid: dict[str, Values] = {}
    """Dotted settings and the values that each takes: every combination is a run."""

    @field_validator("grid", mode="before")
    @classmethod
    def _flat(cls, grid: Any) -> Any:
        # TOML reads a dotted key without quotes as tables within tables.
        return dict(_flattened(grid)) if isinstance(grid, Mapping) else grid


@dataclass(frozen=True)
class Task:
    """One training: a run with one of its seeds."""

    run: str
    settings: Settings
    content: tuple[str, str, str]
    """Digests of text, validation text and engine config: empty where none is given."""

    @property
    def seed(self) -> int:
        """Of the training."""
        return self.settings.training.seed

    @property
    def digest(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 of settings and content: wherever the files are, the same."""
        return hashlib.sha256(" ".join((self.settings.digest, *self.content)).encode()).hexdigest()[:16]

    @property
    def folder(self) -> str:
        """Name of the folder that it fills; other settings, or files of other content, have another one."""
        slug = re.sub(r"[^a-z0-9]+", "-", self.run.lower()).strip("-")[:SLUG].rstrip("-")
        return f"{slug or 'run'}-seed{self.seed}-{self.digest[:8]}"


@dataclass(frozen=True)
class Run:
    """A name, the run that it is compared with, and a training for each seed."""

    name: str
    baseline: str
    tasks: tuple[Task, ...]


@dataclass(frozen=True)
class Study:
    """All runs in the order of the file; `source` names it."""

    source: str
    runs: tuple[Run, ...]

    @property
    def tasks(self) -> list[Task]:
        """Every training, the first seed of all runs before the second of any: half a study compares too."""
        places = range(max(len(run.tasks) for run in self.runs))
        return [run.tasks[k] for k in places for run in self.runs if k < len(run.tasks)]


def read_study(path: Path) -> Study:
    """The study in a TOML file.  Raises SettingsError, which names the file and the run, quotes what is wrong and
    says what it must be.
    """
    return make_study(read_toml(path), path.parent, str(path))


def make_study(data: Mapping[str, Any], folder: Path, source: str) -> Study:
    """A study from plain values: every run expanded and its settings validated.

    Files that settings name are taken relative to `folder`.  Raises SettingsError as `read_study`.
    """
    spec = _validated(StudySpec, data, source)
    if "name" in spec.base:
        raise SettingsError(
            f"{source}: base.name must be left out (each run has its own), got {quote(spec.base['name'])}"
        )
    runs: list[tuple[str, str | None, tuple[Task, ...]]] = []
    for k, values in enumerate(spec.run, start=1):
        runs += _expand(values, spec, folder, _place(source, values.get("name", k)))
    names = [name for name, _, _ in runs]
    if twice := _twice(names):
        raise SettingsError(f"{_place(source, twice[0])}: the name is there twice: give every run its own")
    default = names[0] if spec.baseline is None else spec.baseline
    study = Study(source, tuple(Run(name, baseline or default, tasks) for name, baseline, tasks in runs))
    _check_baseline(default, names, source)
    for run in study.runs:
        _check_baseline(run.baseline, names, _place(source, run.name))
    _check_texts(study)
    if twice := _twice([task.folder for task in study.tasks]):
        same = " and ".join(repr(task.run) for task in study.tasks if task.folder == twice[0])
        raise SettingsError(f"{source}: runs {same} have the same settings and nearly the same name: drop one of them")
    return study


def _validated(model: type[Spec], data: Mapping[str, Any], source: str) -> Spec:
    try:
        return model.model_validate(dict(data))
    except ValidationError as error:
        raise SettingsError(explain(error, source, model)) from None


def _expand(
    values: Mapping[str, Any], study: StudySpec, folder: Path, source: str
) -> Iterator[tuple[str, str | None, tuple[Task, ...]]]:
    """Name, baseline and trainings of each run that a `[[run]]` stands for."""
    known = (*RunSpec.model_fields, *SECTIONS)
    for key in values:
        if key not in known:
            raise SettingsError(f"{source}: {unknown(key, known)}")
    spec = _validated(RunSpec, {k: v for k, v in values.items() if k in RunSpec.model_fields}, source)
    own = merge(study.base, {k: v for k, v in values.items() if k in SECTIONS})
    for key in spec.grid:
        if key.partition(".")[0] not in SECTIONS or not all(key.split(".")[1:]) or "." not in key:
            raise SettingsError(
                f"{source}: grid must name settings of the sections {', '.join(SECTIONS)}, such as 'sieve.target'; "
                f"got {key!r}"
            )
    for choice in product(*spec.grid.values()):
        chosen = dict(zip(spec.grid, choice, strict=True))
        name = ", ".join([spec.name, *(f"{key} {value}" for key, value in chosen.items())])
        data = own
        for key, value in chosen.items():
            data = merge(data, _nested(key, value))
        yield name, spec.baseline, _tasks(data, name, spec.seeds or study.seeds, folder, source)


def _tasks(data: Mapping[str, Any], name: str, seeds: Sequence[int], folder: Path, source: str) -> tuple[Task, ...]:
    loop = data.get("training")
    if isinstance(loop, Mapping) and "seed" in loop:
        raise SettingsError(
            f"{source}: training.seed must be left out (give seeds = [1, 2, 3], say), got {quote(loop['seed'])}"
        )
    for section, key in PATHS:
        inner = data.get(section)
        if isinstance(inner, Mapping) and isinstance(inner.get(key), str):
            # Absolute, as the workers run in folders of their own.
            path = folder.resolve() / inner[key]
            if not path.is_file():
                raise SettingsError(f"{source}: {section}.{key} must be a file, got {inner[key]!r} ({path} is none)")
            data = merge(data, _nested(f"{section}.{key}", str(path)))
    # Without a seed first, so that an error speaks of the settings as they were written.
    make({**data, "name": name}, source)
    seeded = [make(merge(data, {"name": name, "training": {"seed": seed}}), source) for seed in seeds]
    content = _content(seeded[0], source)
    return tuple(Task(name, settings, content) for settings in seeded)


def _content(settings: Settings, source: str) -> tuple[str, str, str]:
    text, engine = settings.text, settings.backend.config
    try:
        return (
            text_digest(text.file),
            "" if text.valid is None else text_digest(text.valid),
            "" if engine is None else load(engine).digest,
        )
    except (ConfigError, TextError) as error:
        raise SettingsError(f"{source}: {error}") from None


def _check_baseline(baseline: str, names: Sequence[str], source: str) -> None:
    if baseline not in names:
        listed = ", ".join(repr(name) for name in names)
        raise SettingsError(f"{source}: baseline must be one of the runs {listed}; got {baseline!r}")


def _check_texts(study: Study) -> None:
    """Losses on different texts say nothing of each other."""
    runs = {run.name: run for run in study.runs}
    for run in study.runs:
        if _text(run.tasks[0]) != _text(runs[run.baseline].tasks[0]):
            raise SettingsError(
                f"{_place(study.source, run.name)}: its text is not that of its baseline {run.baseline!r}: "
                "a run is compared with a baseline on the same text"
            )


def _text(task: Task) -> tuple[Any, ...]:
    return task.settings.decisive["text"], *task.content[:2]


def _flattened(table: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flattened(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def _nested(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def _place(source: str, run: Any) -> str:
    return f"{source}, run {run!r}"


def _twice(values: Sequence[Any]) -> list[Any]:
    return [value for value, n in Counter(values).items() if n > 1]
