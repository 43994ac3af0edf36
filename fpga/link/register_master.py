"""AXI4-Lite master of the serial link: one read or write at a time, in bounded time."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from gradsieve.fpga.link.protocol import NO_ANSWER
from gradsieve.fpga.link.uart import DATA_BITS
from gradsieve.hw.host.register_file import DATA_WIDTH, REGISTER_BUS
from gradsieve.hw.host.registers import ADDRESS_WIDTH

BUS_CYCLES = 256
"""A register that has not answered after so many cycles never will."""


class RegisterMaster(wiring.Component):
    """`start` begins a transfer; `done` pulses at its end, with `read_data` and `result`, which then stay.

    `result` is the AXI response, or NO_ANSWER after BUS_CYCLES cycles (`read_data` then means nothing); from then on,
    every transfer ends so until `clear`: a late answer could be taken for that of the next transfer.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "bus": Out(REGISTER_BUS),
                "start": In(1),
                "write": In(1),
                "address": In(ADDRESS_WIDTH),
                "write_data": In(DATA_WIDTH),
                "done": Out(1),
                "result": Out(DATA_BITS),
                "read_data": Out(DATA_WIDTH),
                "clear": In(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        bus = self.bus
        pending = Signal()
        dead = Signal()
        cycles = Signal(range(BUS_CYCLES + 1))
        m.d.comb += [
            bus.awaddr.eq(self.address),
            bus.araddr.eq(self.address),
            bus.wdata.eq(self.write_data),
            bus.wstrb.eq(-1),
            bus.bready.eq(1),
            bus.rready.eq(1),
        ]
        m.d.sync += self.done.eq(0)
        with m.If(bus.awready):
            m.d.sync += bus.awvalid.eq(0)
        with m.If(bus.wready):
            m.d.sync += bus.wvalid.eq(0)
        with m.If(bus.arready):
            m.d.sync += bus.arvalid.eq(0)
        with m.If(pending):
            m.d.sync += cycles.eq(cycles + 1)
            with m.If(bus.bvalid | bus.rvalid):
                m.d.sync += [pending.eq(0), self.done.eq(1), self.read_data.eq(bus.rdata)]
                with m.If(self.write):
                    m.d.sync += self.result.eq(bus.bresp)
                with m.Else():
                    m.d.sync += self.result.eq(bus.rresp)
            with m.Elif(dead | cycles[-1]):
                m.d.sync += [
                    pending.eq(0),
                    dead.eq(1),
                    bus.awvalid.eq(0),
                    bus.wvalid.eq(0),
                    bus.arvalid.eq(0),
                    self.done.eq(1),
                    self.result.eq(NO_ANSWER),
                ]
        with m.If(self.start):
            m.d.sync += [
                pending.eq(1),
                cycles.eq(0),
                bus.awvalid.eq(self.write & ~dead),
                bus.wvalid.eq(self.write & ~dead),
                bus.arvalid.eq(~self.write & ~dead),
            ]
        with m.If(self.clear):
            m.d.sync += dead.eq(0)
        return m
