"""Bad inputs are refused before any work, in words that quote what is wrong and what is right."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch

from gradsieve.golden.backward import backward, check_inputs, row_scores
from gradsieve.golden.random_case import random_case
from gradsieve.golden.types import Masks, Sieve, SieveMode, Tape, Weights
from gradsieve.hw.config import preset

CONFIG = preset("tiny")  # R = 2, maxima H 8, I 8, B 6, T 6
WEIGHTS, TAPE = random_case(CONFIG, 0, sizes=(3, 5, 4, 2), extreme=False)[:2]


def refused(message: str, weights: Weights = WEIGHTS, tape: Tape = TAPE, **rest: Any) -> None:
    for check in (check_inputs, backward):
        with pytest.raises(ValueError, match=re.escape(message)):
            check(CONFIG, weights, tape, rest.get("sieve"), rest.get("masks"))


def test_good_inputs_pass() -> None:
    check_inputs(CONFIG, WEIGHTS, TAPE)
    check_inputs(CONFIG, WEIGHTS, TAPE, Sieve(SieveMode.STOCHASTIC, 2**16 - 1, 2**32 - 1), Masks())
    check_inputs(CONFIG, WEIGHTS, TAPE, Sieve(2, 0, 1))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("x", (4, 5), "tape.x must have shape (T, B, I), got (4, 5)"),
        ("i", (2, 4), "tape.i must have shape (T, B, H), got (2, 4)"),
        ("f", (2, 4, 4), "tape.f must have shape (T, B, H) = (2, 4, 3), got (2, 4, 4)"),
        ("h_prev", (1, 4, 3), "tape.h_prev must have shape (T, B, H) = (2, 4, 3), got (1, 4, 3)"),
        ("dh", (2, 4, 3), "tape.dh must have shape (B, H) = (4, 3), got (2, 4, 3)"),
        ("dc", (4, 1), "tape.dc must have shape (B, H) = (4, 3), got (4, 1)"),
    ],
)
def test_shapes_of_the_tape(name: str, shape: tuple[int, ...], message: str) -> None:
    refused(message, tape=replace(TAPE, **{name: torch.zeros(shape, dtype=torch.int64)}))


def test_shapes_of_the_weights() -> None:
    refused("weights.w_ih must have shape (4H, I) = (12, 5), got (5, 12)", replace(WEIGHTS, w_ih=WEIGHTS.w_ih.T))
    refused("weights.w_hh must have shape (4H, H) = (12, 3), got (12, 5)", replace(WEIGHTS, w_hh=WEIGHTS.w_ih))


@pytest.mark.parametrize(
    ("x", "i", "message"),
    [
        ((7, 4, 5), (7, 4, 3), "engine 'tiny': T must be from 1 to 6, got 7"),
        ((2, 7, 5), (2, 7, 9), "engine 'tiny': H must be from 1 to 8, got 9; B must be from 1 to 6, got 7"),
        ((2, 4, 0), (2, 4, 3), "engine 'tiny': I must be from 1 to 8, got 0"),
    ],
)
def test_sizes_over_the_maxima(x: tuple[int, ...], i: tuple[int, ...], message: str) -> None:
    refused(message, tape=replace(TAPE, x=torch.zeros(x), i=torch.zeros(i)))


@pytest.mark.parametrize("name", ["x", "tanh_c", "c_prev", "dy", "dc"])
@pytest.mark.parametrize("value", [2**15, -(2**15) - 1])
def test_values_out_of_range(name: str, value: int) -> None:
    tensor = getattr(TAPE, name).clone()
    tensor.view(-1)[-1] = value
    refused(f"tape.{name} must be from -32768 to 32767 (its format is 16.", tape=replace(TAPE, **{name: tensor}))
    refused(
        f"weights.w_hh must be from -32768 to 32767 (its format is 16.13), got {value}",
        replace(WEIGHTS, w_hh=torch.full_like(WEIGHTS.w_hh, value)),
    )


def test_dtypes() -> None:
    refused(
        "tape.dy must be one of torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64; got torch.float32",
        tape=replace(TAPE, dy=TAPE.dy.float()),
    )
    refused(
        "tape.g must be one of torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64; got torch.bool",
        tape=replace(TAPE, g=TAPE.g.bool()),
    )
    refused("torch.int32, torch.int64; got torch.float64", replace(WEIGHTS, w_ih=WEIGHTS.w_ih.double()))
    refused(
        "tape.o must be a torch.Tensor, got list",
        tape=replace(
            TAPE,
            o=TAPE.o.tolist(),  # type: ignore[arg-type]
        ),
    )
    refused("tape.x must be a torch.Tensor, got NoneType", tape=replace(TAPE, x=None))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("tau", -1, "sieve.tau must be an integer from 0 to 65535 (LSBs of the gradient format 16.12), got -1"),
        ("tau", 2**16, "sieve.tau must be an integer from 0 to 65535 (LSBs of the gradient format 16.12), got 65536"),
        ("tau", 1.0, "gradient format 16.12), got 1.0"),
        ("tau", True, "gradient format 16.12), got True"),
        ("random", 0, "sieve.random must be an integer from 1 to 4294967295, got 0"),
        ("random", 2**32, "sieve.random must be an integer from 1 to 4294967295, got 4294967296"),
        ("mode", 9, "sieve.mode must be one of 0 (dense), 1 (element), 2 (row), 3 (stochastic); got 9"),
        ("mode", "row", "3 (stochastic); got 'row'"),
    ],
)
def test_registers_of_the_sieve(field: str, value: Any, message: str) -> None:
    refused(message, sieve=replace(Sieve(), **{field: value}))


def test_masks() -> None:
    # I = 5 takes 3 tiles of 2 columns, H = 3 takes 2: x and h apart.
    block, column = torch.ones(12, 5, dtype=torch.bool), torch.ones(2, 5, dtype=torch.bool)
    check_inputs(CONFIG, WEIGHTS, TAPE, None, Masks(block, column))
    refused("masks.block must have shape (4H, tiles) = (12, 5), got (12, 4)", masks=Masks(block=block[:, :4]))
    refused("masks.column must have shape (T, tiles) = (2, 5), got (1, 5)", masks=Masks(column=column[:1]))
    refused("masks.block must be torch.bool, got torch.int64", masks=Masks(block=block.long()))
    refused("masks.column must be torch.bool, got torch.float32", masks=Masks(column=column.float()))


def test_scores_check_their_inputs_too() -> None:
    with pytest.raises(ValueError, match=r"tape.dc must have shape"):
        row_scores(CONFIG, WEIGHTS, replace(TAPE, dc=TAPE.dc[:1]))
