"""Real numbers to integers and back."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch

from gradsieve.golden import float_lstm
from gradsieve.golden.backward import backward, check_inputs
from gradsieve.golden.quantize import (
    dequantize,
    dequantize_tape,
    dequantize_weights,
    quantize,
    quantize_tape,
    quantize_weights,
)
from gradsieve.golden.random_case import random_case
from gradsieve.golden.types import SieveMode
from gradsieve.hw.config import preset
from gradsieve.hw.formats import FixedPoint

CONFIG = preset("tiny")


def test_rounds_half_to_even_and_saturates() -> None:
    form = FixedPoint(width=8, fraction=2)
    values = torch.tensor([0.125, 0.375, -0.125, -0.375, 31.75, 31.875, -32.0, -32.125, -32.25, 1e30])
    result, saturated = quantize(values, form)
    # 31.875 is 127.5 LSBs, rounds to 128 and saturates; -32.125 is -128.5 LSBs and rounds to -128.
    assert result.tolist() == [0, 2, 0, -2, 127, 127, -128, -128, -128, 127]
    assert saturated == 3


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_refuses_what_is_not_finite(bad: float) -> None:
    _, tape, _, _ = random_case(CONFIG, 0, sizes=(2, 2, 2, 2))
    real = dequantize_tape(CONFIG, tape)
    real.g[1, 0, 1] = bad
    with pytest.raises(ValueError, match=rf"tape.g must be finite, got {bad} \(values that are not finite: 1\)"):
        quantize_tape(CONFIG, real)
    with pytest.raises(ValueError, match=rf"w_hh must be finite, got {bad} \(values that are not finite: 2\)"):
        quantize_weights(CONFIG, torch.zeros(8, 2), torch.tensor([bad, bad]))


def test_refuses_integers_and_wide_formats() -> None:
    with pytest.raises(ValueError, match=r"values must have a floating-point dtype, got torch\.int64"):
        quantize(torch.zeros(1, dtype=torch.int64), FixedPoint(width=8, fraction=0))
    with pytest.raises(ValueError, match=r"form must be at most 53 bits wide .*, got 54\.0"):
        quantize(torch.zeros(1), FixedPoint(width=54, fraction=0))


@pytest.mark.parametrize("scale", [0.0, -2.0, 3.0, float("inf"), float("nan")])
def test_refuses_a_scale_that_is_no_power_of_two(scale: float) -> None:
    weights, tape, _, _ = random_case(CONFIG, 0, sizes=(2, 2, 2, 2))
    with pytest.raises(ValueError, match=f"scale must be a positive power of two, such as 4096.0; got {scale!r}"):
        quantize_tape(CONFIG, dequantize_tape(CONFIG, tape), scale)
    with pytest.raises(ValueError, match="scale"):
        dequantize(CONFIG, backward(CONFIG, weights, tape), scale)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_integers_survive_the_way_there_and_back(dtype: torch.dtype) -> None:
    weights, tape, _, _ = random_case(CONFIG, 1, extreme=True)
    for scale in (1.0, 4096.0, 0.25):
        real = dequantize_tape(CONFIG, tape, scale)
        real = replace(real, **{f.name: getattr(real, f.name).to(dtype) for f in fields(real)})
        again, saturated = quantize_tape(CONFIG, real, scale)
        assert all(torch.equal(getattr(again, f.name), getattr(tape, f.name)) for f in fields(tape))
        assert set(saturated) == {f.name for f in fields(tape)} and not any(saturated.values())
    same, counts = quantize_weights(CONFIG, *dequantize_weights(CONFIG, weights))
    assert torch.equal(same.w_ih, weights.w_ih) and torch.equal(same.w_hh, weights.w_hh)
    assert counts == {"w_ih": 0, "w_hh": 0}


def test_saturated_values_are_counted_by_field() -> None:
    _, tape, _, _ = random_case(CONFIG, 2, sizes=(2, 3, 2, 2), extreme=False)
    real = dequantize_tape(CONFIG, tape)
    real = replace(real, dy=torch.full_like(real.dy, 0.01), x=torch.full_like(real.x, -5.0))
    _, saturated = quantize_tape(CONFIG, real, 4096.0)
    assert saturated["x"] == real.x.numel() and saturated["dy"] == real.dy.numel() and saturated["i"] == 0


def test_the_loss_scale_cancels() -> None:
    torch.manual_seed(0)
    lstm = torch.nn.LSTM(4, 6)
    w_ih, w_hh, b_ih, b_hh = (p.detach() for p in lstm.parameters())
    state = torch.zeros(3, 6)
    y, tape = float_lstm.forward(torch.randn(5, 3, 4), state, state, w_ih, w_hh, b_ih, b_hh)
    tape = replace(tape, dy=torch.randn_like(y) * 1e-4)
    integer_tape, _ = quantize_tape(CONFIG, tape, 2.0**12)
    weights, _ = quantize_weights(CONFIG, w_ih, w_hh)
    check_inputs(CONFIG, weights, integer_tape)
    found = dequantize(CONFIG, backward(CONFIG, weights, integer_tape), 2.0**12)
    expected = float_lstm.backward(w_ih, w_hh, tape)
    for name in ("dx", "dw_ih", "dw_hh", "db", "dh0", "dc0"):
        real, reference = getattr(found, name), getattr(expected, name)
        # A wrong scale or fraction is off by a factor of 2 or more; the roundings are tested elsewhere.
        assert (real - reference).norm() < 0.05 * reference.norm(), name


def test_random_cases_are_accepted_and_repeat() -> None:
    for seed in range(60):
        case = random_case(CONFIG, seed)
        check_inputs(CONFIG, *case)
        again = random_case(CONFIG, seed)
        for one, other in zip(case, again, strict=True):
            for name, a in vars(one).items():
                b = getattr(other, name)
                assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
    sizes = [random_case(CONFIG, seed)[1].sizes for seed in range(60)]
    assert sum(hidden % CONFIG.R > 0 or inputs % CONFIG.R > 0 for hidden, inputs, _, _ in sizes) > 30
    assert sum(hidden != inputs for hidden, inputs, _, _ in sizes) > 30
    assert any(batch == 1 for _, _, batch, _ in sizes) and any(steps == 1 for _, _, _, steps in sizes)


def test_random_case_takes_what_it_is_given() -> None:
    _, tape, sieve, masks = random_case(CONFIG, 3, (3, 4, 5, 6), SieveMode.ROW, "zero_tiles")
    assert tape.sizes == (3, 4, 5, 6) and sieve.mode == SieveMode.ROW
    assert masks.block is not None or masks.column is not None
    with pytest.raises(ValueError, match=r"H must be from 1 to 8, got 9"):
        random_case(CONFIG, 3, (9, 4, 5, 6))
    with pytest.raises(ValueError, match="masks must be one of none, dense, sparse, zero_tiles; got 'odd'"):
        random_case(CONFIG, 3, masks="odd")  # type: ignore[arg-type]
