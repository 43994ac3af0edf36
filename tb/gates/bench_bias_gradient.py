"""Bench of the bias gradient accumulator: sums of rows, reads and clears against plain integers."""

from __future__ import annotations

from amaranth.hdl import signed

from gradsieve.hw.gates.bias_gradient import BiasGradientAccumulator
from gradsieve.hw.layouts import gate_rows_layout
from gradsieve.hw.lib.stream_memory import write_layout
from gradsieve.tb.coverage import CORNERS, corner, cover
from gradsieve.tb.environment import Bench, test
from gradsieve.tb.layout import Format

_sample = cover(
    "bias_gradient",
    {"distance": ["shortest", "longer"], "element": CORNERS, "request": ["all rows", "random"], "clear": [False, True]},
)


def ports(bench: Bench) -> tuple[int, int]:
    """Groups and rows a group."""
    rate = bench.config.gate_rows_per_cycle
    return bench.config.gate_rows // rate, rate


async def clear(bench: Bench, rows: list[int]) -> None:
    """Zero rows."""
    source = bench.source("clear", range(bench.config.gate_rows))
    source.send(rows)
    await bench.run(lambda: source.done)
    await bench.run_for(1)


async def read(bench: Bench, rows: list[int]) -> list[int]:
    """Rows, one a cycle."""
    form, latency = Format(signed(bench.config.formats.weight_grad_width)), BiasGradientAccumulator.read_latency
    words = (await bench.play({"address": [*rows, *[0] * latency]}, "word"))["word"]
    return [form.unpack(word) for word in words[latency:]]


async def add(bench: Bench, db: list[int], count: int, idle: str) -> None:
    """Add groups of rows; one group returns after `latency` cycles at the earliest."""
    c, rng, form = bench.config, bench.rng, bench.config.formats.gradient
    groups, rate = ports(bench)
    bench.fresh()
    source = bench.source("rows", write_layout(gate_rows_layout(c), groups), idle)
    recent = [-1] * BiasGradientAccumulator.latency
    for _ in range(count):
        shortest = recent[0] >= 0 and rng.random() < 0.3
        group = recent[0] if shortest else rng.choice([g for g in range(groups) if g not in recent[1:]] or [None])
        if group is None:
            source.send([None])
            recent = [*recent, -1][-BiasGradientAccumulator.latency :]
            continue
        if group in recent[1:]:
            continue
        word = [
            [rng.choice((form.minimum, form.maximum, 0, rng.randint(form.minimum, form.maximum))) for _ in range(c.C)]
            for _ in range(rate)
        ]
        source.send([{"address": group, "word": word}])
        for r in range(rate):
            db[group * rate + r] += sum(word[r])
        _sample({"distance": "shortest" if shortest else "longer", "element": corner(word[0][0], form)})
        recent = [*recent, group][-BiasGradientAccumulator.latency :]
    await bench.run(lambda: source.done)
    await bench.run_for(BiasGradientAccumulator.latency)


@test
async def sums(bench: Bench) -> None:
    """Rows at full speed and with gaps, read back in any order, cleared one by one."""
    rows = bench.config.gate_rows
    everything = list(range(rows))
    await clear(bench, everything)
    db = [0] * rows
    for idle in ("none", "half", "bursts") * bench.rounds:
        await add(bench, db, 200, idle)
        values = await read(bench, everything)
        bench.scoreboard.sequence("db", values, db)
        _sample({"request": "all rows", "clear": False})
        some = [bench.rng.randrange(rows) for _ in range(40)]
        values = await read(bench, some)
        bench.scoreboard.sequence("db of some rows", values, [db[q] for q in some])
        cleared = bench.rng.sample(everything, rows // 3)
        bench.fresh()
        await clear(bench, cleared)
        for q in cleared:
            db[q] = 0
        bench.scoreboard.sequence("db after the clear", await read(bench, everything), db)
        _sample({"request": "random", "clear": True})
