"""OrangeCrab r0.2 with an ECP5-85F at speed grade 8; its serial line is on the header."""

from __future__ import annotations

from amaranth.build import Attrs
from amaranth_boards.orangecrab_r0_2 import OrangeCrabR0_2_85FPlatform
from amaranth_boards.resources import UARTResource

from gradsieve.fpga.boards.board import Board, Pin
from gradsieve.fpga.boards.ecp5 import ECP5_85
from gradsieve.fpga.boards.ecp5_pll import Ecp5Pll
from gradsieve.hw.cells.ecp5 import ECP5
from gradsieve.hw.config import preset


class Platform(OrangeCrabR0_2_85FPlatform):
    """The board with the family's target cells, and a serial line where Feather boards have theirs."""

    cells = ECP5
    resources = [
        *OrangeCrabR0_2_85FPlatform.resources,
        UARTResource(0, rx="0", tx="1", conn=("io", 0), attrs=Attrs(IO_TYPE="LVCMOS33", PULLMODE="UP")),
    ]


ORANGECRAB = Board(
    name="orangecrab",
    title="OrangeCrab r0.2 85F",
    part="LFE5U-85F",
    platform=Platform,
    pll=Ecp5Pll,
    flow="trellis",
    capacity=ECP5_85,
    config=preset("default"),
    clock_mhz=140.0,
    bauds=(1_000_000, 500_000, 115_200),
    # one lamp of three colours
    leds={
        "alive": Pin("rgb_led", 0, "g"),
        "line": Pin("rgb_led", 0, "b"),
        "error": Pin("rgb_led", 0, "r"),
    },
    loader=("-b", "orangeCrab"),
    usb="the USB-C socket in DFU mode (hold the button while plugging in) to load; the serial line is on header pins "
    "0 (RX of the FPGA, pin N17) and 1 (TX of the FPGA, pin M18), for an adapter of 3.3 V levels",
    reset=Pin("button"),
)
