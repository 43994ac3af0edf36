"""The float backend: GEMMs over what the sieve keeps, compiled or in PyTorch's operations."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from gradsieve.golden.types import SieveMode
from gradsieve.training.backends.backend import (
    BackwardPass,
    ForwardPass,
    column_tiles,
    float_pass,
    mode_and_tau,
    steer,
)
from gradsieve.training.float_backward import FloatBackward
from gradsieve.training.float_pass import LayerGradients, Workspaces
from gradsieve.training.forward import forward
from gradsieve.training.layer_state import LayerState
from gradsieve.training.methods.sieves import GradientSieve
from gradsieve.training.native import library
from gradsieve.training.native.passes import NativeBackward
from gradsieve.training.statistics import ForwardStatistics, PassStatistics
from gradsieve.training.tape import LayerTape

PROBE = 32
"""A fixed threshold that gained nothing is tried again after so many passes."""
MARGIN = 0.9
"""Sieving is worth while below so much of the time of PyTorch's dense pass."""


@dataclass(frozen=True)
class Costs:
    """Of a sieved pass, in times of PyTorch's dense one: a row kept takes `row` + `copy` / B of a dense row, every pass
    `step` / (B H) besides.  Fitted to `gradsieve speed` on one CPU; others differ.
    """

    row: float
    copy: float
    step: float


COMPILED, OPERATIONS = Costs(row=1.15, copy=0, step=600), Costs(row=1.9, copy=15, step=2000)


def sieving_pays(share: float, H: int, B: int, costs: Costs = COMPILED) -> bool:
    """Whether a float pass that keeps `share` of the rows in the whole batch is faster than PyTorch's dense one."""
    return share * (costs.row + costs.copy / B) + costs.step / (B * H) < MARGIN


@cache
def _warn_of_speed(device: torch.device) -> None:
    """Warn once for each device whose speed nobody has measured."""
    if device.type not in ("cpu", "meta"):
        warnings.warn(
            f"sieved passes on {device} run in PyTorch's operations and have not been measured there: they are for "
            "study, not for speed",
            stacklevel=2,
        )


class FloatBackend:
    """Floats, on any device of PyTorch: GEMMs over the surviving rows or columns only.

    float32 and float64 on a CPU take compiled passes (`gradsieve.training.native`), which are built on first use;
    everything else, or all without a C++ compiler, takes PyTorch's operations, which compute the same up to rounding.
    On other devices these are for study, not for speed, as one warning says.

    `lanes`: lanes of a batch tile.  None, the whole batch, is what a CPU or GPU gains most from.  A number, as an
    engine's C, studies the engine's narrow tiles, which keep more sparsity: the GEMMs of a step run over every row that
    any tile keeps.  `columns`: R, for the accounting.  Passes with a sieve always sieve, but with
    `dense_where_faster`: then those in which sieving would save no time (`sieving_pays`) are PyTorch's own dense ones,
    of which one warning tells, and which the statistics count (`PassStatistics.left_dense`).  Raises ValueError for
    sizes below 1, and for `dense_where_faster` with `lanes`.  One backend may serve many modules and threads.
    """

    name = "float"

    def __init__(self, lanes: int | None = None, columns: int = 16, *, dense_where_faster: bool = False) -> None:
        if lanes is not None and lanes < 1:
            raise ValueError(f"lanes must be at least 1, or None for the whole batch; got {lanes!r}")
        if columns < 1:
            raise ValueError(f"columns must be at least 1, got {columns!r}")
        if dense_where_faster and lanes is not None:
            raise ValueError(f"lanes must be None with dense_where_faster, got {lanes!r}")
        self.lanes, self.columns, self.dense_where_faster = lanes, columns, dense_where_faster
        self._workspaces = Workspaces()

    def __repr__(self) -> str:
        faster = ", dense_where_faster=True" if self.dense_where_faster else ""
        return f"FloatBackend(lanes={self.lanes}, columns={self.columns}{faster})"

    def passes_over(self, sieve: GradientSieve, state: LayerState, weight: Tensor, B: int) -> bool:
        """See `Backend`."""
        if sieve.dense:
            return True
        if not self.dense_where_faster:
            return False
        with state.lock:
            # Of the rows, the element sieve keeps more than its target of the elements: only trying tells how many.
            known = sieve.target if not sieve.of_elements else None
            share = known if known is not None else state.share
            costs = COMPILED if library.serves(weight) else OPERATIONS
            if share is None or sieving_pays(share, len(weight) // 4, B, costs):
                return False
            if known is None and state.rested >= PROBE:
                state.rested = 0
                return False
            state.rested += 1
            return True

    def forward(self, run: ForwardPass) -> tuple[LayerTape, ForwardStatistics | None]:
        """See `Backend`: the same as `forward="float"`."""
        return forward(run.x, run.h0, run.c0, run.w_ih, run.w_hh, run.bias, run.columns), None

    def backward(self, run: BackwardPass) -> tuple[LayerGradients, PassStatistics]:
        """See `Backend`."""
        H, I, B, T = run.tape.sizes
        _warn_of_speed(run.tape.x.device)
        lanes = min(self.lanes or B, B)
        with self._workspaces.borrowed() as workspace:
            with run.state.lock:
                mode, tau = mode_and_tau(run, lanes, workspace)
            kind = NativeBackward if library.serves(run.tape.x) else FloatBackward
            gradients, kept = float_pass(kind, run, mode, tau or 0.0, lanes, workspace).run()
        statistics = PassStatistics(
            layer=run.state.layer, H=H, I=I, B=B, T=T,
            lanes=self.lanes or B,
            columns=self.columns,
            rows=None if mode == SieveMode.DENSE else kept.rows,
            elements=kept.elements,
            tau=tau,
            block=run.block if run.block_columns == self.columns else None,
            column=column_tiles(run, self.columns),
            gemm_seconds=kept.gemm_seconds,
        )  # fmt: skip
        # every NaN and infinity of a gate gradient is kept, and so in db: what it did to the rows says nothing
        if kept.finite:
            with run.state.lock:
                if mode != SieveMode.DENSE:
                    run.state.share = kept.share
                steer(run, statistics, kept.share)
        return gradients, statistics
