"""Packed sequences as stretches of the same batch, and turned back to front."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence

from gradsieve.training.packing import Segment, Segments, reversal

LENGTHS = st.lists(st.integers(1, 9), min_size=1, max_size=7)


def test_segments_of_an_example() -> None:
    segments = Segments.of([4, 4, 3, 1, 1, 1])
    assert list(segments) == [Segment(0, 2, 4, 0, 8), Segment(2, 3, 3, 8, 11), Segment(3, 6, 1, 11, 14)]
    assert segments.steps == 6
    assert list(Segments.of([2])) == [Segment(0, 1, 2, 0, 2)]


@given(LENGTHS)
def test_segments_cover_everything_once(lengths: list[int]) -> None:
    sizes = pack_sequence([torch.zeros(n) for n in lengths], enforce_sorted=False).batch_sizes.tolist()
    parts = list(Segments.of(sizes))
    assert [s.batch for s in parts for _ in range(s.first, s.last)] == sizes
    assert parts[0].begin == parts[0].first == 0 and parts[-1].end == sum(lengths)
    assert all(s.end - s.begin == s.batch * (s.last - s.first) for s in parts)
    assert all((a.end, a.last) == (b.begin, b.first) and a.batch > b.batch for a, b in pairwise(parts))
    assert len(parts) == len(set(lengths))


@given(LENGTHS)
def test_reversal_turns_every_sequence(lengths: list[int]) -> None:
    sequences = [torch.arange(n) + 100 * number for number, n in enumerate(lengths)]
    packed = pack_sequence(sequences, enforce_sorted=False)
    order = reversal(Segments.of(packed.batch_sizes.tolist()), torch.device("cpu"))
    turned = packed._replace(data=packed.data[order])
    padded, found = pad_packed_sequence(turned)
    assert found.tolist() == lengths
    for b, sequence in enumerate(sequences):
        assert torch.equal(padded[: len(sequence), b], sequence.flip(0))
    assert torch.equal(order[order], torch.arange(len(order)))


@pytest.mark.parametrize("batch", [1, 3])
def test_reversal_without_padding(batch: int) -> None:
    order = reversal(Segments.of([batch] * 4), torch.device("cpu"))
    assert torch.equal(order.view(4, batch), torch.arange(4 * batch).view(4, batch).flip(0))
