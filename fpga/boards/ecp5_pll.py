"""EHXPLLL, the clock generator of the Lattice ECP5.

Limits: ECP5 data sheet (FPGA-DS-02012), sysCLOCK PLL timing; parameters: Lattice FPGA-TN-02200 and ecppll of Project
Trellis.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from amaranth.hdl import Instance, Signal, Value

from fpga.boards.pll import Pll, instance, no_clock

DETECTOR_HZ = (10_000_000, 400_000_000)
OSCILLATOR_HZ = (400_000_000, 800_000_000)
OUTPUT_HZ = (3_125_000, 400_000_000)
DIVIDER_MAX = 128


@dataclass(frozen=True)
class Ecp5Pll(Pll):
    """The output is input / `input_divider` * `multiplier` / `output_divider`.

    The first output closes the loop at the detector's frequency, the second is the clock: so any ratio can be made.
    """

    input_hz: int
    input_divider: int
    multiplier: int
    output_divider: int

    @property
    def output_hz(self) -> Fraction:
        return Fraction(self.input_hz * self.multiplier, self.input_divider * self.output_divider)

    @classmethod
    def at_most(cls, input_hz: int, target_hz: float) -> Ecp5Pll:
        best: Ecp5Pll | None = None
        target = min(Fraction(target_hz), Fraction(OUTPUT_HZ[1]))
        for input_divider in range(1, DIVIDER_MAX + 1):
            detector = Fraction(input_hz, input_divider)
            if not DETECTOR_HZ[0] <= detector <= DETECTOR_HZ[1]:
                continue
            first, last = math.ceil(OSCILLATOR_HZ[0] / detector), int(OSCILLATOR_HZ[1] / detector)
            for multiplier in range(first, min(last, DIVIDER_MAX) + 1):
                output_divider = math.ceil(detector * multiplier / target) if target > 0 else DIVIDER_MAX + 1
                if output_divider > DIVIDER_MAX or detector * multiplier / output_divider < OUTPUT_HZ[0]:
                    continue
                pll = cls(input_hz, input_divider, multiplier, output_divider)
                # of equal clocks the first has the fastest detector, and so the least jitter
                if best is None or pll.output_hz > best.output_hz:
                    best = pll
        if best is None:
            raise no_clock(input_hz, target_hz, OUTPUT_HZ[0] / 1e6)
        return best

    def cell(self, clock_in: Value, clock_out: Value, locked: Value) -> Instance:
        loop = Signal()
        dividers = {"CLKOP": self.multiplier, "CLKOS": self.output_divider}
        parameters: dict[str, int | str] = {
            "PLLRST_ENA": "DISABLED",
            "INTFB_WAKE": "DISABLED",
            "STDBY_ENABLE": "DISABLED",
            "DPHASE_SOURCE": "DISABLED",
            "CLKI_DIV": self.input_divider,
            "CLKFB_DIV": 1,
            "FEEDBK_PATH": "CLKOP",
        }
        for letter in "ABCD":
            parameters[f"OUTDIVIDER_MUX{letter}"] = f"DIV{letter}"
        for output, divider in dividers.items():
            parameters |= {
                f"{output}_ENABLE": "ENABLED",
                f"{output}_DIV": divider,
                f"{output}_CPHASE": divider - 1,  # no phase shift
                f"{output}_FPHASE": 0,
            }
        inputs = {"CLKI": clock_in, "CLKFB": loop, "PHASEDIR": 1, "PHASESTEP": 1, "PHASELOADREG": 1}
        inputs |= dict.fromkeys(("RST", "STDBY", "PHASESEL0", "PHASESEL1", "PLLWAKESYNC", "ENCLKOP"), 0)
        cell = instance("EHXPLLL", parameters, inputs, {"CLKOP": loop, "CLKOS": clock_out, "LOCK": locked})
        # the loop filter that Lattice's tool chooses for these frequencies
        cell.attrs.update(ICP_CURRENT="12", LPF_RESISTOR="8", MFG_ENABLE_FILTEROPAMP="1", MFG_GMCREF_SEL="2")
        return cell
