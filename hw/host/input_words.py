"""Words of input packets from their pieces, to the stores or to the gate sequencer."""

from __future__ import annotations

from enum import IntEnum
from functools import reduce
from operator import or_
from typing import Any

from amaranth.hdl import Module, Shape, Signal, Value, signed
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
        byte, byte_valid, byte_tag = Signal(8), Signal(), Signal(tag_layout, reset_less=True)
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
