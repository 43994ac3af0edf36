"""Proofs of the blocks around the output stream: packers give the words they took, closers end every packet."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
from amaranth.hdl import Cat, Const, Mux, Signal, Value

from gradsieve.hw.host import packet_closer, packing
from tests.hw.proof import Fault, Proof, Subject, faults

BITS = 2
"""Bits of the narrower of words and beats: all are passed alike."""
COUNT = 4
"""How often the narrower fits into the wider."""


def splitting(module: ModuleType) -> Proof:
    """Beats from wide words: the slices of each word, from the lowest one on, once."""
    p = Proof(block := module.Packer(COUNT * BITS, BITS))
    words, beats, m, state = block.words, block.beats, p.m, p.inside()
    word, last, at = Signal(COUNT * BITS), Signal(), Signal(range(COUNT + 1), init=COUNT)  # slices that have been taken
    takes, gives = words.valid & words.ready, beats.valid & beats.ready
    with m.If(takes):
        m.d.sync += [word.eq(words.payload.data), last.eq(words.payload.last), at.eq(0)]
    with m.Elif(gives):
        m.d.sync += at.eq(at + 1)
    p.streams()
    p.claim("invents nothing", ~beats.valid | (at != COUNT))
    p.claim("loses nothing", ~takes | (at + gives == COUNT))
    p.claim("gives the next slice", ~beats.valid | (beats.payload.data == word.word_select(at, BITS)))
    p.claim("marks the last slice", ~beats.valid | (beats.payload.last == (last & (at == COUNT - 1))))
    p.lemma("knows its place", (beats.valid == (at != COUNT)) & (state.index == Mux(at == COUNT, 0, at)))
    p.lemma("holds the rest", ~beats.valid | ((state.held == word >> (at * BITS)) & (state.held_last == last)))
    return p


def filling(module: ModuleType) -> Proof:
    """Beats from narrow words: as many as fit, or up to a section's last one, and zeros above."""
    p = Proof(block := module.Packer(BITS, COUNT * BITS))
    words, beats, m, state = block.words, block.beats, p.m, p.inside()
    got, count = Signal(COUNT * BITS), Signal(range(COUNT))  # words of the beat that is being filled
    takes = words.valid & words.ready
    joined = got | (Value.cast(words.payload.data) << (count * BITS))[: COUNT * BITS]
    ends = takes & ((count == COUNT - 1) | words.payload.last)
    with m.If(ends):
        m.d.sync += [got.eq(0), count.eq(0)]
    with m.Elif(takes):
        m.d.sync += [got.eq(joined), count.eq(count + 1)]
    p.streams()
    ended = p.before(ends, init=0)
    waits = p.before(beats.valid & ~beats.ready, init=0)
    p.claim("gives a beat when it is full", beats.valid == (ended | waits))
    p.claim(
        "fills from below",
        ~ended | (Cat(beats.payload.data, beats.payload.last) == p.before(Cat(joined, words.payload.last))),
    )
    p.claim("overwrites nothing", ~ends | ~beats.valid | beats.ready)
    p.lemma("holds what it got", (state.index == count) & (state.filling == got))
    return p


