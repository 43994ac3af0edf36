"""PLLE2_BASE, a clock generator of the Xilinx 7 series at speed grade -1.

Limits: Xilinx DS181; parameters: Xilinx UG472.
"""

from __future__ import annotations

from amaranth.hdl import Module, Signal, Value

from gradsieve.fpga.boards.pll import DividingPll, Limits, instance

LIMITS = Limits(
    detector_hz=(19_000_000, 450_000_000),
    oscillator_hz=(800_000_000, 1_600_000_000),
    input_divider_max=56,
    multipliers=(2, 64),
    output_divider_max=128,
)


class XilinxPll(DividingPll):
    """The first output is the clock; the loop is closed by an output of its own."""

    limits = LIMITS
    output_limits_hz = (6_250_000, 800_000_000)

    def cell(self, clock_in: Value, clock_out: Value, locked: Value) -> Module:
        m = Module()
        loop, output = Signal(), Signal()
        parameters = {
            "CLKIN1_PERIOD": 1e9 / self.input_hz,
            "DIVCLK_DIVIDE": self.input_divider,
            "CLKFBOUT_MULT": self.multiplier,
            "CLKOUT0_DIVIDE": self.output_divider,
        }
        inputs = {"CLKIN1": clock_in, "CLKFBIN": loop, "RST": 0, "PWRDWN": 0}
        outputs = {"CLKFBOUT": loop, "CLKOUT0": output, "LOCKED": locked}
        m.submodules.pll = instance("PLLE2_BASE", parameters, inputs, outputs)
        m.submodules.buffer = instance("BUFG", {}, {"I": output}, {"O": clock_out})
        return m
