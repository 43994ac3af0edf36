"""Bench of the packet closer: beats pass unchanged; a cut-off packet ends with a beat of no bytes."""

from __future__ import annotations

from itertools import chain, repeat
from typing import Any

from gradsieve.hw.host.packet_closer import PacketCloser, closed_beat_layout
from gradsieve.hw.host.packing import beat_layout
from gradsieve.tb.coverage import cover
from gradsieve.tb.environment import Bench, test
from gradsieve.tb.stream import Sink, Source

_sample = cover("packet_closer", {"open": [False, True], "offered": [False, True]}, [("open", "offered")])


def draw(bench: Bench, packets: int) -> list[dict[str, Any]]:
    """Packets of random beats."""
    beats = []
    for _ in range(packets):
        length = bench.rng.randint(1, 6)
        width = bench.config.stream_width
        beats += [{"data": bench.rng.getrandbits(width), "last": int(n == length - 1)} for n in range(length)]
    return beats


class Open:
    """Compares `open` in every cycle: high from a packet's first beat until its last one has been taken."""

    def __init__(self, bench: Bench, source: Source, sink: Sink, beats: list[dict[str, Any]]) -> None:
        self.bench, self.source, self.sink, self.beats = bench, source, sink, beats
        self.due = False
        bench.steps.append(self.step)

    def step(self, cycle: int) -> None:
        """One clock edge; drivers and monitors have counted what moved at it."""
        self.bench.scoreboard.equal("open", bool(self.bench.dut.open.value), self.due)
        taken = len(self.source.sent)
        self.due = taken > len(self.sink) or (taken > 0 and not self.beats[taken - 1]["last"])


@test
async def passes(bench: Bench) -> None:
    """Packets at full speed and with gaps."""
    width = bench.config.stream_width
    keep = (1 << width // 8) - 1
    for idle, stall in (("none", "none"), ("half", "half"), ("bursts", "often")) * bench.rounds:
        bench.fresh()
        source = bench.source("beats", beat_layout(width), idle)
        sink = bench.sink("closed", closed_beat_layout(width), stall)
        beats = draw(bench, 40)
        source.send(beats)
        Open(bench, source, sink, beats)
        await bench.came(sink, len(beats))
        await bench.run_for(3)
        bench.scoreboard.sequence("beat", sink.values, [{**b, "keep": keep} for b in beats])
        bench.scoreboard.equal("open afterwards", bench.get("open"), 0)
        if idle == stall == "none":
            latencies = {b - a for a, b in zip(source.sent, sink.cycles, strict=True)}
            bench.scoreboard.equal("latency", latencies, {PacketCloser.latency})
            bench.scoreboard.equal("a beat a cycle", sink.cycles[-1] - sink.cycles[0], len(beats) - 1)


@test
async def cut_off(bench: Bench) -> None:
    """`clear` at any moment: what was taken comes out, then the closing beat if a packet was open, then nothing."""
    width = bench.config.stream_width
    keep = (1 << width // 8) - 1
    for n in range(60 * bench.rounds):
        bench.fresh()
        source = bench.source("beats", beat_layout(width), bench.pattern())
        sink = bench.sink("closed", closed_beat_layout(width), ("none", "half", "often")[n % 3])
        beats = draw(bench, 8)
        source.send(beats)
        await bench.run_for(bench.rng.randint(3, 20))
        # the block is held in reset in this cycle, as the core is: it offers nothing
        offered = bool(bench.get("closed__valid"))
        taken = len(source.sent)
        source.clear()
        bench.set(clear=1)
        await bench.run_for(1)
        bench.set(clear=0)
        await bench.run_for(1)
        sink.stall = iter(lambda: False, True)
        await bench.run_for(10)
        out = sink.values
        passed = [b for b in out if b["keep"] == keep]
        count = len(passed)
        bench.scoreboard.sequence("beat before the cut", passed, [{**b, "keep": keep} for b in beats[:count]])
        bench.scoreboard.equal("no beat is lost", count, taken)
        was_open = count > 0 and not beats[count - 1]["last"]
        closing = [{"data": 0, "keep": 0, "last": 1}] if was_open else []
        bench.scoreboard.equal("closing beat", out[count:], closing)
        bench.scoreboard.equal("open afterwards", bench.get("open"), 0)
        _sample({"open": was_open, "offered": offered})


@test
async def cut_off_again(bench: Bench) -> None:
    """A second `clear` in any cycle after a first one that cut a packet off: there is still one closing beat."""
    width = bench.config.stream_width
    beat = {"data": bench.rng.getrandbits(width), "last": 0}
    for stalled in range(6):  # cycles in which the beat waits that was offered at the first `clear`
        for gap in range(1, 9):
            bench.fresh()
            source = bench.source("beats", beat_layout(width), "none")
            sink = bench.sink("closed", closed_beat_layout(width), "none")
            sink.stall = chain(repeat(True, stalled + 3), repeat(False))
            source.send([beat])
            await bench.run_for(2)
            for _ in range(2):
                bench.set(clear=1)
                await bench.run_for(1)
                bench.set(clear=0)
                await bench.run_for(gap - 1)
            await bench.run_for(20)
            closing = {"data": 0, "keep": 0, "last": 1}
            due = [{**beat, "keep": (1 << width // 8) - 1}, closing]
            bench.scoreboard.sequence(f"beat, stalled {stalled}, {gap} apart", sink.values, due)
            bench.scoreboard.equal("open afterwards", bench.get("open"), 0)