def closer(module: ModuleType) -> Proof:
    """The last register before the port, with `clear` in any cycle; what is in front of it is cleared as well."""
    p = Proof(block := module.PacketCloser(8 * BITS))
    beats, closed, m = block.beats, block.closed, p.m
    p.streams(receives_unless=block.clear)
    takes, gives = beats.valid & beats.ready, closed.valid & closed.ready
    begun, cut, inside = Signal(), Signal(), Signal()  # at the inner side; and what the port saw: inside a packet
    ends = closed.payload.keep == 0
    m.d.sync += cut.eq((cut | (block.clear & begun)) & ~(gives & ends))
    with m.If(takes):
        m.d.sync += begun.eq(~beats.payload.last)
    with m.Elif(block.clear):
        m.d.sync += begun.eq(0)
    with m.If(gives):
        m.d.sync += inside.eq(~closed.payload.last)
    beat = Cat(closed.payload.data, closed.payload.keep, closed.payload.last)
    taken = Cat(beats.payload.data, Const(1).replicate(BITS), beats.payload.last)
    p.claim("gives what it took", ~p.before(takes, init=0) | (closed.valid & (beat == p.before(taken))))
    p.claim("invents no beat", ~closed.valid | ends | p.before(takes | (closed.valid & ~closed.ready), init=0))
    p.claim("loses no beat", ~takes | ~closed.valid | closed.ready)
    p.claim("only a cut packet has null bytes", ~closed.valid | closed.payload.keep.all() | (cut & ends))
    p.claim("a closing beat ends the packet", ~closed.valid | ~ends | (closed.payload.last & inside))
    p.claim(
        "a cut packet is closed", ~p.before(cut & (~closed.valid | (gives & ~ends)), init=0) | (closed.valid & ends)
    )
    p.claim("waits for the closing beat", ~cut | ~takes | (closed.valid & ends))
    p.claim("tells open packets", block.open == (closed.valid | inside))
    state = p.inside()
    p.lemma("knows that it must close", state.closing == (cut & ~(closed.valid & ends)))
    p.lemma("knows that it is open", (state.begun == (begun | state.closing)) & ~(begun & cut))
    p.lemma("is where the port is", Mux(closed.valid, ~closed.payload.last, inside) == state.begun)
    return p


SUBJECTS = {
    "splitting packer": Subject(
        splitting,
        packing,
        [
            ("with m.If(sent):", "with m.If(held_valid):", "beats stays"),
            ("held_valid.eq(0)", "held_valid.eq(held_last)", "invents nothing"),
            ("(sent & last_beat)", "sent", "loses nothing"),
            ("held >> self.beat_width", "held >> 1", "gives the next slice"),
            ("held_last & last_beat", "held_last", "marks the last slice"),
        ],
    ),
    "filling packer": Subject(
        filling,
        packing,
        [
            ("m.If(self.beats.valid & self.beats.ready)", "m.If(self.beats.valid)", "beats stays"),
            ("last_word | word.last", "last_word", "gives a beat when it is full"),
            ("(index * self.word_width)", "index", "fills from below"),
            ("words.ready.eq(~self.beats.valid | self.beats.ready)", "words.ready.eq(1)", "overwrites nothing"),
        ],
    ),
    "packet closer": Subject(
        closer,
        packet_closer,
        [
            ("free.eq(~out.valid | out.ready)", "free.eq(1)", "closed stays"),
            ("payload.last.eq(self.beats.payload.last)", "payload.last.eq(0)", "gives what it took"),
            ("(self.beats.valid & self.beats.ready) | closing", "self.beats.valid | closing", "invents no beat"),
            ("ready.eq(free & ~closing & ~self.clear)", "ready.eq(~closing & ~self.clear)", "loses no beat"),
            ("payload.keep.eq(-1)", "payload.keep.eq(1)", "only a cut packet has null bytes"),
            ("closing.eq(0),", "closing.eq(self.clear & begun),", "a closing beat ends the packet"),
            ("with m.If(self.clear & begun):", "with m.If(self.clear & begun & free):", "a cut packet is closed"),
            ("free & ~closing & ~self.clear", "free & ~self.clear", "waits for the closing beat"),
            ("begun | out.valid", "begun", "tells open packets"),
        ],
    ),
}


@pytest.mark.parametrize("name", SUBJECTS)
def test_is_proven(name: str, tmp_path: Path) -> None:
    SUBJECTS[name].assert_proven(tmp_path)


@pytest.mark.parametrize(("name", "fault"), faults(SUBJECTS))
def test_fault_is_found(name: str, fault: Fault, tmp_path: Path) -> None:
    SUBJECTS[name].assert_refuted(tmp_path, fault)


@pytest.mark.parametrize("name", SUBJECTS)
def test_streams_need_their_reset(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    SUBJECTS[name].assert_needs_reset(tmp_path, monkeypatch)
