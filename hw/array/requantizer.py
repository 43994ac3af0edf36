"""From exact error sums to gradients: round half to even, saturate, a lane vector a cycle."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from gradsieve.hw.config import EngineConfig
from gradsieve.hw.formats import FixedPoint
from gradsieve.hw.layouts import requantized_layout
from gradsieve.hw.lib.arithmetic import halves, saturate
from gradsieve.hw.lib.flow import Flow
from gradsieve.hw.lib.pipeline import Pipeline

STAGES = ("split", "rounded", "clipped")


class Requantizer(wiring.Component):
    """C sums of `error_sum_width` bits, fraction weight + gradient, to the gradient format.

    `latency` cycles, one vector a cycle, no backpressure: the drain reserves room before a tile ends.
    """

    latency = len(STAGES)

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
        pipe = Pipeline(m, STAGES)
        m.d.comb += self.gradients.valid.eq(pipe.marks(self.sums.valid)[-1])
        lanes = range(self.config.C)
        pipe.begin("split")
        terms = [halves(self.sums.payload[b], self.config.formats.weight.fraction) for b in lanes]
        floor = [pipe.put(quotient, f"quotient_{b}") for b, (quotient, _) in enumerate(terms)]
        half = [pipe.put(up, f"half_{b}") for b, (_, up) in enumerate(terms)]
        pipe.begin("rounded")
        rounded = [pipe.put(floor[b].now + half[b].now, f"rounded_{b}") for b in lanes]
        pipe.begin("clipped")
        clipped = [saturate(rounded[b].now, target.width) for b in lanes]
        gradients = [pipe.put(value, f"clipped_{b}") for b, (value, _) in enumerate(clipped)]
        saturated = pipe.put(Cat(*[overflow for _, overflow in clipped]), "saturated")
        pipe.end()
        m.d.comb += [self.gradients.payload.lanes[b].eq(gradients[b].now) for b in lanes]
        m.d.comb += self.gradients.payload.saturated.eq(saturated.now)
        return m
