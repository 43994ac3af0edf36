"""The forward pass of the arithmetic contract (docs/arithmetic.md): one forward run, to the last bit."""

from __future__ import annotations

import torch
from torch import Tensor

from gradsieve.golden.activation import sigmoid, tanh
from gradsieve.golden.arithmetic import exact_matmul, limit, plain, requantize
from gradsieve.golden.masks import ExpandedMasks
from gradsieve.golden.types import ForwardSaturations, Inputs, Masks, Outputs, Weights
from gradsieve.golden.validation import check_forward_inputs
from gradsieve.golden.work import index_counts, tile_lanes, tile_widths, useful_macs
from gradsieve.hw.config import EngineConfig

__all__ = ["forward"]


def forward(config: EngineConfig, weights: Weights, inputs: Inputs, masks: Masks | None = None) -> Outputs:
    """What a forward run computes: every field of `Outputs`, bit-exact.

    Shapes and formats are those of `gradsieve.golden.types`, any integer dtype; all results are int64 on the CPU.  No
    masks keep everything.  Raises ValueError for whatever `check_forward_inputs` refuses, before any work.
    """
    masks = masks if masks is not None else Masks()
    check_forward_inputs(config, weights, inputs, masks)
    f = config.formats
    x = plain(inputs.x)
    T, B, I = x.shape
    H = weights.w_hh.shape[1]
    kept = ExpandedMasks(config, masks, H, I, T)
    w_hh = plain(weights.w_hh) * kept.block_h
    from_x = _sums(config, (x * kept.column_x[:, None]).flatten(0, 1), plain(weights.w_ih) * kept.block_x)
    assert weights.bias is not None
    from_x += plain(weights.bias) << (f.weight.fraction + f.input.fraction - f.bias.fraction)
    zeros = torch.zeros(B, H, dtype=torch.int64)
    h = zeros if inputs.h0 is None else plain(inputs.h0)
    c = zeros if inputs.c0 is None else plain(inputs.c0)
    steps: list[dict[str, Tensor]] = []
    saturated = [0, 0, 0]
    cell_fraction, gate_fraction = f.cell.fraction + f.activation.fraction, 2 * f.activation.fraction
    common = max(cell_fraction, gate_fraction)
    for t, sums in enumerate(from_x.unflatten(0, (T, B))):
        z, z_saturated = requantize(
            sums + _sums(config, h * kept.column_h[t], w_hh), f.weight.fraction + f.input.fraction, f.preactivation
        )
        z_i, z_f, z_g, z_o = z.chunk(4, dim=1)
        i, forget, o = (sigmoid(v, f.preactivation, f.activation) for v in (z_i, z_f, z_o))
        g = tanh(z_g, f.preactivation, f.activation)
        h_prev, c_prev = h, c
        total = (forget * c_prev << common - cell_fraction) + (i * g << common - gate_fraction)
        c, c_saturated = requantize(total, common, f.cell)
        tanh_c = tanh(c, f.cell, f.activation)
        h, h_saturated = requantize(o * tanh_c, gate_fraction, f.input)
        saturated = [n + more for n, more in zip(saturated, (z_saturated, c_saturated, h_saturated), strict=True)]
        steps.append(
            {"y": h, "h_prev": h_prev, "i": i, "f": forget, "g": g, "o": o, "tanh_c": tanh_c, "c_prev": c_prev}
        )
    every_row = torch.ones(T, -(-B // config.C), 4 * H, dtype=torch.bool)
    counts = index_counts(every_row, kept.block, kept.column, kept.tiles)
    return Outputs(
        **{name: torch.stack([step[name] for step in steps]) for name in steps[0]},
        c_n=c,
        indices=int(counts.sum()),
        macs=useful_macs(counts, tile_lanes(B, config.C), tile_widths(H, I, config.R)),
        saturations=ForwardSaturations(*saturated),
    )


def _sums(config: EngineConfig, columns: Tensor, weights: Tensor) -> Tensor:
    """Exact sums of W by columns of x or h: (N, n) and (4H, n) to (N, 4H)."""
    f = config.formats
    return exact_matmul(columns, weights.T, limit(f.input), limit(f.weight))
