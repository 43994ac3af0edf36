"""Bench of the weight gradient readout: order, requantization and clearing of db and dW."""

from __future__ import annotations

from typing import Any

import torch
from amaranth.hdl import signed

from gradsieve.golden.arithmetic import requantize
from gradsieve.hw.array.weight_gradient_store import WeightGradientStore
from gradsieve.hw.formats import FixedPoint
from gradsieve.hw.gates.bias_gradient import BiasGradientAccumulator
from gradsieve.hw.host.readout import WeightGradientReadout
from gradsieve.hw.layouts import (
    gradient_word_layout,
    group_elements,
    group_layout,
    read_mode_layout,
)
from gradsieve.hw.lib.arithmetic import bits_for
from gradsieve.hw.packets import EXACT_BITS, SHORT_BITS
from gradsieve.tb.coverage import cover
from gradsieve.tb.environment import Bench, config, test
from gradsieve.tb.layout import Format
from gradsieve.tb.run_values import draw_run, set_run
from gradsieve.tb.stream import Pulses

_FORMATS = config().formats
_TOP = min(_FORMATS.weight_grad.fraction, _FORMATS.bias_grad.fraction)
_sample = cover(
    "readout",
    {
        "mode": ["exact", "short"],
        "keep": [False, True],
        "fraction": ["zero", "largest", "between"],
        "saturated": [False, True],
        "backpressure": [False, True],
    },
    [("mode", "keep")],
)


