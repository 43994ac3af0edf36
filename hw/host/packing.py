"""Packing: stream beats from vectors; one width always divides the other."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from gradsieve.hw.lib.idioms import one_hot_choice
from gradsieve.hw.lib.register_slice import RegisterSlice


def beat_layout(width: int) -> data.StructLayout:
    """A beat of an AXI4-Stream; every byte counts but in the closing beat of a packet that was cut off."""
    return data.StructLayout({"data": width, "last": 1})


def input_beat_layout(width: int) -> data.StructLayout:
    """A beat on its way in; `partial` where a bit of its TKEEP was zero, which no beat of a packet may have."""
    return data.StructLayout({"data": width, "last": 1, "partial": 1})


class Packer(wiring.Component):
    """Words to beats, little-endian, one beat or one word a cycle, whichever is the narrower.

    A word marked `last` ends its section: the beat it is in is filled with zeros, sent, and marked `last`.
    `latency` cycles from the word that completes a beat.
    """

    latency = 1

    def __init__(self, word_width: int, beat_width: int) -> None:
        self.beat_width, self.word_width = beat_width, word_width
        super().__init__(
            {
                "words": In(stream.Signature(beat_layout(word_width))),
                "beats": Out(stream.Signature(beat_layout(beat_width))),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        word, beat = self.words.payload, self.beats.payload
        if self.word_width > self.beat_width:
            count = self.word_width // self.beat_width
            held = Signal(self.word_width)
            held_last = Signal()
            held_valid = Signal()
            index = Signal(range(count))
            last_beat = Signal()
            sent = Signal()
            m.d.comb += [
                last_beat.eq(index == count - 1),
                self.beats.valid.eq(held_valid),
                beat.data.eq(held[: self.beat_width]),
                beat.last.eq(held_last & last_beat),
                sent.eq(held_valid & self.beats.ready),
                self.words.ready.eq(~held_valid | (sent & last_beat)),
            ]
            with m.If(sent):
                m.d.sync += [index.eq(Mux(last_beat, 0, index + 1)), held.eq(held >> self.beat_width)]
                with m.If(last_beat):
                    m.d.sync += held_valid.eq(0)
            with m.If(self.words.valid & self.words.ready):
                m.d.sync += [held.eq(word.data), held_last.eq(word.last), held_valid.eq(1)]
        else:
            count = self.beat_width // self.word_width
            index = Signal(range(max(count, 2)))
            last_word = Signal()
            filling = Signal(self.beat_width)
            m.d.comb += [
                last_word.eq(index == count - 1),
                self.words.ready.eq(~self.beats.valid | self.beats.ready),
            ]
            with m.If(self.beats.valid & self.beats.ready):
                m.d.sync += self.beats.valid.eq(0)
            filled = Signal(self.beat_width)
            m.d.comb += filled.eq(filling | Cat(word.data) << (index * self.word_width))
            with m.If(self.words.valid & self.words.ready):
                m.d.sync += [filling.eq(filled), index.eq(index + 1)]
                with m.If(last_word | word.last):
                    m.d.sync += [
                        self.beats.valid.eq(1),
                        beat.data.eq(filled),
                        beat.last.eq(word.last),
                        filling.eq(0),
                        index.eq(0),
                    ]
        return m


class SectionPacker(wiring.Component):
    """Sections of words to beats: each section's words have one of `widths`, which `width` numbers in rising order.

    The next section's words wait until the last beat of this one is gone; a cycle later `sent` is high for a cycle.
    `latency` cycles from the word that completes a beat, `gap` from a section's last word, if that is one beat, to the
    next section's first.  Raises AssertionError if `widths` are not distinct.
    """

    latency = RegisterSlice.latency + Packer.latency
    gap = latency + len(("sent", "the next section is let in"))

    def __init__(self, widths: Iterable[int], beat_width: int) -> None:
        self.widths, self.beat_width = sorted(widths), beat_width
        assert len(set(self.widths)) == len(self.widths)
        self.number = {width: n for n, width in enumerate(self.widths)}
        super().__init__(
            {
                "words": In(
                    stream.Signature(
                        data.StructLayout({"data": self.widths[-1], "last": 1, "width": range(len(self.widths))})
                    )
                ),
                "beats": Out(stream.Signature(beat_layout(beat_width))),
                "sent": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        # keeps the choice of a word and the choice of a packer apart
        m.submodules.slice = words = RegisterSlice(self.words.payload.shape())
        filled = Signal()
        m.d.comb += [
            words.source.valid.eq(self.words.valid & ~filled),
            self.words.ready.eq(words.source.ready & ~filled),
            words.source.payload.eq(self.words.payload),
        ]
        packers = [Packer(width, self.beat_width) for width in self.widths]
        word = words.sink.payload
        for number, packer in enumerate(packers):
            m.submodules[f"pack_{packer.word_width}"] = packer
            m.d.comb += [
                packer.words.payload.data.eq(word.data),
                packer.words.payload.last.eq(word.last),
                packer.beats.ready.eq(self.beats.ready),
            ]
            with m.If(words.sink.valid & (word.width == number)):
                m.d.comb += [packer.words.valid.eq(1), words.sink.ready.eq(packer.words.ready)]
        beats = [packer.beats for packer in packers]
        m.d.comb += [
            self.beats.valid.eq(Cat(*[b.valid for b in beats]).any()),
            self.beats.payload.eq(one_hot_choice([(b.valid, b.payload.as_value()) for b in beats])),
        ]
        fills = self.words.valid & self.words.ready & self.words.payload.last
        m.d.sync += [
            self.sent.eq(self.beats.valid & self.beats.ready & self.beats.payload.last),
            filled.eq(fills | (filled & ~self.sent)),
        ]
        return m
