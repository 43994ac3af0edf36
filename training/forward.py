"""The forward pass of one layer and direction that leaves a tape, with the GEMMs of structured dropout compacted."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gradsieve.training.methods.structured_dropout import ColumnMasks, kept_columns

GATHER_LANES = 16
"""Copying a row of a weight matrix costs about as much as its GEMM with so many lanes (`gradsieve speed`)."""


@dataclass(frozen=True)
class LayerTape:
    """What the backward pass needs.  `hs`, `cs` (T+1, B, H) begin with h0 and c0; `gates` (T, B, 4H) hold i, f, g, o;
    `tanh_c` (T, B, H); `x` (T, B, I) is scaled and masked by the dropout, if there is one.
    """

    x: Tensor
    hs: Tensor
    cs: Tensor
    gates: Tensor
    tanh_c: Tensor

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """H, I, B, T."""
        steps, batch, inputs = self.x.shape
        return self.tanh_c.shape[2], inputs, batch, steps


def forward(
    x: Tensor, h0: Tensor, c0: Tensor, w_ih: Tensor, w_hh: Tensor, bias: Tensor | None, columns: ColumnMasks | None
) -> LayerTape:
    """One layer, time first.

    `x` (T, B, I), `h0`, `c0` (B, H), `w_ih` (4H, I), `w_hh` (4H, H), `bias` (4H), the sum of both of `torch.nn.LSTM`.
    With `columns`, x is masked and scaled, and so is the h that each step reads (not the h that it returns).
    """
    T, B, _ = x.shape
    H = h0.shape[1]
    hs, cs = x.new_empty(T + 1, B, H), x.new_empty(T + 1, B, H)
    hs[0], cs[0] = h0, c0
    tanh_c = x.new_empty(T, B, H)
    x_mask, h_mask = columns.by_column(x.device) if columns is not None else (None, None)
    if x_mask is not None:
        assert columns is not None
        x = x * (x_mask[:, None].to(x.dtype) * columns.x_scale)
    if h_mask is not None:
        assert columns is not None
        w_hh = w_hh * columns.h_scale
    gates = _input_part(x, w_ih, bias, x_mask)
    w_hh_t = w_hh.t()
    compact = h_mask is not None and _pays(h_mask, B)
    if compact:
        w_hh_t = w_hh_t.contiguous()
        kept = kept_columns(h_mask)  # type: ignore[arg-type]
    for t in range(T):
        z, h = gates[t], hs[t]
        if compact:
            z.addmm_(h.index_select(1, kept[t]), w_hh_t.index_select(0, kept[t]))
        else:
            z.addmm_(h if h_mask is None else h * h_mask[t], w_hh_t)
        i, f, g, o = z.view(B, 4, H).unbind(1)
        z[:, : 2 * H].sigmoid_()
        g.tanh_()
        o.sigmoid_()
        c = torch.mul(f, cs[t], out=cs[t + 1]).addcmul_(i, g)
        torch.tanh(c, out=tanh_c[t])
        torch.mul(o, tanh_c[t], out=hs[t + 1])
    return LayerTape(x=x, hs=hs, cs=cs, gates=gates, tanh_c=tanh_c)


def _input_part(x: Tensor, w_ih: Tensor, bias: Tensor | None, mask: Tensor | None) -> Tensor:
    """x W_ih^T + bias of all steps, (T, B, 4H); where `mask` drops enough columns, by the columns kept."""
    T, B, I = x.shape
    if mask is None or not _pays(mask, B):
        return torch.nn.functional.linear(x.reshape(T * B, I), w_ih, bias).view(T, B, -1)
    out = x.new_empty(T, B, len(w_ih))
    w_t = w_ih.t().contiguous()
    for t, kept in enumerate(kept_columns(mask)):
        torch.mm(x[t].index_select(1, kept), w_t.index_select(0, kept), out=out[t])
    return out if bias is None else out.add_(bias)


def _pays(mask: Tensor, batch: int) -> bool:
    return compaction_pays(float(mask.double().mean()), batch)


def compaction_pays(share: float, batch: int) -> bool:
    """Whether a GEMM of `batch` lanes over the `share` of rows that are kept, copied together, beats the whole one."""
    return share * (batch + GATHER_LANES) < 0.9 * batch
