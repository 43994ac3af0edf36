"""Seeded random runs for testbenches: odd sizes, every mode, masks of every kind, values from small to saturating."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from gradsieve.golden.backward import row_scores
from gradsieve.golden.quantize import quantize
from gradsieve.golden.types import Inputs, Masks, Sieve, SieveMode, Tape, Weights
from gradsieve.golden.validation import column_tiles
from gradsieve.hw.config import EngineConfig
from gradsieve.hw.formats import FixedPoint

MaskKind = Literal["none", "dense", "sparse", "zero_tiles"]
"""No masks at all; 80 % of the bits set; 20 %; and whole tiles, gate rows and steps without a bit."""

MASK_KINDS: tuple[MaskKind, ...] = ("none", "dense", "sparse", "zero_tiles")


def random_case(
    config: EngineConfig,
    seed: int,
    sizes: tuple[int, int, int, int] | None = None,
    mode: SieveMode | int | None = None,
    masks: MaskKind | None = None,
    extreme: bool | None = None,
) -> tuple[Weights, Tape, Sieve, Masks]:
    """A run that the engine of this config accepts; the same arguments give the same run.

    `sizes` are H, I, B, T; None draws them up to the config's maxima (a large engine wants them given: simulations are
    slow).  `mode` and `masks` None draw one.  `extreme` False draws the values of a trained LSTM; True the whole range
    of each format, up to nothing but its ends, so that about everything saturates; None either.  Raises ValueError for
    sizes over the maxima, an unknown mode or an unknown kind of masks.
    """
    rng, draw, (H, I, B, T), kind = _draw(config, seed, sizes, masks, extreme)
    mode = SieveMode(rng.choice(tuple(SieveMode)) if mode is None else mode)
    weights, tape = _values(config, draw, H, I, B, T)
    bitmaps = _masks(config, draw, kind, H, I, T)
    tau = _tau(config, rng, mode, row_scores(config, weights, tape, bitmaps))
    return weights, tape, Sieve(mode=mode, tau=tau, random=rng.randrange(1, 1 << 32)), bitmaps


def random_forward_case(
    config: EngineConfig,
    seed: int,
    sizes: tuple[int, int, int, int] | None = None,
    masks: MaskKind | None = None,
    extreme: bool | None = None,
) -> tuple[Weights, Inputs, Masks]:
    """A forward run that the engine of this config accepts; arguments and errors are those of `random_case`."""
    rng, draw, (H, I, B, T), kind = _draw(config, seed, sizes, masks, extreme)
    f = config.formats
    sharpness = rng.choice((1.0, 4.0))

    def weight(columns: int) -> Tensor:
        return draw.tensor(f.weight, (4 * H, columns), lambda v: sharpness * v / H**0.5)

    weights = Weights(w_ih=weight(I), w_hh=weight(H), bias=draw.tensor(f.bias, (4 * H,), lambda v: v / 2))
    h0 = draw.tensor(f.input, (B, H), lambda v: torch.tanh(v) / 2) if rng.random() < 0.7 else None
    c0 = draw.tensor(f.cell, (B, H), lambda v: v) if rng.random() < 0.7 else None
    inputs = Inputs(x=draw.tensor(f.input, (T, B, I), lambda v: v), h0=h0, c0=c0)
    return weights, inputs, _masks(config, draw, kind, H, I, T)


def _draw(
    config: EngineConfig,
    seed: int,
    sizes: tuple[int, int, int, int] | None,
    masks: MaskKind | None,
    extreme: bool | None,
) -> tuple[random.Random, _Draw, tuple[int, int, int, int], MaskKind]:
    """What a case begins with: where its random values come from, its sizes, and its kind of masks."""
    rng = random.Random(seed)
    generator = torch.Generator().manual_seed(rng.getrandbits(63))
    H, I, B, T = sizes if sizes is not None else _sizes(config, rng)
    config.check_run(H=H, I=I, B=B, T=T)
    if masks is not None and masks not in MASK_KINDS:
        raise ValueError(f"masks must be one of {', '.join(MASK_KINDS)}; got {masks!r}")
    kind: MaskKind = rng.choice(MASK_KINDS) if masks is None else masks
    if extreme is None:
        extreme = rng.random() < 0.5
    return rng, _Draw(rng, generator, extreme), (H, I, B, T), kind


def _sizes(config: EngineConfig, rng: random.Random) -> tuple[int, int, int, int]:
    def size(top: int, step: int) -> int:
        choice = rng.random()
        if choice < 0.15:
            return 1
        if choice < 0.25:
            return top
        value = rng.randint(1, top)
        # A multiple of the tile is the rare case: draw once more.
        return value if value % step else rng.randint(1, top)

    return (
        size(config.max_H, config.R),
        size(config.max_I, config.R),
        size(config.max_B, config.C),
        size(config.max_T, config.max_T + 1),
    )


class _Draw:
    """Tensors of integers in a format."""

    def __init__(self, rng: random.Random, generator: torch.Generator, extreme: bool) -> None:
        self.rng, self.generator, self.extreme = rng, generator, extreme

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64)

    def bits(self, density: float, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self.generator) < density

    def tensor(self, form: FixedPoint, shape: tuple[int, ...], realistic: Callable[[Tensor], Tensor]) -> Tensor:
        """`realistic` makes real numbers of standard normal ones."""
        usual, _ = quantize(realistic(self.normal(*shape)), form)
        if not self.extreme:
            return usual
        full = torch.randint(form.minimum, form.maximum + 1, shape, generator=self.generator)
        corners = torch.tensor([form.minimum, form.minimum + 1, -1, 0, 1, form.maximum - 1, form.maximum])
        ends = corners[torch.randint(len(corners), shape, generator=self.generator)]
        mixed = torch.where(self.bits(0.5, *shape), usual, torch.where(self.bits(0.5, *shape), full, ends))
        return self.rng.choice((usual, full, ends, mixed))


def _values(config: EngineConfig, draw: _Draw, H: int, I: int, B: int, T: int) -> tuple[Weights, Tape]:
    f = config.formats
    step, state = (T, B, H), (B, H)
    sharpness = draw.rng.choice((1.0, 4.0))
    strength = draw.rng.choice((0.01, 0.1, 0.5))

    def sigmoid() -> Tensor:
        return draw.tensor(f.activation, step, lambda v: torch.sigmoid(sharpness * v))

    def tanh() -> Tensor:
        return draw.tensor(f.activation, step, lambda v: torch.tanh(sharpness * v))

    def gradient(shape: tuple[int, ...]) -> Tensor:
        return draw.tensor(f.gradient, shape, lambda v: strength * v)

    def weight(columns: int) -> Tensor:
        return draw.tensor(f.weight, (4 * H, columns), lambda v: v / H**0.5)

    weights = Weights(w_ih=weight(I), w_hh=weight(H))
    # Some units are shut and some outputs unused, so that rows of zeros occur in every mode.
    open_units = draw.bits(0.8, H).long()
    used = draw.bits(draw.rng.choice((0.5, 1.0)), T, B, 1).long()
    tape = Tape(
        x=draw.tensor(f.input, (T, B, I), lambda v: v),
        h_prev=draw.tensor(f.input, step, lambda v: torch.tanh(v) / 2),
        i=sigmoid() * open_units,
        f=sigmoid(),
        g=tanh(),
        o=sigmoid() * open_units,
        tanh_c=tanh(),
        c_prev=draw.tensor(f.cell, step, lambda v: v),
        dy=gradient(step) * used,
        dh=gradient(state),
        dc=gradient(state),
    )
    return weights, tape


def _masks(config: EngineConfig, draw: _Draw, kind: MaskKind, H: int, I: int, T: int) -> Masks:
    if kind == "none":
        return Masks()
    tiles = sum(column_tiles(config, H, I))
    density = {"dense": 0.8, "sparse": 0.2, "zero_tiles": 0.7}[kind]
    block, column = draw.bits(density, 4 * H, tiles), draw.bits(max(density, 0.5), T, tiles)
    if kind == "zero_tiles":
        block[:, draw.rng.randrange(tiles)] = False
        block[draw.rng.randrange(4 * H)] = False
        column[draw.rng.randrange(T)] = False
    # One of the two bitmaps alone is a case of its own.
    choice = draw.rng.random()
    return Masks(block=None if choice < 0.2 else block, column=None if choice > 0.8 else column)


def _tau(config: EngineConfig, rng: random.Random, mode: SieveMode, scores: Tensor) -> int:
    top = (1 << config.formats.gradient.width) - 1
    ordered = scores[scores > 0].sort().values
    if len(ordered) == 0 or rng.random() < 0.15:
        return rng.choice((0, 1, top))
    # A score itself, or one more, puts the boundary of ">=" to the test.
    tau = int(ordered[rng.randrange(len(ordered))]) + rng.randint(0, 1)
    if mode == SieveMode.STOCHASTIC:
        # Only a tau above the format's maximum can make the shift saturate, and only large rows survive it often.
        if rng.random() < (0.6 if int(ordered[-1]) > top // 4 else 0.1):
            return rng.randint(top // 2 + 1, top)
        tau <<= rng.choice((0, 0, 1, 2, 4))
    return min(tau, top)
