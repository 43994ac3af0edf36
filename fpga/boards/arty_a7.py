"""Digilent Arty A7-100T with a Xilinx Artix-7."""

from __future__ import annotations

from amaranth_boards.arty_a7 import ArtyA7_100Platform

from gradsieve.fpga.boards.board import LED_SIGNALS, Board, Capacity, Pin
from gradsieve.fpga.boards.xilinx_pll import XilinxPll
from gradsieve.hw.config import preset


class Platform(ArtyA7_100Platform):
    """The part that Digilent solders: XC7A100TCSG324-1."""

    device = "xc7a100t"
    speed = "1"


ARTY_A7 = Board(
    name="arty_a7",
    title="Digilent Arty A7-100T",
    part="XC7A100T",
    platform=Platform,
    pll=XilinxPll,
    flow="vivado",
    capacity=Capacity(
        luts=63_400,
        flip_flops=126_800,
        multipliers=240,
        memory_blocks=135,
        memory_block_bits=36_864,
        source="Xilinx DS180, table 4",
    ),
    config=preset("default"),
    clock_mhz=100.0,
    bauds=(3_000_000, 2_000_000, 1_000_000, 500_000, 115_200),
    leds={signal: Pin("led", n) for n, signal in enumerate(LED_SIGNALS)},
    loader=("-b", "arty_a7_100t"),
    usb="the micro-USB socket: the first interface of its FT2232H is the JTAG cable, the second the serial port "
    "(/dev/ttyUSB1 on Linux)",
    reset=Pin("rst"),
)
