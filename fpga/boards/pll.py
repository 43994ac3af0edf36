"""What a family's clock generator offers: the engine's clock from the board's oscillator."""

from __future__ import annotations

from abc import ABC, abstractmethod
from fractions import Fraction
from typing import Any

from amaranth.hdl import Instance, Module, Value

from fpga.errors import DeviceError


class ClockError(DeviceError):
    """A clock that the board cannot make; the message says which it can."""


class Pll(ABC):
    """Divider settings that are within the part's limits; `output_hz` is the clock that they make."""

    @property
    @abstractmethod
    def output_hz(self) -> Fraction:
        """The frequency of the output, in hertz."""

    @classmethod
    @abstractmethod
    def at_most(cls, input_hz: int, target_hz: float) -> Pll:
        """The settings of the fastest clock of at most `target_hz`.  Raises ClockError if there is none."""

    @abstractmethod
    def cell(self, clock_in: Value, clock_out: Value, locked: Value) -> Instance | Module:
        """The cell with these settings; `locked` is high while the output is stable."""


def no_clock(input_hz: int, target_hz: float, least_mhz: float) -> ClockError:
    """The error of a clock that is too slow for a clock generator."""
    return ClockError(
        f"a clock of {target_hz / 1e6:g} MHz cannot be made from {input_hz / 1e6:g} MHz: {least_mhz:g} MHz or more can"
    )


def instance(cell: str, parameters: dict[str, Any], inputs: dict[str, Any], outputs: dict[str, Any]) -> Instance:
    """An instance of `cell` with its parameters and ports by name."""
    ports = {f"i_{k}": v for k, v in inputs.items()} | {f"o_{k}": v for k, v in outputs.items()}
    return Instance(cell, **{f"p_{k}": v for k, v in parameters.items()}, **ports)
