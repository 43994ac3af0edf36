"""On-chip memory behind streams: requests in, words out in order, whatever the latency."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Shape, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from gradsieve.hw.lib.block_memory import BlockMemory
from gradsieve.hw.lib.flow import Flow


def write_layout(shape: Any, depth: int) -> data.StructLayout:
    """Payload of a write stream: an address below `depth` and a word."""
    return data.StructLayout({"address": range(depth), "word": shape})


class StreamMemory(wiring.Component):
    """A memory with one write port and one read port, both streams.

    `write` is always ready.  A `request` (address) is answered on `word`, in order, `latency` cycles later at the
    earliest; one a cycle, stalled by `word.ready`.  A word written in the cycle of its request reads as anything.
    """

    latency = BlockMemory.latency

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
        m.submodules.memory = memory = BlockMemory(Shape.cast(self.shape).width, self.depth)
        read_valid = Signal()
        read_ready = Signal()
        out_ready = Signal()
        m.d.comb += [
            memory.write_enable.eq(self.write.valid),
            memory.write_address.eq(self.write.payload.address),
            memory.write_data.eq(Value.cast(self.write.payload.word)),
            out_ready.eq(~self.word.valid | self.word.ready),
            read_ready.eq(~read_valid | out_ready),
            self.request.ready.eq(read_ready),
            memory.read_address.eq(self.request.payload),
            memory.read_enable.eq(read_ready),
            memory.output_enable.eq(out_ready),
            Value.cast(self.word.payload).eq(memory.read_data),
        ]
        with m.If(read_ready):
            m.d.sync += read_valid.eq(self.request.valid)
        with m.If(out_ready):
            m.d.sync += self.word.valid.eq(read_valid)
        return m
