"""Queue in block memory whose newest words can be taken back until they are committed."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from gradsieve.fpga.link.framing import word_layout
from gradsieve.hw.lib.stream_memory import StreamMemory


class ByteQueue(wiring.Component):
    """A queue of `depth` words, a power of two; takes and gives a word each 2 cycles, 5 cycles after its commit.

    Words that were written since the last `commit` cannot be read yet, and `rollback` takes them back, but not in the
    cycle after a commit.  A word that is written in the cycle of a commit is part of it.  `free` counts room, and
    `available` committed words that have not been read; both come from registers: they are some cycles late.
    """

    def __init__(self, depth: int) -> None:
        if depth < 2 or depth & (depth - 1):
            raise ValueError(f"depth must be a power of two of at least 2, got {depth}")
        self.depth = depth
        super().__init__(
            {
                "write": In(stream.Signature(word_layout())),
                "commit": In(1),
                "rollback": In(1),
                "read": Out(stream.Signature(word_layout())),
                "free": Out(range(depth + 1)),
                "available": Out(range(depth + 1)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.memory = memory = StreamMemory(word_layout(), self.depth)
        # one bit more than an address: full and empty differ
        pointer = range(2 * self.depth)
        written = Signal(pointer)
        committed = Signal(pointer)
        asked = Signal(pointer)
        read = Signal(pointer)
        commit = Signal()
        used = Signal(pointer)
        ready = Signal(pointer)
        m.d.comb += [
            used.eq(written - read),
            ready.eq(committed - read),
            memory.write.valid.eq(self.write.valid & self.write.ready),
            memory.write.payload.address.eq(written),
            memory.write.payload.word.eq(self.write.payload),
            memory.request.valid.eq(asked != committed),
            memory.request.payload.eq(asked),
        ]
        # a register after the memory, which is loaded when it is empty: no path runs through from reader to memory
        m.d.comb += memory.word.ready.eq(~self.read.valid)
        with m.If(~self.read.valid):
            m.d.sync += [self.read.valid.eq(memory.word.valid), self.read.payload.eq(memory.word.payload)]
        with m.Elif(self.read.ready):
            m.d.sync += [self.read.valid.eq(0), read.eq(read + 1)]
        # from a register: writers hang much logic on it; in the cycle after a write it could not know of that one
        m.d.sync += self.write.ready.eq(~used[-1] & ~memory.write.valid)
        m.d.sync += [commit.eq(self.commit), self.free.eq(self.depth - used), self.available.eq(ready)]
        with m.If(self.rollback):
            m.d.sync += written.eq(committed)
        with m.Elif(memory.write.valid):
            m.d.sync += written.eq(written + 1)
        with m.If(commit):
            m.d.sync += committed.eq(written)
        with m.If(memory.request.valid & memory.request.ready):
            m.d.sync += asked.eq(asked + 1)
        return m
