"""Packed sequences as runs of the backend: stretches of steps with the same batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Segment:
    """Steps `first` to before `last`, all with `batch` lanes: rows `begin` to before `end` of the packed data."""

    first: int
    last: int
    batch: int
    begin: int
    end: int


@dataclass(frozen=True)
class Segments:
    """The segments of a packed sequence, in the order of time; `batch_sizes` never grow."""

    batch_sizes: tuple[int, ...]
    parts: tuple[Segment, ...]

    @classmethod
    def of(cls, batch_sizes: Sequence[int]) -> Segments:
        """From the batch of each step, as in `torch.nn.utils.rnn.PackedSequence`."""
        parts: list[Segment] = []
        first = begin = 0
        for t in range(1, len(batch_sizes) + 1):
            if t == len(batch_sizes) or batch_sizes[t] != batch_sizes[first]:
                end = begin + (t - first) * batch_sizes[first]
                parts.append(Segment(first, t, batch_sizes[first], begin, end))
                first, begin = t, end
        return cls(tuple(batch_sizes), tuple(parts))

    def __iter__(self) -> Iterator[Segment]:
        return iter(self.parts)

    @property
    def steps(self) -> int:
        """Time steps of the longest sequence."""
        return len(self.batch_sizes)


def reversal(segments: Segments, device: torch.device) -> Tensor:
    """The permutation of packed rows that turns every sequence back to front; it is its own inverse."""
    sizes = torch.tensor(segments.batch_sizes)
    offsets = sizes.cumsum(0) - sizes
    lengths = (sizes[:, None] > torch.arange(int(sizes[0]))).sum(dim=0)
    rows = [offsets[lengths[:b] - 1 - t] + torch.arange(b) for t, b in enumerate(segments.batch_sizes)]
    return torch.cat(rows).to(device)
