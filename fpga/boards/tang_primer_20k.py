"""Sipeed Tang Primer 20K on its dock, with a Gowin GW2A-18."""

from __future__ import annotations

from amaranth_boards.tang_primer_20k import TangPrimer20kDockPlatform

from gradsieve.fpga.boards.board import LED_SIGNALS, Board, Capacity, Pin
from gradsieve.fpga.boards.gowin_pll import GowinPll
from gradsieve.hw.cells.gowin import GOWIN
from gradsieve.hw.config import EngineConfig
from gradsieve.hw.formats import FixedPoint, Formats


class Platform(TangPrimer20kDockPlatform):
    """The board with the family's target cells."""

    cells = GOWIN


TANG_PRIMER_20K = Board(
    name="tang_primer_20k",
    title="Sipeed Tang Primer 20K (dock)",
    part="GW2A-18",
    platform=Platform,
    pll=GowinPll,
    flow="apicula",
    capacity=Capacity(
        luts=20_736,
        flip_flops=15_552,
        multipliers=48,
        memory_blocks=46,
        memory_block_bits=18_432,
        source="Gowin DS102, table 1-1",
    ),
    # operands of 8 bits, as every flip-flop costs a lookup table here; 24 bits hold the 128 terms of one run of the
    # largest size almost four times over
    config=EngineConfig(
        name="small",
        R=4,
        C=1,
        max_H=32,
        max_I=32,
        max_B=8,
        max_T=16,
        stream_width=32,
        formats=Formats(
            weight=FixedPoint(width=8, fraction=6),
            activation=FixedPoint(width=8, fraction=7),
            cell=FixedPoint(width=8, fraction=4),
            input=FixedPoint(width=8, fraction=6),
            gradient=FixedPoint(width=8, fraction=6),
            weight_grad_width=24,
        ),
    ),
    clock_mhz=54.0,
    bauds=(1_000_000, 500_000, 115_200),
    leds={signal: Pin("led", n) for n, signal in enumerate(LED_SIGNALS)},
    loader=("-b", "tangprimer20k"),
    usb="the USB-C socket of the dock marked DEBUG: its BL616 is both the JTAG cable and the serial port, the second "
    "of its two ports (/dev/ttyUSB1 on Linux); DIP switch 1 of the dock must be on",
    reset=Pin("button", 0),
)
