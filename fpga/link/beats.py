"""Between the bytes of the serial link and the beats of the engine's streams."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from gradsieve.fpga.link.framing import word_layout
from gradsieve.fpga.link.uart import DATA_BITS
from gradsieve.hw.host.packet_closer import closed_beat_layout
from gradsieve.hw.host.packing import beat_layout


class BeatAssembler(wiring.Component):
    """Bytes to beats, one byte a cycle, little-endian; `end` marks the last byte of a packet.

    A beat that its packet leaves incomplete is filled up with zeros.  `empty` is high while nothing is held.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        super().__init__(
            {
                "words": In(stream.Signature(word_layout())),
                "beats": Out(stream.Signature(beat_layout(width))),
                "empty": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        count = self.width // DATA_BITS
        index = Signal(range(count))
        ended = Signal()
        shift = Signal()
        beat = Signal(self.width, reset_less=True)
        m.d.comb += [
            self.words.ready.eq(~self.beats.valid & ~ended),
            shift.eq((self.words.valid & self.words.ready) | (ended & ~self.beats.valid)),
            self.beats.payload.data.eq(beat),
            self.beats.payload.last.eq(ended),
            self.empty.eq(~self.beats.valid & ~ended & (index == 0)),
        ]
        with m.If(self.beats.valid & self.beats.ready):
            m.d.sync += [self.beats.valid.eq(0), ended.eq(0)]
        with m.If(shift):
            byte = Mux(ended, Const(0, DATA_BITS), self.words.payload.data)
            m.d.sync += [
                beat.eq(Cat(beat[DATA_BITS:], byte)),
                index.eq(Mux(index == count - 1, 0, index + 1)),
                self.beats.valid.eq(index == count - 1),
            ]
            with m.If(~ended):
                m.d.sync += ended.eq(self.words.payload.end)
        return m


class BeatSplitter(wiring.Component):
    """Beats to the bytes that TKEEP names, one a cycle; after the last byte of a packet comes a word with `end`.

    So the closing beat of a packet that was cut off, which has no bytes, still gives its end.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        super().__init__(
            {
                "beats": In(stream.Signature(closed_beat_layout(width))),
                "words": Out(stream.Signature(word_layout())),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        count = self.width // DATA_BITS
        beat = Signal(self.width, reset_less=True)
        keep = Signal(count, reset_less=True)
        last = Signal(reset_less=True)
        index = Signal(range(count))
        with m.FSM():
            with m.State("BEAT"):  # take the next beat
                m.d.comb += self.beats.ready.eq(1)
                m.d.sync += [
                    beat.eq(self.beats.payload.data),
                    keep.eq(self.beats.payload.keep),
                    last.eq(self.beats.payload.last),
                    index.eq(0),
                ]
                with m.If(self.beats.valid):
                    m.next = "BYTES"
            with m.State("BYTES"):  # give its bytes
                m.d.comb += [self.words.valid.eq(keep[0]), self.words.payload.data.eq(beat[:DATA_BITS])]
                with m.If(self.words.ready | ~keep[0]):
                    m.d.sync += [beat.eq(beat >> DATA_BITS), keep.eq(keep >> 1), index.eq(index + 1)]
                    with m.If(index == count - 1):
                        m.next = "BEAT"
                        with m.If(last):
                            m.next = "END"
            with m.State("END"):  # give the end of the packet
                m.d.comb += [self.words.valid.eq(1), self.words.payload.end.eq(1)]
                with m.If(self.words.ready):
                    m.next = "BEAT"
        return m
