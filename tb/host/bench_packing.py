"""Bench of the packer, for word widths below, at and above that of a beat."""

from __future__ import annotations

from gradsieve.hw.host.packing import Packer, beat_layout
from gradsieve.tb.coverage import cover
from gradsieve.tb.environment import Bench, config, test
from gradsieve.tb.harness import word_widths

_WIDTHS = word_widths(config())
_sample = cover(
    "packing",
    {"width": _WIDTHS, "end": ["whole", "filled"]},
)


def bits(bench: Bench, width: int) -> int:
    """Random bits."""
    return bench.rng.getrandbits(width)


async def pack(bench: Bench, width: int, idle: str, stall: str) -> None:
    """Sections of random lengths through one packer."""
    beat, rng = bench.config.stream_width, bench.rng
    bench.fresh()
    source = bench.source(f"pack_{width}_words", beat_layout(width), idle)
    sink = bench.sink(f"pack_{width}_beats", beat_layout(beat), stall)
    expected = []
    for _ in range(20):
        section = [bits(bench, width) for _ in range(rng.randint(1, 3 * max(beat // width, 1)))]
        source.send([{"data": w, "last": n == len(section) - 1} for n, w in enumerate(section)])
        total, size = sum(w << n * width for n, w in enumerate(section)), len(section) * width
        beats = -(-size // beat)
        for n in range(beats):
            expected.append({"data": total >> n * beat & (1 << beat) - 1, "last": n == beats - 1})
        _sample({"width": width, "end": "filled" if size % beat else "whole"})
    await bench.run(lambda: len(sink) >= len(expected))
    await bench.run_for(10)
    bench.scoreboard.sequence(f"beat from {width}-bit words", sink.values, expected)
    if idle == stall == "none":
        if width <= beat:
            bench.scoreboard.equal("latency of a beat", sink.cycles[-1] - source.sent[-1], Packer.latency)
            bench.scoreboard.equal("a word a cycle", source.sent[-1] - source.sent[0], len(source.sent) - 1)
        else:
            bench.scoreboard.equal("a beat a cycle", sink.cycles[-1] - sink.cycles[0], len(expected) - 1)


@test
async def packers(bench: Bench) -> None:
    """Every width, at full speed and with gaps."""
    for width in _WIDTHS * bench.rounds:
        await pack(bench, width, "none", "none")
        await pack(bench, width, bench.pattern(), bench.pattern())
