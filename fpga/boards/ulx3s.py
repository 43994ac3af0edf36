"""Radiona ULX3S with an ECP5-85F at speed grade 6."""

from __future__ import annotations

from amaranth_boards.ulx3s import ULX3S_85F_Platform

from gradsieve.fpga.boards.board import LED_SIGNALS, Board, Pin
from gradsieve.fpga.boards.ecp5 import ECP5_85
from gradsieve.fpga.boards.ecp5_pll import Ecp5Pll
from gradsieve.hw.cells.ecp5 import ECP5
from gradsieve.hw.config import preset


class Platform(ULX3S_85F_Platform):
    """The board with the family's target cells."""

    cells = ECP5


ULX3S = Board(
    name="ulx3s",
    title="Radiona ULX3S-85F",
    part="LFE5U-85F",
    platform=Platform,
    pll=Ecp5Pll,
    flow="trellis",
    capacity=ECP5_85,
    config=preset("default"),
    clock_mhz=110.0,
    bauds=(3_000_000, 2_000_000, 1_000_000, 500_000, 115_200),
    leds={signal: Pin("led", n) for n, signal in enumerate(LED_SIGNALS)},
    loader=("-b", "ulx3s"),
    usb="the socket US1: its FT231X is both the JTAG cable and the serial port (/dev/ttyUSB0 on Linux)",
    reset=Pin("button_fire", 0),
)
