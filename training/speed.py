"""Wall clock of the float backend beside `torch.nn.LSTM`, side by side in one run."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor, nn

from gradsieve.training.backends import FloatBackend
from gradsieve.training.lstm import SievedLSTM
from gradsieve.training.methods.sieves import GradientSieve, RowSieve
from gradsieve.training.methods.structured_dropout import StructuredDropout

WARM_UP = 8
"""Passes of each side before the measured ones: caches fill, and thresholds settle."""
GRADIENT = 1e-2
"""Standard deviation of the gradients that are sent back."""


@dataclass(frozen=True)
class Pair:
    """Seconds of the forward and backward pass, the median of all repeats, of PyTorch's layer and of ours.

    `speedup` is the median of the ratios of backward passes that ran one after the other, `forward_speedup` that of
    forward passes, `total` that of both together.  `kept`: the share of gate rows that ours kept; `gemm_share`: the
    median share of our backward pass that was spent in GEMMs, None where it ran in PyTorch's operations.
    """

    forward: tuple[float, float]
    backward: tuple[float, float]
    speedup: float
    forward_speedup: float
    total: float
    kept: float
    gemm_share: float | None

    @property
    def allowed(self) -> float:
        """The ratio of backward passes that the arithmetic left over would allow, at equal speed of all of it."""
        return 1 / self.kept


@dataclass(frozen=True)
class Sized:
    """The passes of one size, by the share of rows kept; in `fallback` with `dense_where_faster`, which needs whole
    batches.
    """

    H: int
    B: int
    pairs: dict[float, Pair]
    fallback: dict[float, Pair]

    @property
    def break_even(self) -> float | None:
        """The share of rows kept below which sieving is faster than `torch.nn.LSTM`; None if it never is.

        Linear in between the measured shares of the time taken.
        """
        points = sorted((share, 1 / pair.speedup) for share, pair in self.pairs.items())
        if points[0][1] >= 1:
            return None
        for (s0, t0), (s1, t1) in pairwise(points):
            if t1 >= 1:
                return s0 + (s1 - s0) * (1 - t0) / (t1 - t0)
        return 1.0


Layer = TypeVar("Layer", bound=nn.LSTM)
Run = Callable[[], tuple[float, float]]


def measure(
    H: int,
    B: int,
    T: int,
    shares: Sequence[float],
    repeats: int,
    method: type[GradientSieve] = RowSieve,
    lanes: int | None = None,
    step: Callable[[str], None] = lambda name: None,
) -> Sized:
    """Time both layers at I = H for each share of rows kept, of batch tiles of `lanes`, None for the whole batch.

    Every repeat runs PyTorch's pass and ours in turn, so that what else the machine does touches both.
    """
    reference, x, dy = _layer(nn.LSTM, H, B, T)
    pairs: dict[float, Pair] = {}
    fallback: dict[float, Pair] = {}
    for share in shares:
        step(f"H = {H}, B = {B}, {100 * share:g} % of rows")
        sieve = method(target=share) if share < 1 else method(tau=0.0)
        backends = [(FloatBackend(lanes), pairs)]
        if lanes is None:
            backends.append((FloatBackend(dense_where_faster=True), fallback))
        for backend, out in backends:
            ours, _, _ = _layer(SievedLSTM, H, B, T)
            ours.sieve, ours.backend = sieve, backend
            with warnings.catch_warnings():  # that passes are left to PyTorch is what is measured
                warnings.filterwarnings("ignore", ".*dense_where_faster", UserWarning)
                out[share] = _pair(_run(reference, x, dy), _run(ours, x, dy), repeats, ours)
    return Sized(H, B, pairs, fallback)


def measure_dropout(H: int, B: int, T: int, p: float, hidden: float, repeats: int) -> Pair:
    """Time standard dropout of x and `torch.nn.LSTM` against structured dropout.

    `p` is the probability for x on both sides, `hidden` that for h on ours.
    """
    reference, x, dy = _layer(nn.LSTM, H, B, T)
    ours, _, _ = _layer(SievedLSTM, H, B, T)
    ours.column_dropout = StructuredDropout(input=p, hidden=hidden)
    return _pair(_run(nn.Sequential(nn.Dropout(p), reference), x, dy), _run(ours, x, dy), repeats, ours)


def _layer(kind: type[Layer], H: int, B: int, T: int) -> tuple[Layer, Tensor, Tensor]:
    torch.manual_seed(1)
    return kind(H, H), torch.randn(T, B, H).requires_grad_(), GRADIENT * torch.randn(T, B, H)


def _run(module: nn.Module, x: Tensor, dy: Tensor) -> Run:
    def run() -> tuple[float, float]:
        for p in (x, *module.parameters()):
            p.grad = None
        begun = time.perf_counter()
        y, _ = module(x)
        middle = time.perf_counter()
        y.backward(dy)
        return middle - begun, time.perf_counter() - middle

    return run


def _pair(theirs: Run, ours: Run, repeats: int, layer: SievedLSTM) -> Pair:
    for _ in range(WARM_UP):
        theirs()
        ours()
    layer.take_statistics()
    times = [(*theirs(), *ours()) for _ in range(repeats)]
    passes = layer.take_statistics()
    gemms = [s.gemm_seconds for s in passes if s.gemm_seconds is not None]
    f0, b0, f1, b1 = (statistics.median(column) for column in zip(*times, strict=True))
    return Pair(
        forward=(f0, f1),
        backward=(b0, b1),
        speedup=statistics.median(t[1] / t[3] for t in times),
        forward_speedup=statistics.median(t[0] / t[2] for t in times),
        total=statistics.median((t[0] + t[1]) / (t[2] + t[3]) for t in times),
        kept=sum(s.kept_rows for s in passes) / sum(s.all_rows for s in passes),
        gemm_share=statistics.median(g / t[3] for g, t in zip(gemms, times, strict=True)) if gemms else None,
    )
