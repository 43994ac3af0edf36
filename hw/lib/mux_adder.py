"""The adder of a processing element, with the choice of its addend."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from gradsieve.hw.cells import cells_of


class MuxAdder(wiring.Component):
    """total = product + (b if `select_b` else a), modulo 2^`width`; combinational."""

    def __init__(self, product_width: int, width: int) -> None:
        self.product_width, self.width = product_width, width
        super().__init__(
            {
                "product": In(signed(product_width)),
                "select_b": In(1),
                "a": In(signed(width)),
                "b": In(signed(width)),
                "total": Out(signed(width)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        cells = cells_of(platform)
        return (cells and cells.mux_adder(self)) or self._portable()

    def _portable(self) -> Module:
        m = Module()
        m.d.comb += self.total.eq(self.product + Mux(self.select_b, self.b, self.a))
        return m
