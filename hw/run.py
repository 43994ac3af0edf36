"""What all blocks know of the run in progress: sizes and modes, steady from 2 cycles before its start to its end."""

from __future__ import annotations

from amaranth.lib import data

from gradsieve.hw.arithmetic import bits_for
from gradsieve.hw.config import EngineConfig


def run_layout(config: EngineConfig) -> data.StructLayout:
    """Sizes H, I, B, T; tiles and the sizes of the last ones; the sieve's settings; and the mode bits.

    `end` has the last value of a counter of each of them: size - 1, ready-made, so that counting costs one comparison.
    """
    ends = {
        "H": range(config.max_H),
        "I": range(config.max_I),
        "T": range(config.max_T),
        "batch_tiles": range(config.batch_tiles),
        "x_tiles": range(config.x_tiles),
        "h_tiles": range(config.h_tiles),
        "tiles": range(config.tiles),
        "bitmap_words": range(config.bitmap_words),
    }
    return data.StructLayout(
        {
            "H": bits_for(config.max_H),
            "I": bits_for(config.max_I),
            "B": bits_for(config.max_B),
            "T": bits_for(config.max_T),
            "batch_tiles": bits_for(config.batch_tiles),
            "x_tiles": bits_for(config.x_tiles),
            "h_tiles": bits_for(config.h_tiles),
            "last_lanes": bits_for(config.C),
            "last_x_columns": bits_for(config.R),
            "last_h_columns": bits_for(config.R),
            "bitmap_words": bits_for(config.bitmap_words),
            "end": data.StructLayout(ends),
            "sieve": 2,
            "tau": config.formats.gradient.width,
            "seed": 1,
            "block_mask": 1,
            "column_mask": 1,
            "state_out": 1,
        }
    )
