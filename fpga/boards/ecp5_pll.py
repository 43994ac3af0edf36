"""EHXPLLL, the clock generator of the Lattice ECP5.

Limits: ECP5 data sheet (FPGA-DS-02012), sysCLOCK PLL timing; parameters: Lattice FPGA-TN-02200 and ecppll of Project
Trellis.
"""

from __future__ import annotations

from amaranth.hdl import Instance, Signal, Value

from gradsieve.fpga.boards.pll import DividingPll, Limits, instance

LIMITS = Limits(
    detector_hz=(10_000_000, 400_000_000),
    oscillator_hz=(400_000_000, 800_000_000),
    input_divider_max=128,
    multipliers=(1, 128),
    output_divider_max=128,
)


class Ecp5Pll(DividingPll):
    """The first output closes the loop at the detector's frequency, the second is the clock: any ratio can be made."""

    limits = LIMITS
    output_limits_hz = (3_125_000, 400_000_000)

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
