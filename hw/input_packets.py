"""Input packet unit: headers, sections and lengths of the packets that come in (docs/streams.md)."""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import Any

from amaranth.hdl import Cat, Module, Mux, Shape, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.config import BITMAP_WORD, EngineConfig
from hw.flow import Flow
from hw.gate_sequencer import record_layout
from hw.loop_counter import LoopCounter
from hw.memory import write_layout
from hw.operand_fetch import weight_word_layout
from hw.packets import RECORD_VECTORS, PacketKind
from hw.packing import Unpacker, beat_layout
from hw.registers import ErrorCode
from hw.run import run_layout
from hw.state_store import lanes_layout


class InputPackets(wiring.Component):
    """Takes packets, checks kind and length, and hands their contents to the stores or to the gate sequencer.

    One word a cycle or one beat a cycle, whichever is the narrower (column masks: one bit a cycle).  `running` tells
    that a run is active: a tape waits for it, other kinds are refused during it; so is every packet while
    `sizes_bad`.  A bad packet gives `error` for one cycle and is thrown away to its end, as is all that follows until
    `clear` (soft reset), which also forgets what was begun; with `resync` the next beat is a header.  `open` is high
    between the first and the last beat of a packet.
    """

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        f, state_depth = config.formats, config.batch_tiles * config.max_H
        self.record_layout = record_layout(config)
        state_write = write_layout(lanes_layout(config), state_depth)
        super().__init__(
            {
                "run": In(run_layout(config)),
                "running": In(1),
                "sizes_ready": In(1),
                "sizes_bad": In(1),
                "clear": In(1),
                "resync": In(1),
                "beats": In(stream.Signature(beat_layout(config.stream_width))),
                "weight_write": Out(Flow(write_layout(weight_word_layout(config), config.weight_words))),
                "block_write": Out(Flow(write_layout(BITMAP_WORD, config.tiles * config.bitmap_words))),
                "column_write": Out(Flow(write_layout(1, config.max_T * config.tiles))),
                "hidden_write": Out(Flow(state_write)),
                "cell_write": Out(Flow(state_write)),
                "records": Out(stream.Signature(self.record_layout)),
                "x": Out(stream.Signature(data.ArrayLayout(signed(f.input.width), config.C))),
                "open": Out(1),
                "loading": Out(1),
                "error": Out(Flow(Shape.cast(ErrorCode))),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        c, run, e = self.config, self.run, self.config.formats.element_bits
        widths = {
            "columns": c.column_slots * e,
            "word": BITMAP_WORD,
            "lanes": c.lane_slots * e,
            "record": RECORD_VECTORS * c.lane_slots * e,
        }
        units = {name: Unpacker(c.stream_width, width) for name, width in widths.items()}
        beat_valid, beat_ready = Signal(), Signal()  # of the packet's body
        selected = {name: Signal(name=f"selects_{name}") for name in widths}
        for name, unit in units.items():
            m.submodules[f"unpack_{name}"] = unit
            m.d.comb += [
                unit.beats.payload.eq(self.beats.payload),
                unit.beats.valid.eq(beat_valid & selected[name]),
                unit.clear.eq(self.clear),
            ]
            with m.If(selected[name]):
                m.d.comb += beat_ready.eq(unit.beats.ready)

        # the word at hand, whatever its width
        taken, last, beat_end, short = Signal(), Signal(), Signal(), Signal()
        section_end, packet_end = Signal(), Signal()
        # the beat behind a section's last word belongs to the next section's unpacker
        offered, accepting = Signal(), Signal()
        for name, unit in units.items():
            word = unit.words
            with m.If(selected[name]):
                m.d.comb += [
                    taken.eq(word.valid & word.ready),
                    offered.eq(word.valid),
                    last.eq(word.payload.last),
                    beat_end.eq(word.payload.beat_end),
                    short.eq(word.payload.short),
                    unit.flush.eq(section_end),
                ]
        bad_length, fault = Signal(), Signal(Shape.cast(ErrorCode))
        m.d.sync += [self.error.valid.eq(fault != ErrorCode.NONE), self.error.payload.eq(fault)]
        m.d.comb += bad_length.eq(taken & (short | Mux(packet_end, ~last, Mux(section_end, last, last & beat_end))))

        kind, ended, open_ = Signal(PacketKind), Signal(), Signal()
        header, sent = Signal(), Signal()  # header: the next beat is one
        is_tape, known = Signal(), Signal()
        m.d.comb += [sent.eq(self.beats.valid & self.beats.ready), self.open.eq(open_)]
        still_open = Signal()
        m.d.comb += still_open.eq(Mux(sent, ~self.beats.payload.last, open_))
        m.d.sync += open_.eq(still_open & ~(self.clear & self.resync))
        with m.If(sent):
            # no beat behind the packet's last may enter its body
            m.d.sync += ended.eq(self.beats.payload.last & ~header)

        def loop(end: Any, name: str) -> LoopCounter:
            return LoopCounter(m, end, name)

        unit_index, word_index = loop(run.end.H, "unit_index"), loop(run.end.bitmap_words, "word_index")
        x_tile, h_tile, tile = (loop(run.end[f"{n}tiles"], f"{n}tile") for n in ("x_", "h_", ""))
        step, batch_tile = loop(run.end.T, "step"), loop(run.end.batch_tiles, "batch_tile")
        column = loop(run.end.I, "column")
        loops = (unit_index, word_index, x_tile, h_tile, tile, step, batch_tile, column)
        gate, bit, second = Signal(2), Signal(range(BITMAP_WORD)), Signal()
        tile_base, state_base = Signal(range(c.weight_words + c.gate_rows)), Signal(range(c.batch_tiles * c.max_H))

        def elements(value: Value, count: int, width: int) -> list[Value]:
            return [value[n * e : n * e + width].as_signed() for n in range(count)]

        # contents, independent of the state
        columns_word = units["columns"].words.payload.data
        lanes_word = units["lanes"].words.payload.data
        record_word = units["record"].words.payload.data
        bits_word = units["word"].words.payload.data
        storage_tile = Signal(range(c.tiles))  # h tiles have fixed places behind those of the largest I
        m.d.comb += [
            storage_tile.eq(Mux(tile.value < run.x_tiles, tile.value, tile.value - run.x_tiles + c.x_tiles)),
            self.weight_write.payload.address.eq(tile_base + Cat(gate, unit_index.value)),
            *[
                self.weight_write.payload.word[n].eq(v)
                for n, v in enumerate(elements(columns_word, c.R, c.formats.weight.width))
            ],
            self.block_write.payload.word.eq(bits_word),
            self.block_write.payload.address.eq(storage_tile * c.bitmap_words + word_index.value),
            self.column_write.payload.word.eq(bits_word.bit_select(bit, 1)),
            self.column_write.payload.address.eq(step.value * c.tiles + storage_tile),
            self.hidden_write.payload.address.eq(state_base + unit_index.value),
            self.cell_write.payload.address.eq(state_base + unit_index.value),
        ]
        for n, v in enumerate(elements(lanes_word, c.C, c.formats.gradient.width)):
            m.d.comb += [self.hidden_write.payload.word[n].eq(v), self.cell_write.payload.word[n].eq(v)]
        for n, v in enumerate(elements(lanes_word, c.C, c.formats.input.width)):
            m.d.comb += self.x.payload[n].eq(v)
        for v, name in enumerate(self.record_layout.members):
            lanes = self.records.payload[name]
            for n in range(c.C):
                start = (v * c.lane_slots + n) * e
                m.d.comb += lanes[n].eq(record_word[start : start + len(lanes[n])].as_signed())

        def leave() -> None:
            """Ends of a state that override its own: packet over, packet bad, soft reset."""
            with m.If(taken & packet_end):
                m.next = "HEADER"
            with m.If(bad_length):
                m.next = "DISCARD"
            with m.If(self.clear):
                m.next = "HEADER"
                with m.If(still_open & ~self.resync):
                    m.next = "RESYNC"

        with m.FSM() as fsm:
            with m.State("HEADER"):  # between packets
                word = self.beats.payload.data
                m.d.comb += header.eq(1)
                m.d.sync += [
                    kind.eq(word[:8]),
                    is_tape.eq(word[:8] == PacketKind.TAPE),
                    known.eq((word[:8] >= min(PacketKind)) & (word[:8] <= max(PacketKind)) & ~word[8:32].any()),
                    *[s.eq(0) for s in (gate, bit, second, state_base)],
                ]
                for each in loops:
                    each.clear()
                with m.If(self.beats.valid):
                    m.next = "KIND"
                leave()
            with m.State("KIND"):  # takes the header, now that registers know its kind, when that kind may come
                m.d.comb += [
                    header.eq(1),
                    self.beats.ready.eq(self.sizes_ready & (self.running | ~is_tape | ~known)),
                ]
                m.d.sync += tile_base.eq(Mux(kind == PacketKind.WEIGHT_H, c.x_tiles * c.gate_rows, 0))
                with m.If(sent):
                    with m.If(~known | (self.running & ~is_tape)):
                        m.d.comb += fault.eq(ErrorCode.PACKET_KIND)
                        m.next = "DISCARD"
                    with m.Elif(self.sizes_bad):
                        m.d.comb += fault.eq(ErrorCode.BAD_SIZE)
                        m.next = "DISCARD"
                    with m.Elif(self.beats.payload.last):
                        m.d.comb += fault.eq(ErrorCode.PACKET_LENGTH)
                        m.next = "DISCARD"
                    with m.Else():
                        with m.Switch(kind):
                            with m.Case(PacketKind.WEIGHT_X, PacketKind.WEIGHT_H):
                                m.next = "WEIGHTS"
                            with m.Case(PacketKind.BLOCK_MASK):
                                m.next = "BLOCKS"
                            with m.Case(PacketKind.COLUMN_MASK):
                                m.next = "COLUMNS"
                            with m.Case(PacketKind.SEED):
                                m.next = "SEEDS"
                            with m.Case(PacketKind.TAPE):
                                m.next = "GATES"
                leave()
            with m.State("WEIGHTS"):  # 4H rows of column vectors
                end_tile = Mux(kind == PacketKind.WEIGHT_X, x_tile.at_end, h_tile.at_end)
                m.d.comb += [
                    selected["columns"].eq(1),
                    units["columns"].words.ready.eq(1),
                    self.weight_write.valid.eq(taken),
                    section_end.eq(end_tile & unit_index.at_end & (gate == 3)),
                    packet_end.eq(section_end),
                ]
                with m.If(taken):
                    m.d.sync += tile_base.eq(tile_base + c.gate_rows)
                    x_tile.advance()
                    h_tile.advance()
                    with m.If(end_tile):
                        m.d.sync += tile_base.eq(Mux(kind == PacketKind.WEIGHT_H, c.x_tiles * c.gate_rows, 0))
                        unit_index.advance()
                        with m.If(unit_index.at_end):
                            m.d.sync += gate.eq(gate + 1)
                leave()
            with m.State("BLOCKS"):  # a bitmap of the gate rows a tile
                m.d.comb += [
                    selected["word"].eq(1),
                    units["word"].words.ready.eq(1),
                    self.block_write.valid.eq(taken),
                    section_end.eq(word_index.at_end & tile.at_end),
                    packet_end.eq(section_end),
                ]
                with m.If(taken):
                    word_index.advance()
                    with m.If(word_index.at_end):
                        tile.advance()
                leave()
            with m.State("COLUMNS"):  # a bitmap of the tiles a step, written bit by bit
                m.d.comb += [
                    selected["word"].eq(1),
                    units["word"].words.ready.eq(tile.at_end | (bit == BITMAP_WORD - 1)),
                    self.column_write.valid.eq(units["word"].words.valid),
                    section_end.eq(tile.at_end & step.at_end),
                    packet_end.eq(section_end),
                ]
                with m.If(self.column_write.valid):
                    m.d.sync += bit.eq(Mux(tile.at_end, 0, bit + 1))
                    tile.advance()
                    with m.If(tile.at_end):
                        step.advance()
                leave()
            with m.State("SEEDS"):  # dh, dc of each hidden unit of each batch tile
                m.d.comb += [
                    selected["lanes"].eq(1),
                    units["lanes"].words.ready.eq(1),
                    self.hidden_write.valid.eq(taken & ~second),
                    self.cell_write.valid.eq(taken & second),
                    section_end.eq(second & unit_index.at_end & batch_tile.at_end),
                    packet_end.eq(section_end),
                ]
                with m.If(taken):
                    m.d.sync += second.eq(~second)
                    with m.If(second):
                        unit_index.advance()
                        with m.If(unit_index.at_end):
                            m.d.sync += state_base.eq(state_base + c.max_H)
                            batch_tile.advance()
                leave()
            with m.State("GATES"):  # records of a batch tile
                m.d.comb += [
                    selected["record"].eq(1),
                    units["record"].words.ready.eq(self.records.ready | short),
                    self.records.valid.eq(units["record"].words.valid & ~short),
                    section_end.eq(unit_index.at_end),
                ]
                with m.If(taken):
                    unit_index.advance()
                    with m.If(section_end):
                        m.next = "X"
                leave()
            with m.State("X"):  # inputs of a batch tile
                m.d.comb += [
                    selected["lanes"].eq(1),
                    units["lanes"].words.ready.eq(self.x.ready | short),
                    self.x.valid.eq(units["lanes"].words.valid & ~short),
                    section_end.eq(column.at_end),
                    packet_end.eq(column.at_end & batch_tile.at_end & step.at_end),
                ]
                with m.If(taken):
                    column.advance()
                    with m.If(section_end):
                        batch_tile.advance()
                        with m.If(batch_tile.at_end):
                            step.advance()
                        m.next = "GATES"
                leave()
            with m.State("DISCARD"):  # after a fault, until the soft reset
                m.d.comb += self.beats.ready.eq(1)
                leave()
            with m.State("RESYNC"):  # after a soft reset, to the end of the packet that was open
                m.d.comb += self.beats.ready.eq(1)
                with m.If(sent & self.beats.payload.last):
                    m.next = "HEADER"
                leave()
        bodies = reduce(or_, (fsm.ongoing(s) for s in ("WEIGHTS", "BLOCKS", "COLUMNS", "SEEDS", "GATES", "X")))
        m.d.comb += [
            accepting.eq(bodies & ~ended & ~(offered & section_end)),
            beat_valid.eq(self.beats.valid & accepting),
            self.loading.eq(bodies & ~fsm.ongoing("GATES") & ~fsm.ongoing("X")),
        ]
        with m.If(accepting):
            m.d.comb += self.beats.ready.eq(beat_ready)
        with m.If(bad_length):
            m.d.comb += fault.eq(ErrorCode.PACKET_LENGTH)
        return m
