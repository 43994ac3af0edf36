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
        ("x", (4, 5), "tape.x has shape (4, 5); (T, B, I) is accepted"),
        ("i", (2, 4), "tape.i has shape (2, 4); (T, B, H) is accepted"),
        ("f", (2, 4, 4), "tape.f has shape (2, 4, 4); (T, B, H) = (2, 4, 3) is accepted"),
        ("h_prev", (1, 4, 3), "tape.h_prev has shape (1, 4, 3); (T, B, H) = (2, 4, 3) is accepted"),
        ("dh", (2, 4, 3), "tape.dh has shape (2, 4, 3); (B, H) = (4, 3) is accepted"),
        ("dc", (4, 1), "tape.dc has shape (4, 1); (B, H) = (4, 3) is accepted"),
    ],
)
def test_shapes_of_the_tape(name: str, shape: tuple[int, ...], message: str) -> None:
    refused(message, tape=replace(TAPE, **{name: torch.zeros(shape, dtype=torch.int64)}))


def test_shapes_of_the_weights() -> None:
    refused("weights.w_ih has shape (5, 12); (4H, I) = (12, 5) is accepted", replace(WEIGHTS, w_ih=WEIGHTS.w_ih.T))
    refused("weights.w_hh has shape (12, 5); (4H, H) = (12, 3) is accepted", replace(WEIGHTS, w_hh=WEIGHTS.w_ih))


@pytest.mark.parametrize(
    ("x", "i", "message"),
    [
        ((7, 4, 5), (7, 4, 3), "does not run T = 7 (1 to 6)"),
        ((2, 7, 5), (2, 7, 9), "does not run H = 9 (1 to 8), B = 7 (1 to 6)"),
        ((2, 4, 0), (2, 4, 3), "does not run I = 0 (1 to 8)"),
    ],
)
def test_sizes_over_the_maxima(x: tuple[int, ...], i: tuple[int, ...], message: str) -> None:
    refused(message, tape=replace(TAPE, x=torch.zeros(x), i=torch.zeros(i)))


@pytest.mark.parametrize("name", ["x", "tanh_c", "c_prev", "dy", "dc"])
@pytest.mark.parametrize("value", [2**15, -(2**15) - 1])
def test_values_out_of_range(name: str, value: int) -> None:
    tensor = getattr(TAPE, name).clone()
    tensor.view(-1)[-1] = value
    refused(f"tape.{name} holds {value}, outside of its format 16.", tape=replace(TAPE, **{name: tensor}))
    refused(
        f"weights.w_hh holds {value}, outside of its format 16.13: -32768 to 32767 is accepted",
        replace(WEIGHTS, w_hh=torch.full_like(WEIGHTS.w_hh, value)),
    )


def test_dtypes() -> None:
    refused("tape.dy has dtype torch.float32; integers of", tape=replace(TAPE, dy=TAPE.dy.float()))
    refused("tape.g has dtype torch.bool; integers of", tape=replace(TAPE, g=TAPE.g.bool()))
    refused("weights.w_ih has dtype torch.float64", replace(WEIGHTS, w_ih=WEIGHTS.w_ih.double()))
    refused(
        "tape.o is a list; a torch.Tensor is accepted",
        tape=replace(
            TAPE,
            o=TAPE.o.tolist(),  # type: ignore[arg-type]
        ),
    )
    refused("tape.x is a NoneType; a torch.Tensor is accepted", tape=replace(TAPE, x=None))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("tau", -1, "sieve.tau = -1 is not accepted: an integer from 0 to 65535 is"),
        ("tau", 2**16, "sieve.tau = 65536 is not accepted: an integer from 0 to 65535 is"),
        ("tau", 1.0, "sieve.tau = 1.0 is not accepted"),
        ("tau", True, "sieve.tau = True is not accepted"),
        ("random", 0, "sieve.random = 0 is not accepted: an integer from 1 to 4294967295 is"),
        ("random", 2**32, "sieve.random = 4294967296 is not accepted"),
        ("mode", 4, "sieve.mode = 4 is not accepted: 0 (dense), 1 (element), 2 (row), 3 (stochastic) are"),
        ("mode", "row", "sieve.mode = 'row' is not accepted"),
    ],
)
def test_registers_of_the_sieve(field: str, value: Any, message: str) -> None:
    refused(message, sieve=replace(Sieve(), **{field: value}))


def test_masks() -> None:
    # I = 5 takes 3 tiles of 2 columns, H = 3 takes 2: x and h apart.
    block, column = torch.ones(12, 5, dtype=torch.bool), torch.ones(2, 5, dtype=torch.bool)
    check_inputs(CONFIG, WEIGHTS, TAPE, None, Masks(block, column))
    refused("masks.block has shape (12, 4); (4H, tiles) = (12, 5) is accepted", masks=Masks(block=block[:, :4]))
    refused("masks.column has shape (1, 5); (T, tiles) = (2, 5) is accepted", masks=Masks(column=column[:1]))
    refused("masks.block has dtype torch.int64; torch.bool is accepted", masks=Masks(block=block.long()))
    refused("masks.column has dtype torch.float32; torch.bool is accepted", masks=Masks(column=column.float()))


def test_scores_check_their_inputs_too() -> None:
    with pytest.raises(ValueError, match=r"tape.dc has shape"):
        row_scores(CONFIG, WEIGHTS, replace(TAPE, dc=TAPE.dc[:1]))
