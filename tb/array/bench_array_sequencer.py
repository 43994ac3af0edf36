"""Bench of the array sequencer: the order of a run's tiles, and what it waits for."""

from __future__ import annotations

from typing import Any

from gradsieve.hw.array.array_sequencer import ArraySequencer
from gradsieve.hw.config import EngineConfig
from gradsieve.hw.layouts import job_layout
from gradsieve.hw.lib.stream_memory import write_layout
from gradsieve.tb.coverage import cover, fit, fits
from gradsieve.tb.environment import Bench, config, test
from gradsieve.tb.run_values import draw_run, set_run, tops
from gradsieve.tb.stream import Pulses

_CONFIG = config()
_sample = cover(
    "array_sequencer",
    {
        "column_mask": [False, True],
        "any_row": [False, True],
        "H": fits(_CONFIG.R, tops(_CONFIG)["H"]),
        "I": fits(_CONFIG.R, tops(_CONFIG)["I"]),
        "stalled": [False, True],
    },
    [("column_mask", "any_row")],
)


def expected_jobs(c: EngineConfig, run: dict[str, Any], any_row: list[bool], kept: list[list[bool]]) -> list[list[Any]]:
    """The contract: the jobs of each batch tile, t descending and batch tiles ascending."""
    out = []
    order = [(t, b) for t in reversed(range(run["T"])) for b in range(run["batch_tiles"])]
    for n, (t, b) in enumerate(order):
        jobs = []
        fenced = False
        for gradient, hidden in ((0, 1), (0, 0), (1, 0), (1, 1)):
            tiles = run["h_tiles" if hidden else "x_tiles"]
            for tile in range(tiles):
                end = tile == tiles - 1
                place = tile + (c.x_tiles if hidden else 0)
                keep = not run["column_mask"] or kept[t][place]
                ends_step = bool(gradient and hidden and end)
                if gradient and not ends_step and not (keep and any_row[n]):
                    continue
                jobs.append(
                    {
                        "dataflow": gradient,
                        "hidden": hidden,
                        "slot": n % 2,
                        "tile": place,
                        "first_column": tile * c.R,
                        "columns": run["last_h_columns" if hidden else "last_x_columns"] if end else c.R,
                        "lanes": run["last_lanes"] if b == run["batch_tiles"] - 1 else c.C,
                        "batch_tile": b,
                        "kept": int(keep),
                        "fence": int(gradient and not fenced),
                        "ends_hidden": int(not gradient and hidden and end),
                        "ends_step": int(ends_step),
                    }
                )
                fenced = fenced or bool(gradient)
        out.append(jobs)
    return out


async def one_run(bench: Bench, column_mask: bool, stall: str) -> None:
    """A run whose tokens and inputs come in random order, as early as the stores' two slots allow."""
    c, rng = bench.config, bench.rng
    bench.fresh()
    run = draw_run(c, rng, column_mask=column_mask)
    await set_run(bench, run)
    write = bench.source("column_bitmap_write", write_layout(1, c.max_T * c.tiles))
    kept = [[rng.random() < 0.6 for _ in range(c.tiles)] for _ in range(c.max_T)]
    write.send(
        {"address": t * c.tiles + n, "word": int(bit)} for t, row in enumerate(kept) for n, bit in enumerate(row)
    )
    await bench.run(lambda: write.done)
    tiles = run["T"] * run["batch_tiles"]
    any_row = [rng.random() < 0.7 for _ in range(tiles)]
    expected = expected_jobs(c, run, any_row, kept)
    bench.fresh()
    steps = bench.source("steps", 1)
    jobs = bench.sink("jobs", job_layout(c), stall, steady=False)  # gradient jobs go both ways at once
    input_jobs = bench.sink("input_jobs", job_layout(c), bench.pattern(), steady=False)
    pulses = Pulses(bench, "done", "waiting")
    bench.set(start=1)
    await bench.run_for(1)
    bench.set(start=0)
    await bench.run_for(2)
    bench.scoreboard.equal("waits for the first token", bench.get("waiting"), 1)
    ends = [0]
    for batch in expected:
        ends.append(ends[-1] + len(batch))
    for n, batch in enumerate(expected):
        errors = ends[n] + sum(1 for j in batch if not j["dataflow"])
        before = len(jobs)
        await bench.run_for(rng.choice((0, 10)))
        bench.scoreboard.equal("jobs before their token", max(len(jobs), before) <= ends[n], True)
        if rng.random() < 0.5:  # inputs ahead of the token
            await inputs_done(bench)
            steps.send([int(any_row[n])])
        else:
            steps.send([int(any_row[n])])
            await bench.came(jobs, errors, limit=20_000)
            await bench.run_for(20)
            bench.scoreboard.equal("gradient jobs before their inputs", len(jobs), errors)
            await inputs_done(bench)
        if rng.random() < 0.5:
            await bench.came(jobs, ends[n + 1], limit=20_000)
        else:  # the next batch tile is made while this one runs
            await bench.came(jobs, errors, limit=20_000)
            await bench.run(lambda: steps.done)
        _sample({"any_row": any_row[n], "column_mask": column_mask})
    await bench.run(lambda: len(jobs) >= ends[-1], limit=20_000)
    await bench.run_for(30)
    everything = [j for batch in expected for j in batch]
    bench.scoreboard.sequence("job", jobs.values, everything)
    bench.scoreboard.sequence("input job", input_jobs.values, [j for j in everything if j["dataflow"]])
    if stall == "none":
        bench.scoreboard.equal("latency", jobs.cycles[0] - steps.sent[0], ArraySequencer.latency)
    bench.scoreboard.equal("pulses of done", len(pulses.cycles["done"]), 1)
    top = tops(c)
    _sample({"H": fit(run["H"], c.R, top["H"]), "I": fit(run["I"], c.R, top["I"]), "stalled": stall != "none"})


async def inputs_done(bench: Bench) -> None:
    """x and h of a batch tile are stored."""
    bench.set(inputs_done=1)
    await bench.run_for(1)
    bench.set(inputs_done=0)


@test
async def runs(bench: Bench) -> None:
    """Runs with and without column bitmaps."""
    for _ in range(12 * bench.rounds):
        for column_mask in (False, True):
            await one_run(bench, column_mask, bench.rng.choice(("none", "half", "bursts")))
