"""Bench of the performance counters: plain sums beside them."""

from __future__ import annotations

from gradsieve.hw.host.counters import LIFETIME, increments
from gradsieve.hw.host.registers import COUNTERS_32, COUNTERS_64
from gradsieve.tb.coverage import cover
from gradsieve.tb.environment import Bench, test

NAMES = (*COUNTERS_64, *COUNTERS_32)
_sample = cover("counters", {"cleared by": ["start", "read"], "increment": ["zero", "one", "largest"]})


@test
async def sums(bench: Bench) -> None:
    """Random increments of all counters; `start` clears those of a run, `read` that of a read."""
    rng, edge = bench.rng, bench.dut.clk.rising_edge
    largest = increments(bench.config)
    totals = dict.fromkeys(NAMES, 0)
    for clear in ("none", "start", "read", "start", "none", "read") * bench.rounds:
        if clear != "none":
            bench.set(**{f"{n.lower()}_add": 0 for n in NAMES})
            await bench.cycles(2)
            bench.set(**{clear: 1})
            await bench.cycles(1)
            bench.set(**{clear: 0})
            for name in NAMES:
                if name == "SATURATED_READ":
                    totals[name] *= clear != "read"
                elif name not in LIFETIME:
                    totals[name] *= clear != "start"
            _sample({"cleared by": clear})
        for _ in range(30):
            for name in NAMES:
                top = largest.get(name, 1)
                add = rng.choice((0, 1, top, rng.randint(0, top)))
                totals[name] += add
                bench.set(**{f"{name.lower()}_add": add})
                _sample({"increment": "zero" if add == 0 else "largest" if add == top and top > 1 else "one"})
            await edge
        bench.set(**{f"{n.lower()}_add": 0 for n in NAMES})
        await bench.cycles(3)
        for name in NAMES:
            width = 64 if name in COUNTERS_64 else 32
            bench.scoreboard.equal(name, bench.get(name.lower()), totals[name] & (1 << width) - 1)
