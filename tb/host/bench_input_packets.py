"""Bench of the input packet unit: packets of every kind to store writes, and every wrong packet to an error."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from amaranth.hdl import Shape, signed
from amaranth.lib import data

from gradsieve.fpga.packets import PacketFormat
from gradsieve.golden.random_case import random_case
from gradsieve.golden.types import Tape, Weights
from gradsieve.hw.config import BITMAP_WORD, EngineConfig
from gradsieve.hw.host.packing import input_beat_layout
from gradsieve.hw.host.registers import ErrorCode
from gradsieve.hw.layouts import lanes_layout, record_layout, weight_word_layout
from gradsieve.hw.lib.stream_memory import write_layout
from gradsieve.hw.packets import PacketKind
from gradsieve.tb.coverage import cover
from gradsieve.tb.environment import Bench, test
from gradsieve.tb.run_values import draw_run, run_values, set_run
from gradsieve.tb.stream import Pulses, Sink

KINDS = PacketKind.__members__
"""Packet kinds by name."""

_sample = cover(
    "input_packets",
    {
        "kind": list(KINDS),
        "fault": ["none", "short", "long", "header alone", "partial beat"],
        "header": ["unknown kind", "bits", "while running", "sizes bad"],
        "resync": [False, True],
    },
    [("kind", "fault")],
)


class Contents:
    """A packet of every kind for a run of random sizes, and what must come of each."""

    def __init__(self, bench: Bench) -> None:
        c, rng = bench.config, bench.rng
        run = draw_run(c, rng)
        self.sizes = tuple(run[n] for n in "HIBT")
        self.run = run_values(c, *self.sizes)
        weights, tape, _, _ = random_case(c, rng.getrandbits(32), sizes=self.sizes, masks="none")
        form = PacketFormat(c, *self.sizes)
        generator = torch.Generator().manual_seed(rng.getrandbits(32))
        tiles = self.run["x_tiles"] + self.run["h_tiles"]
        block = torch.rand(4 * form.H, tiles, generator=generator) < 0.5
        column = torch.rand(form.T, tiles, generator=generator) < 0.5
        w_x, w_h = form.weights(weights)
        self.packets: dict[str, np.ndarray] = {
            "WEIGHT_X": w_x,
            "WEIGHT_H": w_h,
            "BLOCK_MASK": form.block_mask(block),
            "COLUMN_MASK": form.column_mask(column),
            "SEED": form.seed(tape.dh, tape.dc),
            "TAPE": form.tape(tape),
        }
        self.beat_bytes = form.beat_bytes
        self.expected = {
            "WEIGHT_X": {"weight_write": self.weights(c, weights.w_ih, 0)},
            "WEIGHT_H": {"weight_write": self.weights(c, weights.w_hh, c.x_tiles)},
            "BLOCK_MASK": {"block_write": self.blocks(c, block)},
            "COLUMN_MASK": {"column_write": self.columns(c, column)},
            "SEED": {"hidden_write": self.state(c, tape.dh), "cell_write": self.state(c, tape.dc)},
            "TAPE": self.tape(c, tape),
        }
        assert isinstance(weights, Weights)

    def weights(self, c: EngineConfig, matrix: Any, first_tile: int) -> list[Any]:
        """Gate row after gate row, its tiles in order."""
        H, writes = self.sizes[0], []
        for k, row in enumerate(matrix.tolist()):
            gate, unit = divmod(k, H)
            for tile in range(-(-len(row) // c.R)):
                word = row[tile * c.R : (tile + 1) * c.R]
                address = (first_tile + tile) * c.gate_rows + 4 * unit + gate
                writes.append({"address": address, "word": word + [0] * (c.R - len(word))})
        return writes

    def place(self, c: EngineConfig, tile: int) -> int:
        """Where a column tile of the run is in the stores."""
        return tile if tile < self.run["x_tiles"] else c.x_tiles + tile - self.run["x_tiles"]

    def blocks(self, c: EngineConfig, block: Any) -> list[Any]:
        """Tile after tile, the words of its gate rows."""
        H, writes = self.sizes[0], []
        for tile in range(block.shape[1]):
            bits = sum(int(block[g * H + u, tile]) << (4 * u + g) for u in range(H) for g in range(4))
            for n in range(self.run["bitmap_words"]):
                word = bits >> n * BITMAP_WORD & (1 << BITMAP_WORD) - 1
                writes.append({"address": self.place(c, tile) * c.bitmap_words + n, "word": word})
        return writes

    def columns(self, c: EngineConfig, column: Any) -> list[Any]:
        """Step after step, the bits of its tiles."""
        return [
            {"address": t * c.tiles + self.place(c, tile), "word": int(bit)}
            for t, row in enumerate(column.tolist())
            for tile, bit in enumerate(row)
        ]

    def lanes(self, c: EngineConfig, tensor: Any, tile: int, n: int) -> list[int]:
        """A lane vector of a batch tile, from (B, N)."""
        values = tensor[tile * c.C : (tile + 1) * c.C, n].tolist()
        return values + [0] * (c.C - len(values))

    def state(self, c: EngineConfig, tensor: Any) -> list[Any]:
        """Batch tile after batch tile, unit after unit."""
        return [
            {"address": b * c.max_H + u, "word": self.lanes(c, tensor, b, u)}
            for b in range(self.run["batch_tiles"])
            for u in range(self.sizes[0])
        ]

    def tape(self, c: EngineConfig, tape: Tape) -> dict[str, list[Any]]:
        """Records and x, the last step first."""
        names = [name for name, _ in record_layout(c)]
        order = [(t, b) for t in reversed(range(self.sizes[3])) for b in range(self.run["batch_tiles"])]
        records = [
            {name: self.lanes(c, getattr(tape, name)[t], b, u) for name in names}
            for t, b in order
            for u in range(self.sizes[0])
        ]
        x = [self.lanes(c, tape.x[t], b, n) for t, b in order for n in range(self.sizes[1])]
        return {"records": records, "x": x}


class Ports:
    """Drivers and monitors of all streams."""

    def __init__(self, bench: Bench, idle: str = "none", stall: str = "none") -> None:
        c = bench.config
        self.bench = bench
        bench.fresh()
        state = write_layout(lanes_layout(c), c.batch_tiles * c.max_H)
        shapes = {
            "weight_write": write_layout(weight_word_layout(c), c.weight_words),
            "block_write": write_layout(BITMAP_WORD, c.tiles * c.bitmap_words),
            "column_write": write_layout(1, c.max_T * c.tiles),
            "hidden_write": state,
            "cell_write": state,
            "records": record_layout(c),
            "x": data.ArrayLayout(signed(c.formats.input.width), c.C),
        }
        self.beats = bench.source("beats", input_beat_layout(c.stream_width), idle)
        self.sinks: dict[str, Sink] = {name: bench.sink(name, shape, stall) for name, shape in shapes.items()}
        self.errors = bench.sink("error", Shape.cast(ErrorCode))
        self.pulses = Pulses(bench, "loading")

    def send(self, packet: np.ndarray, last: bool = True, partial: int | None = None) -> None:
        """Queue a packet; without `last` it stays open, and beat `partial` has null bytes."""
        size = self.bench.config.stream_width // 8
        beats = [int.from_bytes(packet[n : n + size].tobytes(), "little") for n in range(0, len(packet), size)]
        self.beats.send(
            {"data": b, "last": int(last and n == len(beats) - 1), "partial": int(n == partial)}
            for n, b in enumerate(beats)
        )

    def check(self, expected: dict[str, list[Any]], what: str) -> None:
        """Compare everything that came since the last check, and forget it."""
        for name, sink in self.sinks.items():
            self.bench.scoreboard.sequence(f"{what}: {name}", sink.values, expected.get(name, []))
            sink.words.clear()
            sink.cycles.clear()


async def good_packet(bench: Bench, contents: Contents, kind: str, idle: str, stall: str) -> None:
    """One packet, compared to the last word."""
    ports = Ports(bench, idle, stall)
    await set_run(bench, contents.run)
    bench.set(running=int(kind == "TAPE"), sizes_ready=1, sizes_bad=0)
    packet = contents.packets[kind]
    ports.send(packet)
    await bench.run(lambda: ports.beats.done, limit=200_000)
    await bench.run_for(300 if stall != "none" else 2 * BITMAP_WORD)
    ports.check(contents.expected[kind], kind)
    bench.scoreboard.equal(f"{kind}: errors", ports.errors.values, [])
    bench.scoreboard.equal(f"{kind}: open", (bench.get("open"), bench.get("loading")), (0, 0))
    bench.scoreboard.equal(f"{kind}: loading was seen", bool(ports.pulses.cycles["loading"]), kind != "TAPE")
    _sample({"kind": kind, "fault": "none"})


async def recover(bench: Bench, ports: Ports, resync: bool) -> None:
    """A soft reset; the bad packet, thrown away until now, still ends."""
    bench.set(clear=1, resync=int(resync))
    await bench.run_for(1)
    bench.set(clear=0, resync=0)
    await bench.run(lambda: ports.beats.done)
    await bench.run_for(3)
    ports.check({}, "after the soft reset")
    bench.scoreboard.equal("open after the soft reset", bench.get("open"), 0)
    _sample({"resync": resync})


@test
async def good_packets(bench: Bench) -> None:
    """Every kind, at full speed and with gaps."""
    for n in range(3 * bench.rounds):
        for kind in KINDS:
            contents = Contents(bench)
            idle, stall = ("none", "none") if n == 0 else (bench.pattern(), bench.pattern())
            await good_packet(bench, contents, kind, idle, stall)


@test
async def tape_waits(bench: Bench) -> None:
    """A tape that comes before the run waits; every packet waits for the sizes."""
    contents = Contents(bench)
    ports = Ports(bench)
    await set_run(bench, contents.run)
    bench.set(running=0, sizes_ready=1, sizes_bad=0)
    ports.send(contents.packets["TAPE"])
    await bench.run_for(50)
    bench.scoreboard.equal("beats of a tape before the run", len(ports.beats.sent), 0)
    bench.set(running=1)
    await bench.run(lambda: ports.beats.done, limit=200_000)
    await bench.run_for(30)
    ports.check(contents.expected["TAPE"], "tape that waited")
    bench.set(running=0, sizes_ready=0)
    await bench.run_for(1)
    ports.beats.sent.clear()
    ports.send(contents.packets["SEED"])
    await bench.run_for(50)
    bench.scoreboard.equal("beats before the sizes are ready", len(ports.beats.sent), 0)
    bench.set(sizes_ready=1)
    await bench.run(lambda: ports.beats.done)
    await bench.run_for(30)
    ports.check(contents.expected["SEED"], "seed that waited")
    bench.scoreboard.equal("errors", ports.errors.values, [])


@test
async def wrong_lengths(bench: Bench) -> None:
    """Packets that end too early, too late or with their header, or have a partial beat: one error each."""
    rng = bench.rng
    for kind in list(KINDS) * bench.rounds:
        for fault in ("short", "long", "header alone", "partial beat"):
            contents = Contents(bench)
            beat, packet = contents.beat_bytes, contents.packets[kind]
            beats = len(packet) // beat
            if fault == "short":
                packet = packet[: max(rng.randrange(2, max(beats, 3)), 2) * beat] if beats > 2 else packet[:beat]
            elif fault == "long":
                packet = np.concatenate([packet, np.zeros(beat * rng.choice((1, 2, 9)), np.uint8)])
            elif fault == "header alone":
                packet = packet[:beat]
            partial = rng.choice((0, rng.randrange(beats), beats - 1)) if fault == "partial beat" else None
            ports = Ports(bench, bench.pattern())
            await set_run(bench, contents.run)
            bench.set(running=int(kind == "TAPE"), sizes_ready=1, sizes_bad=0)
            ports.send(packet, partial=partial)
            await bench.came(ports.errors, 1, limit=20_000)
            await bench.sent(ports.beats, limit=20_000)
            await bench.run_for(3 * BITMAP_WORD)
            what = f"{kind} {fault}"
            bench.scoreboard.equal(f"{what}: errors", ports.errors.values, [ErrorCode.PACKET_LENGTH])
            for sink in ports.sinks.values():
                sink.words.clear()
            other = rng.choice([k for k in KINDS if k != "TAPE"])  # all that follows is thrown away too
            ports.send(contents.packets[other])
            await bench.sent(ports.beats)
            await bench.run_for(5)
            ports.check({}, f"{what}, then {other}")
            await recover(bench, ports, resync=rng.random() < 0.5)
            _sample({"kind": kind, "fault": fault})
            await good_packet(bench, contents, rng.choice(list(KINDS)), "none", "none")


@test
async def wrong_headers(bench: Bench) -> None:
    """Headers of no kind, with bits that must be zero, while running, or with bad sizes."""
    rng = bench.rng
    faults = [("unknown kind", k) for k in (0, 7, 8, 255)] + [("bits", 1 << 8 | 2), ("bits", 1 << 31 | 6)]
    faults += [("while running", v) for k, v in KINDS.items() if k != "TAPE"] + [("sizes bad", 1), ("sizes bad", 5)]
    for fault, word in faults * bench.rounds:
        contents = Contents(bench)
        ports = Ports(bench)
        await set_run(bench, contents.run)
        bench.set(running=int(fault == "while running"), sizes_ready=1, sizes_bad=int(fault == "sizes bad"))
        packet = np.zeros(contents.beat_bytes * rng.choice((1, 2, 7)), np.uint8)
        packet[:4] = np.frombuffer(word.to_bytes(4, "little"), np.uint8)
        ports.send(packet)
        await bench.sent(ports.beats)
        await bench.run_for(5)
        code = ErrorCode.BAD_SIZE if fault == "sizes bad" else ErrorCode.PACKET_KIND
        bench.scoreboard.equal(f"{fault} {word:#x}: errors", ports.errors.values, [code])
        ports.check({}, fault)
        bench.set(sizes_bad=0)
        await recover(bench, ports, resync=False)
        _sample({"header": fault})
        await good_packet(bench, contents, rng.choice(list(KINDS)), "none", "none")


@test
async def cut_off(bench: Bench) -> None:
    """A soft reset in the middle of a packet: its rest is skipped, or with `resync` the next beat is a header."""
    for n in range(2 * len(KINDS) * bench.rounds):
        contents = Contents(bench)
        kind = list(KINDS)[n // 2 % len(KINDS)]
        packet, beat = contents.packets[kind], contents.beat_bytes
        cut = bench.rng.randrange(1, len(packet) // beat) * beat
        ports = Ports(bench)
        await set_run(bench, contents.run)
        bench.set(running=int(kind == "TAPE"), sizes_ready=1, sizes_bad=0)
        ports.send(packet[:cut], last=False)
        await bench.sent(ports.beats, limit=20_000)
        await bench.run_for(bench.rng.randint(1, 4))
        bench.scoreboard.equal("open in the middle", bench.get("open"), 1)
        resync = n % 2 == 1
        bench.set(clear=1, resync=int(resync))
        await bench.run_for(1)
        bench.set(clear=0, resync=0)
        await bench.run_for(1)
        for sink in ports.sinks.values():
            sink.words.clear()
        if not resync:
            ports.send(packet[cut:])
            await bench.sent(ports.beats, limit=20_000)
        await bench.run_for(5)
        ports.check({}, "rest of the packet")
        bench.scoreboard.equal("errors", ports.errors.values, [])
        _sample({"resync": resync})
        await good_packet(bench, contents, bench.rng.choice(list(KINDS)), "none", "none")


@test
async def cleared_at_any_moment(bench: Bench) -> None:
    """A soft reset between packets, before a tape may come, among its inputs, and while a packet's rest is skipped."""
    size = bench.config.stream_width // 8
    for _ in range(bench.rounds):
        contents = Contents(bench)
        tape = contents.packets["TAPE"]
        for moment in ("between packets", "tape waits", *range(1, len(tape) // size), "rest is skipped"):
            ports = Ports(bench)
            await set_run(bench, contents.run)
            bench.set(running=int(moment != "tape waits"), sizes_ready=1, sizes_bad=0)
            cut = moment * size if isinstance(moment, int) else size if moment == "rest is skipped" else 0
            if moment == "tape waits":
                ports.send(tape)
            elif cut:
                ports.send(tape[:cut], last=False)
            await bench.run_for(cut // size + 4)
            for _ in range(1 + (moment == "rest is skipped")):
                bench.set(clear=1, resync=0)
                await bench.run_for(1)
                bench.set(clear=0)
                await bench.run_for(3)
            for sink in ports.sinks.values():
                sink.words.clear()
            if cut:
                ports.send(tape[cut:])
                await bench.sent(ports.beats, limit=20_000)
                await bench.run_for(5)
                ports.check({}, f"rest of the packet, {moment}")
            bench.set(running=1)
            if moment != "tape waits":
                ports.send(tape)
            await bench.sent(ports.beats, limit=200_000)
            await bench.run_for(30)
            ports.check(contents.expected["TAPE"], f"tape after a soft reset: {moment}")
            bench.scoreboard.equal(f"{moment}: errors", ports.errors.values, [])
        bench.set(running=0)


@test
async def faults_cleared_at_any_moment(bench: Bench) -> None:
    """A soft reset as a packet's fault is found: no error comes after it."""
    size = bench.config.stream_width // 8
    for resync in (0, 1) * bench.rounds:
        for fault in ("kind", "length"):
            for moment in range(12):
                contents = Contents(bench)
                ports = Ports(bench)
                await set_run(bench, contents.run)
                bench.set(running=0, sizes_ready=1, sizes_bad=0)
                packet = contents.packets["SEED"][:size].copy()
                if fault == "kind":
                    packet[0] = 255
                ports.send(packet)  # a header alone, whatever its kind
                await bench.run_for(moment)
                bench.set(clear=1, resync=resync)
                await bench.run_for(1)
                cleared, taken = bench.cycle, ports.beats.done
                bench.set(clear=0, resync=0)
                await bench.run_for(20)
                # a header that is taken after the soft reset is wrong with good reason
                late = [cycle - cleared for cycle in ports.errors.cycles if taken and cycle > cleared]
                bench.scoreboard.equal(f"{fault}, soft reset after {moment} cycles: errors after it", late, [])
                bench.set(clear=1, resync=1)  # what was sent after the soft reset, and found wrong
                await bench.run_for(1)
                bench.set(clear=0, resync=0)
                await bench.run_for(3)
                await good_packet(bench, contents, bench.rng.choice(list(KINDS)), "none", "none")
