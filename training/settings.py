"""Settings of a training run: a TOML file, validated, every default filled in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from gradsieve.hw.config import MAX_SIZE, PRESETS
from gradsieve.hw.validation import explain, toml_values
from gradsieve.training.errors import SettingsError

MethodName = Literal["dense", "element", "row", "stochastic"]
BackendName = Literal["float", "golden", "simulated"]
Progress = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(gt=0, le=1)]


MAX_THREADS = 1024
"""Of PyTorch, which ends without a word where the system has no more."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class TextSettings(_Section):
    """The text."""

    file: Path | None = None
    """UTF-8 text to train on; by default Python's own documentation."""
    valid: Path | None = None
    """Text to validate on; by default the end of the other."""
    level: Literal["char", "word"] = "char"
    vocabulary: int | None = Field(default=None, ge=1)
    """Most tokens, the most frequent; by default all."""
    valid_share: float = Field(default=0.1, gt=0, lt=1)
    valid_tokens: int | None = Field(default=None, ge=2)
    """Validate on the first tokens of the validation text only; by default on all."""


class ModelSettings(_Section):
    """The language model."""

    hidden: int = Field(default=64, ge=1, le=MAX_SIZE)
    embedding: int | None = Field(default=None, ge=1, le=MAX_SIZE)
    """Size of the embeddings, I; by default H."""
    layers: int = Field(default=1, ge=1)


class LoopSettings(_Section):
    """The training loop: truncated backpropagation through time, the state carried from window to window."""

    steps: int = Field(default=1000, ge=1)
    batch: int = Field(default=16, ge=1, le=MAX_SIZE)
    window: int = Field(default=32, ge=1, le=MAX_SIZE)
    """Time steps of a window, T."""
    seed: int = Field(default=1, ge=0, lt=1 << 63)
    optimizer: Literal["adam", "sgd", "snt-asgd"] = "adam"
    rate: float = Field(default=5e-3, gt=0)
    """Learning rate."""
    decay: Literal["none", "cosine"] = "none"
    """Of the learning rate over the steps."""
    clip: float = Field(default=1.0, gt=0)
    """Largest norm of the gradient."""
    record_every: int = Field(default=50, ge=1)
    evaluate_every: int = Field(default=200, ge=1)
    checkpoint_every: int = Field(default=200, ge=1)
    threads: int = Field(default=1, ge=1, le=MAX_THREADS)
    """Of PyTorch; with 1, a resumed training equals an uninterrupted one bit for bit."""


class SieveSettings(_Section):
    """The gradient sieve and its schedule."""

    method: MethodName = "dense"
    tau: float | None = Field(default=None, ge=0)
    """Fixed threshold, in units of the gradient of the loss summed over the tokens of a window."""
    target: float | None = Field(default=None, gt=0, le=1)
    """Share of the rows to keep (of the elements, with `element`)."""
    targets: tuple[tuple[Progress, Share], ...] = ()
    """The same, moving: pairs of progress (0 to 1) and share, linear in between."""
    warm_up: int = Field(default=0, ge=0)
    """Dense steps at the beginning."""
    dense_every: int = Field(default=0, ge=0)
    """The last of so many steps is dense; 0: none."""
    dense_tail: float = Field(default=0.0, ge=0, le=1)
    """Share of the training, at its end, that is dense."""

    @model_validator(mode="after")
    def _check(self) -> SieveSettings:
        given = [name for name in ("tau", "target", "targets") if getattr(self, name) not in (None, ())]
        if self.method == "dense":
            given += [name for name in ("warm_up", "dense_every", "dense_tail") if getattr(self, name)]
            if given:
                raise ValueError(f"sieve.method must be element, row or stochastic with sieve.{given[0]}, got 'dense'")
        elif len(given) != 1:
            raise ValueError(
                "exactly one of sieve.tau, sieve.target and sieve.targets must be given with sieve.method "
                f"{self.method!r}, got {' and '.join(f'sieve.{name}' for name in given) or 'none'}"
            )
        return self


class DropoutSettings(_Section):
    """Dropout of the embeddings and outputs, and of h: standard, or structured in tiles of R columns."""

    kind: Literal["none", "standard", "structured"] = "none"
    input: float = Field(default=0.0, ge=0, lt=1)
    """Probability for x of every layer."""
    hidden: float = Field(default=0.0, ge=0, lt=1)
    """Probability for h between time steps; structured only."""
    output: float = Field(default=0.0, ge=0, lt=1)
    """Probability for what the decoder reads."""

    @model_validator(mode="after")
    def _check(self) -> DropoutSettings:
        used = [name for name in ("input", "hidden", "output") if getattr(self, name)]
        if self.hidden and self.kind != "structured":
            raise ValueError(f"dropout.kind must be structured with dropout.hidden, got {self.kind!r}")
        if used and self.kind == "none":
            raise ValueError(f"dropout.kind must be standard or structured with dropout.{used[0]}, got 'none'")
        return self


class SparseWeightsSettings(_Section):
    """Dynamic sparse training of the LSTM's weights (Liu et al. 2021)."""

    density: float = Field(gt=0, le=1)
    structure: Literal["block", "unstructured"] = "block"
    """Blocks of one gate row by R columns, or single weights (float backend only)."""
    death_rate: float = Field(default=0.8, gt=0, le=1)
    every: int = Field(default=100, ge=1)
    """Steps between two updates of the masks."""
    distribution: Literal["uniform", "er"] = "uniform"


class SampledMasksSettings(_Section):
    """Masks drawn from learned probabilities (Zhou et al. 2021)."""

    keep: float = Field(gt=0, le=1)
    """Share of the units or blocks kept."""
    granularity: Literal["unit", "block"] = "unit"
    rate: float = Field(default=12e-3, gt=0)
    """Learning rate of the probabilities."""
    freeze: float = Field(default=0.5, ge=0, le=1)
    """Progress from which the most probable masks stay and only the weights learn."""


