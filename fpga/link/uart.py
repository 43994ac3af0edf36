"""UART, 8N1: one start bit, eight data bits, least significant first, one stop bit."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out

from gradsieve.fpga.link.protocol import DIVISOR_MIN
from gradsieve.hw.lib.flow import Flow

DATA_BITS = 8


def check_divisor(divisor: int) -> int:
    """`divisor`.  Raises ValueError if a receiver could not sample with so few cycles a bit."""
    if divisor < DIVISOR_MIN:
        raise ValueError(f"divisor must be at least {DIVISOR_MIN} clock cycles a bit, got {divisor}")
    return divisor


class UartReceiver(wiring.Component):
    """Bytes from `rx`, which may change at any time: it is synchronised here.

    Bits are sampled in their middle.  `error` pulses where a byte would have ended without a stop bit; then nothing is
    taken until the line is idle again.  `active` is high while a byte comes.
    """

    def __init__(self, divisor: int) -> None:
        self.divisor = check_divisor(divisor)
        super().__init__({"rx": In(1, init=1), "bytes": Out(Flow(DATA_BITS)), "error": Out(1), "active": Out(1)})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        line = Signal(init=1)
        m.submodules.synchronizer = FFSynchronizer(self.rx, line, init=1)
        ticks = Signal(range(self.divisor))
        bits = Signal(range(DATA_BITS))
        sample = Signal()
        m.d.comb += sample.eq(ticks == 0)
        m.d.sync += [self.bytes.valid.eq(0), self.error.eq(0), ticks.eq(ticks - 1)]
        with m.If(sample):
            m.d.sync += ticks.eq(self.divisor - 1)
        with m.FSM() as fsm:
            with m.State("IDLE"):  # the line is high
                m.d.sync += [ticks.eq((self.divisor - 1) // 2 - 1), bits.eq(0)]
                with m.If(~line):
                    m.next = "START"
            with m.State("START"):  # in the start bit, which must last to its middle
                with m.If(sample & line):
                    m.next = "IDLE"
                with m.Elif(sample):
                    m.next = "DATA"
            with m.State("DATA"):  # in the data bits
                with m.If(sample):
                    m.d.sync += [self.bytes.payload.eq(Cat(self.bytes.payload[1:], line)), bits.eq(bits + 1)]
                    with m.If(bits == DATA_BITS - 1):
                        m.next = "STOP"
            with m.State("STOP"):  # before the middle of the stop bit
                with m.If(sample):
                    m.d.sync += [self.bytes.valid.eq(line), self.error.eq(~line)]
                    m.next = "IDLE"
                    with m.If(~line):
                        m.next = "BREAK"
            with m.State("BREAK"):  # no stop bit: wait for the line to become idle
                with m.If(line):
                    m.next = "IDLE"
            m.d.comb += self.active.eq(~fsm.ongoing("IDLE"))
        return m


class UartTransmitter(wiring.Component):
    """Bytes to `tx`, a cycle apart; `active` is high while one goes out."""

    def __init__(self, divisor: int) -> None:
        self.divisor = check_divisor(divisor)
        super().__init__({"bytes": In(stream.Signature(DATA_BITS)), "tx": Out(1, init=1), "active": Out(1)})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        frame_bits = 1 + DATA_BITS + 1
        ticks = Signal(range(self.divisor))
        left = Signal(range(frame_bits))
        tick = Signal()
        # `tx` is the lowest bit of the register that goes out, and so has no logic after it
        rest = Signal(1 + DATA_BITS, init=-1, reset_less=True)
        m.d.comb += self.bytes.ready.eq(~self.active)
        m.d.sync += [ticks.eq(ticks - 1), tick.eq(ticks == 1)]
        with m.If(~self.active):
            m.d.sync += [
                ticks.eq(self.divisor - 1),
                tick.eq(0),
                left.eq(frame_bits - 1),
                rest.eq(Cat(self.bytes.payload, Const(1, 1))),
                self.tx.eq(~self.bytes.valid),
                self.active.eq(self.bytes.valid),
            ]
        with m.Elif(tick):
            m.d.sync += [
                ticks.eq(self.divisor - 1),
                self.tx.eq(rest[0]),
                rest.eq(Cat(rest[1:], Const(1, 1))),
                left.eq(left - 1),
                self.active.eq(left != 0),
            ]
        return m
