"""Bench of the systolic array: tiles of both dataflows, back to back and with gaps, against plain integer sums."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import signed
from amaranth.lib import data

from gradsieve.hw.array.systolic_array import SystolicArray
from gradsieve.hw.formats import FixedPoint
from gradsieve.hw.layouts import input_row_layout, operand_layout
from gradsieve.tb.coverage import CORNERS, corner, cover
from gradsieve.tb.environment import Bench, test
from gradsieve.tb.layout import Format

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
        self.words: dict[int, tuple[list[int], list[int]]] = {}
        self.new_sums: list[tuple[int, list[int]]] = []
        self.last_error = -(10**9)
        self.swaps = {-bench.config.R}
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
            ready = 0
            for row in order:
                self._pad(self.inputs, max(self.swaps) + row)
                while bench.rng.random() < gap:
                    self.inputs.append(None)
                ready = max(ready, len(self.inputs) - row + 1)
                self.inputs.append({"row": 1 << row, "lanes": stationary[row]})
            self._pad(self.operands, ready + 1)
            self.swaps.add(len(self.operands) - 1)
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
            self.operands.append({"dataflow": gradient, "last": last, "dz": dz})
            self.words[now] = weight, old
            if gradient:
                new = [old[j] + sum(stationary[j][b] * dz[b] for b in range(c.C)) for j in range(c.R)]
                self.new_sums.append((now + block.gradient_latency + c.R - 1, new))
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


class Words:
    """Drives the words of each operand beside it, and anything beside no operand; records the words that come out."""

    def __init__(self, bench: Bench, schedule: Schedule, origin: int) -> None:
        c, f = bench.config, bench.config.formats
        self.bench, self.words, self.swaps, self.origin = bench, schedule.words, schedule.swaps, origin
        weights, sums = (data.ArrayLayout(signed(w), c.R) for w in (f.weight.width, f.weight_grad_width))
        self.weights, self.sums = Format(weights), Format(sums)
        self.wanted = {n for n, _ in schedule.new_sums}
        self.came: list[tuple[int, list[int]]] = []
        bench.steps.append(self.step)

    def step(self, cycle: int) -> None:
        """One clock edge: sets what the next one samples."""
        if cycle - self.origin in self.wanted:
            self.came.append((cycle - self.origin, self.sums.unpack(self.bench.get("new_sums"))))
        words = self.words.get(cycle + 1 - self.origin)
        self.bench.set(swap=int(cycle + 1 - self.origin in self.swaps))
        if words is None:
            random = self.bench.rng.getrandbits
            self.bench.set(weights=random(self.weights.width), old_sums=random(self.sums.width))
        else:
            self.bench.set(weights=self.weights.pack(words[0]), old_sums=self.sums.pack(words[1]))


async def run(bench: Bench, tiles: int, gap: float) -> None:
    """One schedule of random tiles, compared to the last bit and to the cycle."""
    c, rng = bench.config, bench.rng
    bench.fresh()
    operands = bench.source("operands", operand_layout(c))
    inputs = bench.source("inputs", input_row_layout(c))
    drain = bench.sink("drain", data.ArrayLayout(signed(c.error_sum_width), c.C))
    schedule = Schedule(bench)
    for _ in range(tiles):
        schedule.tile(rng.random() < 0.5, rng.choice((1, rng.randint(1, c.R), rng.randint(c.R, 3 * c.R + 4))), gap)
    operands.send(schedule.operands)
    inputs.send(schedule.inputs)
    # a word queued now is offered after the next edge, and sampled at the one after that
    origin = bench.cycle + 2
    words = Words(bench, schedule, origin)
    await bench.run_for(len(schedule.operands) + 4 * (c.R + c.C) + 20)
    bench.scoreboard.sequence("drain", drain.values, [v for _, v in schedule.drain])
    cycles = [n - origin for n in drain.cycles]
    bench.scoreboard.sequence("cycles of drain", cycles, [n for n, _ in schedule.drain])
    bench.scoreboard.sequence("new sums", words.came, schedule.new_sums)


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
    schedule = Schedule(bench)
    for _ in range(4):
        schedule.tile(bench.rng.random() < 0.5, c.R, 0.0)
    operands.send(schedule.operands)
    await bench.run_for(len(schedule.operands) // 2)
    await bench.reset()
    await bench.run_for(4 * (c.R + c.C) + 20)
    bench.scoreboard.equal("words after the reset", len(drain), 0)
    await run(bench, 10, 0.0)
