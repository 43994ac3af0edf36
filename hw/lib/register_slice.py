"""Registers in streams: slices that cut every combinational path, at full throughput, and what cuts one direction."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, ResetInserter, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from gradsieve.hw.cells import cells_of


class RegisterSlice(wiring.Component):
    """Passes a stream on, a payload a cycle, `latency` cycles later; valid, ready and payload all come from registers.

    Two payloads fit: the one offered, and the one that came in the cycle in which its `ready` could not yet tell.
    With `full` false there is only the one offered, which halves registers and throughput.  `clear` forgets all.
    On a platform whose cells are not `registered_ready`, `ready` passes through and one payload fits; latency and
    throughput are the same.
    """

    latency = 1

    def __init__(self, shape: Any, full: bool = True) -> None:
        self.shape, self.full = shape, full
        super().__init__({"source": In(stream.Signature(shape)), "sink": Out(stream.Signature(shape)), "clear": In(1)})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        source, sink = self.source, self.sink
        payload = Signal(self.shape, reset_less=True)
        m.d.comb += sink.payload.eq(payload)
        if not self.full:
            m.d.comb += source.ready.eq(~sink.valid)
            m.d.sync += sink.valid.eq((source.valid & ~sink.valid) | (sink.valid & ~sink.ready))
            with m.If(source.ready):
                m.d.sync += payload.eq(source.payload)
            with m.If(self.clear):
                m.d.sync += sink.valid.eq(0)
            return m
        cells = cells_of(platform)
        if cells and not cells.registered_ready:
            m.submodules.register = register = ForwardRegister(self.shape)
            wiring.connect(m, wiring.flipped(source), register.source)
            wiring.connect(m, register.sink, wiring.flipped(sink))
            return ResetInserter(self.clear)(m)
        spare = Signal(self.shape, reset_less=True)
        spare_valid = Signal()
        m.d.comb += source.ready.eq(~spare_valid)
        # not as conditions: synthesis would have them share the logic of the payload's enable, which may lie far away
        stalled = sink.valid & ~sink.ready
        m.d.sync += [
            sink.valid.eq(source.valid | spare_valid | stalled),
            spare_valid.eq((source.valid | spare_valid) & stalled),
        ]
        with m.If(~sink.valid | sink.ready):
            with m.If(spare_valid):
                m.d.sync += payload.eq(spare)
            with m.Else():
                m.d.sync += payload.eq(source.payload)
        with m.If(source.ready):  # whether or not it will be needed: that is known later in the cycle
            m.d.sync += spare.eq(source.payload)
        with m.If(self.clear):
            m.d.sync += [sink.valid.eq(0), spare_valid.eq(0)]
        return m


class ForwardRegister(wiring.Component):
    """Passes a stream on, a payload a cycle, `latency` cycles later; valid and payload come from registers.

    `ready` passes through.  The payload has no choice to make on its way in, unlike a RegisterSlice's: for words that
    come late in a cycle, as those of block memories do.
    """

    latency = 1

    def __init__(self, shape: Any) -> None:
        self.shape = shape
        super().__init__({"source": In(stream.Signature(shape)), "sink": Out(stream.Signature(shape))})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        payload = Signal(self.shape, reset_less=True)
        m.d.comb += [self.source.ready.eq(~self.sink.valid | self.sink.ready), self.sink.payload.eq(payload)]
        m.d.sync += self.sink.valid.eq(self.source.valid | (self.sink.valid & ~self.sink.ready))
        with m.If(self.source.ready):
            m.d.sync += payload.eq(self.source.payload)
        return m
