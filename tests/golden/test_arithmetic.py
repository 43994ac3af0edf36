"""Rounding, exact products and random words against plain Python."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gradsieve.golden.arithmetic import EXACT, exact_matmul, requantize, xorshift32, xorshift32_states
from gradsieve.hw.formats import FixedPoint

INT64 = st.integers(-(2**63), 2**63 - 1)


@st.composite
def formats(draw: st.DrawFn) -> FixedPoint:
    width = draw(st.integers(2, 64))
    return FixedPoint(width=width, fraction=draw(st.integers(0, width - 1)))


@settings(deadline=None)  # a busy machine is no failure
@given(st.lists(INT64 | st.integers(-300, 300), min_size=1), st.integers(0, 127), formats())
@example([-(2**63), 2**63 - 1, 0], 126, FixedPoint(width=64, fraction=63))
@example([-(2**63), 2**63 - 1, 0], 63, FixedPoint(width=64, fraction=0))
@example([-(2**63), 2**63 - 1, 0], 64, FixedPoint(width=64, fraction=0))
@example([-(2**63), 2**63 - 1, 1, -1], 0, FixedPoint(width=64, fraction=63))
def test_requantize_is_round_half_to_even_then_saturate(values: list[int], fraction: int, form: FixedPoint) -> None:
    # Python rounds a Fraction half to even.
    exact = [round(Fraction(v, 2**fraction) * 2**form.fraction) for v in values]
    expected = [max(form.minimum, min(form.maximum, v)) for v in exact]
    result, saturated = requantize(torch.tensor(values), fraction, form)
    assert result.tolist() == expected
    assert saturated == sum(a != b for a, b in zip(exact, expected, strict=True))


def test_requantize_ties_go_to_even() -> None:
    quarters = torch.tensor([-14, -10, -6, -2, 2, 6, 10, 14])  # -3.5, -2.5 ... 3.5
    assert requantize(quarters, 2, FixedPoint(width=8, fraction=0))[0].tolist() == [-4, -2, -2, 0, 0, 2, 2, 4]


@pytest.mark.parametrize(
    ("value", "expected", "count"), [(127, 127, 0), (128, 127, 1), (-128, -128, 0), (-129, -128, 1)]
)
def test_requantize_saturates_at_both_ends(value: int, expected: int, count: int) -> None:
    result, saturated = requantize(torch.tensor([[value]]), 0, FixedPoint(width=8, fraction=0))
    assert (result.tolist(), saturated) == ([[expected]], count)


def test_requantize_saturates_after_rounding() -> None:
    form = FixedPoint(width=8, fraction=0)
    # 127.5 rounds to 128 and saturates; -128.5 rounds to -128 and does not.
    result, saturated = requantize(torch.tensor([255, -257]), 1, form)
    assert (result.tolist(), saturated) == ([127, -128], 1)


def test_requantize_refuses() -> None:
    form = FixedPoint(width=8, fraction=0)
    with pytest.raises(ValueError, match=r"value must be torch\.int64, got torch\.int32"):
        requantize(torch.zeros(1, dtype=torch.int32), 0, form)
    with pytest.raises(ValueError, match="from_fraction must be at least 0, got -1"):
        requantize(torch.zeros(1, dtype=torch.int64), -1, form)


def test_exact_matmul_splits_what_float64_cannot_sum() -> None:
    top = 2**26
    a, b = torch.full((2, 5), top - 1), torch.full((5, 3), top - 1)
    assert EXACT // (top * top) == 2  # two terms at a time
    assert exact_matmul(a, b, top, top).tolist() == [[5 * (top - 1) ** 2] * 3] * 2
    with pytest.raises(ValueError, match=r"a_limit \* b_limit must be at most 2\*\*53 .*, got "):
        exact_matmul(a, b, 2**27, 2**27)


def _plain(state: int, count: int) -> list[int]:
    out = []
    for _ in range(count):
        state = (state ^ (state << 13)) & 0xFFFFFFFF
        state = state ^ (state >> 17)
        state = (state ^ (state << 5)) & 0xFFFFFFFF
        out.append(state)
    return out


def test_xorshift_known_answer() -> None:
    assert xorshift32(1) == 270369  # the first outputs of Marsaglia's generator from 1
    assert xorshift32_states(1, 3).tolist() == [270369, 67634689, 2647435461]


@settings(deadline=None)
@given(st.integers(1, 2**32 - 1), st.integers(0, 300))
def test_xorshift_states_equal_a_plain_loop(state: int, count: int) -> None:
    assert xorshift32_states(state, count).tolist() == _plain(state, count)


def test_xorshift_many_states() -> None:
    assert xorshift32_states(0xFFFFFFFF, 80_001).tolist() == _plain(0xFFFFFFFF, 80_001)


@pytest.mark.parametrize("state", [0, -1, 2**32])
def test_xorshift_refuses_a_state_outside_its_cycle(state: int) -> None:
    with pytest.raises(ValueError, match=rf"state must be from 1 to 4294967295, got {state}"):
        xorshift32_states(state, 1)
    with pytest.raises(ValueError, match="count must be at least 0, got -2"):
        xorshift32_states(1, -2)
