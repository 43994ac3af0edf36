"""Layers for the tests of float passes, and what they must compute, in plain loops and by PyTorch's gradient check."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gradsieve.golden.types import SieveMode
from gradsieve.training.float_backward import FloatBackward
from gradsieve.training.float_pass import FloatPass, Kept, LayerGradients, Upstream, Workspace
from gradsieve.training.forward import forward
from gradsieve.training.lstm import SievedLSTM
from gradsieve.training.methods.masks import WeightMasks
from gradsieve.training.methods.structured_dropout import ColumnMasks, StructuredDropout
from gradsieve.training.tape import LayerTape

MODES = list(SieveMode)
DROPOUTS = [None, (0.5, 0.5), (0.5, 0.0), (0.0, 0.5), (0.8, 0.3)]


@dataclass
class Case:
    """A layer in float64: weights, inputs and gradients from above."""

    x: Tensor
    h0: Tensor
    c0: Tensor
    w_ih: Tensor
    w_hh: Tensor
    bias: Tensor
    upstream: Upstream
    columns: ColumnMasks | None

    def tape(self) -> LayerTape:
        return forward(self.x, self.h0, self.c0, self.w_ih, self.w_hh, self.bias, self.columns)

    def run(
        self,
        mode: SieveMode,
        tau: float,
        lanes: int,
        workspace: Workspace | None = None,
        tape: LayerTape | None = None,
        kind: type[FloatPass] = FloatBackward,
        seed: int = 11,
        need_dx: bool = True,
    ) -> Result:
        backward = kind(
            tape=tape or self.tape(),
            upstream=self.upstream,
            w_ih=self.w_ih,
            w_hh=self.w_hh,
            mode=mode,
            tau=tau,
            lanes=lanes,
            columns=self.columns,
            generator=torch.Generator().manual_seed(seed),
            workspace=workspace or Workspace(),
            need_dx=need_dx,
        )
        return backward.run()


Result = tuple[LayerGradients, Kept]


def case(T: int = 3, B: int = 7, I: int = 6, H: int = 5, p: tuple[float, float] | None = None) -> Case:
    torch.manual_seed(T * 100 + B)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64)

    # Upstream gradients of very unequal units, so that rows differ.
    spread = draw(H).mul(1.5).exp()
    upstream = Upstream(draw(T, B, H) * spread, draw(B, H) * spread, draw(B, H) * spread)
    columns = None
    if p is not None:
        columns = StructuredDropout(input=p[0], hidden=p[1], columns=2).draw(T, I, H, torch.Generator().manual_seed(3))
    return Case(draw(T, B, I), draw(B, H), draw(B, H), draw(4 * H, I), draw(4 * H, H), draw(4 * H), upstream, columns)


def reference(of: Case, mode: SieveMode, tau: float, lanes: int) -> tuple[LayerGradients, Tensor, int]:
    """The textbook's formulas, with the sieve in plain Python in between; dx without the dropout's scale, as there."""
    T, B, I = of.x.shape
    H = of.h0.shape[1]
    x_keep, h_keep = torch.ones(T, I).double(), torch.ones(T, H).double()
    x_scale = h_scale = 1.0
    if of.columns is not None:
        width, x_scale, h_scale = of.columns.columns, of.columns.x_scale, of.columns.h_scale
        for t, (columns, tiles) in itertools.product(range(T), ((x_keep, of.columns.x), (h_keep, of.columns.h))):
            for column in range(columns.shape[1]):
                if tiles is not None and not tiles[t, column // width]:
                    columns[t, column] = 0
    x = of.x * x_keep[:, None] * x_scale
    h, c = of.h0, of.c0
    saved: list[tuple[Tensor, ...]] = []
    for t in range(T):
        read = h * h_keep[t] * h_scale
        zi, zf, zg, zo = (x[t] @ of.w_ih.T + read @ of.w_hh.T + of.bias).chunk(4, dim=1)
        i, f, g, o = zi.sigmoid(), zf.sigmoid(), zg.tanh(), zo.sigmoid()
        before, c = c, f * c + i * g
        h = o * c.tanh()
        saved.append((read, before, i, f, g, o, c.tanh()))
    batch_tiles = math.ceil(B / lanes)
    draws = torch.rand(T, batch_tiles, 4 * H, generator=torch.Generator().manual_seed(11), dtype=torch.float64)
    rows = torch.ones(T, batch_tiles, 4 * H, dtype=torch.bool)
    dx, dw_ih, dw_hh, db = torch.zeros_like(x), of.w_ih * 0, of.w_hh * 0, of.bias * 0
    dh, dc, elements = of.upstream.dh, of.upstream.dc, 0
    for t in reversed(range(T)):
        read, before, i, f, g, o, tc = saved[t]
        dh = dh + of.upstream.dy[t]
        dct = dc + dh * o * (1 - tc * tc)
        gates = (dct * g * i * (1 - i), dct * before * f * (1 - f), dct * i * (1 - g * g), dh * tc * o * (1 - o))
        dz = torch.cat(gates, dim=1)
        for tile, k in itertools.product(range(batch_tiles), range(4 * H) if mode != SieveMode.DENSE else ()):
            lane = slice(tile * lanes, min(B, (tile + 1) * lanes))
            score, factor = max(abs(v) for v in dz[lane, k].tolist()), 1.0
            keep = score > 0
            if mode == SieveMode.ELEMENT:
                dz[lane, k] = dz.new_tensor([v if abs(v) >= tau else 0.0 for v in dz[lane, k].tolist()])
                keep = bool(dz[lane, k].any())
            elif mode == SieveMode.ROW:
                keep = keep and score >= tau
            else:
                while score * factor < tau and factor <= 2.0**15:
                    factor *= 2
                keep = keep and factor <= 2.0**15 and float(draws[t, tile, k]) * factor < 1
            rows[t, tile, k] = keep
            dz[lane, k] *= factor if keep else 0.0
        elements += dz.numel() if mode == SieveMode.DENSE else int((dz != 0).sum())
        dx[t] = dz @ of.w_ih * x_keep[t]
        dh = dz @ of.w_hh * h_keep[t] * h_scale
        dc = dct * f
        dw_ih, dw_hh, db = dw_ih + dz.T @ x[t], dw_hh + dz.T @ read, db + dz.sum(dim=0)
    return LayerGradients(dx, dh, dc, dw_ih, dw_hh, db), rows, elements


def thresholds(of: Case) -> list[float]:
    """That keep nearly all, about half, few and hardly any rows."""
    backward = FloatBackward(
        of.tape(), of.upstream, of.w_ih, of.w_hh, SieveMode.DENSE, 0.0, 1, of.columns, None, Workspace()
    )
    backward.run()
    return [float(backward.dz.abs().quantile(q)) for q in (0.02, 0.5, 0.9, 0.98)]


def assert_as_reference(of: Case, result: Result, expected: tuple[LayerGradients, Tensor, int]) -> None:
    gradients, kept = result
    for name, value in vars(expected[0]).items():
        torch.testing.assert_close(getattr(gradients, name), value, rtol=1e-9, atol=1e-11, msg=f"{name} differs")
    assert torch.equal(kept.rows, expected[1])
    assert kept.elements == expected[2]


def module(bidirectional: bool = False, **more: bool) -> tuple[SievedLSTM, list[Tensor]]:
    """A dense module that takes our passes, and its inputs x, h0, c0."""
    torch.manual_seed(9)
    lstm = SievedLSTM(3, 4, 1 if bidirectional else 2, bidirectional=bidirectional).double()
    lstm.weight_masks = WeightMasks(2, {})
    layers = len(lstm.layers)
    shapes = ((3, 2, 3), (layers, 2, 4), (layers, 2, 4))
    return lstm, [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


def check(lstm: SievedLSTM, inputs: list[Tensor]) -> None:
    names = [name for name, _ in lstm.named_parameters()]
    weights = [p.detach().clone().requires_grad_() for p in lstm.parameters()]

    def call(x: Tensor, h: Tensor, c: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        torch.manual_seed(1)  # the same masks at every call
        parameters = dict(zip(names, weights, strict=True))
        y, (h, c) = torch.func.functional_call(lstm, parameters, (x, (h, c)))
        return y, h, c

    assert torch.autograd.gradcheck(call, (*inputs, *weights))
    taken = lstm.take_statistics()
    assert taken and all(s.rows is None for s in taken)
