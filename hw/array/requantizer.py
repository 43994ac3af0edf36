"""From exact error sums to gradients: round half to even, saturate, a lane vector a cycle."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from gradsieve.hw.config import EngineConfig
from gradsieve.hw.formats import FixedPoint
from gradsieve.hw.layouts import requantized_layout
from gradsieve.hw.lib.arithmetic import halves, saturate
from gradsieve.hw.lib.flow import Flow


class Requantizer(wiring.Component):
    """C sums of `error_sum_width` bits, fraction weight + gradient, to the gradient format.

    `latency` = 3 cycles, one vector a cycle, no backpressure: the drain reserves room before a tile ends.
    """

    latency = 3

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        sums = data.ArrayLayout(signed(config.error_sum_width), config.C)
        super().__init__(
            {
                "sums": In(Flow(sums)),
                "gradients": Out(Flow(requantized_layout(config))),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        target: FixedPoint = self.config.formats.gradient
        valid = Signal(self.latency - 1)
        m.d.sync += Cat(valid, self.gradients.valid).eq(Cat(self.sums.valid, valid))
        flags = []
        for b in range(self.config.C):
            floor, up = halves(self.sums.payload[b], self.config.formats.weight.fraction)
            quotient = Signal(floor.shape(), name=f"quotient_{b}", reset_less=True)
            half = Signal(name=f"half_{b}", reset_less=True)
            rounded = Signal((quotient + half).shape(), name=f"rounded_{b}", reset_less=True)
            clipped, overflow = saturate(rounded, target.width)
            m.d.sync += [
                quotient.eq(floor),
                half.eq(up),
                rounded.eq(quotient + half),
                self.gradients.payload.lanes[b].eq(clipped),
            ]
            flags.append(overflow)
        m.d.sync += self.gradients.payload.saturated.eq(Cat(*flags))
        return m
