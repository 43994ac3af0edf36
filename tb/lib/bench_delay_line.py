"""Bench of the delay lines: a list of all that went in."""

from __future__ import annotations

from gradsieve.tb.coverage import cover
from gradsieve.tb.environment import Bench, test
from gradsieve.tb.harness import DelayLines

_sample = cover("delay_line", {"cycles": list(DelayLines.cycles), "enable": ["always", "now and then"]})


@test
async def delays(bench: Bench) -> None:
    """Random values, with and without pauses."""
    rng, width = bench.rng, bench.config.formats.gradient.width
    taken: list[int] = []
    for enable in ("always", "now and then") * bench.rounds:
        for _ in range(150):
            enabled, value = enable == "always" or rng.random() < 0.5, rng.getrandbits(width)
            bench.set(enable=enabled, input=value)
            await bench.cycles(1)
            for n in DelayLines.cycles:  # as they were at the edge that took the value
                if len(taken) >= n:
                    bench.scoreboard.equal(f"{n} cycles later", bench.get(f"output_{n}"), taken[-n])
                    _sample({"cycles": n, "enable": enable})
            if enabled:
                taken.append(value)
