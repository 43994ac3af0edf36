"""The forward half of docs/arithmetic.md once more, scalar by scalar: it shares no arithmetic with `golden`.

Slow and plain on purpose: every line can be held against the page.  The tables are made of 50 decimal digits.
"""

from __future__ import annotations

from decimal import Decimal, getcontext
from functools import cache

import torch

from gradsieve.golden.types import ForwardSaturations, Inputs, Masks, Outputs, Weights
from gradsieve.hw.config import EngineConfig
from gradsieve.hw.formats import FixedPoint
from tests.golden.contract import ScalarRun, half_even

getcontext().prec = 50


def exact(name: str, argument: Decimal) -> Decimal:
    """Sigmoid ("S") or tanh ("T")."""
    if name == "S":
        return 1 / (1 + (-argument).exp())
    return 1 - 2 / (1 + (2 * argument).exp())


@cache
def node(name: str, n: int, form: FixedPoint) -> int:
    """table[n] of a function."""
    steps = 32 if name == "S" else 64
    scaled = exact(name, Decimal(n) / steps) * 2**form.fraction
    return min(int(scaled.to_integral_value(rounding="ROUND_HALF_EVEN")), 2 ** (form.width - 1) - 1)


def function(name: str, value: int, argument: FixedPoint, form: FixedPoint) -> int:
    """S or T of an integer."""
    top, one = 2 ** (form.width - 1) - 1, 2**form.fraction
    if value < 0:
        value = max(value, 1 - 2 ** (argument.width - 1))
        mirrored = function(name, -value, argument, form)
        return one - mirrored if name == "S" else -mirrored
    steps = 32 if name == "S" else 64
    n, rest = divmod(value * steps, 2**argument.fraction)
    if n >= 512:
        return node(name, 512, form)
    first, second = node(name, n, form), node(name, n + 1, form)
    return min(half_even(first * 2**argument.fraction + (second - first) * rest, 2**argument.fraction), top)


class ForwardContract(ScalarRun):
    """One forward run; `run` gives its result."""

    def __init__(self, config: EngineConfig, weights: Weights, inputs: Inputs, masks: Masks) -> None:
        steps, batch, columns = inputs.x.shape
        super().__init__(config, weights, masks, (weights.w_hh.shape[1], columns, batch, steps))
        assert weights.bias is not None
        self.bias = weights.bias.tolist()
        self.x = inputs.x.tolist()
        nothing = [[0] * self.H for _ in range(self.B)]
        self.h0 = nothing if inputs.h0 is None else inputs.h0.tolist()
        self.c0 = nothing if inputs.c0 is None else inputs.c0.tolist()

    def run(self) -> Outputs:
        """The whole page, t from first to last."""
        f, H, I = self.formats, self.H, self.I
        weight, act, cell = f.weight, f.activation, f.cell
        names = ("y", "h_prev", "i", "f", "g", "o", "tanh_c", "c_prev")
        out = {name: [[[0] * H for _ in range(self.B)] for _ in range(self.T)] for name in names}
        h, c = [list(lane) for lane in self.h0], [list(lane) for lane in self.c0]
        indices = macs = 0
        for t in range(self.T):
            for first in range(0, self.B, self.c):
                lanes = min(self.c, self.B - first)
                for k in range(4 * H):
                    met = [j for j in range(I + H) if self.streams(t, k, j)]
                    indices += len({self.column_tile(j) for j in met})
                    macs += len(met) * lanes
            for b in range(self.B):
                xh, before = self.x[t][b] + h[b], c[b]
                z = []
                for k in range(4 * H):
                    total = sum(self.w[k][j] * xh[j] for j in range(I + H) if self.streams(t, k, j))
                    fraction = weight.fraction + f.input.fraction
                    total += self.bias[k] * 2 ** (fraction - f.bias.fraction)
                    z.append(self.put(total, fraction, f.preactivation, "z"))
                h[b], c[b] = [0] * H, [0] * H
                for u in range(H):
                    i, forget, o = (function("S", z[gate * H + u], f.preactivation, act) for gate in (0, 1, 3))
                    g = function("T", z[2 * H + u], f.preactivation, act)
                    # at a fraction that holds both products
                    fine = 2 * act.fraction + cell.fraction
                    total = forget * before[u] * 2**act.fraction + i * g * 2**cell.fraction
                    c[b][u] = self.put(total, fine, cell, "c")
                    tanh_c = function("T", c[b][u], cell, act)
                    h[b][u] = self.put(o * tanh_c, 2 * act.fraction, f.input, "h")
                    values = (h[b][u], xh[I + u], i, forget, g, o, tanh_c, before[u])
                    for name, value in zip(names, values, strict=True):
                        out[name][t][b][u] = value
        return Outputs(
            **{name: torch.tensor(values) for name, values in out.items()},
            c_n=torch.tensor(c),
            indices=indices,
            macs=macs,
            saturations=ForwardSaturations(**self.saturations),
        )
