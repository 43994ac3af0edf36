"""What a run accepts: the golden model and every device refuse the same inputs in the same words."""

from __future__ import annotations

import torch
from torch import Tensor

from gradsieve.golden.types import Inputs, Masks, Sieve, SieveMode, Tape, Weights
from gradsieve.hw.config import EngineConfig
from gradsieve.hw.formats import FixedPoint

INTEGERS = (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64)
"""The dtypes that a tape and weights may have."""


def column_tiles(config: EngineConfig, H: int, I: int) -> tuple[int, int]:
    """Tiles of R columns of x, and of h, in a run of these sizes."""
    return -(-I // config.R), -(-H // config.R)


def check_inputs(
    config: EngineConfig, weights: Weights, tape: Tape, sieve: Sieve | None = None, masks: Masks | None = None
) -> None:
    """Raise ValueError, quoting the offending value and what it must be, unless the engine can run these inputs.

    Checks, in this order: the ranks of x and i, the sizes against the config's maxima, shape, dtype and range of each
    tensor of the tape and of the weights, the sieve's registers, the masks.
    """
    for name in ("x", "i"):
        _check_tensor(f"tape.{name}", getattr(tape, name))
        if getattr(tape, name).ndim != 3:
            axes = "(T, B, I)" if name == "x" else "(T, B, H)"
            raise ValueError(f"tape.{name} must have shape {axes}, got {_shape(getattr(tape, name))}")
    H, I, B, T = tape.sizes
    config.check_run(H=H, I=I, B=B, T=T)
    f = config.formats
    step, state = ("(T, B, H)", (T, B, H)), ("(B, H)", (B, H))
    fields: dict[str, tuple[tuple[str, tuple[int, ...]], FixedPoint]] = {
        "x": (("(T, B, I)", (T, B, I)), f.input),
        "h_prev": (step, f.input),
        **dict.fromkeys(("i", "f", "g", "o", "tanh_c"), (step, f.activation)),
        "c_prev": (step, f.cell),
        "dy": (step, f.gradient),
        "dh": (state, f.gradient),
        "dc": (state, f.gradient),
    }
    for name, (shape, form) in fields.items():
        _check_values(f"tape.{name}", getattr(tape, name), shape, form)
    _check_weights(config, weights, H, I)
    check_sieve(config, sieve if sieve is not None else Sieve())
    _check_masks(config, masks, H, I, T)


def check_forward_inputs(config: EngineConfig, weights: Weights, inputs: Inputs, masks: Masks | None = None) -> None:
    """Raise ValueError, quoting the offending value and what it must be, unless the engine can run this forward run.

    Checks, in this order: the formats, the ranks of x and w_hh, the sizes against the config's maxima, shape, dtype and
    range of each tensor of the inputs and of the weights, the masks.
    """
    f = config.formats
    f.check_forward()
    for name, tensor, axes in (("inputs.x", inputs.x, "(T, B, I)"), ("weights.w_hh", weights.w_hh, "(4H, H)")):
        _check_tensor(name, tensor)
        if tensor.ndim != axes.count(",") + 1:
            raise ValueError(f"{name} must have shape {axes}, got {_shape(tensor)}")
    (T, B, I), H = inputs.x.shape, weights.w_hh.shape[1]
    config.check_run(H=H, I=I, B=B, T=T)
    _check_values("inputs.x", inputs.x, ("(T, B, I)", (T, B, I)), f.input)
    for name, state, form in (("h0", inputs.h0, f.input), ("c0", inputs.c0, f.cell)):
        if state is not None:
            _check_values(f"inputs.{name}", state, ("(B, H)", (B, H)), form)
    _check_weights(config, weights, H, I)
    if weights.bias is None:
        raise ValueError("weights.bias must be a torch.Tensor for a forward run, got None")
    _check_values("weights.bias", weights.bias, ("(4H,)", (4 * H,)), f.bias)
    _check_masks(config, masks, H, I, T)


def _check_weights(config: EngineConfig, weights: Weights, H: int, I: int) -> None:
    form = config.formats.weight
    _check_values("weights.w_ih", weights.w_ih, ("(4H, I)", (4 * H, I)), form)
    _check_values("weights.w_hh", weights.w_hh, ("(4H, H)", (4 * H, H)), form)


def _check_masks(config: EngineConfig, masks: Masks | None, H: int, I: int, T: int) -> None:
    if masks is not None:
        tiles = sum(column_tiles(config, H, I))
        _check_mask("masks.block", masks.block, "(4H, tiles)", (4 * H, tiles))
        _check_mask("masks.column", masks.column, "(T, tiles)", (T, tiles))


def check_sieve(config: EngineConfig, sieve: Sieve) -> None:
    """Raise ValueError unless every register of the sieve holds a value that it can have."""
    modes = ", ".join(f"{m.value} ({m.name.lower()})" for m in SieveMode)
    if not _is_int(sieve.mode) or sieve.mode not in tuple(SieveMode):
        raise ValueError(f"sieve.mode must be one of {modes}; got {sieve.mode!r}")
    top = (1 << config.formats.gradient.width) - 1
    if not _is_int(sieve.tau) or not 0 <= sieve.tau <= top:
        raise ValueError(
            f"sieve.tau must be an integer from 0 to {top} (LSBs of the gradient format {config.formats.gradient}), "
            f"got {sieve.tau!r}"
        )
    if not _is_int(sieve.random) or not 1 <= sieve.random < 1 << 32:
        raise ValueError(f"sieve.random must be an integer from 1 to {(1 << 32) - 1}, got {sieve.random!r}")


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)


def _check_tensor(name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise ValueError(f"{name} must be a torch.Tensor, got {type(value).__name__}")


def _check_shape(name: str, tensor: Tensor, axes: str, shape: tuple[int, ...]) -> None:
    _check_tensor(name, tensor)
    if _shape(tensor) != shape:
        raise ValueError(f"{name} must have shape {axes} = {shape}, got {_shape(tensor)}")


def _check_values(name: str, tensor: Tensor, shape: tuple[str, tuple[int, ...]], form: FixedPoint) -> None:
    _check_shape(name, tensor, *shape)
    if tensor.dtype not in INTEGERS:
        raise ValueError(f"{name} must be one of {', '.join(map(str, INTEGERS))}; got {tensor.dtype}")
    low, high = int(tensor.min()), int(tensor.max())
    for value in (low, high):
        if not form.minimum <= value <= form.maximum:
            raise ValueError(
                f"{name} must be from {form.minimum} to {form.maximum} (its format is {form}), got {value}"
            )


def _check_mask(name: str, mask: Tensor | None, axes: str, shape: tuple[int, ...]) -> None:
    if mask is None:
        return
    _check_shape(name, mask, axes, shape)
    if mask.dtype != torch.bool:
        raise ValueError(f"{name} must be torch.bool, got {mask.dtype}")
