"""The vectorised model against the scalar contract, and what single runs must look like."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch

from gradsieve.golden.backward import backward, row_scores
from gradsieve.golden.random_case import MASK_KINDS, MaskKind, random_case
from gradsieve.golden.types import Gradients, Masks, Saturations, Sieve, SieveMode
from gradsieve.hw.config import EngineConfig, make, preset
from tests.golden.contract import Contract


def engine(R: int, C: int, B: int, **formats: str | int) -> EngineConfig:
    return make(R=R, C=C, max_H=7, max_I=9, max_B=B, max_T=4, formats=formats)


ENGINES = [
    engine(2, 2, 5),
    engine(3, 4, 9),
    engine(4, 1, 3),
    # Narrow and coarse: ties and saturations everywhere.
    engine(2, 3, 7, weight="8.6", activation="8.7", cell="8.4", input="8.5", gradient="8.4", weight_grad_width=32),
    # The widest operands; weights above 1 and a coarse gradient.
    engine(
        5, 2, 4, weight="18.10", activation="18.17", cell="18.12", input="18.15", gradient="18.13", weight_grad_width=64
    ),
    # Activations with an integer bit, so that 1 is exact; gradients without a fraction; integers as weights.
    engine(2, 4, 6, weight="4.0", activation="12.10", cell="5.0", input="4.3", gradient="6.0", weight_grad_width=24),
]


@pytest.mark.parametrize("mode", SieveMode)
@pytest.mark.parametrize("kind", MASK_KINDS)
@pytest.mark.parametrize("number", range(len(ENGINES)))
def test_equals_the_scalar_contract(number: int, kind: MaskKind, mode: SieveMode) -> None:
    for extreme in (False, True):
        seed = 1000 * number + 10 * mode + MASK_KINDS.index(kind)
        case = random_case(ENGINES[number], seed, mode=mode, masks=kind, extreme=extreme)
        expected = Contract(ENGINES[number], *case).run()
        assert backward(ENGINES[number], *case).differences(expected) == {f.name: 0 for f in fields(Gradients)}


def test_the_cases_reach_every_saturation_and_split_the_rows() -> None:
    seen = dict.fromkeys(("gate", "factor", "sieve", "error"), 0)
    split = dict.fromkeys(SieveMode, 0)
    for seed in range(200):
        config = ENGINES[seed % len(ENGINES)]
        weights, tape, sieve, masks = random_case(config, seed)
        result = backward(config, weights, tape, sieve, masks)
        for name in seen:
            seen[name] += getattr(result.saturations, name) > 0
        split[sieve.mode] += 0.1 < result.rows_kept.double().mean().item() < 0.9
    assert min(seen.values()) >= 6, seen
    assert split[SieveMode.DENSE] == 0
    assert min(split[m] for m in SieveMode if m != SieveMode.DENSE) >= 15, split


def test_tiles_of_lanes_change_the_sieve_only() -> None:
    narrow, wide = (
        make(R=2, C=1, max_H=6, max_I=6, max_B=6, max_T=4),
        make(R=5, C=4, max_H=6, max_I=6, max_B=6, max_T=4),
    )
    weights, tape, _, _ = random_case(narrow, 3, sizes=(6, 5, 6, 4), extreme=True)
    one, other = backward(narrow, weights, tape), backward(wide, weights, tape)
    for name in ("dx", "dh0", "dc0", "dw_ih", "dw_hh", "db"):
        assert torch.equal(getattr(one, name), getattr(other, name))
    assert one.saturations == other.saturations
    assert one.macs == other.macs == 2 * 4 * 6 * (5 + 6) * 6 * 4  # all of 4H rows, D columns, B lanes, T steps, twice
    assert one.indices == 2 * 24 * (3 + 3) * 6 * 4 and other.indices == 2 * 24 * (1 + 2) * 2 * 4


def test_masked_columns_and_blocks() -> None:
    config = make(R=2, C=2, max_H=5, max_I=3, max_B=3, max_T=3)
    weights, tape, _, _ = random_case(config, 8, sizes=(5, 3, 3, 3), extreme=False)
    column = torch.ones(3, 5, dtype=torch.bool)
    column[1, 1] = column[0, 4] = False  # x column 2 at t = 1, h column 4 at t = 0
    block = torch.ones(20, 5, dtype=torch.bool)
    block[7, 0] = False
    dense = backward(config, weights, tape)
    masked = backward(config, weights, tape, masks=Masks(block=block, column=column))
    assert not masked.dx[1, :, 2].any() and masked.dx[0, :, 2].any()
    assert not masked.dh0[:, 4].any() and masked.dh0[:, :4].any()
    assert not masked.dw_ih[7, :2].any() and masked.dw_ih[7, 2]
    assert torch.equal(masked.rows_kept, dense.rows_kept)
    # One block of 2 columns and 3 steps, and two columns of 20 gate rows: times 3 lanes and 2 dataflows.
    assert dense.macs - masked.macs == 2 * 3 * (2 * 3 + 20 + 20)


def test_random_register_moves_in_stochastic_mode_only() -> None:
    config = preset("tiny")
    weights, tape, _, _ = random_case(config, 4, sizes=(3, 2, 5, 2))
    for mode in SieveMode:
        moved = backward(config, weights, tape, Sieve(mode, 100, 12345)).random != 12345
        assert moved == (mode == SieveMode.STOCHASTIC)


def test_a_row_is_scored_over_the_lanes_that_exist() -> None:
    config = make(R=2, C=4, max_H=2, max_I=2, max_B=5, max_T=2)
    weights, tape, _, _ = random_case(config, 5, sizes=(2, 2, 5, 2), extreme=False)
    scores = row_scores(config, weights, tape)
    assert scores.shape == (2, 2, 8)
    tau = int(scores.max())
    kept = backward(config, weights, tape, Sieve(SieveMode.ROW, tau)).rows_kept
    # The largest row of the last step sees the same recurrence in both runs.
    assert torch.equal(kept[1], (scores[1] >= tau) & (scores[1] > 0))


def test_any_integer_dtype_and_no_change_of_the_inputs() -> None:
    config = preset("tiny")
    weights, tape, sieve, masks = random_case(config, 6, mode=SieveMode.STOCHASTIC)
    before = {f.name: getattr(tape, f.name).clone() for f in fields(tape)}
    wide = backward(config, weights, tape, sieve, masks)
    small = replace(tape, **{name: value.to(torch.int16) for name, value in before.items()})
    assert backward(config, weights, small, sieve, masks).mismatches(wide) == 0
    assert all(torch.equal(getattr(tape, name), value) for name, value in before.items())


def test_sums_beyond_float64_are_exact() -> None:
    # An odd number of odd products of about 2**34: the sum is odd and above 2**53, which float64 does not hold.
    formats: dict[str, str | int] = {"input": "18.0", "gradient": "18.0", "activation": "4.0", "weight_grad_width": 64}
    config = make(R=1, C=64, max_H=1, max_I=1, max_B=2**12, max_T=2**8, formats=formats)
    lanes, steps, top = 2**12 - 1, 2**7 + 1, 2**17 - 1
    weights, tape, _, _ = random_case(config, 7, sizes=(1, 1, lanes, steps), extreme=False)
    weights = replace(weights, w_hh=torch.zeros_like(weights.w_hh))
    tape = replace(
        tape,
        # dz_o = dh * tanh(c) * (o - o * o) = dy * -1 * -2 saturates at the maximum.
        x=torch.full_like(tape.x, -top),
        o=torch.full_like(tape.o, 2),
        tanh_c=torch.full_like(tape.o, -1),
        dy=torch.full_like(tape.dy, top),
        dh=torch.zeros_like(tape.dh),
    )
    expected = lanes * steps * -top * top
    assert expected < -(2**53) and expected % 2 == 1
    assert int(backward(config, weights, tape).dw_ih[3, 0]) == expected


def _flipped(result: Gradients, name: str) -> Gradients:
    value = getattr(result, name)
    if isinstance(value, torch.Tensor):
        value = value.clone()
        flat = value.view(-1)
        flat[-1] = ~flat[-1] if value.dtype == torch.bool else flat[-1] ^ 1
    elif isinstance(value, Saturations):
        value = replace(value, gate=value.gate ^ 1)
    else:
        value ^= 1
    return replace(result, **{name: value})


@pytest.mark.parametrize("name", [f.name for f in fields(Gradients)])
def test_a_flipped_bit_is_a_difference(name: str) -> None:
    config = preset("tiny")
    result = backward(config, *random_case(config, 1))
    assert result.mismatches(result) == 0
    other = _flipped(result, name)
    assert result.differences(other)[name] == 1
    assert result.mismatches(other) == 1