def draw(bench: Bench, shift: int, small: bool) -> int:
    """A sum of any magnitude, or one that does not leave 32 bits; mostly a tie of the shift, or one bit off a tie."""
    rng, width = bench.rng, bench.config.formats.weight_grad_width
    value = rng.randrange(-(1 << width - 1), 1 << width - 1) >> rng.choice((0, 2, width // 2, width - 4))
    if small:
        value >>= width - SHORT_BITS // 2
    if shift and rng.random() < 0.7:
        value = (value >> shift << shift) + (1 << shift - 1)
        if shift > 1 and rng.random() < 0.5:
            value += rng.choice((-1, 1)) << rng.randrange(shift - 1)
    return max(-(1 << width - 1), min((1 << width - 1) - 1, value))


class Stores:
    """Both stores: what was at an address is at their ports after their latency, anything once it has been cleared."""

    def __init__(self, bench: Bench, gradients: list[list[int]], biases: list[int]) -> None:
        c = bench.config
        self.bench, self.gradients, self.biases = bench, gradients, biases
        self.group, self.width = group_elements(c), c.formats.weight_grad_width
        self.word, self.bias = Format(gradient_word_layout(c)), Format(signed(self.width))
        # with the latest first: this edge's address is seen `latency` edges before the word
        self.asked = [[0] * c.R] * (WeightGradientStore.latency + c.R)
        self.asked_bias = [0] * BiasGradientAccumulator.read_latency
        self.clears = {
            n: (getattr(bench.dut, f"{n}_clear__valid"), f"{n}_clear__payload") for n in ("gradient", "bias")
        }
        bench.steps.append(self.step)

    def step(self, cycle: int) -> None:
        """One clock edge."""
        bench, latency, rows = self.bench, WeightGradientStore.latency, range(self.bench.config.R)
        half = 1 << self.width - 1
        # a sum may be cleared in the cycle after that of its address, not before
        if self.clears["gradient"][0].value:
            self.gradients[bench.get(self.clears["gradient"][1])] = [bench.rng.randrange(-half, half) for _ in rows]
        if self.clears["bias"][0].value:
            self.biases[bench.get(self.clears["bias"][1])] = bench.rng.randrange(-half, half)
        # while one store is read, the other's address may be none of its own
        address, bias_address = bench.get("gradient_address"), bench.get("bias_address")
        self.asked.insert(0, self.gradients[address] if address < len(self.gradients) else [0 for _ in rows])
        self.asked.pop()
        self.asked_bias.insert(0, self.biases[bias_address] if bias_address < len(self.biases) else 0)
        self.asked_bias.pop()
        word = [self.asked[latency - 1 + j // self.group][j] for j in rows]
        bench.set(gradient_words=self.word.pack(word), bias_word=self.bias.pack(self.asked_bias[-1]))


async def read(bench: Bench, exact: bool, keep: bool, fraction: int, stall: str) -> None:
    """One read command."""
    c, rng, f = bench.config, bench.rng, bench.config.formats
    bench.fresh()
    run = draw_run(c, rng)
    await set_run(bench, run)
    bench.set(mode=Format(read_mode_layout()).pack({"exact": exact, "keep": keep, "fraction": fraction}))
    small = rng.random() < 0.3  # no sum leaves 32 bits

    def values(form: FixedPoint, count: int) -> list[int]:
        return [draw(bench, form.fraction - fraction, small) for _ in range(count)]

    gradients = [values(f.weight_grad, c.R) for _ in range(c.weight_words)]
    biases = values(f.bias_grad, c.gate_rows)
    Stores(bench, list(gradients), list(biases))
    clears = bench.sink("gradient_clear", range(c.weight_words)), bench.sink("bias_clear", range(c.gate_rows))
    groups = bench.sink("groups", group_layout(c), stall)
    saturated = bench.sink("saturated", bits_for(group_elements(c)))
    pulses = Pulses(bench, "done")
    await bench.run_for(2)  # the sizes stand
    bench.set(read=1)
    await bench.run_for(1)
    begin = bench.cycle + 1
    bench.set(read=0)
    await bench.run(lambda: bool(pulses.cycles["done"]), limit=200_000)
    await bench.run_for(5)

    elements, count = group_elements(c), 0
    expected: list[dict[str, Any]] = []
    short = FixedPoint(width=SHORT_BITS, fraction=min(fraction, SHORT_BITS - 1))

    def bits(values: list[int], form: FixedPoint) -> int:
        nonlocal count
        if not exact:
            rounded, over = requantize(torch.tensor(values), form.fraction + short.fraction - fraction, short)
            values, count = rounded.tolist(), count + over
        size = EXACT_BITS if exact else SHORT_BITS
        return sum((v & (1 << size) - 1) << n * size for n, v in enumerate(values))

    order = [4 * u + g for g in range(4) for u in range(run["H"])]
    addresses: list[int] = []
    for n, q in enumerate(order):
        group = {
            "data": bits([biases[q]], f.bias_grad),
            "exact": int(exact),
            "single": 1,
            "last": int(n == len(order) - 1),
        }
        expected.append(group)
    for first, tiles in ((0, run["x_tiles"]), (c.x_tiles, run["h_tiles"])):
        start = len(expected)
        for q in order:
            for tile in range(first, first + tiles):
                addresses.append(tile * c.gate_rows + q)
                vector = gradients[addresses[-1]] + [0] * (c.column_slots - c.R)
                for g in range(0, c.column_slots, elements):
                    data = bits(vector[g : g + elements], f.weight_grad)
                    expected.append({"data": data, "exact": int(exact), "single": 0, "last": 0})
        assert len(expected) > start
        expected[-1]["last"] = 1
    low = (1 << (EXACT_BITS if exact else SHORT_BITS)) - 1
    used = (1 << elements * (EXACT_BITS if exact else SHORT_BITS)) - 1
    actual = [{**v, "data": v["data"] & (low if v["single"] else used)} for v in groups.values]
    bench.scoreboard.sequence("group", actual, expected)
    bench.scoreboard.equal("cleared words", clears[0].values, [] if keep else addresses)
    bench.scoreboard.equal("cleared rows", clears[1].values, [] if keep else order)
    bench.scoreboard.equal("saturations", sum(saturated.values), count)
    bench.scoreboard.equal("done", len(pulses.cycles["done"]), 1)
    if stall == "none":
        bench.scoreboard.equal("latency", groups.cycles[0] - begin, WeightGradientReadout.latency)
        bench.scoreboard.equal("a group a cycle", groups.cycles[-1] - groups.cycles[0], len(expected) - 1)
    kind = "zero" if fraction == 0 else "largest" if fraction == _TOP else "between"
    _sample({"mode": "exact" if exact else "short", "keep": keep, "fraction": kind, "backpressure": stall != "none"})
    _sample({"saturated": count > 0} if not exact else {})


@test
async def reads(bench: Bench) -> None:
    """Reads in all modes, without backpressure and with."""
    for n in range(6 * bench.rounds):
        for exact in (False, True):
            for keep in (False, True):
                between = bench.rng.randint(1, max(_TOP - 1, 1))
                fraction = between if keep and not exact else (0, _TOP, between)[n % 3]
                await read(bench, exact, keep, fraction, bench.pattern() if n % 2 else "none")


@test
async def every_fraction(bench: Bench) -> None:
    """Requantized reads at every fraction: each is a shift of its own."""
    for fraction in range(_TOP + 1):
        await read(bench, False, True, fraction, "none")


@test
async def clear(bench: Bench) -> None:
    """`clear` zeroes every address of both stores, a cycle each; it ends when the last row has done so."""
    c = bench.config
    clears = bench.sink("gradient_clear", range(c.weight_words)), bench.sink("bias_clear", range(c.gate_rows))
    pulses = Pulses(bench, "done")
    for _ in range(2):
        bench.set(clear=1)
        await bench.run_for(1)
        bench.set(clear=0)
        start = bench.cycle
        await bench.run(lambda: bool(pulses.cycles["done"]))
        limit = max(c.weight_words, c.gate_rows)
        bench.scoreboard.equal("cycles of a clear", bench.cycle - start <= limit + c.R + 4, True)
        bench.scoreboard.equal(
            "end of a clear", pulses.cycles["done"][0] - max(s.cycles[-1] for s in clears) > c.R, True
        )
        bench.scoreboard.equal("words", clears[0].values, list(range(c.weight_words)))
        bench.scoreboard.equal("rows", clears[1].values, list(range(c.gate_rows)))
        for sink in clears:
            sink.clear()
        pulses.cycles["done"].clear()
