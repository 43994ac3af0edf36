"""One processing element: a multiplier, an adder, and the operand and addend muxes of its dataflows."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from gradsieve.hw.config import EngineConfig
from gradsieve.hw.dataflow import Dataflow, having
from gradsieve.hw.lib.idioms import unshared
from gradsieve.hw.lib.multiplier import Multiplier
from gradsieve.hw.lib.mux_adder import MuxAdder

ARRAY_CONTROL = data.StructLayout(
    {
        "valid": 1,  # an operand is here
        "dataflow": Dataflow,  # of the operand
        "last": 1,  # last of its tile: the error sum is finished
        "swap": 1,  # the next operand is the first of a tile: the loaded inputs become the stationary ones
    }
)


class ProcessingElement(wiring.Component):
    """total = addend + a * b for one operand a cycle; it is on `total` `latency` cycles after its operand.

    b is `dz`; a is what the dataflow multiplies it by: `weight`, or the stationary input if the dataflow has one.  The
    addend is the element's own sum of the tile so far if that is stationary, else `partial_sum`, which must arrive
    `sum_delay` cycles after its operands.
    `weight_out`, `dz_out` and `control_out` repeat the inputs one cycle later for the neighbours.  `input_load`
    stores `input` beside the stationary one; `swap`, a cycle before the first operand of a tile with a stationary
    input, puts it in its place.
    `finished` is a finished error sum in the one cycle that `done` marks, and 0 in all others.  `lane` tells elements
    apart that are controlled alike.
    """

    sum_delay = Multiplier.latency
    latency = sum_delay + 1  # the sum's register

    def __init__(self, config: EngineConfig, lane: int = 0) -> None:
        f = config.formats
        self.config, self.lane = config, lane
        super().__init__(
            {
                "control": In(ARRAY_CONTROL),
                "weight": In(signed(f.weight.width)),
                "dz": In(signed(f.gradient.width)),
                "partial_sum": In(signed(f.weight_grad_width)),
                "input": In(signed(f.input.width)),
                "input_load": In(1),
                "control_out": Out(ARRAY_CONTROL),
                "weight_out": Out(signed(f.weight.width)),
                "dz_out": Out(signed(f.gradient.width)),
                "total": Out(signed(config.accumulator_width)),
                "finished": Out(signed(config.error_sum_width)),
                "done": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        f = self.config.formats
        a_width = max(f.weight.width, f.input.width)
        m.submodules.multiplier = multiplier = Multiplier(a_width, f.gradient.width)

        loaded = Signal(signed(f.input.width), reset_less=True)
        stationary = Signal(signed(f.input.width), reset_less=True)
        with m.If(self.input_load):
            m.d.sync += loaded.eq(self.input)
        with m.If(self.control.swap):
            m.d.sync += stationary.eq(loaded)

        m.d.comb += [
            multiplier.a.eq(Mux(having(self.control.dataflow, stationary="input"), stationary, self.weight)),
            multiplier.b.eq(self.dz),
        ]
        # what is passed on needs no reset: the control bits beside it say what counts
        weight = Signal.like(self.weight, reset_less=True)
        dz = Signal.like(self.dz, reset_less=True)
        total = Signal.like(self.total, reset_less=True)
        finished = Signal.like(self.finished, reset_less=True)
        m.d.comb += [
            self.weight_out.eq(weight),
            self.dz_out.eq(dz),
            self.total.eq(total),
            self.finished.eq(finished),
        ]
        m.d.sync += [
            self.control_out.eq(self.control),
            weight.eq(self.weight),
            dz.eq(self.dz),
        ]
        m.submodules.adder = adder = MuxAdder(len(multiplier.p), self.config.accumulator_width)
        # apart from `total`, so that it is zero again when the next tile begins: that needs no third addend
        accumulator = Signal(signed(self.config.error_sum_width), reset_less=True)
        # what to do with the product, from registers beside it; a reset zeroes the sum a cycle later
        zeroes = Signal(init=1)
        goes_on = Signal(init=1)
        # whatever these two say first: all elements of a diagonal of the array hear the same
        adds_partial = Signal(name="adds_partial", **unshared(self.lane))
        accumulates = Signal(name="accumulates", **unshared(self.lane))
        later = self.control_out
        keeps_sum = having(later.dataflow, stationary="sum")
        m.d.sync += [
            adds_partial.eq(having(later.dataflow, along_lanes="partial_sum")),
            accumulates.eq(later.valid & keeps_sum),
            zeroes.eq(later.valid & keeps_sum & later.last),
            goes_on.eq(~(later.valid & keeps_sum & later.last)),
        ]
        m.d.comb += [
            adder.product.eq(multiplier.p),
            adder.select_b.eq(adds_partial),
            adder.a.eq(accumulator),
            adder.b.eq(self.partial_sum),
        ]
        m.d.sync += [
            total.eq(adder.total),
            self.done.eq(~goes_on),
            finished.eq(Mux(goes_on, 0, adder.total)),
        ]
        with m.If(zeroes):
            m.d.sync += accumulator.eq(0)
        with m.Elif(accumulates):
            m.d.sync += accumulator.eq(adder.total)
        return m
