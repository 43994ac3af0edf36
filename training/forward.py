"""The forward pass of one layer and direction that leaves a tape, with the GEMMs of structured dropout compacted."""

from __future__ import annotations

import torch
from torch import Tensor

from gradsieve.training.float_pass import Workspaces
from gradsieve.training.methods.structured_dropout import ColumnMasks, kept_columns
from gradsieve.training.native import library, passes
from gradsieve.training.tape import LayerTape

_WORKSPACES = Workspaces()

GATHER_LANES = 16
"""Copying a row of a weight matrix costs about as much as its GEMM with so many lanes (`gradsieve speed`)."""


def forward(
    x: Tensor, h0: Tensor, c0: Tensor, w_ih: Tensor, w_hh: Tensor, bias: Tensor | None, columns: ColumnMasks | None
) -> LayerTape:
    """One layer, time first.

    `x` (T, B, I), `h0`, `c0` (B, H), `w_ih` (4H, I), `w_hh` (4H, H), `bias` (4H), the sum of both of `torch.nn.LSTM`.
    With `columns`, x is masked and scaled, and so is the h that each step reads (not the h that it returns).
    """
    x_mask, h_mask, h_scale = None, None, 1.0
    if columns is not None:
        (x_mask, h_mask), h_scale = columns.by_column(x.device), columns.h_scale
        if x_mask is not None:
            x = x * (x_mask[:, None].to(x.dtype) * columns.x_scale)
    if library.serves(x, h0, c0, w_ih, w_hh):
        with _WORKSPACES.borrowed() as workspace:
            arrays = passes.forward(x, h0, c0, w_ih, w_hh, bias, (x_mask, h_mask), h_scale, workspace.block)
        return LayerTape(x, *arrays)
    return _in_operations(x, h0, c0, w_ih, w_hh if h_scale == 1 else w_hh * h_scale, bias, x_mask, h_mask)


def _in_operations(
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    bias: Tensor | None,
    x_mask: Tensor | None,
    h_mask: Tensor | None,
) -> LayerTape:
    """In PyTorch's operations; x is masked and scaled already, and w_hh scaled."""
    T, B, _ = x.shape
    H = h0.shape[1]
    hs, cs = x.new_empty(T + 1, B, H), x.new_empty(T + 1, B, H)
    hs[0], cs[0] = h0, c0
    tanh_c = x.new_empty(T, B, H)
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
