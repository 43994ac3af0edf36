"""One immutable, validated description of an engine, its derived sizes, and the named presets."""

from __future__ import annotations

import hashlib
from enum import IntEnum
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from gradsieve.hw.formats import Formats
from gradsieve.hw.validation import explain, toml_values

GATES = ("i", "f", "g", "o")
"""The gates in the order of `torch.nn.LSTM`; gate row k = gate * H + unit."""

BITMAP_WORD = 64
"""Bits of a bitmap word: at 2 % of rows kept a word still holds more than one index on average."""

RANDOM_WIDTH = 32
"""Bits of the stochastic sieve's random words."""

RANDOM_SEED = 0x9E3779B9
"""State of the stochastic sieve's xorshift32 source after a reset: 2^32 over the golden ratio, and not zero."""

MAX_SHIFT = 15
"""Largest n of the stochastic sieve: a row that would need more is dropped."""


MAX_SIZE = 4096
"""Largest H, I, B and T that an engine can be built for."""


class SieveMode(IntEnum):
    """How the sieve decides which gate gradients survive (docs/arithmetic.md); the values are those of MODE.sieve."""

    DENSE = 0
    ELEMENT = 1
    ROW = 2
    STOCHASTIC = 3


class ConfigError(ValueError):
    """A configuration that no engine can be built from; the message quotes what is wrong."""


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def _pow2(n: int) -> int:
    return 1 << (n - 1).bit_length()


