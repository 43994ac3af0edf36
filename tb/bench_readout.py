"""Bench of the weight gradient readout: order, requantization and clearing of db and dW."""

from __future__ import annotations

from typing import Any

import torch
from amaranth.hdl import signed

from golden.arithmetic import requantize
from hw.arithmetic import bits_for
from hw.formats import FixedPoint
from hw.operand_fetch import gradient_word_layout
from hw.readout import EXACT_BITS, SHORT_BITS, WeightGradientReadout, group_elements, group_layout, read_mode_layout
from tb.coverage import cover
from tb.environment import Bench, config, test
from tb.layout import Format
from tb.run_values import draw_run, set_run
from tb.stream import Pulses, Responder

_FORMATS = config().formats
_TOP = min(_FORMATS.weight_grad.fraction, _FORMATS.bias_grad.fraction)
_sample = cover(
    "readout",
    {
        "mode": ["exact", "short"],
        "keep": [False, True],
        "fraction": ["zero", "largest", "between"],
        "saturated": [False, True],
        "slow": [False, True],
    },
    [("mode", "keep")],
)


def draw(bench: Bench) -> int:
    """A sum: of any magnitude, or near a tie."""
    rng, width = bench.rng, bench.config.formats.weight_grad_width
    value = rng.randrange(-(1 << width - 1), 1 << width - 1) >> rng.choice((0, 2, width // 2, width - 4))
    if rng.random() < 0.2:
        shift = rng.randint(1, width // 2)
        value = (value >> shift << shift) + (1 << shift - 1) + rng.randint(-1, 1)
    return max(-(1 << width - 1), min((1 << width - 1) - 1, value))


async def read(bench: Bench, exact: bool, keep: bool, fraction: int, stall: str) -> None:
    """One read command."""
    c, rng, f = bench.config, bench.rng, bench.config.formats
    bench.fresh()
    run = draw_run(c, rng)
    set_run(bench, run)
    bench.set(mode=Format(read_mode_layout()).pack({"exact": exact, "keep": keep, "fraction": fraction}))
    small = rng.random() < 0.3  # no sum leaves 32 bits

    def value() -> int:
        return draw(bench) >> (f.weight_grad_width - SHORT_BITS // 2 if small else 0)

    gradients = [[value() for _ in range(c.R)] for _ in range(c.weight_words)]
    biases = [value() for _ in range(c.gate_rows)]
    words, rows = range(c.weight_words), range(c.gate_rows)
    Responder(bench, "gradient_request", "gradient_word", (words, gradient_word_layout(c)), lambda a: gradients[a])
    bias_asked = Responder(bench, "bias_request", "bias_word", (rows, signed(f.weight_grad_width)), lambda a: biases[a])
    clears = bench.sink("gradient_clear", words), bench.sink("bias_clear", rows)
    groups = bench.sink("groups", group_layout(c), stall)
    saturated = bench.sink("saturated", bits_for(group_elements(c)))
    pulses = Pulses(bench, "done")
    bench.set(read=1)
    await bench.run_for(1)
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
    if not bench.slow and stall == "none":
        latency = groups.cycles[0] - bias_asked.request.cycles[0]
        bench.scoreboard.equal("latency from the first request", latency, WeightGradientReadout.latency - 1)
        bench.scoreboard.equal("a group a cycle", groups.cycles[-1] - groups.cycles[0], len(expected) - 1)
    kind = "zero" if fraction == 0 else "largest" if fraction == _TOP else "between"
    _sample({"mode": "exact" if exact else "short", "keep": keep, "fraction": kind, "slow": bench.slow})
    _sample({"saturated": count > 0} if not exact else {})


@test
async def reads(bench: Bench) -> None:
    """Reads in all modes, with fast stores and slow ones."""
    for n in range(3 * bench.rounds):
        for exact in (False, True):
            for keep in (False, True):
                bench.slow = n % 2 == 1
                fraction = (0, _TOP, bench.rng.randint(1, max(_TOP - 1, 1)))[n % 3]
                await read(bench, exact, keep, fraction, bench.pattern() if bench.slow else "none")


@test
async def clear(bench: Bench) -> None:
    """`clear` zeroes every address of both stores, a cycle each."""
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
        bench.scoreboard.equal("cycles of a clear", bench.cycle - start <= limit + 2, True)
        bench.scoreboard.equal("words", clears[0].values, list(range(c.weight_words)))
        bench.scoreboard.equal("rows", clears[1].values, list(range(c.gate_rows)))
        for sink in clears:
            sink.clear()
        pulses.cycles["done"].clear()
