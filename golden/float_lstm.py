"""The float reference: an LSTM layer's forward pass with its tape, and the dense backward pass (docs/arithmetic.md)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gradsieve.golden.types import Tape


@dataclass(frozen=True)
class FloatTape(Tape):
    """The fields and shapes of `Tape` in real numbers, float32 or float64."""

    @property
    def c_n(self) -> Tensor:
        """The cell state after the last step, (B, H)."""
        return self.f[-1] * self.c_prev[-1] + self.i[-1] * self.g[-1]


@dataclass(frozen=True)
class FloatGradients:
    """`dx` (T, B, I), `dh0`, `dc0` (B, H), `dw_ih` (4H, I), `dw_hh` (4H, H), `db` (4H) in real numbers.

    Both biases of `torch.nn.LSTM` get the same `db`.
    """

    dx: Tensor
    dh0: Tensor
    dc0: Tensor
    dw_ih: Tensor
    dw_hh: Tensor
    db: Tensor


def forward(
    x: Tensor, h0: Tensor, c0: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor
) -> tuple[Tensor, FloatTape]:
    """One layer of `torch.nn.LSTM`, time first.

    `x` (T, B, I), `h0` and `c0` (B, H), `w_ih` (4H, I), `w_hh` (4H, H), `b_ih` and `b_hh` (4H), all of one float dtype.
    Returns y (T, B, H) and the tape, whose dy, dh and dc are zeros: set them by `dataclasses.replace`.  Raises
    ValueError for shapes that do not fit each other.
    """
    if x.ndim != 3 or h0.ndim != 2 or 0 in x.shape:
        raise ValueError(
            f"x must have shape (T, B, I), not empty, and h0 (B, H); got {tuple(x.shape)} and {tuple(h0.shape)}"
        )
    B, I, H = x.shape[1], x.shape[2], h0.shape[1]
    _check_shapes(
        h0=(h0, (B, H)), c0=(c0, (B, H)), w_ih=(w_ih, (4 * H, I)), w_hh=(w_hh, (4 * H, H)),
        b_ih=(b_ih, (4 * H,)), b_hh=(b_hh, (4 * H,)),
    )  # fmt: skip
    h, c = h0, c0
    steps = []
    for x_t in x:
        z_i, z_f, z_g, z_o = (x_t @ w_ih.T + b_ih + h @ w_hh.T + b_hh).chunk(4, dim=1)
        i, f, g, o = z_i.sigmoid(), z_f.sigmoid(), z_g.tanh(), z_o.sigmoid()
        h_prev, c_prev = h, c
        c = f * c_prev + i * g
        tanh_c = c.tanh()
        h = o * tanh_c
        steps.append((h, h_prev, i, f, g, o, tanh_c, c_prev))
    y, h_prev, i, f, g, o, tanh_c, c_prev = (torch.stack(values) for values in zip(*steps, strict=True))
    zeros = torch.zeros_like(h0)
    return y, FloatTape(
        x=x, h_prev=h_prev, i=i, f=f, g=g, o=o, tanh_c=tanh_c, c_prev=c_prev, dy=torch.zeros_like(y), dh=zeros, dc=zeros
    )


def backward(w_ih: Tensor, w_hh: Tensor, tape: Tape) -> FloatGradients:
    """The dense backward pass by the formulas, in the dtype of its inputs, without autograd.

    `w_ih` (4H, I), `w_hh` (4H, H); the tape as in `forward`, with the upstream gradients in dy, dh and dc.  Raises
    ValueError for weights that do not fit the tape.
    """
    H, I, _, steps = tape.sizes
    _check_shapes(w_ih=(w_ih, (4 * H, I)), w_hh=(w_hh, (4 * H, H)))
    dh_rec, dc = tape.dh, tape.dc
    dx = torch.zeros_like(tape.x)
    dw_ih, dw_hh, db = torch.zeros_like(w_ih), torch.zeros_like(w_hh), torch.zeros_like(w_ih[:, 0])
    for t in reversed(range(steps)):
        i, f, g, o, tc = (v[t] for v in (tape.i, tape.f, tape.g, tape.o, tape.tanh_c))
        dh = tape.dy[t] + dh_rec
        dct = dc + dh * o * (1 - tc * tc)
        dz_o = dh * tc * o * (1 - o)
        dz_i = dct * g * i * (1 - i)
        dz_f = dct * tape.c_prev[t] * f * (1 - f)
        dz_g = dct * i * (1 - g * g)
        dc = dct * f
        dz = torch.cat([dz_i, dz_f, dz_g, dz_o], dim=1)
        dx[t] = dz @ w_ih
        dh_rec = dz @ w_hh
        dw_ih += dz.T @ tape.x[t]
        dw_hh += dz.T @ tape.h_prev[t]
        db += dz.sum(dim=0)
    return FloatGradients(dx=dx, dh0=dh_rec, dc0=dc, dw_ih=dw_ih, dw_hh=dw_hh, db=db)


def _check_shapes(**tensors: tuple[Tensor, tuple[int, ...]]) -> None:
    for name, (tensor, shape) in tensors.items():
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name} must have shape {shape}, got {tuple(tensor.shape)}")
