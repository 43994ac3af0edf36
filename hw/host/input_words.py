"""Beats of input packets to pieces, and pieces to words, for the stores or the gate sequencer."""

from __future__ import annotations

from enum import IntEnum
from functools import reduce
from operator import or_
from typing import Any

from amaranth.hdl import Array, Module, Mux, Shape, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from gradsieve.hw.config import BITMAP_WORD, EngineConfig
from gradsieve.hw.layouts import lanes_layout, record_layout, weight_word_layout
from gradsieve.hw.lib.flow import Flow
from gradsieve.hw.lib.stream_memory import write_layout
from gradsieve.hw.packets import BLOCKS, COLUMNS, RECORDS, SEEDS, WEIGHTS_H, WEIGHTS_X, Section, X


class Target(IntEnum):
    """Where a word goes."""

    WEIGHTS = 0
    BLOCKS = 1
    COLUMNS = 2
    HIDDEN = 3
    CELL = 4
    RECORDS = 5
    X = 6


TARGETS: dict[Section, tuple[Target, ...]] = {
    WEIGHTS_X: (Target.WEIGHTS,),
    WEIGHTS_H: (Target.WEIGHTS,),
    BLOCKS: (Target.BLOCKS,),
    COLUMNS: (Target.COLUMNS,),
    SEEDS: (Target.HIDDEN, Target.CELL),
    RECORDS: (Target.RECORDS,),
    X: (Target.X,),
}
"""Where the vectors go that come at one turn of a section's loops: all in one word, or each in a word of its own."""


