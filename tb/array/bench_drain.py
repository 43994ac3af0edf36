"""Bench of the drain: tiles of error sums to dh_rec in the state store and to dx, with room reserved in time."""

from __future__ import annotations

from typing import Any

import torch
from amaranth.hdl import signed
from amaranth.lib import data

from gradsieve.golden.arithmetic import requantize
from gradsieve.hw.array.operand_fetch import STORE_LATENCY
from gradsieve.hw.array.systolic_array import SystolicArray
from gradsieve.hw.layouts import job_layout
from gradsieve.hw.lib.arithmetic import bits_for
from gradsieve.hw.lib.stream_memory import write_layout
from gradsieve.tb.coverage import cover
from gradsieve.tb.environment import Bench, config, test

_CONFIG = config()
_sample = cover(
    "drain",
    {
        "hidden": [False, True],
        "columns": ["full", "partial"] if _CONFIG.R > 1 else ["full"],
        "ends_hidden": [False, True],
    },
    [("hidden", "columns")],
)


class Tiles:
    """Ends error tiles whenever `ready` allows it, and brings their rows when the array would."""

    def __init__(self, bench: Bench, jobs: list[dict[str, Any]], rows: list[list[list[int]]], share: float) -> None:
        c = bench.config
        self.bench, self.jobs, self.rows, self.share = bench, jobs, rows, share
        self.announced = bench.source("jobs", job_layout(c))
        self.sums = bench.source("sums", data.ArrayLayout(signed(c.error_sum_width), c.C))
        # the stores, the operand register, then the way through the array
        self.delay = STORE_LATENCY + 1 + SystolicArray(c).drain_latency
        self.next = 0
        self.due: list[tuple[int, list[int]]] = []
        bench.steps.insert(0, self.step)

    def done(self) -> bool:
        """All tiles have ended and left."""
        came = self.next == len(self.jobs) and not self.due and self.sums.done
        return came and bool(self.bench.dut.idle.value)

    def step(self, cycle: int) -> None:
        """One clock edge: `ready` stays until a tile ends."""
        while self.due and self.due[0][0] == cycle:
            self.sums.send([self.due.pop(0)[1]])
        if self.next == len(self.jobs) or not self.announced.done:
            return
        if self.bench.dut.ready.value and self.bench.rng.random() >= self.share:
            self.announced.send([self.jobs[self.next]])
            self.due += [(cycle + self.delay + j, row) for j, row in enumerate(self.rows[self.next])]
            self.next += 1


def draw(bench: Bench, count: int) -> tuple[list[dict[str, Any]], list[list[list[int]]]]:
    """Jobs and their rows of sums."""
    c, rng = bench.config, bench.rng
    jobs, rows = [], []
    top = 1 << c.error_sum_width - 1
    shift = c.formats.weight.fraction
    for _ in range(count):
        hidden = rng.random() < 0.5
        tile = rng.randrange(c.h_tiles if hidden else c.x_tiles)
        size = c.max_H if hidden else c.max_I
        columns = rng.randint(1, min(c.R, size - tile * c.R))
        jobs.append(
            {
                "hidden": hidden,
                "first_column": tile * c.R,
                "columns": columns,
                "batch_tile": rng.randrange(c.batch_tiles),
                "ends_hidden": hidden and rng.random() < 0.5,
            }
        )
        small = 1 << min(shift + c.formats.gradient.width, c.error_sum_width - 1)
        rows.append([[rng.randrange(-m, m) for m in [rng.choice((top, small, small >> 2))] * c.C] for _ in range(c.R)])
    return jobs, rows


@test
async def tiles(bench: Bench) -> None:
    """Tiles as fast as the drain allows and slower, with a host that takes dx now and then."""
    c, f = bench.config, bench.config.formats
    gradients = data.ArrayLayout(signed(f.gradient.width), c.C)
    for stall, share in (("none", 0.0), ("half", 0.0), ("often", 0.0), ("bursts", 0.3), ("none", 0.8)) * bench.rounds:
        bench.fresh()
        jobs, rows = draw(bench, 60)
        dx = bench.sink("dx", gradients, stall)
        hidden = bench.sink("hidden_write", write_layout(gradients, c.batch_tiles * c.max_H))
        saturated = bench.sink("saturated", bits_for(c.C))
        dones: list[int] = []

        def watch(cycle: int, dones: list[int] = dones, hidden: Any = hidden) -> None:
            if bench.dut.hidden_done.value:
                dones.append(len(hidden))

        bench.steps.append(watch)
        driver = Tiles(bench, jobs, rows, share)
        bench.scoreboard.equal("idle at first", bench.get("idle"), 1)
        await bench.run(driver.done)
        await bench.run_for(5)
        expected_dx, expected_hidden, expected_dones, count = [], [], [], 0
        for job, tile in zip(jobs, rows, strict=True):
            for j, row in enumerate(tile[: job["columns"]]):
                rounded, flags = requantize(torch.tensor(row), f.weight.fraction + f.gradient.fraction, f.gradient)
                count += flags
                if job["hidden"]:
                    address = job["batch_tile"] * c.max_H + job["first_column"] + j
                    expected_hidden.append({"address": address, "word": rounded.tolist()})
                else:
                    expected_dx.append(rounded.tolist())
            if job["ends_hidden"]:
                expected_dones.append(len(expected_hidden))
            _sample(
                {
                    "hidden": job["hidden"],
                    "columns": "full" if job["columns"] == c.R else "partial",
                    "ends_hidden": bool(job["ends_hidden"]),
                }
            )
        bench.scoreboard.sequence("dx", dx.values, expected_dx)
        bench.scoreboard.sequence("hidden write", hidden.values, expected_hidden)
        bench.scoreboard.equal("saturations", sum(saturated.values), count)
        # the pulse comes with or after the last write, and before the next tile's first
        bench.scoreboard.equal("pulses of hidden_done", len(dones), len(expected_dones))
        for seen, due in zip(dones, expected_dones, strict=False):
            bench.scoreboard.equal("rows of h written at hidden_done", due - 1 <= seen <= due, True)
