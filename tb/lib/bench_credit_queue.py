"""Bench of the credit queue: everything that enters a pipeline that cannot stop comes out, once and in order."""

from __future__ import annotations

from gradsieve.hw.lib.credit_queue import CreditQueue
from gradsieve.tb.coverage import cover
from gradsieve.tb.environment import Bench, test
from gradsieve.tb.harness import QueuedPipeline
from gradsieve.tb.stream import PATTERNS, Sink, Source

_sample = cover("credit_queue", {"idle": PATTERNS, "stall": PATTERNS}, [("idle", "stall")])


@test
async def passes(bench: Bench) -> None:
    """Every pattern on both sides."""
    width = bench.config.formats.gradient.width
    for idle in PATTERNS * bench.rounds:
        for stall in PATTERNS:
            bench.fresh()
            source, sink = bench.source("source", width, idle), bench.sink("sink", width, stall)
            words = [bench.rng.getrandbits(width) for _ in range(100)]
            early: list[int] = []  # cycles in which it was called empty while something was inside

            def watch(cycle: int, early: list[int] = early, source: Source = source, sink: Sink = sink) -> None:
                if bench.dut.empty.value and len(source.sent) > len(sink):
                    early.append(cycle)

            bench.steps.insert(0, watch)
            source.send(words)
            await bench.came(sink, len(words))
            await bench.run_for(3)
            bench.scoreboard.equal("empty too early", early, [])
            bench.scoreboard.sequence("word", sink.values, words)
            bench.scoreboard.equal("empty at the end", bench.get("empty"), 1)
            if stall == "none":
                latencies = {b - a for a, b in zip(source.sent, sink.cycles, strict=True)}
                bench.scoreboard.equal("latency", latencies, {QueuedPipeline.cycles + CreditQueue.latency})
            if idle == stall == "none":
                bench.scoreboard.equal("a word a cycle", source.sent[-1] - source.sent[0], len(words) - 1)
            _sample({"idle": idle, "stall": stall})


@test
async def full(bench: Bench) -> None:
    """As much is taken as fits, however long nothing leaves, and none of it is lost."""
    width, depth = bench.config.formats.gradient.width, QueuedPipeline(bench.config).queue.depth
    for _ in range(3):
        bench.fresh()
        source, sink = bench.source("source", width), bench.sink("sink", width)
        sink.stall = iter(lambda: True, False)  # never takes
        words = [bench.rng.getrandbits(width) for _ in range(2 * depth)]
        source.send(words)
        await bench.run_for(4 * depth)
        # three more are in the registers after it; the last that were reserved leave room for fewer than `at_once`
        bench.scoreboard.equal("words that fit", len(source.sent), depth - QueuedPipeline.at_once + 1 + 3)
        bench.scoreboard.equal("empty", bench.get("empty"), 0)
        sink.stall = iter(lambda: False, True)  # always takes
        await bench.came(sink, len(words))
        bench.scoreboard.sequence("word", sink.values, words)
