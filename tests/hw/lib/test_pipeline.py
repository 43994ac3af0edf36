"""The pipeline of named stages: values meet, its length is that of its list, and wrong use is said."""

from __future__ import annotations

from typing import Any

import pytest
from amaranth.hdl import Elaboratable, Fragment, Module, Signal
from amaranth.sim import Simulator

from gradsieve.hw.lib.pipeline import Pipeline

STAGES = ("squared", "summed", "last")


class SumOfSquares(Elaboratable):
    """a * a + b where `chosen`, after three cycles; b, and what is read in a condition, wait in the pipeline."""

    def __init__(self) -> None:
        self.a, self.b, self.valid, self.chosen = Signal(8), Signal(8), Signal(), Signal()
        self.total, self.leaves = Signal(20), Signal()

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        pipe = Pipeline(m, STAGES)
        pipe.begin("squared")
        b = pipe.enter(self.b, "b")
        square = pipe.put(self.a * self.a, "square")
        pipe.begin("summed")
        total = pipe.put(square.now + b.now, "total")
        pipe.begin("last")
        pipe.end()
        m.d.comb += self.leaves.eq(pipe.marks(self.valid)[-1])
        with m.If(self.chosen):  # its registers must not stand still where this does not hold
            m.d.comb += self.total.eq(total.now)
        return m


def test_values_of_different_stages_meet_and_leave_after_the_length_of_the_list() -> None:
    design = SumOfSquares()
    inputs = [(3, 1), (5, 2), (7, 100), (255, 255), (0, 9)]
    seen = []

    async def drive(context: Any) -> None:
        for n in range(len(inputs) + len(STAGES)):
            a, b = inputs[n] if n < len(inputs) else (0, 0)
            context.set(design.a, a)
            context.set(design.b, b)
            context.set(design.valid, n < len(inputs))
            context.set(design.chosen, context.get(design.leaves))
            if context.get(design.leaves):
                seen.append((n, context.get(design.total)))
            await context.tick()

    simulator = Simulator(design)
    simulator.add_clock(1e-6)
    simulator.add_testbench(drive)
    simulator.run()
    assert seen == [(n + len(STAGES), a * a + b) for n, (a, b) in enumerate(inputs)]


def test_stages_are_built_as_listed() -> None:
    pipe = Pipeline(m := Module(), STAGES)
    pipe.begin("squared")
    with pytest.raises(ValueError, match="the pipeline's next stage must be summed, got last"):
        pipe.begin("last")
    with pytest.raises(ValueError, match="the pipeline must have all of its stages, summed was not built"):
        pipe.end()
    pipe.begin("summed")
    pipe.begin("last")
    with pytest.raises(ValueError, match="the pipeline's next stage must be none, got more"):
        pipe.begin("more")
    Fragment.get(m, None)


def test_a_value_is_not_there_before_its_register() -> None:
    pipe = Pipeline(m := Module(), STAGES)
    pipe.begin("squared")
    value = pipe.put(Signal(), "value")
    with pytest.raises(ValueError, match="value is there after stage squared, not in it"):
        _ = value.now
    pipe.begin("summed")
    assert value.now is value.now
    Fragment.get(m, None)
