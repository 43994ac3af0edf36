"""The sieve's boundaries, which random runs hardly ever hit, in the model and in the scalar contract."""

from __future__ import annotations

import pytest
import torch

from gradsieve.golden.arithmetic import xorshift32
from gradsieve.golden.random_case import random_case
from gradsieve.golden.sieve import sift, visiting_order
from gradsieve.golden.types import Sieve, SieveMode
from gradsieve.hw.config import make
from tests.golden.contract import Contract

CONFIG = make(R=1, C=2, max_H=1, max_I=1, max_B=2, max_T=1)
TOP = 2**15 - 1


def before(word: int) -> int:
    """The xorshift32 state whose successor is `word`."""

    def undo(value: int, left: int) -> int:
        out = value
        for _ in range(32):
            out = value ^ ((out << left if left > 0 else out >> -left) & 0xFFFFFFFF)
        return out

    state = undo(undo(undo(word, 5), -17), 13)
    assert xorshift32(state) == word
    return state


@pytest.mark.parametrize(
    ("mode", "tau", "word", "row", "expected"),
    [
        # The largest shift is 15: one more and the row is dropped, whatever its word.
        (SieveMode.STOCHASTIC, 2**15, 2**15, [1, 0], [TOP, 0]),
        (SieveMode.STOCHASTIC, 2**15, 2**14, [1, 0], None),
        (SieveMode.STOCHASTIC, 2**15 + 1, 2**31, [1, 0], None),
        (SieveMode.STOCHASTIC, 2**16 - 1, 2**15, [2, -1], [TOP, -(2**15)]),
        (SieveMode.STOCHASTIC, 2**16 - 1, 2**15, [1, -1], None),
        # score * 2**n >= tau: equality needs no further shift; the other lane is shifted along.
        (SieveMode.STOCHASTIC, 8, 0b1110, [-4, 3], [-8, 6]),
        (SieveMode.STOCHASTIC, 9, 0b1110, [-4, 3], None),
        (SieveMode.STOCHASTIC, 9, 0b1100, [-4, 3], [-16, 12]),
        (SieveMode.STOCHASTIC, 4, 0b1111, [-4, 3], [-4, 3]),
        (SieveMode.STOCHASTIC, 0, 0b1111, [0, 3], [0, 3]),
        (SieveMode.STOCHASTIC, 0, 2**31, [0, 0], None),
        # The minimum's magnitude does not fit the format itself.
        (SieveMode.ROW, 2**15, 1, [-(2**15), 1], [-(2**15), 1]),
        (SieveMode.ROW, 2**15, 1, [TOP, 1], None),
        (SieveMode.ROW, 0, 1, [0, 0], None),
        (SieveMode.ELEMENT, 2**15, 1, [-(2**15), TOP], [-(2**15), 0]),
        (SieveMode.ELEMENT, 3, 1, [3, -2], [3, 0]),
        (SieveMode.ELEMENT, 3, 1, [2, -2], None),
        (SieveMode.ELEMENT, 0, 1, [0, 0], None),
        (SieveMode.DENSE, 9, 1, [0, 0], [0, 0]),
    ],
)
def test_one_row(mode: SieveMode, tau: int, word: int, row: list[int], expected: list[int] | None) -> None:
    sieve = Sieve(mode, tau, before(word))
    # The same row at all four gates, with the same word.
    dz = torch.tensor([[value] * 4 for value in row])
    found = sift(dz, sieve, CONFIG.C, CONFIG.formats.gradient, torch.full((1, 4), word))
    kept = expected is not None
    after = [0, 0] if expected is None else expected
    assert found.rows.tolist() == [[kept] * 4]
    assert found.dz.tolist() == [[value] * 4 for value in after]
    assert found.elements.tolist() == [[sum(value != 0 for value in after)] * 4]
    weights, tape, _, masks = random_case(CONFIG, 0, sizes=(1, 1, 2, 1), masks="none")
    contract = Contract(CONFIG, weights, tape, sieve, masks)
    contract_kept, contract_row = contract.sift(row)
    assert (contract_kept, contract_row) == (kept, after)
    assert found.saturations == 4 * contract.saturations["sieve"]


def test_words_go_unit_by_unit() -> None:
    # 3 units: the first four words serve gates i f g o of unit 0, at gate rows 0, 3, 6 and 9.
    assert visiting_order(torch.arange(12), 3).tolist() == [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]


def test_stochastic_mode_needs_words() -> None:
    with pytest.raises(ValueError, match=r"words must be given in stochastic mode .*, got None"):
        sift(torch.ones(2, 4, dtype=torch.int64), Sieve(SieveMode.STOCHASTIC), 2, CONFIG.formats.gradient)
