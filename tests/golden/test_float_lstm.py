"""The float reference against autograd, and the integer model against the float reference."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor

from gradsieve.golden import float_lstm
from gradsieve.golden.backward import backward
from gradsieve.golden.float_lstm import FloatGradients, FloatTape
from gradsieve.golden.quantize import (
    dequantize,
    dequantize_tape,
    dequantize_weights,
    quantize_tape,
    quantize_weights,
)
from gradsieve.golden.types import Saturations
from gradsieve.hw.config import EngineConfig, make
from gradsieve.hw.formats import Formats


def layer(H: int, I: int, B: int, T: int, dtype: torch.dtype, seed: int) -> tuple[torch.nn.LSTM, list[Tensor]]:
    """A layer, and its x, h0, c0 and the gradients of y, h_n and c_n."""
    torch.manual_seed(seed)
    lstm = torch.nn.LSTM(I, H).to(dtype)
    shapes = ((T, B, I), (B, H), (B, H), (T, B, H), (B, H), (B, H))
    return lstm, [torch.randn(shape, dtype=torch.float64).to(dtype) for shape in shapes]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("H", "I", "B", "T"), [(5, 3, 4, 7), (1, 1, 1, 1), (17, 30, 2, 20)])
def test_float_reference_equals_autograd(dtype: torch.dtype, H: int, I: int, B: int, T: int) -> None:
    lstm, (x, h0, c0, dy, dh, dc) = layer(H, I, B, T, dtype, seed=T)
    x, h0, c0 = (v.requires_grad_() for v in (x, h0, c0))
    y, (h_n, c_n) = lstm(x, (h0[None], c0[None]))
    torch.autograd.backward([y, h_n, c_n], [dy, dh[None], dc[None]])
    w_ih, w_hh, b_ih, b_hh = lstm.parameters()
    parameters = [p.detach() for p in (w_ih, w_hh, b_ih, b_hh)]
    our_y, tape = float_lstm.forward(x.detach(), h0.detach(), c0.detach(), *parameters)
    ours = float_lstm.backward(parameters[0], parameters[1], replace(tape, dy=dy, dh=dh, dc=dc))
    pairs = [(our_y, y), (tape.c_n, c_n[0]), (ours.dx, x.grad), (ours.dh0, h0.grad), (ours.dc0, c0.grad)]
    pairs += [(ours.dw_ih, w_ih.grad), (ours.dw_hh, w_hh.grad), (ours.db, b_ih.grad), (ours.db, b_hh.grad)]
    # A value passes through at most the sums of T steps: 4H terms of dh, I + H of z and about 20 elementwise operations
    # each, and T * B of dW.  Were all these roundings to add up at the size of the largest value, they would make this.
    roundings = T * (4 * H + I + H + 20 + B)
    unit = torch.finfo(dtype).eps / 2
    for found, expected in pairs:
        assert expected is not None and found.shape == expected.shape
        error = (found - expected).abs().max().item()
        assert error <= roundings * unit * max(1.0, expected.abs().max().item())


def test_forward_and_backward_refuse_shapes_that_do_not_fit() -> None:
    x, h, w_ih, w_hh, b = (
        torch.zeros(2, 3, 4),
        torch.zeros(3, 5),
        torch.zeros(20, 4),
        torch.zeros(20, 5),
        torch.zeros(20),
    )
    _, tape = float_lstm.forward(x, h, h, w_ih, w_hh, b, b)
    assert tape.sizes == (5, 4, 3, 2)
    with pytest.raises(ValueError, match=r"w_hh must have shape \(20, 5\), got \(20, 4\)"):
        float_lstm.forward(x, h, h, w_ih, w_ih, b, b)
    with pytest.raises(ValueError, match=r"c0 must have shape \(3, 5\), got \(2, 5\)"):
        float_lstm.forward(x, h, h[:2], w_ih, w_hh, b, b)
    with pytest.raises(
        ValueError, match=r"x must have shape \(T, B, I\), not empty, and h0 \(B, H\); got \(3, 4\) and \(3, 5\)"
    ):
        float_lstm.forward(x[0], h, h, w_ih, w_hh, b, b)
    with pytest.raises(ValueError, match=r"w_ih must have shape \(20, 4\), got \(20, 5\)"):
        float_lstm.backward(w_hh, w_hh, tape)


def rounding_bound(formats: Formats, w_ih: Tensor, w_hh: Tensor, tape: FloatTape) -> FloatGradients:
    """The most by which the integer model may differ from the float one on the same real numbers, if nothing saturates.

    Each named rounding adds at most half an LSB, and a product of a + da and b + db is off by |a| db + |b| da + da db.
    Nothing else is inexact: sums in the array, and the operands, are the same real numbers on both sides.
    """
    half_g, half_a = 0.5 / formats.gradient.scale, 0.5 / formats.activation.scale

    def product(a: Tensor, da: Tensor | float, b: Tensor, db: Tensor | float) -> Tensor:
        return a.abs() * db + b.abs() * da + da * db + half_g

    H, _, _, T = tape.sizes
    dh_rec, dc = tape.dh, tape.dc
    d_rec, d_dc = torch.zeros_like(tape.dh), torch.zeros_like(tape.dc)
    dx, dw_ih, dw_hh = torch.zeros_like(tape.x), torch.zeros_like(w_ih), torch.zeros_like(w_hh)
    db = torch.zeros(4 * H, dtype=torch.float64)
    for t in reversed(range(T)):
        i, f, g, o, tc, c_prev = (v[t] for v in (tape.i, tape.f, tape.g, tape.o, tape.tanh_c, tape.c_prev))
        dh, d_dh = tape.dy[t] + dh_rec, d_rec  # one format: the sum does not round
        e, d_e = dh * o, product(dh, d_dh, o, 0.0)
        s = 1 - tc * tc
        dct, d_dct = dc + e * s, d_dc + product(e, d_e, s, half_a)
        gates = ((dct, d_dct, g, i - i * i), (dct, d_dct, c_prev, f - f * f), (dct, d_dct, i, 1 - g * g))
        dz, d_dz = [], []
        for value, error, activation, factor in (*gates, (dh, d_dh, tc, o - o * o)):
            first = value * activation
            dz.append(first * factor)
            d_dz.append(product(first, product(value, error, activation, 0.0), factor, half_a))
        dc, d_dc = dct * f, product(dct, d_dct, f, 0.0)
        dz_t, d_dz_t = torch.cat(dz, dim=1), torch.cat(d_dz, dim=1)
        dh_rec, d_rec = dz_t @ w_hh, d_dz_t @ w_hh.abs() + half_g
        dx[t] = d_dz_t @ w_ih.abs() + half_g
        dw_ih += d_dz_t.T @ tape.x[t].abs()
        dw_hh += d_dz_t.T @ tape.h_prev[t].abs()
        db += d_dz_t.sum(dim=0)
    return FloatGradients(dx=dx, dh0=d_rec, dc0=d_dc, dw_ih=dw_ih, dw_hh=dw_hh, db=db)


def engine(gradient: str = "16.12", activation: str = "16.15") -> EngineConfig:
    formats = {"gradient": gradient, "activation": activation}
    return make(R=4, C=4, max_H=24, max_I=24, max_B=8, max_T=12, formats=formats)


def both_models(
    config: EngineConfig, w_ih: Tensor, w_hh: Tensor, tape: FloatTape
) -> tuple[FloatGradients, FloatGradients, FloatGradients]:
    """The gradients of the integer model, those of the float one, and the bound on their difference."""
    integer_tape, saturated = quantize_tape(config, tape)
    weights, weights_saturated = quantize_weights(config, w_ih, w_hh)
    assert not any(saturated.values()) and not any(weights_saturated.values())
    integer = backward(config, weights, integer_tape)
    assert integer.saturations == Saturations()
    # Both models see the same real numbers from here, so the roundings inside are all that tells them apart.
    exact_tape, exact_weights = dequantize_tape(config, integer_tape), dequantize_weights(config, weights)
    reference = float_lstm.backward(*exact_weights, exact_tape)
    return dequantize(config, integer), reference, rounding_bound(config.formats, *exact_weights, exact_tape)


def moderate_case(
    config: EngineConfig,
    H: int,
    I: int,
    B: int,
    T: int,
    seed: int,
) -> tuple[Tensor, Tensor, FloatTape]:
    """Weights and a tape that saturate nothing, with gradients of a sixteenth of their format's range."""
    form = config.formats.gradient
    size = form.maximum / form.scale / 16
    lstm, (x, h0, c0, dy, dh, dc) = layer(H, I, B, T, torch.float64, seed)
    w_ih, w_hh, b_ih, b_hh = (p.detach() for p in lstm.parameters())
    _, tape = float_lstm.forward(x.clamp(-3, 3), h0.tanh() / 2, c0, w_ih, w_hh, b_ih, b_hh)
    # At tanh(c) = 0 or g = 0 the factor 1 - 0 saturates in a format that ends below 1: keep clear of it.
    tanh_c, g = (torch.where(v.abs() < 1 / 64, 1 / 64, v) for v in (tape.tanh_c, tape.g))
    return w_ih, w_hh, replace(tape, tanh_c=tanh_c, g=g, dy=dy * size, dh=dh * size, dc=dc * size)


