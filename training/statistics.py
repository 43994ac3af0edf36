"""What a backward pass of a layer did: counted where it ran, summed up by whoever reports it."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from gradsieve.golden.types import ForwardSaturations, Saturations
from gradsieve.golden.work import index_counts, tile_lanes, tile_widths, useful_macs
from gradsieve.hw.config import EngineConfig
from gradsieve.training.cycles import run_cycles


@dataclass(frozen=True)
class ForwardStatistics:
    """What an integer forward pass of a layer did: values that left their format's range.

    `saturations` of sums, cell states and outputs; `quantized` of what was made integers, by field.
    """

    saturations: ForwardSaturations
    quantized: dict[str, int]


@dataclass(frozen=True)
class PassStatistics:
    """One backward run of one layer and direction.

    `lanes` and `columns` are the C and R of the tiles.  `rows` (T, batch_tiles, 4H) bool, None where all were kept;
    `elements`: elements of dz' that are not zero (all, in a dense pass of the float backend); `block` (4H, tiles) and
    `column` (T, tiles) bool, None for all, tiles of x before those of h.  `tau` in units of the layer's gradients.
    `scale`, `saturations` and `quantized` (values that left their format when they were made integers, by field of the
    tape or weights) are those of the integer backends.  `cycles` was counted by the engine's RTL, None elsewhere.
    """

    layer: str
    H: int
    I: int
    B: int
    T: int
    lanes: int
    columns: int
    rows: Tensor | None
    elements: int
    tau: float | None
    block: Tensor | None = None
    column: Tensor | None = None
    left_dense: bool = False
    """Whether a sieve was set, and the pass left to PyTorch's dense one, as that is faster (`dense_where_faster`)."""
    scale: float | None = None
    saturations: Saturations | None = None
    quantized: dict[str, int] | None = None
    cycles: int | None = None
    gemm_seconds: float | None = None
    """What the compiled float pass spent in GEMMs; None elsewhere."""
    forward: ForwardStatistics | None = None
    """Of the forward pass before it, where integers computed that; None elsewhere."""

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""
        return sum(t.numel() * t.element_size() for t in (self.rows, self.block, self.column) if t is not None)

    @property
    def all_rows(self) -> int:
        """Gate rows that the sieve saw."""
        return self.T * -(-self.B // self.lanes) * 4 * self.H

    @cached_property
    def kept_rows(self) -> int:
        """Gate rows that it kept."""
        return self.all_rows if self.rows is None else int(self.rows.sum())

    @property
    def all_elements(self) -> int:
        """Elements of the gate gradients."""
        return self.T * self.B * 4 * self.H

    @property
    def dense_macs(self) -> int:
        """Multiply-accumulates of the backward pass without sieve and masks."""
        return 2 * self.all_elements * (self.I + self.H)

    @property
    def tiles(self) -> int:
        """Column tiles, those of x and of h."""
        return -(-self.I // self.columns) + -(-self.H // self.columns)

    @cached_property
    def counts(self) -> Tensor:
        """Indices of one dataflow, (T, batch_tiles, tiles)."""
        rows = self.rows
        if rows is None:
            rows = torch.ones(self.T, -(-self.B // self.lanes), 4 * self.H, dtype=torch.bool)
        return index_counts(rows, self.block, self.column, self.tiles)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the rows, blocks and columns kept."""
        widths = tile_widths(self.H, self.I, self.columns)
        return 2 * useful_macs(self.counts, tile_lanes(self.B, self.lanes), widths)

    @property
    def element_macs(self) -> int:
        """Multiply-accumulates of the elements that are not zero, in proportion where masks drop blocks or columns."""
        return round(self.macs * self.elements / max(1, self.covered_elements))

    @property
    def covered_elements(self) -> int:
        """Elements of the rows kept, zeros among them included."""
        if self.rows is None:
            return self.all_elements
        return int((self.rows.sum(dim=2) * tile_lanes(self.B, self.lanes)).sum())

    @property
    def forward_macs(self) -> int:
        """Multiply-accumulates of the forward pass, masked blocks and columns left out."""
        every = torch.ones(self.T, 1, 4 * self.H, dtype=torch.bool)
        counts = index_counts(every, self.block, self.column, self.tiles)
        return int((counts * tile_widths(self.H, self.I, self.columns)).sum()) * self.B

    def engine_cycles(self, config: EngineConfig) -> int:
        """Cycles on an engine of `config`: as counted, or by the cycle model for these rows."""
        return (
            self.cycles if self.cycles is not None else run_cycles(config, self.H, self.I, self.B, self.T, self.counts)
        )


def dense_pass(
    layer: str, sizes: tuple[int, int, int, int], lanes: int, columns: int, left_dense: bool
) -> PassStatistics:
    """What PyTorch's own pass did, with all rows; `sizes` are H, I, B, T."""
    H, I, B, T = sizes
    elements = 4 * H * B * T
    return PassStatistics(layer, H, I, B, T, lanes, columns, None, elements, tau=None, left_dense=left_dense)


KEPT_PASSES, KEPT_BYTES = 1024, 16 << 20
"""Passes, and bytes of their tensors, that wait to be taken."""


class StatisticsQueue:
    """The statistics of the last passes, until somebody takes them: for users who never ask, the oldest are dropped.

    Holds KEPT_PASSES and KEPT_BYTES at most, but always the last pass.  Threads may share it.
    """

    def __init__(self) -> None:
        self._waiting: deque[PassStatistics] = deque()
        self._bytes = 0
        self._lock = threading.Lock()
        self.passes = 0
        """All passes ever added."""

    def __reduce__(self) -> tuple[type[StatisticsQueue], tuple[()]]:
        return StatisticsQueue, ()  # a copy has seen no passes

    def add(self, statistics: PassStatistics) -> None:
        """Append the statistics of a pass."""
        with self._lock:
            self._waiting.append(statistics)
            self._bytes += statistics.nbytes
            self.passes += 1
            while len(self._waiting) > 1 and (len(self._waiting) > KEPT_PASSES or self._bytes > KEPT_BYTES):
                self._bytes -= self._waiting.popleft().nbytes

    def take(self) -> list[PassStatistics]:
        """All of them, the oldest first; none is left."""
        with self._lock:
            taken = list(self._waiting)
            self._waiting.clear()
            self._bytes = 0
        return taken
