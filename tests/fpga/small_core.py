"""A stand-in for the core of a board's top: the same ports, and so little behind them that the tools are quick."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import ClockDomain, ClockSignal, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.cdc import FFSynchronizer, ResetSynchronizer
from amaranth.lib.wiring import In, Out

from gradsieve.fpga.boards.top import LEDS


class SmallCore(wiring.Component):
    """Echoes the serial line, and counts its edges on the LEDs."""

    def __init__(self, config: Any, divisor: int) -> None:
        super().__init__({"clk": In(1), "rst": In(1), "rx": In(1, init=1), "tx": Out(1, init=1), "leds": Out(LEDS)})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.domains.sync = ClockDomain()
        m.d.comb += ClockSignal().eq(self.clk)
        m.submodules.reset = ResetSynchronizer(self.rst)
        rx, count = Signal(init=1), Signal(8)
        m.submodules.rx = FFSynchronizer(self.rx, rx, init=1)
        m.d.sync += [self.tx.eq(rx), count.eq(count + (rx ^ self.tx))]
        m.d.comb += self.leds.eq(count[-4:])
        return m
