"""A run's sizes and modes as the controller hands them to the blocks."""

from __future__ import annotations

import random
from typing import Any

from gradsieve.hw.config import BITMAP_WORD, EngineConfig
from gradsieve.hw.layouts import run_layout
from gradsieve.tb.environment import Bench
from gradsieve.tb.layout import Format

LARGEST = 24
"""Sizes that are drawn stay up to this, or two tiles and a partial one."""


def ceil_div(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)


def run_values(c: EngineConfig, H: int, I: int, B: int, T: int, **modes: int) -> dict[str, Any]:
    """The fields of `gradsieve.hw.layouts.run_layout` for a run of these sizes; modes that are not named are zero."""
    x_tiles, h_tiles, batch_tiles = ceil_div(I, c.R), ceil_div(H, c.R), ceil_div(B, c.C)
    return {
        "H": H,
        "I": I,
        "B": B,
        "T": T,
        "batch_tiles": batch_tiles,
        "x_tiles": x_tiles,
        "h_tiles": h_tiles,
        "last_lanes": B - (batch_tiles - 1) * c.C,
        "last_x_columns": I - (x_tiles - 1) * c.R,
        "last_h_columns": H - (h_tiles - 1) * c.R,
        "bitmap_words": ceil_div(4 * H, BITMAP_WORD),
        "end": {
            "H": H - 1,
            "I": I - 1,
            "T": T - 1,
            "batch_tiles": batch_tiles - 1,
            "x_tiles": x_tiles - 1,
            "h_tiles": h_tiles - 1,
            "tiles": x_tiles + h_tiles - 1,
            "bitmap_words": ceil_div(4 * H, BITMAP_WORD) - 1,
        },
        **modes,
    }


def tops(c: EngineConfig) -> dict[str, int]:
    """The largest sizes that `draw_run` draws."""
    return {
        "H": min(c.max_H, max(LARGEST, 2 * c.R + 1)),
        "I": min(c.max_I, max(LARGEST, 2 * c.R + 1)),
        "B": min(c.max_B, max(6, 2 * c.C + 1)),
        "T": min(c.max_T, 6),
    }


def draw_run(c: EngineConfig, rng: random.Random, **modes: int) -> dict[str, Any]:
    """Random sizes, ends now and then."""
    sizes = {n: rng.choice((1, top, rng.randint(1, top), rng.randint(1, top))) for n, top in tops(c).items()}
    return run_values(c, **sizes, **modes)


async def set_run(bench: Bench, run: dict[str, Any]) -> None:
    """Drive the port `run`, and let it stand for the 2 cycles that blocks may expect of the controller."""
    bench.set(run=Format(run_layout(bench.config)).pack(run))
    await bench.run_for(2)
