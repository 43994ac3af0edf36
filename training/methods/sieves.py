"""Gradient sieves: which gate gradients of a backward pass survive, and how the threshold is steered.

The rules are the engine's (docs/arithmetic.md), stated on real numbers: a row is one gate row over the C lanes of a
batch tile, its score the largest |dz| of its lanes.  `golden/sieve.py` states them on integers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from gradsieve.golden.types import SieveMode
from gradsieve.hw.config import MAX_SHIFT

LARGEST_GAIN = 2.0**MAX_SHIFT
"""A row that would need more is dropped."""


class SieveError(ValueError):
    """A sieve that makes no sense; the message quotes the offending value and says what it must be."""


@dataclass(frozen=True, repr=False)
class GradientSieve:
    """A method and its settings: a fixed threshold `tau`, or a `target` share that the threshold is steered to.

    `tau` is in units of the gradients that reach the layer.  `target` is the share of gate rows to keep (of elements,
    in `ElementSieve`): before the first pass a dense one measures the gradients, and after each pass the
    threshold moves towards the target; after one that kept nothing it is measured again.  Raises SieveError unless just
    one of them is given, in its range.
    """

    mode: ClassVar[SieveMode]
    source: ClassVar[str]
    of_elements: ClassVar[bool] = False

    tau: float | None = None
    target: float | None = None

    def __post_init__(self) -> None:
        if (self.tau is None) == (self.target is None):
            raise SieveError(
                f"exactly one of tau and target must be given, got tau = {self.tau!r} and target = {self.target!r}"
            )
        if self.tau is not None and not (math.isfinite(self.tau) and self.tau >= 0):
            raise SieveError(f"tau must be a finite number of at least 0, got {self.tau!r}")
        if self.target is not None and not 0 < self.target <= 1:
            raise SieveError(f"target must be greater than 0 and at most 1, got {self.target!r}")

    @property
    def dense(self) -> bool:
        """Whether everything is kept, whatever the gradients are."""
        return self.mode == SieveMode.DENSE

    def __repr__(self) -> str:
        given = [
            f"{name}={value!r}" for name, value in (("tau", self.tau), ("target", self.target)) if value is not None
        ]
        return f"{type(self).__name__}({', '.join(given)})"

    def with_target(self, target: float) -> GradientSieve:
        """The same method steered to another share."""
        return replace(self, tau=None, target=target)


@dataclass(frozen=True, repr=False)
class DenseSieve(GradientSieve):
    """No sieve: every gate gradient is used."""

    mode = SieveMode.DENSE
    source = "plain backpropagation through time"

    def __post_init__(self) -> None:
        if self.tau is not None or self.target is not None:
            raise SieveError(f"tau and target must be None for a dense pass, got {self.tau!r} and {self.target!r}")

    def with_target(self, target: float) -> GradientSieve:
        """A dense pass has no target."""
        return self


@dataclass(frozen=True, repr=False)
class ElementSieve(GradientSieve):
    """Elements with |dz| < tau become zero.

    Zhu et al. 2016 ("a simple thresholding technique" on the gradients of the linear gates); their threshold is not
    known, so a fixed and a steered one are offered.  A row is skipped where no element is left.
    """

    mode = SieveMode.ELEMENT
    source = "Zhu et al. 2016, sparsified gate gradients"
    of_elements = True


@dataclass(frozen=True, repr=False)
class RowSieve(GradientSieve):
    """Whole gate rows of a batch tile are dropped if none of their lanes reaches tau.

    After Zhu et al. 2018 (structured sparsity in the gate gradients, mixed with dense training, for which see
    `gradsieve.training.methods.schedules`); the paper's structure and score are not known: the row, and its largest
    magnitude, are ours.
    """

    mode = SieveMode.ROW
    source = "after Zhu et al. 2018, structurally sparsified gate gradients"


@dataclass(frozen=True, repr=False)
class StochasticSieve(GradientSieve):
    """A row below tau survives with probability 2^-n and is scaled by 2^n, n = least n >= 0 with score * 2^n >= tau.

    Ours.  The expectation of every element is its value, so the gradient has no bias from the sieve of one step; rows
    that would need n > 15 are dropped.
    """

    mode = SieveMode.STOCHASTIC
    source = "this project's unbiased stochastic row sieve"


METHODS: dict[str, type[GradientSieve]] = {
    "dense": DenseSieve,
    "element": ElementSieve,
    "row": RowSieve,
    "stochastic": StochasticSieve,
}
"""The sieves by the names of the engine's modes."""


def in_tiles(values: Tensor, lanes: int) -> Tensor:
    """(B, n) to (batch_tiles, lanes, n), padded with zeros."""
    missing = -len(values) % lanes
    return (pad(values, (0, 0, 0, missing)) if missing else values).unflatten(0, (-1, lanes))


def by_lane(values: Tensor, lanes: int, batch: int) -> Tensor:
    """(batch_tiles, n) to (B, n): a value of the tile for each of its lanes."""
    return values.repeat_interleave(lanes, dim=0)[:batch] if lanes > 1 else values


