"""What the link's tests put behind it: a stub whose every effect can be counted."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from gradsieve.fpga.boards.top import LEDS
from gradsieve.fpga.link.serial_link import SerialLink
from gradsieve.hw.host.packet_closer import closed_beat_layout
from gradsieve.hw.host.register_file import REGISTER_BUS
from gradsieve.hw.host.registers import BY_NAME
from gradsieve.hw.lib.axi import SLAVE_ERROR
from gradsieve.hw.lib.register_slice import RegisterSlice

DIVISOR = 4
ID, STATUS = BY_NAME["ID"].offset, BY_NAME["STATUS"].offset
SCRATCH, WRITES, SILENT, STREAM = 0x40, 0x44, 0x48, 0x4C
"""Of the stub: a register, the writes seen so far, one that never answers, and one whose bit 0 stops the stream."""
STUB_WIDTH = 32


class Stub(wiring.Component):
    """A few registers, and a stream that comes back as it went in."""

    def __init__(self) -> None:
        layout = closed_beat_layout(STUB_WIDTH)
        super().__init__({"bus": In(REGISTER_BUS), "echo_stop": Out(1)})
        self.slice = RegisterSlice(layout)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        bus = self.bus
        scratch, writes = Signal(32), Signal(32)
        write = Signal()
        m.d.comb += [
            write.eq(bus.awvalid & bus.wvalid & (bus.awaddr != SILENT) & ~bus.bvalid),
            bus.awready.eq(write),
            bus.wready.eq(write),
            bus.arready.eq(bus.arvalid & (bus.araddr != SILENT) & ~bus.rvalid),
        ]
        with m.If(bus.bready):
            m.d.sync += bus.bvalid.eq(0)
        with m.If(write):
            m.d.sync += [bus.bvalid.eq(1), bus.bresp.eq(0), writes.eq(writes + 1)]
            with m.Switch(bus.awaddr):
                with m.Case(SCRATCH):
                    m.d.sync += scratch.eq(bus.wdata)
                with m.Case(STREAM):
                    m.d.sync += self.echo_stop.eq(bus.wdata[0])
                with m.Default():
                    m.d.sync += bus.bresp.eq(SLAVE_ERROR)
        with m.If(bus.rready):
            m.d.sync += bus.rvalid.eq(0)
        with m.If(bus.arready):
            m.d.sync += [bus.rvalid.eq(1), bus.rresp.eq(0), bus.rdata.eq(0)]
            with m.Switch(bus.araddr):
                with m.Case(SCRATCH):
                    m.d.sync += bus.rdata.eq(scratch)
                with m.Case(WRITES):
                    m.d.sync += bus.rdata.eq(writes)
                with m.Case(ID, STATUS):  # not that of an engine; no error
                    m.d.sync += bus.rdata.eq(0)
                with m.Default():
                    m.d.sync += bus.rresp.eq(SLAVE_ERROR)
        return m


class StubBoard(wiring.Component):
    """The link with the stub behind it, and the ports of a board's top."""

    def __init__(self) -> None:
        super().__init__({"rx": In(1, init=1), "tx": Out(1, init=1), "leds": Out(LEDS)})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.link = link = SerialLink(STUB_WIDTH, DIVISOR)
        m.submodules.stub = stub = Stub()
        m.submodules.slice = echo = stub.slice
        wiring.connect(m, link.bus, stub.bus)
        wiring.connect(m, echo.sink, link.from_engine)
        m.d.comb += [
            link.rx.eq(self.rx),
            self.tx.eq(link.tx),
            echo.source.payload.data.eq(link.to_engine.payload.data),
            echo.source.payload.keep.eq(-1),
            echo.source.payload.last.eq(link.to_engine.payload.last),
            echo.source.valid.eq(link.to_engine.valid & ~stub.echo_stop),
            link.to_engine.ready.eq(echo.source.ready & ~stub.echo_stop),
        ]
        return m
