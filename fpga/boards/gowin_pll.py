"""rPLL, the clock generator of the Gowin GW2A-18 at speed C8/I7.

Limits: Gowin DS102, and gowin_pll of Project Apicula; parameters: Gowin UG286.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Self

from amaranth.hdl import Instance, Value

from gradsieve.fpga.boards.pll import Pll, instance

DEVICE = "GW2A-18C"
DETECTOR_HZ = (3_000_000, 500_000_000)
OSCILLATOR_HZ = (500_000_000, 1_250_000_000)
DIVIDER_MAX = 64
OUTPUT_DIVIDERS = (2, 4, 8, 16, 32, 48, 64, 80, 96, 112, 128)


@dataclass(frozen=True)
class GowinPll(Pll):
    """The output is input / `input_divider` * `multiplier`; its oscillator is `output_divider` times as fast."""

    input_hz: int
    input_divider: int
    multiplier: int
    output_divider: int

    output_limits_hz = (3_906_250, 625_000_000)

    @property
    def output_hz(self) -> Fraction:
        return Fraction(self.input_hz * self.multiplier, self.input_divider)

    @classmethod
    def _fastest(cls, input_hz: int, target_hz: Fraction) -> Self | None:
        least_hz = cls.output_limits_hz[0]
        best: Self | None = None
        for input_divider in range(1, DIVIDER_MAX + 1):
            detector = Fraction(input_hz, input_divider)
            if not DETECTOR_HZ[0] <= detector <= DETECTOR_HZ[1]:
                continue
            for multiplier in range(1, DIVIDER_MAX + 1):
                output = detector * multiplier
                if not least_hz <= output <= target_hz:
                    continue
                fits = [d for d in OUTPUT_DIVIDERS if OSCILLATOR_HZ[0] <= output * d <= OSCILLATOR_HZ[1]]
                if fits and (best is None or output > best.output_hz):
                    best = cls(input_hz, input_divider, multiplier, fits[0])
        return best

    def cell(self, clock_in: Value, clock_out: Value, locked: Value) -> Instance:
        parameters = {
            "DEVICE": DEVICE,
            "FCLKIN": f"{self.input_hz / 1e6:g}",
            "IDIV_SEL": self.input_divider - 1,
            "FBDIV_SEL": self.multiplier - 1,
            "ODIV_SEL": self.output_divider,
        }
        inputs = {"CLKIN": clock_in}
        # dynamic settings, which are not used
        inputs |= dict.fromkeys(("RESET", "RESET_P", "CLKFB", "FBDSEL", "IDSEL", "ODSEL", "PSDA", "DUTYDA", "FDLY"), 0)
        return instance("rPLL", parameters, inputs, {"CLKOUT": clock_out, "LOCK": locked})
