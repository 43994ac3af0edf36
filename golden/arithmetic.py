"""The integer arithmetic that every block shares: rounding, exact sums of products, and the random words."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gradsieve.hw.formats import FixedPoint

EXACT = 1 << 53
"""Every integer up to this magnitude is a float64, so a sum that stays within it is exact in any order."""

_WORD = 0xFFFFFFFF


def plain(tensor: Tensor) -> Tensor:
    """A tensor of any integer dtype, device and history as int64 on the CPU."""
    return tensor.detach().to(device="cpu", dtype=torch.int64)


def requantize(value: Tensor, from_fraction: int, target: FixedPoint) -> tuple[Tensor, int]:
    """The contract's `[.]`: round half to even to the target's fraction, then saturate.

    `value`: int64 of any shape, standing for value / 2**from_fraction.  Returns the integers in `target` (int64, same
    shape) and how many of them saturated.  Exact for every int64; raises ValueError for another dtype or a negative
    fraction.
    """
    if value.dtype != torch.int64:
        raise ValueError(f"value must be torch.int64, got {value.dtype}")
    if from_fraction < 0:
        raise ValueError(f"from_fraction must be at least 0, got {from_fraction}")
    shift = from_fraction - target.fraction
    if shift <= 0:
        # Compare before the shift: a value that leaves the format might leave int64 too.
        above = value > target.maximum >> -shift
        below = value < -(-target.minimum >> -shift)
        rounded = torch.where(above | below, 0, value) << -shift
    else:
        rounded = _round_half_even(value, shift)
        above, below = rounded > target.maximum, rounded < target.minimum
    result = torch.where(above, target.maximum, torch.where(below, target.minimum, rounded))
    return result, int(torch.count_nonzero(above | below))


def _round_half_even(value: Tensor, shift: int) -> Tensor:
    if shift > 63:
        return torch.zeros_like(value)  # at most half of the new LSB, and the tie goes to 0
    floor = value >> shift
    rest = value - (floor << shift)
    half = 1 << (shift - 1)
    return floor + ((rest > half) | ((rest == half) & (floor & 1 == 1))).long()


def exact_matmul(a: Tensor, b: Tensor, a_limit: int, b_limit: int) -> Tensor:
    """The exact product of two int64 matrices, by float64 products whose sums all stay within 2**53.

    `a` (M, K) of magnitudes up to `a_limit`, `b` (K, N) of magnitudes up to `b_limit`; returns (M, N) int64.  The
    caller vouches that the sums fit int64.  Raises ValueError if one product alone might be inexact.
    """
    terms = EXACT // (a_limit * b_limit)
    if terms == 0:
        raise ValueError(
            f"a_limit * b_limit must be at most 2**53 (float64 is exact up to there), got {a_limit} * {b_limit}"
        )
    total = torch.zeros(a.shape[0], b.shape[1], dtype=torch.int64)
    for k in range(0, a.shape[1], terms):
        total += (a[:, k : k + terms].double() @ b[k : k + terms].double()).long()
    return total


def limit(form: FixedPoint) -> int:
    """The largest magnitude that the format holds, that of its minimum."""
    return -form.minimum


def xorshift32(state: int) -> int:
    """The state after `state` of the generator with shifts left 13, right 17, left 5."""
    state ^= state << 13 & _WORD
    state ^= state >> 17
    return state ^ (state << 5 & _WORD)


def xorshift32_states(state: int, count: int) -> Tensor:
    """The next `count` states after `state`, oldest first, as int64 (count,).

    Raises ValueError for a state outside 1 to 2**32 - 1 or a negative count.
    """
    if not 1 <= state <= _WORD:
        raise ValueError(f"state must be from 1 to {_WORD}, got {state}")
    if count < 0:
        raise ValueError(f"count must be at least 0, got {count}")
    # The generator is linear over GF(2): with the matrix of n steps, n known states give the next n.
    columns = np.array([xorshift32(1 << bit) for bit in range(32)], dtype=np.uint32)
    states = np.array([xorshift32(state)], dtype=np.uint32)
    while len(states) < count:
        states = np.concatenate([states, _apply(columns, states[: count - len(states)])])
        columns = _apply(columns, columns)
    return torch.from_numpy(states[:count].astype(np.int64))


def _apply(columns: np.ndarray, words: np.ndarray) -> np.ndarray:
    out = np.zeros_like(words)
    for bit in range(32):
        out ^= (words >> np.uint32(bit) & np.uint32(1)) * columns[bit]
    return out
