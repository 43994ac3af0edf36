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
from hw.memory import bits_for, write_layout
from hw.operand_fetch import weight_word_layout
from hw.packets import RECORD_VECTORS, PacketKind
from hw.packing import Unpacker, beat_layout
from hw.registers import ErrorCode
from hw.run import is_last, run_layout
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
        bad_length = Signal()
        m.d.comb += bad_length.eq(taken & (short | Mux(packet_end, ~last, Mux(section_end, last, last & beat_end))))

        kind, ended, open_ = Signal(PacketKind), Signal(), Signal()
        header, sent = Signal(), Signal()  # header: the next beat is one
        m.d.comb += [sent.eq(self.beats.valid & self.beats.ready), self.open.eq(open_)]
        still_open = Signal()
        m.d.comb += still_open.eq(Mux(sent, ~self.beats.payload.last, open_))
        m.d.sync += open_.eq(still_open & ~(self.clear & self.resync))
        with m.If(sent):
            # no beat behind the packet's last may enter its body
            m.d.sync += ended.eq(self.beats.payload.last & ~header)

        unit_index, gate = Signal(range(c.max_H)), Signal(2)
        tile, step, batch_tile = Signal(range(c.tiles)), Signal(range(c.max_T)), Signal(range(c.batch_tiles))
        word_index, bit = Signal(range(c.bitmap_words)), Signal(range(BITMAP_WORD))
        column, second = Signal(range(c.max_I)), Signal()
        tile_base, state_base = Signal(range(c.weight_words + c.gate_rows)), Signal(range(c.batch_tiles * c.max_H))
        counters = (unit_index, gate, tile, step, batch_tile, word_index, bit, column, second, state_base)
        run_tiles = Signal(bits_for(c.tiles))
        m.d.comb += run_tiles.eq(run.x_tiles + run.h_tiles)

        def elements(value: Value, count: int, width: int) -> list[Value]:
            return [value[n * e : n * e + width].as_signed() for n in range(count)]

        # contents, independent of the state
        columns_word = units["columns"].words.payload.data
        lanes_word = units["lanes"].words.payload.data
        record_word = units["record"].words.payload.data
        bits_word = units["word"].words.payload.data
        storage_tile = Signal(range(c.tiles))  # h tiles have fixed places behind those of the largest I
        m.d.comb += [
            storage_tile.eq(Mux(tile < run.x_tiles, tile, tile - run.x_tiles + c.x_tiles)),
            self.weight_write.payload.address.eq(tile_base + Cat(gate, unit_index)),
            *[
                self.weight_write.payload.word[n].eq(v)
                for n, v in enumerate(elements(columns_word, c.R, c.formats.weight.width))
            ],
            self.block_write.payload.word.eq(bits_word),
            self.block_write.payload.address.eq(storage_tile * c.bitmap_words + word_index),
            self.column_write.payload.word.eq(bits_word.bit_select(bit, 1)),
            self.column_write.payload.address.eq(step * c.tiles + storage_tile),
            self.hidden_write.payload.address.eq(state_base + unit_index),
            self.cell_write.payload.address.eq(state_base + unit_index),
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

        last_batch_tile = is_last(batch_tile, run.batch_tiles)
        with m.FSM() as fsm:
            with m.State("HEADER"):  # between packets
                requested = Signal(8)
                m.d.comb += [
                    header.eq(1),
                    requested.eq(self.beats.payload.data[:8]),
                ]
                is_tape = requested == PacketKind.TAPE
                known = (requested >= min(PacketKind)) & (requested <= max(PacketKind))
                clean = ~self.beats.payload.data[8:32].any()
                m.d.comb += self.beats.ready.eq(self.sizes_ready & (self.running | ~is_tape | ~clean))
                m.d.sync += [kind.eq(requested), *[s.eq(0) for s in counters]]
                m.d.sync += tile_base.eq(Mux(requested == PacketKind.WEIGHT_H, c.x_tiles * c.gate_rows, 0))
                with m.If(sent):
                    with m.If(~known | ~clean | (self.running & ~is_tape)):
                        m.d.comb += [self.error.valid.eq(1), self.error.payload.eq(ErrorCode.PACKET_KIND)]
                        m.next = "DISCARD"
                    with m.Elif(self.sizes_bad):
                        m.d.comb += [self.error.valid.eq(1), self.error.payload.eq(ErrorCode.BAD_SIZE)]
                        m.next = "DISCARD"
                    with m.Elif(self.beats.payload.last):
                        m.d.comb += [self.error.valid.eq(1), self.error.payload.eq(ErrorCode.PACKET_LENGTH)]
                        m.next = "DISCARD"
                    with m.Else():
                        with m.Switch(requested):
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
                m.d.comb += [
                    selected["columns"].eq(1),
                    units["columns"].words.ready.eq(1),
                    self.weight_write.valid.eq(taken),
                ]
                end_tile = is_last(tile, Mux(kind == PacketKind.WEIGHT_X, run.x_tiles, run.h_tiles))
                end_unit = is_last(unit_index, run.H)
                m.d.comb += [section_end.eq(end_tile & end_unit & (gate == 3)), packet_end.eq(section_end)]
                with m.If(taken):
                    m.d.sync += [tile.eq(tile + 1), tile_base.eq(tile_base + c.gate_rows)]
                    with m.If(end_tile):
                        m.d.sync += [tile.eq(0), unit_index.eq(Mux(end_unit, 0, unit_index + 1))]
                        m.d.sync += tile_base.eq(Mux(kind == PacketKind.WEIGHT_H, c.x_tiles * c.gate_rows, 0))
                        with m.If(end_unit):
                            m.d.sync += gate.eq(gate + 1)
                leave()
            with m.State("BLOCKS"):  # a bitmap of the gate rows a tile
                m.d.comb += [
                    selected["word"].eq(1),
                    units["word"].words.ready.eq(1),
                    self.block_write.valid.eq(taken),
                ]
                end_word = is_last(word_index, run.bitmap_words)
                m.d.comb += [section_end.eq(end_word & is_last(tile, run_tiles)), packet_end.eq(section_end)]
                with m.If(taken):
                    m.d.sync += word_index.eq(Mux(end_word, 0, word_index + 1))
                    with m.If(end_word):
                        m.d.sync += tile.eq(tile + 1)
                leave()
            with m.State("COLUMNS"):  # a bitmap of the tiles a step, written bit by bit
                end_tile_bit = is_last(tile, run_tiles)
                end_step = is_last(step, run.T)
                m.d.comb += [
                    selected["word"].eq(1),
                    units["word"].words.ready.eq(end_tile_bit | (bit == BITMAP_WORD - 1)),
                    self.column_write.valid.eq(units["word"].words.valid),
                    section_end.eq(end_tile_bit & end_step),
                    packet_end.eq(section_end),
                ]
                with m.If(self.column_write.valid):
                    m.d.sync += [bit.eq(Mux(end_tile_bit, 0, bit + 1)), tile.eq(Mux(end_tile_bit, 0, tile + 1))]
                    with m.If(end_tile_bit):
                        m.d.sync += step.eq(step + 1)
                leave()
            with m.State("SEEDS"):  # dh, dc of each hidden unit of each batch tile
                end_unit = is_last(unit_index, run.H)
                m.d.comb += [
                    selected["lanes"].eq(1),
                    units["lanes"].words.ready.eq(1),
                    self.hidden_write.valid.eq(taken & ~second),
                    self.cell_write.valid.eq(taken & second),
                    section_end.eq(second & end_unit & last_batch_tile),
                    packet_end.eq(section_end),
                ]
                with m.If(taken):
                    m.d.sync += second.eq(~second)
                    with m.If(second):
                        m.d.sync += unit_index.eq(Mux(end_unit, 0, unit_index + 1))
                        with m.If(end_unit):
                            m.d.sync += [batch_tile.eq(batch_tile + 1), state_base.eq(state_base + c.max_H)]
                leave()
            with m.State("GATES"):  # records of a batch tile
                m.d.comb += [
                    selected["record"].eq(1),
                    units["record"].words.ready.eq(self.records.ready | short),
                    self.records.valid.eq(units["record"].words.valid & ~short),
                    section_end.eq(is_last(unit_index, run.H)),
                ]
                with m.If(taken):
                    m.d.sync += unit_index.eq(Mux(section_end, 0, unit_index + 1))
                    with m.If(section_end):
                        m.next = "X"
                leave()
            with m.State("X"):  # inputs of a batch tile
                end_run = last_batch_tile & is_last(step, run.T)
                m.d.comb += [
                    selected["lanes"].eq(1),
                    units["lanes"].words.ready.eq(self.x.ready | short),
                    self.x.valid.eq(units["lanes"].words.valid & ~short),
                    section_end.eq(is_last(column, run.I)),
                    packet_end.eq(section_end & end_run),
                ]
                with m.If(taken):
                    m.d.sync += column.eq(Mux(section_end, 0, column + 1))
                    with m.If(section_end):
                        m.d.sync += batch_tile.eq(Mux(last_batch_tile, 0, batch_tile + 1))
                        with m.If(last_batch_tile):
                            m.d.sync += step.eq(step + 1)
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
            m.d.comb += [self.error.valid.eq(1), self.error.payload.eq(ErrorCode.PACKET_LENGTH)]
        return m
