"""The device codes (JTAG IDCODEs) of the FPGAs that bitstreams are read for."""

from __future__ import annotations

from dataclasses import dataclass

_VERSION_BITS = 0xF000_0000
"""The silicon revision in an IDCODE."""


@dataclass(frozen=True)
class Part:
    """An FPGA: its name, its family, its IDCODE, and of an ECP5 the number and length of configuration frames."""

    name: str
    family: str
    code: int
    frames: int = 0
    frame_bytes: int = 0

    def matches(self, code: int) -> bool:
        """Whether a device of `code` is this part."""
        # the top bits tell ECP5 parts apart, elsewhere they are the revision, which openFPGALoader masks out
        ignored = 0 if self.family == "ECP5" else _VERSION_BITS
        return (self.code ^ code) & ~ignored == 0


# ECP5: devices.json of Project Trellis; Gowin: bslib.py of apycula; Xilinx: UG470, table 1-1
PARTS = (
    Part("LFE5U-12F", "ECP5", 0x21111043, 7562, 74),
    Part("LFE5U-25F", "ECP5", 0x41111043, 7562, 74),
    Part("LFE5U-45F", "ECP5", 0x41112043, 9470, 106),
    Part("LFE5U-85F", "ECP5", 0x41113043, 13294, 142),
    Part("LFE5UM-25F", "ECP5", 0x01111043, 7562, 74),
    Part("LFE5UM-45F", "ECP5", 0x01112043, 9470, 106),
    Part("LFE5UM-85F", "ECP5", 0x01113043, 13294, 142),
    Part("LFE5UM5G-25F", "ECP5", 0x81111043, 7562, 74),
    Part("LFE5UM5G-45F", "ECP5", 0x81112043, 9470, 106),
    Part("LFE5UM5G-85F", "ECP5", 0x81113043, 13294, 142),
    Part("GW2A-18", "Gowin", 0x0000081B),
    Part("XC7A35T", "Xilinx", 0x0362D093),
    Part("XC7A100T", "Xilinx", 0x03631093),
)


def part_of(code: int) -> Part | None:
    """The part of that IDCODE; None if it is not in the table."""
    return next((part for part in PARTS if part.matches(code)), None)


def part_named(name: str) -> Part:
    """The part of that name.  Raises ValueError if it is not in the table."""
    for part in PARTS:
        if part.name == name:
            return part
    raise ValueError(f"part must be one of {', '.join(p.name for p in PARTS)}; got {name!r}")


def describe(code: int) -> str:
    """The code as people write it, with the part's name: `0x41113043 (LFE5U-85F)`."""
    part = part_of(code)
    return f"0x{code:08x} ({part.name if part else 'an unknown part'})"
