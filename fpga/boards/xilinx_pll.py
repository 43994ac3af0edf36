"""PLLE2_BASE, a clock generator of the Xilinx 7 series at speed grade -1.

Limits: Xilinx DS181; parameters: Xilinx UG472.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from amaranth.hdl import Module, Signal, Value

from fpga.boards.pll import Pll, instance, no_clock

DETECTOR_HZ = (19_000_000, 450_000_000)
OSCILLATOR_HZ = (800_000_000, 1_600_000_000)
OUTPUT_HZ = (6_250_000, 800_000_000)
INPUT_DIVIDER_MAX, MULTIPLIER_MAX, OUTPUT_DIVIDER_MAX = 56, 64, 128


@dataclass(frozen=True)
class XilinxPll(Pll):
    """The output is input / `input_divider` * `multiplier` / `output_divider`."""

    input_hz: int
    input_divider: int
    multiplier: int
    output_divider: int

    @property
    def output_hz(self) -> Fraction:
        return Fraction(self.input_hz * self.multiplier, self.input_divider * self.output_divider)

    @classmethod
    def at_most(cls, input_hz: int, target_hz: float) -> XilinxPll:
        best: XilinxPll | None = None
        target = min(Fraction(target_hz), Fraction(OUTPUT_HZ[1]))
        for input_divider in range(1, INPUT_DIVIDER_MAX + 1):
            detector = Fraction(input_hz, input_divider)
            if not DETECTOR_HZ[0] <= detector <= DETECTOR_HZ[1]:
                continue
            for multiplier in range(2, MULTIPLIER_MAX + 1):
                oscillator = detector * multiplier
                if target <= 0 or not OSCILLATOR_HZ[0] <= oscillator <= OSCILLATOR_HZ[1]:
                    continue
                output_divider = math.ceil(oscillator / target)
                if output_divider > OUTPUT_DIVIDER_MAX:
                    continue
                pll = cls(input_hz, input_divider, multiplier, output_divider)
                if best is None or pll.output_hz > best.output_hz:
                    best = pll
        if best is None:
            raise no_clock(input_hz, target_hz, OUTPUT_HZ[0] / 1e6)
        return best

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
