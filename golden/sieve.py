"""The sieve: which rows of the gate gradients survive a step, and what becomes of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from gradsieve.golden.arithmetic import requantize
from gradsieve.golden.types import Sieve, SieveMode
from gradsieve.hw.config import GATES, MAX_SHIFT
from gradsieve.hw.formats import FixedPoint


@dataclass(frozen=True)
class Sieved:
    """dz' (B, 4H), the rows kept (batch_tiles, 4H) bool, the elements kept (batch_tiles, 4), and the saturations."""

    dz: Tensor
    rows: Tensor
    elements: Tensor
    saturations: int


def tile_scores(dz: Tensor, lanes: int) -> Tensor:
    """The score of each row: the largest |dz| of its lanes.  `dz` (B, 4H) int64; returns (batch_tiles, 4H)."""
    return _in_tiles(dz.abs(), lanes).amax(dim=1)


def visiting_order(words: Tensor, units: int) -> Tensor:
    """Random words (..., 4H) in the order of their use (unit ascending, gates within) to the order of the gate rows."""
    return words.unflatten(-1, (units, len(GATES))).transpose(-1, -2).flatten(-2)


def sift(dz: Tensor, sieve: Sieve, lanes: int, gradient: FixedPoint, words: Tensor | None = None) -> Sieved:
    """Sieve one step.

    `dz` (B, 4H) int64 in the gradient format; `words` (batch_tiles, 4H), needed in stochastic mode only, are the random
    words by gate row (see `visiting_order`).  Raises ValueError if they are missing then.
    """
    score = tile_scores(dz, lanes)
    saturations = 0
    if sieve.mode == SieveMode.DENSE:
        rows = torch.ones_like(score, dtype=torch.bool)
    elif sieve.mode == SieveMode.ELEMENT:
        dz = torch.where(dz.abs() < sieve.tau, 0, dz)
        rows = tile_scores(dz, lanes) > 0
    elif sieve.mode == SieveMode.ROW:
        rows = (score >= sieve.tau) & (score > 0)
    else:
        assert sieve.mode == SieveMode.STOCHASTIC
        if words is None:
            raise ValueError("words must be given in stochastic mode (a random word for each row), got None")
        shift = sum((score << n < sieve.tau).long() for n in range(MAX_SHIFT + 1))
        assert isinstance(shift, Tensor)
        rows = (score > 0) & (shift <= MAX_SHIFT) & (words & ((1 << shift) - 1) == 0)
        # Dropped rows must not count as saturated, so they are not shifted at all.
        shifted = dz << _by_lane(torch.where(rows, shift, 0), lanes, len(dz))
        dz, saturations = requantize(shifted, gradient.fraction, gradient)
    dz = torch.where(_by_lane(rows, lanes, len(dz)), dz, 0)
    nonzero = _in_tiles((dz != 0).long(), lanes).sum(dim=1)
    elements = nonzero.unflatten(-1, (len(GATES), -1)).sum(dim=-1)
    return Sieved(dz=dz, rows=rows, elements=elements, saturations=saturations)


def _in_tiles(values: Tensor, lanes: int) -> Tensor:
    """(B, 4H) to (batch_tiles, C, 4H); the zeros added change neither a largest magnitude nor a count."""
    return pad(values, (0, 0, 0, -len(values) % lanes)).unflatten(0, (-1, lanes))


def _by_lane(values: Tensor, lanes: int, batch: int) -> Tensor:
    return values.repeat_interleave(lanes, dim=0)[:batch]
