"""Bench of the requantizer: golden's rounding and saturation on random sums, ties and the ends of the range."""

from __future__ import annotations

import torch
from amaranth.hdl import signed
from amaranth.lib import data

from gradsieve.golden.arithmetic import requantize
from gradsieve.hw.array.requantizer import Requantizer
from gradsieve.hw.layouts import requantized_layout
from gradsieve.tb.coverage import cover
from gradsieve.tb.environment import Bench, test

VECTORS = 400

_sample = cover(
    "requantizer",
    {
        "rest": ["zero", "below half", "tie to even", "tie to odd", "above half"],
        "range": ["inside", "just inside", "just above", "just below", "far above", "far below"],
    },
)


def draw(bench: Bench) -> int:
    """A sum: anywhere, near the ends of the target format, or a tie."""
    c, rng = bench.config, bench.rng
    shift, form = c.formats.weight.fraction, c.formats.gradient
    top = 1 << c.error_sum_width - 1
    choice = rng.random()
    if choice < 0.2:
        return rng.choice((-top, top - 1, 0, -1, 1))
    if choice < 0.4:
        return rng.randrange(-top, top)
    quotient = rng.choice((rng.choice((form.minimum, form.maximum)), rng.randint(form.minimum, form.maximum)))
    half = 1 << shift >> 1
    rest = rng.choice((0, 1, half - 1, half, half + 1, rng.randrange(1 << shift)))
    return max(-top, min(top - 1, ((quotient + rng.choice((0, 0, -1, 1))) << shift) + rest))


def sample(bench: Bench, value: int) -> None:
    """Cover one sum."""
    shift, form = bench.config.formats.weight.fraction, bench.config.formats.gradient
    quotient, rest, half = value >> shift, value & ((1 << shift) - 1), 1 << shift >> 1
    parity = "tie to odd" if quotient & 1 else "tie to even"
    kind = "zero" if rest == 0 else "below half" if rest < half else "above half" if rest > half else parity
    rounded = quotient + (rest > half or (rest == half and quotient & 1))
    if form.minimum <= rounded <= form.maximum:
        where = "just inside" if rounded in (form.minimum, form.maximum) else "inside"
    elif rounded > 0:
        where = "just above" if rounded == form.maximum + 1 else "far above"
    else:
        where = "just below" if rounded == form.minimum - 1 else "far below"
    _sample({"rest": kind, "range": where})


@test
async def sums(bench: Bench) -> None:
    """Vectors at full speed and with gaps."""
    c, f = bench.config, bench.config.formats
    for idle in ("none", "half") * bench.rounds:
        bench.fresh()
        source = bench.source("sums", data.ArrayLayout(signed(c.error_sum_width), c.C), idle)
        sink = bench.sink("gradients", requantized_layout(c))
        vectors = [[draw(bench) for _ in range(c.C)] for _ in range(VECTORS)]
        source.send(vectors)
        await bench.sent(source)
        await bench.run_for(Requantizer.latency + 2)
        expected = []
        for vector in vectors:
            lanes, flags = [], 0
            for n, value in enumerate(vector):
                rounded, saturated = requantize(
                    torch.tensor([value]), f.weight.fraction + f.gradient.fraction, f.gradient
                )
                lanes.append(int(rounded))
                flags |= saturated << n
                sample(bench, value)
            expected.append({"lanes": lanes, "saturated": flags})
        bench.scoreboard.sequence("vector", sink.values, expected)
        bench.scoreboard.equal("cycles", sink.cycles, [n + Requantizer.latency for n in source.sent])
