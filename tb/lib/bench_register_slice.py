"""Bench of the register slice: everything passes once, in order, at full throughput."""

from __future__ import annotations

from gradsieve.hw.host.packing import beat_layout
from gradsieve.hw.lib.register_slice import RegisterSlice
from gradsieve.tb.coverage import cover
from gradsieve.tb.environment import Bench, test
from gradsieve.tb.stream import PATTERNS

_sample = cover("register_slice", {"idle": PATTERNS, "stall": PATTERNS}, [("idle", "stall")])


@test
async def passes(bench: Bench) -> None:
    """Every pattern on both sides."""
    layout, width = beat_layout(bench.config.stream_width), bench.config.stream_width
    for idle in PATTERNS * bench.rounds:
        for stall in PATTERNS:
            bench.fresh()
            source, sink = bench.source("source", layout, idle), bench.sink("sink", layout, stall)
            words = [{"data": bench.rng.getrandbits(width), "last": bench.rng.randrange(2)} for _ in range(60)]
            source.send(words)
            await bench.came(sink, len(words))
            await bench.run_for(3)
            bench.scoreboard.sequence("word", sink.values, words)
            if stall == "none":
                latencies = {b - a for a, b in zip(source.sent, sink.cycles, strict=True)}
                bench.scoreboard.equal("latency", latencies, {RegisterSlice.latency})
            if idle == stall == "none":
                bench.scoreboard.equal("a word a cycle", source.sent[-1] - source.sent[0], len(words) - 1)
            _sample({"idle": idle, "stall": stall})


@test
async def clear(bench: Bench) -> None:
    """`clear` forgets both payloads."""
    layout = beat_layout(bench.config.stream_width)
    for count in (1, 2, 3):
        bench.fresh()
        source, sink = bench.source("source", layout), bench.sink("sink", layout, "often")
        sink.stall = iter(lambda: True, False)  # never takes
        source.send([{"data": n + 1} for n in range(count)])
        await bench.run_for(6)
        bench.scoreboard.equal("payloads that fit", len(source.sent), min(count, 2))
        source.clear()
        bench.set(clear=1)
        await bench.cycles(1)
        bench.set(clear=0)
        await bench.cycles(2)
        state = (bench.get("sink__valid"), bench.get("source__ready"))
        bench.scoreboard.equal("valid and ready after the clear", state, (0, 1))