class BackendSettings(_Section):
    """What computes the LSTM's passes."""

    kind: BackendName = "float"
    """What computes the backward passes."""
    forward: Literal["float", "backend"] = "float"
    """What computes the forward passes, also in evaluation: floats, or the backend's integers (`golden` only)."""
    lanes: int = Field(default=4, ge=0)
    """Lanes of a batch tile, C; 0: the whole batch (float backend only)."""
    columns: int = Field(default=16, ge=1)
    """Columns of a tile, R."""
    dense_where_faster: bool = False
    """Leave passes to PyTorch's dense one where sieving would save no time (float backend, lanes = 0)."""
    preset: str | None = None
    """Engine of `golden` and `simulated`; by default one that fits the model, with these lanes and columns."""
    config: Path | None = None
    """The same, from a file."""

    @model_validator(mode="after")
    def _check(self) -> BackendSettings:
        if self.preset is not None and self.preset not in PRESETS:
            raise ValueError(f"backend.preset must be one of {', '.join(PRESETS)}; got {self.preset!r}")
        values = {"preset": self.preset, "config": self.config}
        given = [f"backend.{name} {str(value)!r}" for name, value in values.items() if value is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are both given: give one of them")
        if given and self.kind == "float":
            raise ValueError(f"backend.kind must be golden or simulated with {given[0]}, got 'float'")
        if self.forward == "backend" and self.kind == "simulated":
            raise ValueError(
                "backend.forward must be 'float' with backend.kind 'simulated' (engines compute backward passes only), "
                "got 'backend'"
            )
        if self.lanes == 0 and self.kind != "float":
            raise ValueError(f"backend.lanes must be at least 1 with backend.kind {self.kind!r}, got 0")
        if self.dense_where_faster and (self.kind != "float" or self.lanes != 0):
            raise ValueError(
                f"backend.kind must be 'float' and backend.lanes 0 with backend.dense_where_faster, "
                f"got {self.kind!r} and {self.lanes}"
            )
        return self


_INDIFFERENT = {
    "name": True,
    "text": {"file", "valid"},
    "training": {"record_every", "evaluate_every", "checkpoint_every"},
    "backend": {"config"},
}
"""Settings that make no other training, or name a file whose content decides."""


class Settings(_Section):
    """One training run."""

    name: str | None = None
    """What reports call it; by default its method."""
    text: TextSettings = TextSettings()
    model: ModelSettings = ModelSettings()
    training: LoopSettings = LoopSettings()
    sieve: SieveSettings = SieveSettings()
    dropout: DropoutSettings = DropoutSettings()
    sparse_weights: SparseWeightsSettings | None = None
    sampled_masks: SampledMasksSettings | None = None
    backend: BackendSettings = BackendSettings()

    @model_validator(mode="after")
    def _check(self) -> Settings:
        if self.sparse_weights is not None and self.sampled_masks is not None:
            raise ValueError("sparse_weights and sampled_masks are both given: the weights can have one mask")
        unstructured = self.sparse_weights is not None and self.sparse_weights.structure == "unstructured"
        if unstructured and self.backend.kind != "float":
            raise ValueError(
                f"sparse_weights.structure must be 'block' with the {self.backend.kind} backend, got 'unstructured'"
            )
        return self

    @property
    def title(self) -> str:
        """The name, or the method in a few words."""
        return self.name or describe(self)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as in the TOML."""
        return self.model_dump(mode="json")

    @property
    def digest(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 of everything that the training depends on but the content of
        files.
        """
        return hashlib.sha256(json.dumps(self.decisive).encode()).hexdigest()[:16]

    @property
    def decisive(self) -> dict[str, Any]:
        """The settings that the training depends on, as plain values: not where its files are."""
        return self.model_dump(mode="json", exclude=_INDIFFERENT)  # type: ignore[arg-type]


def describe(settings: Settings) -> str:
    """The methods of a training in a few words."""
    s, d, parts = settings.sieve, settings.dropout, []
    if s.method != "dense":
        how = f"tau {s.tau:g}" if s.tau is not None else f"{100 * (s.target or s.targets[-1][1]):g} %"
        parts.append(f"{'stochastic row' if s.method == 'stochastic' else s.method} sieve, {how}")
    if d.kind != "none":
        used = [f"{name} {getattr(d, name):g}" for name in ("input", "hidden", "output") if getattr(d, name)]
        parts.append(", ".join([f"{d.kind} dropout", *used]))
    if settings.sparse_weights is not None:
        w = settings.sparse_weights
        parts.append(f"dynamic sparse {'blocks' if w.structure == 'block' else 'weights'}, {100 * w.density:g} %")
    if settings.sampled_masks is not None:
        m = settings.sampled_masks
        parts.append(f"sampled {m.granularity} masks, {100 * m.keep:g} %")
    return "; ".join(parts) or "dense"


def make(data: Mapping[str, Any], source: str = "settings") -> Settings:
    """Settings from plain values.  Raises SettingsError, which names `source` and quotes each bad value."""
    try:
        return Settings.model_validate(dict(data))
    except ValidationError as error:
        raise SettingsError(explain(error, source, Settings)) from None


def load(path: Path) -> Settings:
    """Settings from a TOML file.  Raises SettingsError if it is unreadable, no TOML, or not valid settings."""
    return make(read_toml(path), str(path))


def read_toml(path: Path) -> dict[str, Any]:
    """The values of a TOML file.  Raises SettingsError, naming it."""
    return toml_values(path, SettingsError)


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `over`, section by section."""
    out = dict(base)
    for key, value in over.items():
        inner = out.get(key)
        out[key] = merge(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return out
