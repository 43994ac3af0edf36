"""The vectorised forward pass against the scalar contract, and what single runs must look like."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
import torch

from gradsieve.golden.backward import backward
from gradsieve.golden.forward import forward
from gradsieve.golden.random_case import MASK_KINDS, MaskKind, random_forward_case
from gradsieve.golden.types import Inputs, Masks, Outputs
from gradsieve.hw.config import make
from tests.golden.forward_contract import ForwardContract
from tests.golden.test_backward import engine

ENGINES = [
    engine(2, 2, 5),
    engine(3, 4, 9),
    engine(4, 1, 3),
    # Narrow and coarse: ties and saturations everywhere; arguments coarser than the nodes of the tables.
    engine(
        2, 3, 7, weight="8.6", activation="8.7", cell="8.6", input="8.7", gradient="8.4", preactivation="8.3",
        bias="8.6", weight_grad_width=32,
    ),
    # The widest operands, and the product f * c finer than i * g.
    engine(
        5, 2, 4, weight="18.10", activation="18.12", cell="18.14", input="18.15", gradient="18.13",
        preactivation="18.16", bias="18.17", weight_grad_width=64,
    ),
    # Activations with an integer bit, so that 1 is exact; integers as weights, biases and preactivations.
    engine(
        2, 4, 6, weight="4.0", activation="12.10", cell="5.0", input="4.3", gradient="6.0", preactivation="5.0",
        bias="4.0", weight_grad_width=24,
    ),
]  # fmt: skip


@pytest.mark.parametrize("kind", MASK_KINDS)
@pytest.mark.parametrize("number", range(len(ENGINES)))
def test_equals_the_scalar_contract(number: int, kind: MaskKind) -> None:
    for extreme in (False, True):
        for seed in range(4):
            case = random_forward_case(ENGINES[number], 100 * number + seed, masks=kind, extreme=extreme)
            expected = ForwardContract(ENGINES[number], *case).run()
            assert forward(ENGINES[number], *case).differences(expected) == {f.name: 0 for f in fields(Outputs)}


def test_the_cases_reach_every_saturation() -> None:
    seen = dict.fromkeys(("z", "c", "h"), 0)
    for seed in range(240):
        config = ENGINES[seed % len(ENGINES)]
        saturations = forward(config, *random_forward_case(config, seed)).saturations
        for name in seen:
            seen[name] += getattr(saturations, name) > 0
    assert min(seen.values()) >= 6, seen


def test_tiles_do_not_change_the_numbers() -> None:
    narrow, wide = (
        make(R=2, C=1, max_H=6, max_I=6, max_B=6, max_T=4),
        make(R=5, C=4, max_H=6, max_I=6, max_B=6, max_T=4),
    )
    weights, inputs, _ = random_forward_case(narrow, 3, sizes=(6, 5, 6, 4), masks="none", extreme=True)
    one, other = forward(narrow, weights, inputs), forward(wide, weights, inputs)
    assert one.differences(other) == {f.name: 0 for f in fields(Outputs)} | {"indices": 1}
    assert one.macs == 4 * 6 * (5 + 6) * 6 * 4  # all of 4H rows, D columns, B lanes, T steps
    assert one.indices == 24 * (3 + 3) * 6 * 4 and other.indices == 24 * (1 + 2) * 2 * 4


def test_zero_state_is_that_of_zeros() -> None:
    weights, inputs, masks = random_forward_case(ENGINES[0], 5, sizes=(5, 3, 3, 3))
    zeros = torch.zeros(3, 5, dtype=torch.int64)
    given = forward(ENGINES[0], weights, Inputs(inputs.x, zeros, zeros), masks)
    assert forward(ENGINES[0], weights, Inputs(inputs.x), masks).mismatches(given) == 0


def test_one_step_after_another_is_the_same_as_both() -> None:
    config = ENGINES[1]
    weights, inputs, _ = random_forward_case(config, 7, sizes=(6, 4, 5, 4), masks="none", extreme=False)
    whole = forward(config, weights, inputs)
    first = forward(config, weights, replace(inputs, x=inputs.x[:1]))
    rest = forward(config, weights, Inputs(inputs.x[1:], h0=first.y[-1], c0=first.c_n))
    assert torch.equal(torch.cat([first.y, rest.y]), whole.y) and torch.equal(rest.c_n, whole.c_n)
    assert torch.equal(whole.h_prev[1:], whole.y[:-1])


def test_masked_columns_and_blocks_are_zeros() -> None:
    config = make(R=2, C=2, max_H=5, max_I=3, max_B=3, max_T=3)
    weights, inputs, _ = random_forward_case(config, 8, sizes=(5, 3, 3, 3), masks="none", extreme=False)
    column = torch.ones(3, 5, dtype=torch.bool)
    column[1, 1] = column[0, 4] = False  # x column 2 at t = 1, h column 4 at t = 0
    block = torch.ones(20, 5, dtype=torch.bool)
    block[3, 0] = False  # x columns 0 and 1 of gate row 3
    x, w_ih = inputs.x.clone(), weights.w_ih.clone()
    x[1, :, 2] = 0
    w_ih[3, :2] = 0
    h0 = torch.zeros(3, 5, dtype=torch.int64) if inputs.h0 is None else inputs.h0.clone()
    masked = forward(config, weights, replace(inputs, h0=h0), Masks(block=block, column=column))
    h0 = h0.clone()
    h0[:, 4] = 0
    plain = forward(config, replace(weights, w_ih=w_ih), Inputs(x, h0, inputs.c0))
    assert torch.equal(masked.y, plain.y) and torch.equal(masked.c_n, plain.c_n)
    # two column tiles in a step, and one block in three steps, of two batch tiles
    assert masked.indices == plain.indices - 2 * 20 * 2 - 3 * 2
    assert not torch.equal(masked.h_prev[0], plain.h_prev[0])  # the tape has h as it is; the mask is the run's


def test_its_tape_is_one_that_the_backward_pass_takes() -> None:
    config = ENGINES[1]
    weights, inputs, masks = random_forward_case(config, 11, sizes=(6, 4, 5, 4))
    out = forward(config, weights, inputs, masks)
    dy = torch.ones_like(out.y)
    gradients = backward(config, weights, out.tape(inputs.x, dy), masks=masks)
    zeros = torch.zeros_like(out.c_n)
    assert backward(config, weights, out.tape(inputs.x, dy, zeros, zeros), masks=masks).mismatches(gradients) == 0
    assert gradients.dx.shape == inputs.x.shape


WEIGHTS, INPUTS, _ = random_forward_case(ENGINES[0], 1, sizes=(5, 3, 3, 3), masks="none", extreme=False)


@pytest.mark.parametrize(
    ("weights", "inputs", "message"),
    [
        ({"bias": None}, {}, r"weights\.bias must be a torch\.Tensor for a forward run, got None"),
        ({"bias": torch.zeros(19).long()}, {}, r"weights\.bias must have shape \(4H,\) = \(20,\), got \(19,\)"),
        (
            {"bias": torch.full((20,), 1 << 15)},
            {},
            r"weights\.bias must be from -32768 to 32767 \(its format is 16\.13\), got 32768",
        ),
        ({"w_hh": torch.zeros(20).long()}, {}, r"weights\.w_hh must have shape \(4H, H\), got \(20,\)"),
        (
            {"w_ih": torch.zeros(20, 4).long()},
            {},
            r"weights\.w_ih must have shape \(4H, I\) = \(20, 3\), got \(20, 4\)",
        ),
        ({}, {"x": [1]}, r"inputs\.x must be a torch\.Tensor, got list"),
        ({}, {"x": torch.zeros(3, 3).long()}, r"inputs\.x must have shape \(T, B, I\), got \(3, 3\)"),
        ({}, {"x": torch.zeros(3, 3, 3)}, r"inputs\.x must be one of torch\.int8, .*; got torch\.float32"),
        ({}, {"x": torch.zeros(5, 3, 3).long()}, r"T must be from 1 to 4, got 5"),
        ({}, {"h0": torch.zeros(3, 4).long()}, r"inputs\.h0 must have shape \(B, H\) = \(3, 5\), got \(3, 4\)"),
        ({}, {"c0": torch.full((3, 5), -(1 << 15) - 1)}, r"inputs\.c0 must be from -32768 to 32767 .*, got -32769"),
    ],
)
def test_inputs_that_are_refused(weights: dict[str, Any], inputs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        forward(ENGINES[0], replace(WEIGHTS, **weights), replace(INPUTS, **inputs))


@pytest.mark.parametrize(
    ("formats", "message"),
    [
        (
            {"weight": "8.6", "input": "8.5"},
            r"bias must have a fraction of at most 11 \(that of weight plus that of input\) for a forward pass, got 13",
        ),
        (
            {"weight": "8.5", "input": "8.5", "bias": "8.5"},
            r"preactivation must have a fraction of at most 10 .*, got 11",
        ),
        (
            {"activation": "8.2", "input": "8.5"},
            r"input must have a fraction of at most 4 \(twice that of activation\) for a forward pass, got 5",
        ),
    ],
)
def test_formats_that_would_round_to_the_left_are_refused(formats: dict[str, str], message: str) -> None:
    config = engine(2, 2, 5, **formats)
    with pytest.raises(ValueError, match=message):
        forward(config, WEIGHTS, INPUTS)


def test_masks_are_checked() -> None:
    with pytest.raises(ValueError, match=r"masks\.column must have shape \(T, tiles\) = \(3, 5\), got \(2, 5\)"):
        forward(ENGINES[0], WEIGHTS, INPUTS, Masks(column=torch.ones(2, 5, dtype=torch.bool)))


def test_formats_of_the_forward_pass_at_their_default_are_not_in_the_digest() -> None:
    digests = {engine(2, 2, 5, **formats).digest for formats in ({}, {"bias": "16.13", "preactivation": "16.11"})}
    assert len(digests) == 1
    others = {engine(2, 2, 5, **formats).digest for formats in ({"bias": "16.12"}, {"preactivation": "16.12"})}
    assert len(digests | others) == 3
