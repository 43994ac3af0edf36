"""On-chip memory behind streams: requests in, words out in order, whatever the latency."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Shape, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hw.flow import Flow


def write_layout(shape: Any, depth: int) -> data.StructLayout:
    """Payload of a write stream: an address below `depth` and a word."""
    return data.StructLayout({"address": range(depth), "word": shape})


class StreamMemory(wiring.Component):
    """A memory with one write port and one read port, both streams.

    `write` is always ready.  A `request` (address) is answered on `word`, in order, `latency` = 2 cycles later at the
    earliest; one a cycle, stalled by `word.ready`.  A word written in the cycle of its request reads as the old one.
    """

    latency = 2

    def __init__(self, shape: Any, depth: int) -> None:
        self.shape, self.depth = shape, depth
        super().__init__(
            {
                "write": In(Flow(write_layout(shape, depth))),
                "request": In(stream.Signature(range(depth))),
                "word": Out(stream.Signature(shape)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.memory = memory = Memory(shape=self.shape, depth=self.depth, init=[])
        write_port, read_port = memory.write_port(), memory.read_port()
        read_valid, read_ready = Signal(), Signal()
        out_ready = Signal()
        m.d.comb += [
            write_port.en.eq(self.write.valid),
            write_port.addr.eq(self.write.payload.address),
            write_port.data.eq(self.write.payload.word),
            out_ready.eq(~self.word.valid | self.word.ready),
            read_ready.eq(~read_valid | out_ready),
            self.request.ready.eq(read_ready),
            read_port.addr.eq(self.request.payload),
            read_port.en.eq(read_ready),
        ]
        with m.If(read_ready):
            m.d.sync += read_valid.eq(self.request.valid)
        with m.If(out_ready):
            # the output register: block memories are slow without it
            m.d.sync += [self.word.valid.eq(read_valid), self.word.payload.eq(read_port.data)]
        return m


def bits_for(maximum: int) -> Shape:
    """Unsigned shape that holds 0 to `maximum`."""
    return Shape.cast(range(maximum + 1))
