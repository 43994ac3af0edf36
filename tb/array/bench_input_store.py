"""Bench of the input store: x and h of two slots, loaded tile by tile."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import signed
from amaranth.lib import data

from gradsieve.hw.array.operand_fetch import STORE_LATENCY
from gradsieve.hw.layouts import input_row_layout, job_layout
from gradsieve.hw.lib.stream_memory import write_layout
from gradsieve.tb.coverage import cover
from gradsieve.tb.environment import Bench, config, test

_CONFIG = config()
_sample = cover(
    "input_store",
    {"hidden": [0, 1], "slot": [0, 1], "columns": ["full", "partial"] if _CONFIG.R > 1 else ["full"]},
    [("hidden", "slot", "columns")],
)


TILES = 60


class Array:
    """Takes a tile some cycles after it is loaded, and notes how many rows had come by the end of that cycle."""

    def __init__(self, bench: Bench, rows: Any, slow: bool) -> None:
        self.bench, self.rows, self.slow = bench, rows, slow
        self.taken: list[int] = []
        self.high, self.loaded_for = False, 0
        bench.steps.append(self.step)

    def done(self) -> bool:
        """All tiles have been taken."""
        return len(self.taken) == TILES

    def step(self, cycle: int) -> None:
        """One clock edge."""
        self.loaded_for = self.loaded_for + 1 if self.bench.dut.loaded.value else 0
        if self.high:
            self.taken.append(len(self.rows))
            self.high = False
            self.bench.set(taken=0)
        elif self.loaded_for >= STORE_LATENCY and not (self.slow and self.bench.rng.random() < 0.8):
            self.high = True
            self.bench.set(taken=1)


@test
async def tiles(bench: Bench) -> None:
    """Random tiles of random contents, taken at once or late."""
    c, rng, form = bench.config, bench.rng, bench.config.formats.input
    depth = c.max_I + c.max_H
    lanes = data.ArrayLayout(signed(form.width), c.C)
    for slow in (False, True) * bench.rounds:
        bench.fresh()
        contents = [[rng.randint(form.minimum, form.maximum) for _ in range(c.C)] for _ in range(2 * depth)]
        write = bench.source("write", write_layout(lanes, 2 * depth), "rare")
        write.send({"address": a, "word": w} for a, w in enumerate(contents))
        await bench.sent(write)
        jobs = bench.source("jobs", job_layout(c), "half" if slow else "none")
        rows = bench.sink("rows", input_row_layout(c))
        array = Array(bench, rows, slow)
        expected = []
        for _ in range(TILES):
            hidden, slot = rng.randrange(2), rng.randrange(2)
            tile = rng.randrange(c.h_tiles if hidden else c.x_tiles)
            size = (c.max_H if hidden else c.max_I) - tile * c.R
            columns = rng.choice((min(c.R, size), rng.randint(1, min(c.R, size))))
            jobs.send([{"hidden": hidden, "slot": slot, "first_column": tile * c.R, "columns": columns}])
            base = slot * depth + hidden * c.max_I + tile * c.R
            expected += [{"row": 1 << j, "lanes": contents[base + j] if j < columns else [0] * c.C} for j in range(c.R)]
            _sample({"hidden": hidden, "slot": slot, "columns": "full" if columns == c.R else "partial"})
        await bench.run(array.done)
        await bench.run_for(2 * c.R + 5)
        bench.scoreboard.sequence("row", rows.values, expected)
        # nothing of the next tile before `taken`
        bench.scoreboard.equal("rows at each take", array.taken, [(n + 1) * c.R for n in range(TILES)])
        if not slow:
            spans = {rows.cycles[n * c.R + c.R - 1] - rows.cycles[n * c.R] for n in range(TILES)}
            bench.scoreboard.equal("R rows in R cycles", spans, {c.R - 1})