def row_scores(magnitudes: Tensor, lanes: int) -> Tensor:
    """|dz| (B, 4H) to the scores (batch_tiles, 4H)."""
    return magnitudes.amax(dim=0, keepdim=True) if lanes >= len(magnitudes) else in_tiles(magnitudes, lanes).amax(dim=1)


def gains(score: Tensor, tau: float) -> Tensor:
    """2^n of each score for the least n >= 0 with score * 2^n >= tau, as floats; infinite for 0, NaN for NaN."""
    # A tensor, as PyTorch divides a number by way of 1 / score, which is infinite for subnormal scores.
    gain = torch.log2(score.new_tensor(tau) / score).ceil_().clamp_(min=0).exp2_()
    # The logarithm may be off by an ulp just where n steps: hold it against the definition.
    gain = torch.where(score * gain < tau, 2 * gain, gain)
    gain = torch.where((gain > 1) & (score * (gain / 2) >= tau), gain / 2, gain)
    return torch.where(score == 0, math.inf, gain)


@dataclass(frozen=True)
class Sifted:
    """`rows` kept (batch_tiles, 4H) bool.

    Where one tile holds the whole batch, dz' is dz * `factor` (1, 4H), which is still to be applied; None: it is done.
    """

    rows: Tensor
    factor: Tensor | None


def sift(mode: SieveMode, tau: float, dz: Tensor, lanes: int, draw: Tensor | None = None) -> Sifted:
    """Sieve one step: `dz` (B, 4H) float becomes dz' in place, but for a factor that is the same for the whole batch.

    A row that holds a NaN is kept: no sieve hides that a training diverges.

    `draw` (batch_tiles, 4H), uniform from 0 to below 1, is needed in stochastic mode only.
    """
    magnitudes = dz.abs()
    score = row_scores(magnitudes, lanes)
    if mode == SieveMode.STOCHASTIC:
        assert draw is not None
        gain = gains(score, tau)
        rows = ~((gain > LARGEST_GAIN) | (draw * gain >= 1))
        factor = torch.where(rows, gain, 0)
    else:
        rows = ~((score < tau) | (score == 0))
        if mode == SieveMode.ELEMENT:
            dz.masked_fill_(magnitudes < tau, 0)
            return Sifted(rows, None)
        factor = rows.to(dz.dtype)
    if len(score) == 1:
        return Sifted(rows, factor)
    dz.mul_(by_lane(factor, lanes, len(dz)))
    return Sifted(rows, None)


GAIN = 0.5
"""Exponent of the steering: the share falls about as 1/tau in trained networks, so half the way is stable."""
STEP = 2.0
"""Largest factor by which the threshold moves in one step."""


@dataclass
class Threshold:
    """The threshold of one layer, steered to a share or fixed.  Steering is ours; it needs no second pass.

    `tau` is None until the first gradients have been measured.
    """

    tau: float | None = None

    def current(self, sieve: GradientSieve) -> float | None:
        """The threshold for the next pass: the fixed one, the steered one, or None if it must be measured first."""
        return sieve.tau if sieve.tau is not None else self.tau

    def measure(self, sieve: GradientSieve, dz: Tensor, lanes: int) -> None:
        """Choose the first threshold from the gate gradients (T, B, 4H) of a dense pass."""
        assert sieve.target is not None
        if sieve.of_elements:
            values = dz.abs().flatten()
        else:
            values = torch.stack([row_scores(step.abs(), lanes) for step in dz]).flatten()
        values = values[(values > 0) & values.isfinite()]
        if not len(values):
            return  # there is nothing to measure yet
        # The share of all rows, those of zeros included, that must survive.
        total = dz.numel() if sieve.of_elements else len(dz) * -(-dz.shape[1] // lanes) * dz.shape[2]
        self.tau = _threshold(values, min(1.0, sieve.target * total / len(values)), sieve.mode)

    def observe(self, sieve: GradientSieve, share: float) -> None:
        """Move the threshold after a pass that kept `share`; where it is of no use any more, the next pass measures."""
        if sieve.target is None or self.tau is None:
            return
        self.tau *= min(STEP, max(1 / STEP, (share / sieve.target) ** GAIN))
        if share == 0 or not 0 < self.tau < math.inf:
            self.tau = None

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"tau": self.tau}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From a checkpoint."""
        self.tau = state["tau"]


def _threshold(values: Tensor, share: float, mode: SieveMode) -> float:
    """The tau at which about `share` of `values`, all above 0, survive."""
    if mode != SieveMode.STOCHASTIC:
        keep = max(1, round(share * len(values)))
        return float(values.sort(descending=True).values[keep - 1])
    low, high = float(values.min()), float(values.max()) * 2.0**MAX_SHIFT
    for _ in range(40):  # to a relative width far below that of the powers of two
        middle = math.sqrt(low) * math.sqrt(high)
        gain = gains(values, middle)
        expected = float(torch.where(gain <= LARGEST_GAIN, 1 / gain, 0).mean())
        low, high = (middle, high) if expected > share else (low, middle)
    return high
