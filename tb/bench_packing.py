"""Bench of unpacker and packer, for word widths below, at and above that of a beat."""

from __future__ import annotations

from typing import Any

from hw.packing import Packer, Unpacker, beat_layout, unpacked_layout
from tb.coverage import cover
from tb.environment import Bench, config, test
from tb.harness import word_widths

_WIDTHS = word_widths(config())
_sample = cover(
    "packing",
    {"width": _WIDTHS, "direction": ["unpack", "pack"], "end": ["whole", "filled", "short"], "flush": [False, True]},
    [("width", "direction")],
)


def bits(bench: Bench, width: int) -> int:
    """Random bits."""
    return bench.rng.getrandbits(width)


class Flush:
    """Drives `flush` with words chosen in advance: it belongs to the word that is on offer."""

    def __init__(self, bench: Bench, width: int, sink: Any, chosen: list[bool]) -> None:
        self.port, self.sink, self.chosen = getattr(bench.dut, f"unpack_{width}_flush"), sink, chosen
        bench.steps.append(self.step)

    def step(self, cycle: int) -> None:
        """One clock edge: the sink has counted what was taken at it."""
        n = len(self.sink)
        self.port.value = int(n < len(self.chosen) and self.chosen[n])


def unpacked(beat: int, width: int, packet: list[int], flushes: list[bool]) -> list[dict[str, int]]:
    """The contract of the unpacker: words of a packet; `flushes`: after which the beat's rest is dropped."""
    words: list[dict[str, int]] = []
    if width >= beat:
        count = width // beat
        for start in range(0, len(packet), count):
            part = packet[start : start + count]
            last = start + count >= len(packet)
            word = sum(b << n * beat for n, b in enumerate(part))
            words.append({"data": word, "last": last, "beat_end": 1, "short": len(part) < count})
            flushes.append(False)
        return words
    count = beat // width
    for n, b in enumerate(packet):
        for k in range(count):
            word = b >> k * width & (1 << width) - 1
            words.append({"data": word, "last": n == len(packet) - 1, "beat_end": k == count - 1, "short": 0})
            if flushes[len(words) - 1]:
                break
    return words


async def unpack(bench: Bench, width: int, idle: str, stall: str) -> None:
    """Packets of random lengths through one unpacker."""
    beat, rng = bench.config.stream_width, bench.rng
    bench.fresh()
    source = bench.source(f"unpack_{width}_beats", beat_layout(beat), idle)
    sink = bench.sink(f"unpack_{width}_words", unpacked_layout(width), stall)
    chosen: list[bool] = []
    expected: list[dict[str, int]] = []
    for _ in range(20):
        packet = [bits(bench, beat) for _ in range(rng.randint(1, 3 * max(width // beat, 1)))]
        source.send([{"data": b, "last": n == len(packet) - 1} for n, b in enumerate(packet)])
        flushes = [rng.random() < 0.3 for _ in range(len(packet) * max(beat // width, 1))] if width < beat else []
        words = unpacked(beat, width, packet, flushes)
        chosen += flushes[: len(words)]
        expected += words
        end = "short" if words[-1]["short"] else "whole"
        _sample({"width": width, "direction": "unpack", "end": end, "flush": any(flushes[: len(words)])})
    Flush(bench, width, sink, chosen)
    await bench.run(lambda: len(sink) >= len(expected))
    await bench.run_for(10)
    mask = [(1 << width) - 1] * len(expected)
    if width > beat:  # beats that never came leave whatever was there
        mask = [(1 << width) - 1 if not e["short"] else (1 << beat) - 1 for e in expected]
    for n, (a, e) in enumerate(zip(sink.values, expected, strict=False)):
        actual, due = {**a, "data": a["data"] & mask[n]}, {**e, "data": e["data"] & mask[n]}
        bench.scoreboard.equal(f"{width}-bit word {n}", actual, due)
    bench.scoreboard.equal(f"count of {width}-bit words", len(sink), len(expected))
    if idle == stall == "none":
        bench.scoreboard.equal("latency", sink.cycles[-1] - source.sent[-1] >= Unpacker.latency, True)
        if width >= beat:
            bench.scoreboard.equal("latency of a word", sink.cycles[-1] - source.sent[-1], Unpacker.latency)
            bench.scoreboard.equal("a beat a cycle", source.sent[-1] - source.sent[0], len(source.sent) - 1)
        else:
            bench.scoreboard.equal("a word a cycle", sink.cycles[-1] - sink.cycles[0], len(expected) - 1)


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
        _sample({"width": width, "direction": "pack", "end": "filled" if size % beat else "whole", "flush": False})
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
async def unpackers(bench: Bench) -> None:
    """Every width, at full speed and with gaps."""
    for width in _WIDTHS * bench.rounds:
        await unpack(bench, width, "none", "none")
        await unpack(bench, width, bench.pattern(), bench.pattern())


@test
async def packers(bench: Bench) -> None:
    """Every width, at full speed and with gaps."""
    for width in _WIDTHS * bench.rounds:
        await pack(bench, width, "none", "none")
        await pack(bench, width, bench.pattern(), bench.pattern())


@test
async def clear(bench: Bench) -> None:
    """`clear` forgets what an unpacker holds."""
    beat = bench.config.stream_width
    for width in _WIDTHS:
        bench.fresh()
        source = bench.source(f"unpack_{width}_beats", beat_layout(beat))
        source.send([{"data": bits(bench, beat)}])
        await bench.sent(source)
        bench.set(**{f"unpack_{width}_clear": 1})
        await bench.cycles(1)
        bench.set(**{f"unpack_{width}_clear": 0})
        await bench.cycles(1)
        bench.scoreboard.equal("a word after the clear", bench.get(f"unpack_{width}_words__valid"), 0)
        await unpack(bench, width, "none", "none")
