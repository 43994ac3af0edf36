"""Bench of the output packet unit: sections of a run and of a read, put into beats as docs/streams.md says."""

from __future__ import annotations

from typing import Any

from gradsieve.hw.config import BITMAP_WORD
from gradsieve.hw.host.output_packets import OutputPackets
from gradsieve.hw.host.packing import beat_layout
from gradsieve.hw.layouts import group_elements, group_layout, lanes_layout, state_layout
from gradsieve.hw.packets import EXACT_BITS, SHORT_BITS, STATISTICS_WORDS
from gradsieve.tb.coverage import cover, fit, fits
from gradsieve.tb.environment import Bench, config, test
from gradsieve.tb.run_values import draw_run, set_run, tops
from gradsieve.tb.stream import Pulses, Responder

_CONFIG = config()
_sample = cover(
    "output_packets",
    {
        "packet": ["run", "run with state", "read exact", "read short"],
        "I": fits(_CONFIG.R, tops(_CONFIG)["I"]),
        "stalled": [False, True],
    },
    [("packet", "stalled")],
)


def section_beats(width: int, words: list[tuple[int, int]]) -> list[int]:
    """The beats of a section of (value, bits) words: little-endian, without gaps, filled up with zeros."""
    total = size = 0
    for value, bits in words:
        total |= value << size
        size += bits
    return [total >> n * width & (1 << width) - 1 for n in range(-(-size // width))]


def lane_word(c: Any, lanes: list[int]) -> tuple[int, int]:
    """A lane vector as it is on the stream."""
    e = c.formats.element_bits
    return sum((v & (1 << e) - 1) << n * e for n, v in enumerate(lanes)), e * c.lane_slots


async def run_packet(bench: Bench, state_out: bool, idle: str, stall: str) -> None:
    """The packet of one run."""
    c, rng, form = bench.config, bench.rng, bench.config.formats.gradient
    bench.fresh()
    run = draw_run(c, rng, state_out=state_out)
    await set_run(bench, run)
    depth = OutputPackets(c).state_depth

    def lanes() -> list[int]:
        return [
            rng.choice((form.minimum, form.maximum, -1, rng.randint(form.minimum, form.maximum))) for _ in range(c.C)
        ]

    contents = [{"dh": lanes(), "dc": lanes()} for _ in range(depth)]
    statistics = bench.source("statistics", BITMAP_WORD, idle)
    dx = bench.source("dx", lanes_layout(c), idle)
    Responder(bench, "state_request", "state", (range(depth), state_layout(c)), lambda a: contents[a])
    beats = bench.sink("beats", beat_layout(c.stream_width), stall)
    pulses = Pulses(bench, "done", "result_done", "in_state")
    sections: list[list[tuple[int, int]]] = []
    for _ in range(run["T"] * run["batch_tiles"]):
        words = [rng.getrandbits(BITMAP_WORD) for _ in range(run["bitmap_words"] + STATISTICS_WORDS)]
        statistics.send(words)
        sections.append([(w, BITMAP_WORD) for w in words])
        vectors = [lanes() for _ in range(run["I"])]
        dx.send(vectors)
        sections.append([lane_word(c, v) for v in vectors])
    result_beats = sum(len(section_beats(c.stream_width, s)) for s in sections)
    if state_out:
        state = [contents[b * c.max_H + u] for b in range(run["batch_tiles"]) for u in range(run["H"])]
        sections.append([lane_word(c, s[half]) for s in state for half in ("dh", "dc")])
    bench.set(start_run=1)
    await bench.run_for(1)
    bench.set(start_run=0)
    await finish(bench, beats, sections, pulses)
    bench.scoreboard.equal("cycle of result_done", pulses.cycles["result_done"], [beats.cycles[result_beats - 1] + 1])
    bench.scoreboard.equal("state is asked for", bool(pulses.cycles["in_state"]), state_out)
    _sample({"packet": "run with state" if state_out else "run", "I": fit(run["I"], c.R, tops(c)["I"])})
    _sample({"packet": "run with state" if state_out else "run", "stalled": stall != "none"})


async def finish(bench: Bench, beats: Any, sections: list[list[tuple[int, int]]], pulses: Pulses) -> None:
    """Wait for the packet and compare it."""
    expected = [b for s in sections for b in section_beats(bench.config.stream_width, s)]
    await bench.run(lambda: len(beats) >= len(expected), limit=200_000)
    await bench.run_for(20)
    due = [{"data": b, "last": int(n == len(expected) - 1)} for n, b in enumerate(expected)]
    bench.scoreboard.sequence("beat", beats.values, due)
    bench.scoreboard.equal("cycle of done", pulses.cycles["done"], [beats.cycles[-1] + 1])


async def read_packet(bench: Bench, exact: bool, idle: str, stall: str) -> None:
    """The packet of one read command."""
    c, rng = bench.config, bench.rng
    bench.fresh()
    groups = bench.source("groups", group_layout(c), idle)
    beats = bench.sink("beats", beat_layout(c.stream_width), stall)
    pulses = Pulses(bench, "done")
    elements, bits = group_elements(c), EXACT_BITS if exact else SHORT_BITS
    sections = []
    for single in (True, False, False):
        width = bits * (1 if single else elements)
        length = rng.randint(1, 20)
        words = [(rng.getrandbits(width), width) for _ in range(length)]
        groups.send(
            {"data": w, "exact": exact, "single": single, "last": n == length - 1} for n, (w, _) in enumerate(words)
        )
        sections.append(words)
    bench.set(start_read=1)
    await bench.run_for(1)
    bench.set(start_read=0)
    await finish(bench, beats, sections, pulses)
    _sample({"packet": "read exact" if exact else "read short", "stalled": stall != "none"})


@test
async def packets(bench: Bench) -> None:
    """Packets of both kinds, at full speed and with gaps."""
    for n in range(6 * bench.rounds):
        bench.slow = n % 2 == 1
        for choice in (False, True):
            idle, stall = ("none", "none") if n % 2 == 0 else (bench.pattern(), bench.rng.choice(("half", "often")))
            await run_packet(bench, choice, idle, stall)
            await read_packet(bench, choice, idle, stall)
