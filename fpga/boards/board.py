"""What a board is: everything of it that the top, the tools, the loader and the documents need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from gradsieve.fpga.boards.pll import Pll
from gradsieve.fpga.link.protocol import DIVISOR_MIN
from gradsieve.hw.config import EngineConfig

LED_SIGNALS = ("alive", "streams", "error", "line")
"""What LEDs show: a heartbeat; beats to or from the engine; a bad frame lately; traffic on the serial line."""

BAUD_TOLERANCE = 0.015
"""How far off a rate may be: half of what 8N1 bears, as the other end is off as well."""


class BoardError(ValueError):
    """There is no such board; the message names those that there are."""


@dataclass(frozen=True)
class Pin:
    """A pin of the board by the names that its platform gives it; `part` is that of a pin of a group, as a colour."""

    resource: str
    number: int = 0
    part: str = ""


@dataclass(frozen=True)
class Capacity:
    """What the part has of each resource, and where that is written.

    `luts` are those of four inputs (six: Xilinx), a memory block has `memory_block_bits`.
    """

    luts: int
    flip_flops: int
    multipliers: int
    memory_blocks: int
    memory_block_bits: int
    source: str


@dataclass(frozen=True)
class Clocking:
    """The engine's clock, and the rate of the serial line that can be made from it."""

    pll: Pll
    baud: int
    divisor: int
    """Clock cycles a bit."""

    @property
    def hz(self) -> float:
        """The engine's clock in hertz."""
        return float(self.pll.output_hz)


@dataclass(frozen=True)
class Board:
    """A board with one FPGA; see docs/adding-a-board.md."""

    name: str
    title: str
    part: str
    """Its name in `gradsieve.fpga.parts`, which knows the device code."""
    platform: Callable[[], Any]
    """Makes the Amaranth platform; its attribute `cells`, if it has one, are the target cells of the family."""
    pll: type[Pll]
    flow: Literal["trellis", "apicula", "vivado"]
    """The tools that make its bitstream."""
    capacity: Capacity
    config: EngineConfig
    """The engine that is built unless another is asked for."""
    clock_mhz: float
    """The engine's clock unless another is asked for."""
    bauds: tuple[int, ...]
    """Rates of the serial line that its bridge is known to keep, the fastest first."""
    leds: dict[str, Pin]
    """The LED of each of LED_SIGNALS that the board has one for."""
    loader: tuple[str, ...]
    """Arguments by which openFPGALoader finds the board."""
    usb: str
    """For people: how the board is plugged in, and which port is the serial line."""
    serial: Pin = Pin("uart")
    reset: Pin | None = None
    """A button that resets the engine while it is pressed."""

    @cached_property
    def oscillator_hz(self) -> int:
        """The frequency of the board's oscillator."""
        return round(self.platform().default_clk_frequency)

    def clocking(self, clock_mhz: float | None = None) -> Clocking:
        """The fastest clock of at most `clock_mhz` (by default the board's), and the fastest baud rate with it.

        Raises ClockError if that cannot be made.
        """
        target = self.clock_mhz if clock_mhz is None else clock_mhz
        pll = self.pll.at_most(self.oscillator_hz, target * 1e6)
        hz = float(pll.output_hz)
        for baud in self.bauds:
            divisor = round(hz / baud)
            if divisor >= DIVISOR_MIN and abs(hz / divisor / baud - 1) <= BAUD_TOLERANCE:
                return Clocking(pll, baud, divisor)
        baud = self.bauds[-1]
        return Clocking(pll, baud, max(DIVISOR_MIN, round(hz / baud)))
