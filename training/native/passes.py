"""The compiled passes behind the interfaces of `forward` and `float_pass`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gradsieve.golden.types import SieveMode
from gradsieve.training.float_pass import FloatPass, Kept, LayerGradients


def forward(
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    bias: Tensor | None,
    masks: tuple[Tensor | None, Tensor | None],
    h_scale: float,
    block: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """hs, cs, gates and tanh_c of a tape; `x` masked and scaled, `block` bytes to work in, which may grow."""
    result: tuple[Tensor, Tensor, Tensor, Tensor] = torch.ops.gradsieve.lstm_forward(
        *_contiguous(x, h0, c0, w_ih, w_hh, bias, *masks), h_scale, block
    )
    return result


@dataclass
class NativeBackward(FloatPass):
    """One backward pass in compiled code: the numbers of `FloatBackward`, but for the rounding of sums."""

    def run(self) -> tuple[LayerGradients, Kept]:
        """See `FloatPass`."""
        _, _, B, _ = self.tape.sizes
        tape, up = self.tape, self.upstream
        lanes = min(self.lanes, B)
        *gradients, rows, counts = torch.ops.gradsieve.lstm_backward(
            *_contiguous(tape.x, tape.hs, tape.cs, tape.gates, tape.tanh_c, up.dy),
            up.dh,
            up.dc,
            *_contiguous(self.w_ih, self.w_hh, *self.masks),
            self.h_scale,
            int(SieveMode(self.mode)),
            self.tau,
            lanes,
            self.draws(-(-B // lanes)),
            self.need_dx,
            self.workspace.block,
        )
        elements, kept_rows, finite, seconds = counts.tolist()
        dx, *rest = gradients
        kept = Kept(rows, int(elements), int(kept_rows) / rows.numel(), bool(finite), seconds)
        return LayerGradients(dx if self.need_dx else None, *rest), kept


def _contiguous(*tensors: Tensor | None) -> list[Tensor | None]:
    return [t if t is None else t.contiguous() for t in tensors]