def word_widths(config: EngineConfig) -> dict[Target, int]:
    """Bits of a word in a packet, by where it goes; a word of column masks goes on bit by bit."""
    widths: dict[Target, int] = {}
    for section, targets in TARGETS.items():
        vectors = section.vectors
        bits = sum(v.vector_bits(config) for v in vectors) if vectors else BITMAP_WORD
        widths |= dict.fromkeys(targets, bits // len(targets))
    return widths


def piece_layout(config: EngineConfig) -> data.StructLayout:
    """A beat, or the part of it that is one word, and where it belongs."""
    state_depth = config.batch_tiles * config.max_H
    depths = (config.weight_words, config.tiles * config.bitmap_words, config.max_T * config.tiles, state_depth)
    return data.StructLayout(
        {
            "data": config.stream_width,
            "index": range(-(-max(word_widths(config).values()) // config.stream_width)),
            "complete": 1,  # the last of its word
            "target": Target,
            "address": range(max(depths)),
            "bit": range(BITMAP_WORD),  # of a word of column masks
        }
    )


class PacketContents(wiring.Signature):
    """Packet unit to core: words as they become complete; writes to stores, and the streams of the tape."""

    def __init__(self, config: EngineConfig) -> None:
        state_write = write_layout(lanes_layout(config), config.batch_tiles * config.max_H)
        lanes = data.ArrayLayout(signed(config.formats.input.width), config.C)
        super().__init__(
            {
                "weight_write": Out(Flow(write_layout(weight_word_layout(config), config.weight_words))),
                "block_write": Out(Flow(write_layout(BITMAP_WORD, config.tiles * config.bitmap_words))),
                "column_write": Out(Flow(write_layout(1, config.max_T * config.tiles))),
                "hidden_write": Out(Flow(state_write)),
                "cell_write": Out(Flow(state_write)),
                "records": Out(stream.Signature(record_layout(config))),
                "x": Out(stream.Signature(lanes)),
            }
        )


class BeatPieces:
    """The beat at hand, taken piece by piece: when it is popped, what ends with a piece, and what is wrong with it.

    Logic of a module `m` that takes `beats` and gives pieces `to` a stream: the states of the module call `take` for
    the section at hand, and say in `section_end`, `packet_end` and, where it is not always so, `word_end` what ends
    with the piece that is taken.
    """

    def __init__(self, m: Module, config: EngineConfig, beats: stream.Interface, to: stream.Interface) -> None:
        self._m, self._beats, self.to = m, beats, to
        width_of, beat_width = word_widths(config), config.stream_width
        self._widths = {section: width_of[targets[0]] for section, targets in TARGETS.items()}
        self._beats_of_word = {section: -(-width // beat_width) for section, width in self._widths.items()}
        self._words_of_beat = {section: -(-beat_width // width) for section, width in self._widths.items()}
        # contents are taken: a register, so that no state has to be decoded for that
        self.in_body, self.body_begins = Signal(name="in_body"), Signal(name="body_begins")
        # what pops a beat comes from registers: it goes with its last piece, or, if that was not known ahead, then
        self.pop_with_piece, self.pop = Signal(name="pop_with_piece"), Signal(name="pop")
        self.accepted, self.complete = Signal(name="accepted"), Signal(name="complete")
        self.part_end, self.word_end = Signal(name="part_end"), Signal(init=1, name="word_end")
        self.section_end, self.packet_end = Signal(name="section_end"), Signal(name="packet_end")
        self.index, self.bit = Signal.like(to.payload.index, name="index"), Signal.like(to.payload.bit, name="bit")
        self.part = Signal(range(max(self._words_of_beat.values())), name="part")
        self.last_index = Signal.like(self.index, name="last_index")
        self.next_single = Signal(name="next_single")  # the next word is one beat or less
        self._handshake()

    def _handshake(self) -> None:
        m, beats, to, offered = self._m, self._beats, self.to, Signal(name="offered")
        m.d.comb += [
            beats.ready.eq(self.pop | (self.pop_with_piece & to.ready)),
            offered.eq(beats.valid & self.in_body & ~self.pop),
            self.accepted.eq(offered & to.ready),
            to.valid.eq(offered),
            to.payload.complete.eq(self.complete),
            to.payload.index.eq(self.index),
            to.payload.bit.eq(self.bit),
        ]
        m.d.sync += [self.pop.eq(0), self.body_begins.eq(0)]
        with m.If(self.accepted):
            with m.If(~self.complete):
                m.d.sync += [self.index.eq(self.index + 1), self.complete.eq(self.index + 1 == self.last_index)]
            with m.Elif(self.word_end):
                m.d.sync += [
                    self.index.eq(0),
                    self.part.eq(Mux(self.part_end | self.section_end, 0, self.part + 1)),
                    self.complete.eq(self.next_single),
                ]

    @property
    def packet_ends(self) -> Value:
        """The packet's last piece is taken."""
        return self.accepted & self.complete & self.packet_end

    @property
    def wrong_end(self) -> Value:
        """The beat at hand is partial, or the packet ends too early or too late."""
        beat = self._beats.payload
        # a section's last word ends its beat: the next section begins on a beat boundary
        early = beat.last & (~self.complete | self.section_end | (self.part_end & self.word_end))
        return self.accepted & (beat.partial | Mux(self.complete & self.packet_end, ~beat.last, early))

    def clear(self) -> None:
        """To the first piece of a word."""
        self._m.d.sync += [self.index.eq(0), self.part.eq(0), self.bit.eq(0)]

    def is_single(self, section: Section) -> bool:
        """Whether a section's words are one beat or less."""
        return self._beats_of_word[section] == 1

    def pops_with_first_piece(self, section: Section) -> bool:
        """Whether a beat is one piece; the last of a word of column masks stays for all its bits."""
        return not self.is_single(section) or (self._words_of_beat[section] == 1 and section is not COLUMNS)

    def take(self, section: Section, address: Any, second: Value) -> Value:
        """Takes pieces of a section's words; the result is high when a word is complete, or a bit of column masks."""
        m, beat, piece, count = self._m, self._beats.payload, self.to.payload, self._words_of_beat[section]
        first, *others = TARGETS[section]
        width = self._widths[section]
        parts = [beat.data[n * width : (n + 1) * width] for n in range(count)]
        m.d.comb += [
            piece.data.eq(Array(parts)[self.part] if len(parts) > 1 else beat.data),
            piece.target.eq(Mux(second, others[0], first) if others else first),
            piece.address.eq(address),
            self.last_index.eq(self._beats_of_word[section] - 1),
            self.next_single.eq(self.is_single(section)),
            self.part_end.eq(self.part == count - 1),
        ]
        at_first = self.pops_with_first_piece(section)
        with m.If(self.body_begins):
            m.d.sync += [self.pop_with_piece.eq(at_first), self.complete.eq(self.is_single(section))]
        if section is COLUMNS:
            with m.If(self.accepted & self.complete & self.word_end):
                m.d.sync += [self.pop.eq(self.part_end | self.section_end), self.pop_with_piece.eq(at_first)]
            with m.Elif(self.accepted & ~self.complete):
                m.d.sync += self.pop_with_piece.eq(self.index + 1 != self.last_index)
        elif not at_first:
            with m.If(self.accepted):
                m.d.sync += [
                    self.pop.eq(self.section_end & ~self.pop_with_piece),
                    self.pop_with_piece.eq(self.part == count - 2),
                ]
        return self.accepted & self.complete

    def end(self, stop: Value, clear: Value) -> None:
        """What overrides the states: contents begin, end, or are cut off."""
        m = self._m
        with m.If(self.body_begins):
            m.d.sync += self.in_body.eq(1)
        with m.If(self.packet_ends | stop | clear):
            m.d.sync += [self.pop_with_piece.eq(0), self.in_body.eq(0)]
        with m.If(clear):
            m.d.sync += [self.pop.eq(0), self.body_begins.eq(0)]


class InputWords(wiring.Component):
    """Puts the pieces of a word together and offers it where it goes, `latency` cycles after the last one.

    A piece a cycle; only a word of the tape can stall.  Column masks take `column_delay` cycles more.  `storing` is
    high while a word for a store is on its way; `clear` forgets what has come.
    """

    latency = 1  # the word's register
    column_delay = 2  # the registers of a byte and of a bit of it

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        super().__init__(
            {
                "pieces": In(stream.Signature(piece_layout(config))),
                "clear": In(1),
                "storing": Out(1),
                **PacketContents(config).members,
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        c, e = self.config, self.config.formats.element_bits
        piece, widest = self.pieces.payload, max(word_widths(c).values())
        word = Signal(max(widest, c.stream_width), reset_less=True)
        tag_layout = data.StructLayout({n: piece.shape().members[n] for n in ("address", "bit")})
        tag = Signal(tag_layout, reset_less=True)
        # a word for each target at most, and one for all of them
        valid = {target: Signal(name=f"valid_{target.name.lower()}") for target in Target}
        tape = {Target.RECORDS: self.records, Target.X: self.x}
        ready = self.pieces.ready
        m.d.comb += ready.eq(~_any(valid[t] & ~port.ready for t, port in tape.items()))
        with m.If(ready):
            m.d.sync += [tag[n].eq(piece[n]) for n in tag_layout.members]
            for target, of_target in valid.items():
                m.d.sync += of_target.eq(self.pieces.valid & piece.complete & (piece.target == target))
        for n in range(len(word) // c.stream_width):
            # only a word's first piece may have to wait for the word before
            with m.If((piece.index == n) & (ready if n == 0 else 1)):
                m.d.sync += word[n * c.stream_width : (n + 1) * c.stream_width].eq(piece.data)
        with m.If(self.clear):
            m.d.sync += [v.eq(0) for v in valid.values()]

        def elements(count: int, width: int, start: int = 0) -> list[Value]:
            return [word[n * e : n * e + width].as_signed() for n in range(start, start + count)]

        state = elements(c.C, c.formats.gradient.width)
        stores = {Target.WEIGHTS: self.weight_write, Target.HIDDEN: self.hidden_write, Target.CELL: self.cell_write}
        for target, values in (
            (Target.WEIGHTS, elements(c.R, c.formats.weight.width)),
            (Target.HIDDEN, state),
            (Target.CELL, state),
        ):
            m.d.comb += [stores[target].payload.word[n].eq(v) for n, v in enumerate(values)]
        stores[Target.BLOCKS] = self.block_write
        m.d.comb += self.block_write.payload.word.eq(word[:BITMAP_WORD])
        for target, port in stores.items():
            m.d.comb += [port.valid.eq(valid[target]), port.payload.address.eq(tag.address)]

        # the choice among all bits of a word takes two cycles: a byte, then a bit
        byte = Signal(8)
        byte_valid = Signal()
        byte_tag = Signal(tag_layout, reset_less=True)
        m.d.sync += [
            byte_valid.eq(valid[Target.COLUMNS]),
            byte_tag.eq(tag),
            byte.eq(word[:BITMAP_WORD].word_select(tag.bit[3:], 8)),
            self.column_write.valid.eq(byte_valid),
            self.column_write.payload.address.eq(byte_tag.address),
            self.column_write.payload.word.eq(byte.bit_select(byte_tag.bit[:3], 1)),
        ]

        m.d.comb += [port.valid.eq(valid[target]) for target, port in tape.items()]
        m.d.comb += [self.x.payload[n].eq(v) for n, v in enumerate(elements(c.C, c.formats.input.width))]
        for v, name in enumerate(record_layout(c).members):
            lanes = self.records.payload[name]
            width = Shape.cast(lanes.shape().elem_shape).width
            m.d.comb += [lanes[n].eq(x) for n, x in enumerate(elements(c.C, width, v * c.lane_slots))]

        for_tape = _any(piece.target == target for target in tape)
        arrived = _any(valid[t] for t in (*stores, Target.COLUMNS))
        m.d.comb += self.storing.eq((self.pieces.valid & ~for_tape) | arrived | byte_valid | self.column_write.valid)
        return m


def _any(values: Any) -> Value:
    return reduce(or_, values)
