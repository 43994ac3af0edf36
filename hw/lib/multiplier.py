"""The signed multiplier with its own input and output registers."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from gradsieve.hw.cells import cells_of


class Multiplier(wiring.Component):
    """p = a * b, exact, `latency` cycles later; one product a cycle.

    The registers have no reset, as those of hard multipliers.
    """

    latency = 2  # the operands' registers, the product's

    def __init__(self, a_width: int, b_width: int) -> None:
        super().__init__(
            {
                "a": In(signed(a_width)),
                "b": In(signed(b_width)),
                "p": Out(signed(a_width + b_width)),
            }
        )
        self.a_width, self.b_width = a_width, b_width

    def elaborate(self, platform: Any) -> Module:
        cells = cells_of(platform)
        return (cells and cells.multiplier(self)) or self._portable()

    def _portable(self) -> Module:
        m = Module()
        a_register = Signal(signed(self.a_width), reset_less=True)
        b_register = Signal(signed(self.b_width), reset_less=True)
        product = Signal(signed(self.a_width + self.b_width), reset_less=True)
        m.d.sync += [a_register.eq(self.a), b_register.eq(self.b), product.eq(a_register * b_register)]
        m.d.comb += self.p.eq(product)
        return m