@pytest.mark.parametrize(
    "config",
    [engine(), engine("16.9"), engine("18.14"), engine(activation="12.10")],
    ids=["default", "coarse", "fine", "12-bit"],
)
@pytest.mark.parametrize(("H", "I", "B", "T"), [(24, 24, 8, 4), (5, 9, 3, 6), (1, 1, 1, 1)])
def test_integer_model_is_within_its_roundings_of_the_float_one(
    config: EngineConfig,
    H: int,
    I: int,
    B: int,
    T: int,
) -> None:
    for seed in range(5):
        found, reference, bound = both_models(config, *moderate_case(config, H, I, B, T, seed))
        for name in (f.name for f in fields(FloatGradients)):
            error = (getattr(found, name) - getattr(reference, name)).abs()
            # The last term is the rounding of the float64 reference itself, far below any LSB.
            limit = getattr(bound, name) + 1e-12
            assert bool((error <= limit).all()), (name, (error / limit).max())
            # A bound as large as the gradients themselves would say nothing.
            assert limit.norm() < getattr(reference, name).norm() / 2, name


def test_the_bound_is_near_what_happens() -> None:
    # With one unit and one step little cancels: the bound must be no more than twice the worst error.
    worst = dict.fromkeys((f.name for f in fields(FloatGradients)), 0.0)
    for seed in range(40):
        found, reference, bound = both_models(engine(), *moderate_case(engine(), 1, 1, 4, 1, seed))
        for name in worst:
            error = (getattr(found, name) - getattr(reference, name)).abs()
            worst[name] = max(worst[name], (error / getattr(bound, name)).max().item())
    assert min(worst.values()) > 0.5, worst
