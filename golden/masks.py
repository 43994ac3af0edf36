"""The host's bitmaps, tile by tile, and what they say of single columns."""

from __future__ import annotations

import torch
from torch import Tensor

from gradsieve.golden.types import Masks
from gradsieve.golden.validation import column_tiles
from gradsieve.hw.config import EngineConfig


class ExpandedMasks:
    """Masks of a run of H, I, T, everything kept where there is none.

    `block` (4H, tiles) and `column` (T, tiles) by tiles of R columns; `block_x` (4H, I), `block_h` (4H, H), `column_x`
    (T, I) and `column_h` (T, H) by columns.  All bool.
    """

    def __init__(self, config: EngineConfig, masks: Masks, H: int, I: int, T: int) -> None:
        x_tiles, h_tiles = column_tiles(config, H, I)
        self.tiles = x_tiles + h_tiles

        def expand(mask: Tensor) -> tuple[Tensor, Tensor]:
            x, h = (part.repeat_interleave(config.R, dim=1) for part in mask.split([x_tiles, h_tiles], dim=1))
            return x[:, :I], h[:, :H]

        def whole(mask: Tensor | None, lines: int) -> Tensor:
            return torch.ones(lines, self.tiles, dtype=torch.bool) if mask is None else mask.cpu()

        self.block, self.column = whole(masks.block, 4 * H), whole(masks.column, T)
        self.block_x, self.block_h = expand(self.block)
        self.column_x, self.column_h = expand(self.column)
