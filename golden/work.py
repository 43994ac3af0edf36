"""How much a backward run does: the row indices that the array streams, and the multiply-accumulates among them."""

from __future__ import annotations

import torch
from torch import Tensor


def index_counts(rows: Tensor, block: Tensor | None, column: Tensor | None, tiles: int) -> Tensor:
    """Indices that one dataflow streams, by step, batch tile and column tile: (T, batch_tiles, tiles) int64.

    `rows` (T, batch_tiles, 4H) bool, the rows that the sieve kept; `block` (4H, tiles) and `column` (T, tiles) bool as
    in `gradsieve.golden.types.Masks`, None for all.
    """
    if block is None:
        counts = rows.sum(dim=2, keepdim=True).expand(-1, -1, tiles)
    else:
        # Counts up to 4H are exact in float64, whose products are far faster than those of integers.
        counts = (rows.double() @ block.double()).long()
    return counts if column is None else counts * column[:, None].long()


def tile_widths(H: int, I: int, columns: int) -> Tensor:
    """Real columns in each column tile, those of x before those of h, which are padded apart: (tiles) int64."""
    return torch.cat([(n - torch.arange(0, n, columns)).clamp(max=columns) for n in (I, H)])


def tile_lanes(B: int, lanes: int) -> Tensor:
    """Lanes that hold a sample, in each batch tile: (batch_tiles) int64."""
    return (B - torch.arange(0, B, lanes)).clamp(max=lanes)


def useful_macs(counts: Tensor, lanes: Tensor, widths: Tensor) -> int:
    """Multiply-accumulates of one dataflow for `index_counts`: no padding lane or column counts."""
    return int((counts * lanes[:, None] * widths).sum())
