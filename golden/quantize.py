"""Between real numbers and the engine's integers: tapes and weights in, gradients out."""

from __future__ import annotations

import math
from dataclasses import fields

import torch
from torch import Tensor

from gradsieve.golden.float_lstm import FloatGradients, FloatTape
from gradsieve.golden.types import Gradients, Inputs, Outputs, Tape, Weights
from gradsieve.hw.config import EngineConfig
from gradsieve.hw.formats import FixedPoint, Formats

GRADIENTS = ("dy", "dh", "dc")
"""The fields of a tape that the loss scale multiplies."""


def quantize(values: Tensor, form: FixedPoint, name: str = "values") -> tuple[Tensor, int]:
    """Real numbers to int64 integers of the format, rounded half to even, and how many of them saturated.

    Raises ValueError, naming `name`, for a NaN, an infinity or integers, and for a format wider than float64 is exact.
    """
    if not values.is_floating_point():
        raise ValueError(f"{name} must have a floating-point dtype, got {values.dtype}")
    if form.width > 53:
        raise ValueError(f"form must be at most 53 bits wide (float64 is exact up to there), got {form}")
    bad = values[~values.isfinite()]
    if len(bad):
        raise ValueError(f"{name} must be finite, got {bad[0].item()} (values that are not finite: {len(bad)})")
    # float64 holds float32 values and the scaling by a power of two exactly, so the one rounding is torch.round's.
    rounded = torch.round(values.detach().cpu().double() * form.scale)
    saturated = (rounded > form.maximum) | (rounded < form.minimum)
    return rounded.clamp(form.minimum, form.maximum).long(), int(torch.count_nonzero(saturated))


def quantize_tape(config: EngineConfig, tape: Tape, scale: float = 1.0) -> tuple[Tape, dict[str, int]]:
    """A float tape in the engine's formats, its dy, dh and dc multiplied by the loss scale.

    Returns the tape and, by field, how many values saturated.  Raises ValueError unless `scale` is a power of two, and
    for values that are not finite.
    """
    _check_scale(scale)
    formats = _tape_formats(config.formats)
    out, saturated = {}, {}
    for name, form in formats.items():
        values = getattr(tape, name)
        if name in GRADIENTS:
            values = values.double() * scale
        out[name], saturated[name] = quantize(values, form, f"tape.{name}")
    return Tape(**out), saturated


def quantize_weights(
    config: EngineConfig, w_ih: Tensor, w_hh: Tensor, bias: Tensor | None = None
) -> tuple[Weights, dict[str, int]]:
    """Float weights (4H, I) and (4H, H) in the weight format and, by field, how many values saturated.

    `bias` (4H), which a forward run needs, is the sum of both biases of `torch.nn.LSTM`, quantized once.  Raises
    ValueError for values that are not finite.
    """
    f = config.formats
    out: dict[str, Tensor] = {}
    saturated = {}
    for name, values, form in (("w_ih", w_ih, f.weight), ("w_hh", w_hh, f.weight), ("bias", bias, f.bias)):
        if values is not None:
            out[name], saturated[name] = quantize(values, form, name)
    return Weights(**out), saturated


def quantize_inputs(
    config: EngineConfig, x: Tensor, h0: Tensor | None = None, c0: Tensor | None = None
) -> tuple[Inputs, dict[str, int]]:
    """Float inputs (T, B, I) and states (B, H) in the engine's formats and, by field, how many values saturated.

    Raises ValueError for values that are not finite.
    """
    f = config.formats
    out: dict[str, Tensor] = {}
    saturated = {}
    for name, values, form in (("x", x, f.input), ("h0", h0, f.input), ("c0", c0, f.cell)):
        if values is not None:
            out[name], saturated[name] = quantize(values, form, name)
    return Inputs(**out), saturated


def dequantize(config: EngineConfig, gradients: Gradients, scale: float = 1.0) -> FloatGradients:
    """The gradients as float64 real numbers, divided by the loss scale.

    Exact for integers within 2**53.  Raises ValueError unless `scale` is a power of two.
    """
    _check_scale(scale)
    f = config.formats
    formats = {
        "dx": f.gradient,
        "dh0": f.gradient,
        "dc0": f.gradient,
        "dw_ih": f.weight_grad,
        "dw_hh": f.weight_grad,
        "db": f.bias_grad,
    }
    return FloatGradients(**{name: _real(getattr(gradients, name), form) / scale for name, form in formats.items()})


def dequantize_outputs(config: EngineConfig, outputs: Outputs) -> dict[str, Tensor]:
    """The real numbers that the tensors of a forward run stand for, float64, by field."""
    f = config.formats
    formats = _tape_formats(f) | {"y": f.input, "c_n": f.cell}
    names = ("y", "h_prev", "i", "f", "g", "o", "tanh_c", "c_prev", "c_n")
    return {name: _real(getattr(outputs, name), formats[name]) for name in names}


def dequantize_inputs(config: EngineConfig, inputs: Inputs) -> Tensor:
    """The real numbers that the x of a forward run stands for, float64."""
    return _real(inputs.x, config.formats.input)


def dequantize_tape(config: EngineConfig, tape: Tape, scale: float = 1.0) -> FloatTape:
    """The real numbers that an integer tape stands for, float64, its gradients divided by the loss scale."""
    _check_scale(scale)
    formats = _tape_formats(config.formats)
    values = {name: _real(getattr(tape, name), form) for name, form in formats.items()}
    return FloatTape(**{name: v / scale if name in GRADIENTS else v for name, v in values.items()})


def dequantize_weights(config: EngineConfig, weights: Weights) -> tuple[Tensor, Tensor]:
    """The real numbers that integer weights stand for, float64: w_ih (4H, I) and w_hh (4H, H)."""
    return _real(weights.w_ih, config.formats.weight), _real(weights.w_hh, config.formats.weight)


def _tape_formats(f: Formats) -> dict[str, FixedPoint]:
    special = {"x": f.input, "h_prev": f.input, "c_prev": f.cell} | dict.fromkeys(GRADIENTS, f.gradient)
    return {field.name: special.get(field.name, f.activation) for field in fields(Tape)}


def _real(values: Tensor, form: FixedPoint) -> Tensor:
    return values.double() / form.scale


def _check_scale(scale: float) -> None:
    # Any other factor would round the gradients once more, and differently in float32 and float64.
    if not (math.isfinite(scale) and scale > 0 and math.frexp(scale)[0] == 0.5):
        raise ValueError(f"scale must be a positive power of two, such as 4096.0; got {scale!r}")
