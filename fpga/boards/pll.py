"""What a family's clock generator offers: the engine's clock from the board's oscillator."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar, Self

from amaranth.hdl import Instance, Module, Value

from gradsieve.fpga.errors import DeviceError


class ClockError(DeviceError):
    """A clock that the board cannot make; the message says which it can."""


class Pll(ABC):
    """Divider settings that are within the part's limits; `output_hz` is the clock that they make."""

    @property
    @abstractmethod
    def output_hz(self) -> Fraction:
        """The frequency of the output, in hertz."""

    output_limits_hz: ClassVar[tuple[int, int]]
    """The least and the largest frequency of the output."""

    @classmethod
    def at_most(cls, input_hz: int, target_hz: float) -> Self:
        """The settings of the fastest clock of at most `target_hz`.

        Raises ClockError if there is none, or if the clock generator cannot be as fast as the target.
        """
        least, most = cls.output_limits_hz
        pll = cls._fastest(input_hz, Fraction(target_hz)) if least <= target_hz <= most else None
        if pll is None:
            raise ClockError(
                f"a clock of {target_hz / 1e6:g} MHz cannot be made from {input_hz / 1e6:g} MHz: clocks of about "
                f"{least / 1e6:g} to {most / 1e6:g} MHz can"
            )
        return pll

    @classmethod
    @abstractmethod
    def _fastest(cls, input_hz: int, target_hz: Fraction) -> Self | None:
        """The settings of the fastest clock of at most `target_hz`, which is within the limits; None: there is none."""

    @abstractmethod
    def cell(self, clock_in: Value, clock_out: Value, locked: Value) -> Instance | Module:
        """The cell with these settings; `locked` is high while the output is stable."""


@dataclass(frozen=True)
class Limits:
    """Least and largest frequencies in hertz, and least and largest dividers (the smallest of the others is 1).

    Those of the output are `Pll.output_limits_hz`.
    """

    detector_hz: tuple[int, int]
    oscillator_hz: tuple[int, int]
    input_divider_max: int
    multipliers: tuple[int, int]
    output_divider_max: int


@dataclass(frozen=True)
class DividingPll(Pll):
    """The oscillator runs at input / `input_divider` * `multiplier`, the output at that / `output_divider`."""

    input_hz: int
    input_divider: int
    multiplier: int
    output_divider: int

    limits: ClassVar[Limits]

    @property
    def output_hz(self) -> Fraction:
        return Fraction(self.input_hz * self.multiplier, self.input_divider * self.output_divider)

    @classmethod
    def _fastest(cls, input_hz: int, target_hz: Fraction) -> Self | None:
        limits, least_hz = cls.limits, cls.output_limits_hz[0]
        best: Self | None = None
        for input_divider in range(1, limits.input_divider_max + 1):
            detector = Fraction(input_hz, input_divider)
            if not limits.detector_hz[0] <= detector <= limits.detector_hz[1]:
                continue
            first, last = math.ceil(limits.oscillator_hz[0] / detector), int(limits.oscillator_hz[1] / detector)
            for multiplier in range(max(first, limits.multipliers[0]), min(last, limits.multipliers[1]) + 1):
                oscillator = detector * multiplier
                output_divider = math.ceil(oscillator / target_hz)
                if output_divider > limits.output_divider_max or oscillator / output_divider < least_hz:
                    continue
                pll = cls(input_hz, input_divider, multiplier, output_divider)
                # of equal clocks the first has the fastest detector, and so the least jitter
                if best is None or pll.output_hz > best.output_hz:
                    best = pll
        return best


def instance(cell: str, parameters: dict[str, Any], inputs: dict[str, Any], outputs: dict[str, Any]) -> Instance:
    """An instance of `cell` with its parameters and ports by name."""
    ports = {f"i_{k}": v for k, v in inputs.items()} | {f"o_{k}": v for k, v in outputs.items()}
    return Instance(cell, **{f"p_{k}": v for k, v in parameters.items()}, **ports)
