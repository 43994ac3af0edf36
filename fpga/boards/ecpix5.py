"""LambdaConcept ECPIX-5 with an ECP5-5G-85F at speed grade 8."""

from __future__ import annotations

from amaranth_boards.ecpix5 import ECPIX585Platform

from gradsieve.fpga.boards.board import Board, Pin
from gradsieve.fpga.boards.ecp5 import ECP5_85
from gradsieve.fpga.boards.ecp5_pll import Ecp5Pll
from gradsieve.hw.cells.ecp5 import ECP5
from gradsieve.hw.config import preset


class Platform(ECPIX585Platform):
    """The board with the family's target cells."""

    cells = ECP5


ECPIX5 = Board(
    name="ecpix5",
    title="LambdaConcept ECPIX-5 85F",
    part="LFE5UM5G-85F",
    platform=Platform,
    pll=Ecp5Pll,
    flow="trellis",
    capacity=ECP5_85,
    config=preset("default"),
    clock_mhz=160.0,
    bauds=(3_000_000, 2_000_000, 1_000_000, 500_000, 115_200),
    # four lamps of three colours, each with one use
    leds={
        "alive": Pin("rgb_led", 0, "g"),
        "streams": Pin("rgb_led", 1, "b"),
        "error": Pin("rgb_led", 2, "r"),
        "line": Pin("rgb_led", 3, "g"),
    },
    loader=("-b", "ecpix5"),
    usb="the micro-USB socket: the first interface of its FT2232H is the JTAG cable, the second the serial port "
    "(/dev/ttyUSB1 on Linux)",
    reset=Pin("rst"),
)