class EngineConfig(BaseModel):
    """What an engine is built for: the array, the largest run, the formats and the rates."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str = Field(default="custom", pattern=r"^[a-z][a-z0-9]*(_[a-z0-9]+)*$")
    """Names the generated top module and its files: lower-case words and digits, joined by single underscores.  Modules
    below the top have names with two, so that no two engines of one design share a module.
    """
    R: int = Field(ge=1, le=64)
    """Columns of the weight matrix that the array works on at once (its rows of processing elements)."""
    C: int = Field(ge=1, le=64)
    """Batch lanes: the width of a batch tile, and so of the rows that the sieve scores."""
    max_H: int = Field(ge=1, le=MAX_SIZE)
    """Largest hidden size of a run."""
    max_I: int = Field(ge=1, le=MAX_SIZE)
    """Largest input size of a run."""
    max_B: int = Field(ge=1, le=MAX_SIZE)
    """Largest batch of a run."""
    max_T: int = Field(ge=1, le=MAX_SIZE)
    """Most time steps of a run."""
    formats: Formats = Formats()
    gate_rows_per_cycle: Literal[1, 2, 4] = 1
    """Rate of the gate gradient unit."""
    stream_width: Literal[32, 64, 128, 256, 512] = 64
    """Data bits of both AXI4-Streams."""

    @model_validator(mode="after")
    def _check(self) -> EngineConfig:
        f = self.formats
        largest = self.max_B * self.max_T << (f.input.width - 1 + f.gradient.width - 1)
        if f.weight_grad_width < (least := largest.bit_length() + 1):
            raise ValueError(
                f"formats.weight_grad_width must be at least {least} with max_B = {self.max_B} and "
                f"max_T = {self.max_T}, got {f.weight_grad_width}"
            )
        return self

    @cached_property
    def gate_rows(self) -> int:
        """4H at the largest H."""
        return 4 * self.max_H

    @cached_property
    def x_tiles(self) -> int:
        """Column tiles of x at the largest I."""
        return _ceil_div(self.max_I, self.R)

    @cached_property
    def h_tiles(self) -> int:
        """Column tiles of h at the largest H; columns of x and h are padded apart."""
        return _ceil_div(self.max_H, self.R)

    @cached_property
    def tiles(self) -> int:
        """Column tiles in all."""
        return self.x_tiles + self.h_tiles

    @cached_property
    def batch_tiles(self) -> int:
        """Tiles of C lanes at the largest B."""
        return _ceil_div(self.max_B, self.C)

    @cached_property
    def bitmap_words(self) -> int:
        """Words of BITMAP_WORD bits in the bitmap of one tile's gate rows."""
        return _ceil_div(self.gate_rows, BITMAP_WORD)

    @cached_property
    def error_sum_width(self) -> int:
        """Signed bits that hold every possible sum of dx and dh_rec."""
        f = self.formats
        return (self.gate_rows << (f.weight.width - 1 + f.gradient.width - 1)).bit_length() + 1

    @cached_property
    def accumulator_width(self) -> int:
        """Signed bits of a processing element's accumulator, which serves both dataflows."""
        return max(self.error_sum_width, self.formats.weight_grad_width)

    @cached_property
    def max_terms(self) -> int:
        """Most products that may be added into one element of dW: none of them can overflow it."""
        f = self.formats
        return ((1 << (f.weight_grad_width - 1)) - 1) >> (f.input.width - 1 + f.gradient.width - 1)

    @cached_property
    def lane_slots(self) -> int:
        """Elements of a C-lane vector in a stream: C rounded up to a power of two."""
        return _pow2(self.C)

    @cached_property
    def column_slots(self) -> int:
        """Elements of an R-column vector in a stream: R rounded up to a power of two."""
        return _pow2(self.R)

    @cached_property
    def weight_words(self) -> int:
        """R-wide words of the weight store, and of the weight gradient store."""
        return self.gate_rows * self.tiles

    @cached_property
    def memory_bits(self) -> dict[str, int]:
        """Bits of each memory of the engine."""
        f = self.formats
        state = self.batch_tiles * self.max_H * self.C * f.gradient.width
        return {
            "weight_store": self.weight_words * self.R * f.weight.width,
            "weight_gradient_store": self.weight_words * self.R * f.weight_grad_width,
            "bias_gradient_store": self.gate_rows * f.weight_grad_width,
            "gate_gradient_store": 2 * self.gate_rows * self.C * f.gradient.width,
            "input_store": 2 * (self.max_I + self.max_H) * self.C * f.input.width,
            "hidden_gradient_store": state,
            "cell_gradient_store": state,
            "row_bitmaps": 2 * self.bitmap_words * BITMAP_WORD,
            "block_bitmaps": self.tiles * self.bitmap_words * BITMAP_WORD,
            "column_bitmaps": self.max_T * self.tiles,
        }

    @cached_property
    def gate_multipliers(self) -> int:
        """Multipliers of the gate gradient unit: 16 products a hidden unit and lane, 4 / rate cycles a unit."""
        return 4 * self.gate_rows_per_cycle * self.C

    @cached_property
    def multipliers(self) -> int:
        """Multipliers of the whole engine."""
        return self.R * self.C + self.gate_multipliers

    @cached_property
    def peak_macs(self) -> int:
        """Multiply-accumulates a cycle when the array is busy."""
        return self.R * self.C

    @cached_property
    def digest(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 of everything but the name.

        Formats of the forward pass count where they are not the default ones: engines from before are as they were.
        """
        unchanged = {n for n in ("preactivation", "bias") if getattr(self.formats, n) == getattr(Formats(), n)}
        text = self.model_dump_json(exclude={"name": True, "formats": unchanged})
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def check_run(self, H: int, I: int, B: int, T: int) -> None:
        """Raise ConfigError, naming every size that this engine cannot run."""
        sizes = {"H": (H, self.max_H), "I": (I, self.max_I), "B": (B, self.max_B), "T": (T, self.max_T)}
        bad = [f"{k} must be from 1 to {top}, got {v}" for k, (v, top) in sizes.items() if not 1 <= v <= top]
        if bad:
            raise ConfigError(f"engine {self.name!r}: " + "; ".join(bad))

    def to_toml(self) -> str:
        """The config as a TOML text that `load` reads back to an equal config."""
        data = self.model_dump(mode="json")
        formats = data.pop("formats")
        lines = [f"{k} = {_toml(v)}" for k, v in data.items()]
        lines += ["", "[formats]"] + [f"{k} = {_toml(v)}" for k, v in formats.items()]
        return "\n".join(lines) + "\n"


def _toml(value: str | int) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


def make(source: str = "config", /, **settings: Any) -> EngineConfig:
    """An engine of these settings.  Raises ConfigError, which names `source` and quotes each bad value."""
    try:
        return EngineConfig(**settings)
    except ValidationError as error:
        raise ConfigError(explain(error, source, EngineConfig)) from None


def load(path: str | Path) -> EngineConfig:
    """Read a config from a TOML file.  Raises ConfigError if it is unreadable, no TOML, or not a valid config."""
    return make(str(path), **toml_values(Path(path), ConfigError))


PRESETS: dict[str, EngineConfig] = {
    c.name: c
    for c in (
        EngineConfig(name="tiny", R=2, C=2, max_H=8, max_I=8, max_B=6, max_T=6, stream_width=32),
        EngineConfig(name="edge", R=16, C=1, max_H=64, max_I=64, max_B=1, max_T=32),
        EngineConfig(name="default", R=16, C=4, max_H=64, max_I=64, max_B=16, max_T=64),
        EngineConfig(name="ptb", R=16, C=4, max_H=200, max_I=200, max_B=20, max_T=35, stream_width=128),
    )
}
"""`tiny` for tests, `edge` for batch 1, `default` for a mid-size FPGA, `ptb` for a word-level language model."""


def preset(name: str) -> EngineConfig:
    """The preset of that name.  Raises ConfigError, which lists them, if there is none."""
    if name not in PRESETS:
        raise ConfigError(f"preset must be one of {', '.join(PRESETS)}; got {name!r}")
    return PRESETS[name]
