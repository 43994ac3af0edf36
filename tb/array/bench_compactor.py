"""Bench of the compactor: for each job the set bits of its bitmaps, ascending, at one index a cycle."""

from __future__ import annotations

from typing import Any

from gradsieve.hw.array.compactor import Compactor
from gradsieve.hw.config import BITMAP_WORD
from gradsieve.hw.layouts import index_layout, job_layout
from gradsieve.hw.lib.stream_memory import write_layout
from gradsieve.tb.coverage import cover
from gradsieve.tb.environment import Bench, test
from gradsieve.tb.run_values import draw_run, set_run

DENSITIES = (0.0, 0.02, 0.2, 0.8, 1.0)

_sample = cover(
    "compactor",
    {
        "rows": DENSITIES,
        "block_mask": [False, True],
        "kept": [False, True],
        "indices": ["none", "1", "some", "all"],
    },
    [("block_mask", "kept"), ("rows", "block_mask")],
)


def draw_bits(bench: Bench, count: int, density: float) -> int:
    """A bitmap."""
    return sum((bench.rng.random() < density) << n for n in range(count))


async def write_bitmap(bench: Bench, port: str, depth: int, base: int, bits: int, words: int) -> None:
    """Write a bitmap's words."""
    source = bench.source(port, write_layout(BITMAP_WORD, depth))
    source.send(
        [{"address": base + n, "word": bits >> (n * BITMAP_WORD) & (1 << BITMAP_WORD) - 1} for n in range(words)]
    )
    await bench.run(lambda: source.done)
    bench.steps.remove(source.step)
    bench.agents.remove(source)


def expected_indices(run: dict[str, Any], jobs: list[dict[str, Any]], rows: list[int], blocks: list[int]) -> list[Any]:
    """The contract: row_kept & block_kept & column_kept, ascending; one empty beat where there is none."""
    out = []
    for job in jobs:
        bits = rows[job["slot"]] if job["kept"] else 0
        if run["block_mask"]:
            bits &= blocks[job["tile"]]
        indices = [q for q in range(4 * run["H"]) if bits >> q & 1]
        for n, q in enumerate(indices or [None]):
            empty = q is None
            out.append((q, n == 0, n == max(len(indices), 1) - 1, empty, job))
    return out


async def stream(
    bench: Bench,
    density: float,
    block_mask: bool,
    idle: str,
    stall: str,
    kept_share: float,
    count: int = 25,
    held: int = 0,
) -> None:
    """Bitmaps of a run, then `count` jobs, whose indices nobody takes for `held` cycles."""
    c, rng = bench.config, bench.rng
    run = draw_run(c, rng, block_mask=block_mask)
    words, all_rows = run["bitmap_words"], 4 * run["H"]
    await set_run(bench, run)
    bench.fresh()
    rows = [draw_bits(bench, all_rows, density) for _ in range(2)]
    blocks = [draw_bits(bench, all_rows, rng.choice((0.2, 0.8, 1.0))) for _ in range(c.tiles)]
    for slot, bits in enumerate(rows):
        base = slot * c.bitmap_words
        await write_bitmap(bench, "row_bitmap_write", 2 * c.bitmap_words, base, bits, words)
    for tile, bits in enumerate(blocks):
        base = tile * c.bitmap_words
        await write_bitmap(bench, "block_bitmap_write", c.tiles * c.bitmap_words, base, bits, words)
    jobs_port = bench.source("jobs", job_layout(c), idle)
    await bench.run_for(30)
    layout = jobs_port.format
    jobs = []
    for _ in range(count):
        job = layout.unpack(rng.getrandbits(layout.width))  # what it does not look at must come out unchanged
        job |= {"slot": rng.randrange(2), "tile": rng.randrange(c.tiles), "kept": int(rng.random() < kept_share)}
        jobs.append(job)
    expected = expected_indices(run, jobs, rows, blocks)
    jobs_port.send(jobs)
    bench.set(indices__ready=0)
    await bench.run_for(held)
    sink = bench.sink("indices", index_layout(c), stall)
    await bench.run(lambda: len(sink) >= len(expected), limit=200_000)
    await bench.run_for(20)
    actual = [
        (None if v["empty"] else v["q"], bool(v["first"]), bool(v["last"]), bool(v["empty"]), v["job"])
        for v in sink.values
    ]
    bench.scoreboard.sequence("index", actual, expected)
    for job in jobs:
        count = sum(1 for e in expected if e[4] is job and not e[3])
        size = "none" if count == 0 else "1" if count == 1 else "all" if count == all_rows else "some"
        _sample({"rows": density, "block_mask": block_mask, "kept": bool(job["kept"]), "indices": size})
    if idle == stall == "none" and not held:
        if words == 1:  # it takes a job with its last word
            bench.scoreboard.equal("latency", sink.cycles[0] - jobs_port.sent[0], Compactor.latency)
        if density == 1.0 and not block_mask:
            bench.scoreboard.equal("cycles of all indices", sink.cycles[-1] - sink.cycles[0], len(expected) - 1)


@test
async def jobs(bench: Bench) -> None:
    """Every density with and without block bitmaps, at full speed and with gaps."""
    for _ in range(bench.rounds):
        for density in DENSITIES:
            for block_mask in (False, True):
                await stream(bench, density, block_mask, "none", "none", 1.0)
                await stream(bench, density, block_mask, bench.pattern(), bench.pattern(), 0.7)


@test
async def full(bench: Bench) -> None:
    """More jobs than there is room for, and nobody takes an index until all of it is full."""
    await stream(bench, 1.0, False, "none", "none", 1.0, count=100, held=300)


@test
async def reset_in_the_middle(bench: Bench) -> None:
    """A reset while jobs are inside leaves nothing behind."""
    c = bench.config
    for _ in range(3):
        bench.fresh()
        jobs_port, sink = bench.source("jobs", job_layout(c)), bench.sink("indices", index_layout(c))
        jobs_port.send([{"kept": 1}] * 8)
        await bench.run_for(bench.rng.randint(2, 20))
        await bench.reset()
        await bench.run_for(30)
        bench.scoreboard.equal("indices after the reset", len(sink), 0)
        await stream(bench, 0.5, True, "none", "none", 1.0)
