"""Bench of the row bitmap builder: the sieve's rows to store writes, bitmap words and statistics."""

from __future__ import annotations

from typing import Any

from gradsieve.hw.config import BITMAP_WORD
from gradsieve.hw.gates.row_bitmap import RowBitmapBuilder
from gradsieve.hw.layouts import gate_rows_layout, sieved_rows_layout
from gradsieve.hw.lib.arithmetic import bits_for
from gradsieve.hw.lib.stream_memory import write_layout
from gradsieve.tb.coverage import cover, fit, fits
from gradsieve.tb.environment import Bench, config, test
from gradsieve.tb.run_values import draw_run, set_run, tops
from gradsieve.tb.stream import Pulses

_CONFIG = config()
_sample = cover(
    "row_bitmap",
    {
        "slot": [0, 1],
        "H": fits(BITMAP_WORD // 4, tops(_CONFIG)["H"]),
        "kept": ["none", "some", "all"],
        "stalled": [False, True],
    },
)


async def tiles(bench: Bench, idle: str, stall: str) -> None:
    """Batch tiles of one run."""
    c, rate, rng = bench.config, bench.config.gate_rows_per_cycle, bench.rng
    bench.fresh()
    run = draw_run(c, rng)
    await set_run(bench, run)
    await bench.run_for(3)
    groups = c.gate_rows // rate
    tile = bench.source("tile", 1)
    sieved = bench.source("sieved", sieved_rows_layout(c), idle)
    rows = bench.sink("row_write", write_layout(gate_rows_layout(c), 2 * groups))
    bias = bench.sink("bias_rows", write_layout(gate_rows_layout(c), groups))
    bitmap = bench.sink("bitmap_write", write_layout(BITMAP_WORD, 2 * c.bitmap_words))
    statistics = bench.sink("statistics", BITMAP_WORD, stall)
    saturated = bench.sink("sieve_saturated", bits_for(rate * c.C))
    done = Pulses(bench, "done")
    totals: list[tuple[int, int]] = []

    def at_done(cycle: int) -> None:
        if done.cycles["done"] and done.cycles["done"][-1] == cycle:
            totals.append((bench.get("rows_kept"), bench.get("elements_kept")))

    bench.steps.append(at_done)
    expected: dict[str, list[Any]] = {name: [] for name in ("rows", "bias", "bitmap", "statistics", "totals")}
    count = 0
    for _ in range(4):
        slot, density = rng.randrange(2), rng.choice((0.0, 0.5, 1.0))
        tile.send([slot])
        bits, kept, elements = 0, [0] * 4, [0] * 4
        form = c.formats.gradient
        for g in range(4 * run["H"] // rate):
            word = [[rng.randint(form.minimum, form.maximum) for _ in range(c.C)] for _ in range(rate)]
            group_kept, group_elements = 0, []
            for r in range(rate):
                q = g * rate + r
                keep = rng.random() < density
                n = rng.randint(0, c.C)
                bits |= keep << q
                group_kept |= keep << r
                group_elements.append(n)
                kept[q % 4] += keep
                elements[q % 4] += n
            over = rng.randint(0, rate * c.C)
            count += over
            sieved.send([{"rows": word, "kept": group_kept, "elements": group_elements, "saturated": over}])
            expected["rows"].append({"address": slot * groups + g, "word": word})
            expected["bias"].append({"address": g, "word": word})
        words = [bits >> n * BITMAP_WORD & (1 << BITMAP_WORD) - 1 for n in range(run["bitmap_words"])]
        expected["bitmap"] += [{"address": slot * c.bitmap_words + n, "word": w} for n, w in enumerate(words)]
        expected["statistics"] += words + [k | e << BITMAP_WORD // 2 for k, e in zip(kept, elements, strict=True)]
        expected["totals"].append((sum(kept), sum(elements)))
        some = "none" if not bits else "all" if sum(kept) == 4 * run["H"] else "some"
        _sample({"slot": slot, "H": _fit(run["H"]), "kept": some, "stalled": stall != "none"})
    await bench.run(lambda: len(done.cycles["done"]) == 4)
    await bench.run_for(5)
    actual = {
        "rows": rows.values, "bias": bias.values, "bitmap": bitmap.values, "statistics": statistics.values,
        "totals": totals,
    }  # fmt: skip
    for name, values in expected.items():
        bench.scoreboard.sequence(name, actual[name], values)
    bench.scoreboard.equal("saturations", sum(saturated.values), count)
    if idle == stall == "none":
        per_tile = 4 * run["H"] // rate
        spans = [sieved.sent[(n + 1) * per_tile - 1] - sieved.sent[n * per_tile] for n in range(4)]
        bench.scoreboard.equal("a group a cycle", set(spans), {per_tile - 1})
        latencies = [end - sieved.sent[(n + 1) * per_tile - 1] for n, end in enumerate(done.cycles["done"])]
        bench.scoreboard.equal("latency", set(latencies), {RowBitmapBuilder.latency})


def _fit(size: int) -> str:
    return fit(size, BITMAP_WORD // 4, tops(_CONFIG)["H"])


@test
async def batch_tiles(bench: Bench) -> None:
    """Batch tiles at full speed and with gaps."""
    for idle, stall in (("none", "none"), ("half", "none"), ("none", "half"), ("bursts", "often")) * 2 * bench.rounds:
        await tiles(bench, idle, stall)
