"""The checks that every bench relies on can fail."""

from __future__ import annotations

import pytest
import torch

from gradsieve.hw.config import preset
from gradsieve.hw.layouts import sieved_rows_layout
from gradsieve.tb.layout import Format
from gradsieve.tb.scoreboard import Scoreboard


def test_verdict_of_equal_values() -> None:
    board = Scoreboard()
    board.equal("word", 3, 3)
    board.sequence("words", [1, 2], [1, 2])
    board.tensors("dx", torch.tensor([1, 2]), torch.tensor([1, 2]))
    board.verdict()
    assert board.comparisons == 1 + 3 + 2


def test_a_difference_fails() -> None:
    board = Scoreboard()
    board.equal("word", 3, 4)
    with pytest.raises(AssertionError, match="word: is 3, should be 4"):
        board.verdict()


def test_a_missing_word_fails() -> None:
    board = Scoreboard()
    board.sequence("words", [1], [1, 2])
    assert board.mismatches == 1
    with pytest.raises(AssertionError, match="length of words"):
        board.verdict()


def test_tensors_count_each_element() -> None:
    board = Scoreboard()
    board.tensors("dx", torch.tensor([[1, 2], [3, 4]]), torch.tensor([[1, 0], [3, 0]]))
    assert (board.comparisons, board.mismatches) == (4, 2)
    board.tensors("db", torch.tensor([1]), torch.tensor([1, 2, 3]))
    assert (board.comparisons, board.mismatches) == (7, 5)


def test_no_comparison_fails() -> None:
    with pytest.raises(AssertionError, match="compares nothing"):
        Scoreboard().verdict()


def test_packing_a_layout() -> None:
    form = Format(sieved_rows_layout(preset("tiny")))
    value = {"rows": [[-32768, 5]], "kept": 1, "elements": [2], "saturated": 1}
    assert form.unpack(form.pack(value)) == value
    assert form.unpack(form.pack({"kept": 1})) == {"rows": [[0, 0]], "kept": 1, "elements": [0], "saturated": 0}
    with pytest.raises(KeyError, match="fields must be among "):
        form.pack({"keep": 1})
