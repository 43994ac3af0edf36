"""Bench of the systolic array: tiles of both dataflows, back to back and with gaps, against plain integer sums."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import signed
from amaranth.lib import data

from hw.formats import FixedPoint
from hw.systolic_array import SystolicArray, input_row_layout, operand_layout
from tb.coverage import CORNERS, corner, cover
from tb.environment import Bench, test

_sample = cover(
    "systolic_array",
    {
        "dataflow": ["error", "gradient"],
        "after": ["error", "gradient"],
        "length": ["1", "up to R", "more"],
        "weight": CORNERS,
        "input": CORNERS,
        "dz": CORNERS,
    },
    [("dataflow", "after"), ("dataflow", "length")],
)


def draw(bench: Bench, form: FixedPoint, count: int) -> list[int]:
    """Values of the format, often its ends."""
    rng = bench.rng
    corners = (form.minimum, form.maximum, 0, -1, 1)
    return [
        rng.choice(corners) if rng.random() < 0.3 else rng.randint(form.minimum, form.maximum) for _ in range(count)
    ]


class Schedule:
    """Words for both inputs by cycle, and what must come out in which cycle, counted from the first word's."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.operands: list[Any] = []
        self.inputs: list[Any] = []
        self.drain: list[tuple[int, list[int]]] = []
        self.partial_sums: list[tuple[int, list[int]]] = []
        self.last_error = -(10**9)
        self.gradient_first = -1
        self.before = "error"

    def _pad(self, words: list[Any], length: int) -> None:
        words.extend([None] * (length - len(words)))

    def tile(self, gradient: bool, length: int, gap: float) -> None:
        """Append one tile."""
        bench, c, f = self.bench, self.bench.config, self.bench.config.formats
        block = SystolicArray(c)
        stationary = [draw(bench, f.input, c.C) for _ in range(c.R)]
        if gradient:  # R rows in any order, each once the tile before has taken its own
            order = list(range(c.R))
            bench.rng.shuffle(order)
            for row in order:
                self._pad(self.inputs, self.gradient_first + 1 + row)
                while bench.rng.random() < gap:
                    self.inputs.append(None)
                self.inputs.append({"row": row, "lanes": stationary[row]})
            self._pad(self.operands, len(self.inputs) + 1)
            self.gradient_first = len(self.operands)
        sums = [[0] * c.C for _ in range(c.R)]
        for n in range(length):
            while n and bench.rng.random() < gap:
                self.operands.append(None)
            last = n == length - 1
            if last and not gradient:  # ends of error tiles are at least R cycles apart
                self._pad(self.operands, self.last_error + c.R)
                self.last_error = len(self.operands)
            dz, weight = draw(bench, f.gradient, c.C), draw(bench, f.weight, c.R)
            top = 1 << f.weight_grad_width - 2
            old = [bench.rng.randrange(-top, top) for _ in range(c.R)]
            now = len(self.operands)
            self.operands.append(
                {"gradient": gradient, "first": n == 0, "last": last, "dz": dz, "weight": weight, "partial_sum": old}
            )
            if gradient:
                new = [old[j] + sum(stationary[j][b] * dz[b] for b in range(c.C)) for j in range(c.R)]
                self.partial_sums.append((now + block.gradient_latency, new))
            for j in range(c.R):
                for b in range(c.C):
                    sums[j][b] += weight[j] * dz[b]
            _sample(
                {
                    "weight": corner(weight[0], f.weight),
                    "input": corner(stationary[0][0], f.input) if gradient else None,
                    "dz": corner(dz[0], f.gradient),
                }
            )
        if not gradient:
            self.drain += [(self.last_error + block.drain_latency + j, sums[j]) for j in range(c.R)]
        dataflow = "gradient" if gradient else "error"
        size = "1" if length == 1 else "up to R" if length <= max(c.R, 2) else "more"
        _sample({"dataflow": dataflow, "after": self.before, "length": size})
        self.before = dataflow


async def run(bench: Bench, tiles: int, gap: float) -> None:
    """One schedule of random tiles, compared to the last bit and to the cycle."""
    c, f, rng = bench.config, bench.config.formats, bench.rng
    bench.fresh()
    operands = bench.source("operands", operand_layout(c))
    inputs = bench.source("inputs", input_row_layout(c))
    drain = bench.sink("drain", data.ArrayLayout(signed(c.error_sum_width), c.C))
    sums = bench.sink("partial_sums", data.ArrayLayout(signed(f.weight_grad_width), c.R))
    schedule = Schedule(bench)
    for _ in range(tiles):
        schedule.tile(rng.random() < 0.5, rng.choice((1, rng.randint(1, c.R), rng.randint(c.R, 3 * c.R + 4))), gap)
    operands.send(schedule.operands)
    inputs.send(schedule.inputs)
    # a word queued now is offered after the next edge, and sampled at the one behind
    origin = bench.cycle + 2
    await bench.run_for(len(schedule.operands) + 4 * (c.R + c.C) + 20)
    for name, sink, expected in (("drain", drain, schedule.drain), ("partial sums", sums, schedule.partial_sums)):
        bench.scoreboard.sequence(name, sink.values, [v for _, v in expected])
        bench.scoreboard.sequence(f"cycles of {name}", [n - origin for n in sink.cycles], [n for n, _ in expected])


@test
async def tiles(bench: Bench) -> None:
    """Random tiles, without gaps and with."""
    for gap in (0.0, 0.3, 0.0, 0.7) * bench.rounds:
        await run(bench, 60, gap)


@test
async def reset_in_the_middle(bench: Bench) -> None:
    """A reset while tiles are inside: nothing comes out afterwards, and the next tiles are right."""
    c = bench.config
    operands = bench.source("operands", operand_layout(c))
    drain = bench.sink("drain", data.ArrayLayout(signed(c.error_sum_width), c.C))
    sums = bench.sink("partial_sums", data.ArrayLayout(signed(c.formats.weight_grad_width), c.R))
    schedule = Schedule(bench)
    for _ in range(4):
        schedule.tile(bench.rng.random() < 0.5, c.R, 0.0)
    operands.send(schedule.operands)
    await bench.run_for(len(schedule.operands) // 2)
    await bench.reset()
    await bench.run_for(4 * (c.R + c.C) + 20)
    bench.scoreboard.equal("words after the reset", (len(drain), len(sums)), (0, 0))
    await run(bench, 10, 0.0)
