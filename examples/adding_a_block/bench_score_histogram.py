"""Bench of the score histogram: Python counts the rows by the bits of their largest magnitude."""

from __future__ import annotations

from score_histogram import ScoreHistogram

from gradsieve.hw.layouts import gate_rows_layout
from gradsieve.tb.coverage import CORNERS, corner, cover
from gradsieve.tb.environment import Bench, test
from gradsieve.tb.stream import PATTERNS

_sample = cover("score_histogram", {"dz": CORNERS, "idle": PATTERNS, "cleared": [False, True]})


@test
async def counts(bench: Bench) -> None:
    """Random rows of every size of score, with pauses, and cleared now and then."""
    c, rng, form = bench.config, bench.rng, bench.config.formats.gradient
    expected = [0] * (form.width + 1)
    for idle in PATTERNS * bench.rounds:
        for cleared in (False, True):
            bench.fresh()
            if cleared:
                bench.set(clear=1)
                await bench.run_for(1)
                bench.set(clear=0)
                expected = [0] * len(expected)
            rows = bench.source("rows", gate_rows_layout(c), idle)
            for _ in range(100):
                group = []
                for _ in range(c.gate_rows_per_cycle):
                    largest = rng.choice((form.maximum, 1 << rng.randrange(form.width), 0))
                    row = [max(form.minimum, min(form.maximum, rng.randint(-largest, largest))) for _ in range(c.C)]
                    row = rng.choice((row, [form.minimum] * c.C, [form.maximum] * c.C, [0] * c.C, row, row))
                    expected[max(abs(value) for value in row).bit_length()] += 1
                    _sample({"dz": corner(row[0], form)})
                    group.append(row)
                rows.send([group])
            await bench.sent(rows)
            await bench.run_for(ScoreHistogram.latency)
            actual = [bench.get(f"count_{bits}") for bits in range(len(expected))]
            bench.scoreboard.sequence("count", actual, expected)
            _sample({"idle": idle, "cleared": cleared})
