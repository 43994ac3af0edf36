"""The top of every board: clock generator, reset, serial link, engine and LEDs."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import ClockDomain, ClockSignal, Elaboratable, Module, Signal
from amaranth.lib import data, io, wiring
from amaranth.lib.cdc import ResetSynchronizer
from amaranth.lib.wiring import In, Out

from gradsieve.fpga.boards.board import LED_SIGNALS, Board, Clocking, Pin
from gradsieve.fpga.link.serial_link import SerialLink
from gradsieve.hw.config import EngineConfig
from gradsieve.hw.engine import Engine
from gradsieve.rtl_gen.verilog import component_verilog

HEARTBEAT_BITS = 25
"""The heartbeat blinks once in 2^25 clock cycles, a third of a second at 100 MHz."""
STRETCH = 2
"""An event shows for 2^-STRETCH of that at least."""

LEDS = data.StructLayout(dict.fromkeys(LED_SIGNALS, 1))


class BoardCore(wiring.Component):
    """All of the top but the pins and the clock generator, so that a simulation runs the same as a board does.

    `rst` may rise and fall at any time; the engine's registers and streams are behind `rx` and `tx`, of `divisor`
    clock cycles a bit.  `leds`: see LED_SIGNALS.  Raises ValueError for a divisor below 4.
    """

    def __init__(self, config: EngineConfig, divisor: int, heartbeat_bits: int = HEARTBEAT_BITS) -> None:
        self.config, self.heartbeat_bits = config, heartbeat_bits
        self.link = SerialLink(config.stream_width, divisor)
        super().__init__({"clk": In(1), "rst": In(1), "rx": In(1, init=1), "tx": Out(1, init=1), "leds": Out(LEDS)})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.domains.sync = ClockDomain()
        m.d.comb += ClockSignal().eq(self.clk)
        m.submodules.reset = ResetSynchronizer(self.rst)
        m.submodules.link = link = self.link
        m.submodules.engine = engine = Engine(self.config)
        wiring.connect(m, link.bus, engine.s_axil)
        m.d.comb += [
            link.rx.eq(self.rx),
            self.tx.eq(link.tx),
            engine.s_axis.tdata.eq(link.to_engine.payload.data),
            engine.s_axis.tkeep.eq(-1),
            engine.s_axis.tlast.eq(link.to_engine.payload.last),
            engine.s_axis.tvalid.eq(link.to_engine.valid),
            link.to_engine.ready.eq(engine.s_axis.tready),
            link.from_engine.payload.data.eq(engine.m_axis.tdata),
            link.from_engine.payload.keep.eq(engine.m_axis.tkeep),
            link.from_engine.payload.last.eq(engine.m_axis.tlast),
            link.from_engine.valid.eq(engine.m_axis.tvalid),
            engine.m_axis.tready.eq(link.from_engine.ready),
        ]

        beats = Signal()
        m.d.sync += beats.eq(
            (engine.s_axis.tvalid & engine.s_axis.tready) | (engine.m_axis.tvalid & engine.m_axis.tready)
        )
        heartbeat, tick = Signal(self.heartbeat_bits), Signal()
        m.d.sync += [heartbeat.eq(heartbeat + 1), tick.eq(heartbeat[:-STRETCH] == 0)]
        m.d.comb += self.leds.alive.eq(heartbeat[-1])
        events = {"streams": beats, "error": link.error, "line": link.rx_active | link.tx_active}
        for name, event in events.items():
            seen = Signal(name=f"{name}_seen")
            with m.If(tick):
                m.d.sync += [self.leds[name].eq(seen), seen.eq(event)]
            with m.Elif(event):
                m.d.sync += seen.eq(1)
        return m


class BoardTop(Elaboratable):
    """The top of `board`, with an engine of `config`, on the board's own platform; `core.clk` is the engine's clock."""

    def __init__(self, board: Board, config: EngineConfig, clocking: Clocking) -> None:
        self.board, self.clocking = board, clocking
        self.core = BoardCore(config, clocking.divisor)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.core = core = self.core
        requested: dict[tuple[str, int], Any] = {}

        def port(pin: Pin) -> Any:
            key = (pin.resource, pin.number)
            if key not in requested:
                requested[key] = platform.request(*key, dir="-")
            return getattr(requested[key], pin.part) if pin.part else requested[key]

        m.submodules.oscillator = oscillator = io.Buffer("i", platform.request(platform.default_clk, dir="-"))
        m.submodules.rx = rx = io.Buffer("i", port(Pin(self.board.serial.resource, self.board.serial.number, "rx")))
        m.submodules.tx = tx = io.Buffer("o", port(Pin(self.board.serial.resource, self.board.serial.number, "tx")))
        locked = Signal()
        m.submodules.pll = self.clocking.pll.cell(oscillator.i, core.clk, locked)
        m.d.comb += [core.rst.eq(~locked), core.rx.eq(rx.i), tx.o.eq(core.tx)]
        if self.board.reset is not None:
            m.submodules.button = button = io.Buffer("i", port(self.board.reset))
            m.d.comb += core.rst.eq(~locked | button.i)
        shown = {pin: signal for signal, pin in self.board.leds.items()}
        for pin in _whole_lamps(platform, self.board):
            led = io.Buffer("o", port(pin))
            m.submodules[f"{pin.resource}_{pin.number}{pin.part and '_'}{pin.part}"] = led
            # a colour without a use is switched off, as an open pin might glow
            m.d.comb += led.o.eq(core.leds[shown[pin]] if pin in shown else 0)
        return m


def _whole_lamps(platform: Any, board: Board) -> list[Pin]:
    """The pins of every lamp that shows anything."""
    lamps = dict.fromkeys((pin.resource, pin.number, bool(pin.part)) for pin in board.leds.values())
    pins = []
    for resource, number, grouped in lamps:
        parts = [sub.name for sub in platform.lookup(resource, number).ios if hasattr(sub, "name")] if grouped else [""]
        pins += [Pin(resource, number, part) for part in parts]
    return pins


def board_verilog(
    config: EngineConfig, board: Board | None = None, divisor: int = 4, heartbeat_bits: int = HEARTBEAT_BITS
) -> str:
    """The Verilog of the board's top as the module `board`, for simulation: ports clk, rst, rx, tx, leds.

    It is the same as on the board but for clock generator and pins; with `board`, with the target cells of its family.
    """
    cells = None if board is None else getattr(board.platform, "cells", None)
    return component_verilog(BoardCore(config, divisor, heartbeat_bits), "board", cells=cells)
