"""A backward pass in float64 with a running bound on what float32 may make of each number.

u is the unit roundoff of float32.  Every line of the pass adds to the bound what its own operations round, at most u of
each intermediate magnitude, and passes on what its operands brought along; a sum of n products in any order rounds at
most n u of the sum of their magnitudes (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1).  Terms of
u^2 are covered by SECOND_ORDER.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gradsieve.training.float_pass import LayerGradients
from tests.training.float_cases import Case

U = 2.0**-24
SECOND_ORDER = 1.01


@dataclass(frozen=True)
class Bounded:
    """The gradients in float64, the bound of each element, and dz before the sieve with its bound, (T, B, 4H)."""

    gradients: LayerGradients
    bounds: LayerGradients
    dz: Tensor
    dz_bound: Tensor


def bounded(of: Case, sieve: Callable[[int, Tensor], Tensor]) -> Bounded:
    """The pass of a case whose tensors hold float32 values; `sieve(t, dz)` is what dz (B, 4H) is multiplied by: zeros
    and powers of two, which round nothing.
    """
    tape, up = of.tape(), of.upstream
    H, I, B, T = tape.sizes
    x_mask, h_mask = (None, None) if of.columns is None else of.columns.by_column(torch.device("cpu"))
    x_keep = torch.ones(T, I).double() if x_mask is None else x_mask.double()
    h_keep = torch.ones(T, H).double() if h_mask is None else h_mask.double()
    scale = 1.0 if h_mask is None or of.columns is None else of.columns.h_scale
    dh, dc = up.dh, up.dc
    e_dh, e_dc = torch.zeros_like(dh), torch.zeros_like(dc)
    dx, e_dx = torch.zeros_like(tape.x), torch.zeros_like(tape.x)
    dw = [torch.zeros_like(w) for w in (of.w_ih, of.w_hh)]
    e_dw = [torch.zeros_like(w) for w in dw]
    db, e_db = torch.zeros(4 * H).double(), torch.zeros(4 * H).double()
    all_dz, all_bounds = tape.gates.new_zeros(T, B, 4 * H), tape.gates.new_zeros(T, B, 4 * H)
    for t in reversed(range(T)):
        i, f, g, o = tape.gates[t].view(B, 4, H).unbind(1)
        tc, before = tape.tanh_c[t], tape.cs[t]
        dh = dh + up.dy[t]
        e_dh = e_dh + U * dh.abs()
        slope = o - o * tc * tc
        dct = dc + dh * slope
        e_dct = e_dc + e_dh * slope.abs() + dh.abs() * 6 * U * o + 2 * U * (dc.abs() + (dh * slope).abs())
        factors = (g * (i - i * i), before * (f - f * f), i - i * g * g)
        rough = ((g * i).abs(), (before * f).abs(), i)  # at most 8 u of these are rounded off in making the factors
        dz = torch.cat([dct * v for v in factors] + [dh * (tc * (o - o * o))], dim=1)
        parts = [e_dct * v.abs() + dct.abs() * 8 * U * r for v, r in zip(factors, rough, strict=True)]
        parts.append(e_dh * (tc * (o - o * o)).abs() + dh.abs() * 8 * U * (tc * o).abs())
        e_dz = torch.cat(parts, dim=1) + U * dz.abs()
        all_dz[t], all_bounds[t] = dz, e_dz
        multiplier = sieve(t, dz)
        dz, e_dz = dz * multiplier, e_dz * multiplier
        dc, e_dc = dct * f, e_dct * f + U * (dct * f).abs()
        n = 4 * H + 2
        dx[t] = dz @ of.w_ih * x_keep[t]
        e_dx[t] = (e_dz + n * U * dz.abs()) @ of.w_ih.abs()
        dh = dz @ (of.w_hh * scale) * h_keep[t]
        e_dh = (e_dz + n * U * dz.abs()) @ (of.w_hh * scale).abs() * h_keep[t]
        n = T * B + 2
        for k, v in enumerate((tape.x[t], tape.hs[t] * h_keep[t] * scale)):
            dw[k] += dz.T @ v
            e_dw[k] += (e_dz + n * U * dz.abs()).T @ v.abs()
        db += dz.sum(dim=0)
        e_db += (e_dz + n * U * dz.abs()).sum(dim=0)
    e_dx, e_dh, e_dc, e_w_ih, e_w_hh, e_db = (SECOND_ORDER * e for e in (e_dx, e_dh, e_dc, *e_dw, e_db))
    return Bounded(
        LayerGradients(dx, dh, dc, dw[0], dw[1], db),
        LayerGradients(e_dx, e_dh, e_dc, e_w_ih, e_w_hh, e_db),
        all_dz,
        SECOND_ORDER * all_bounds,
    )
