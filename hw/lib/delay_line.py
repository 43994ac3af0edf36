"""Delay line: a value some cycles later, in memory where that takes less than registers."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Shape, Signal, Value, unsigned
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

FEWEST_IN_MEMORY = 4
"""Cycles from which a small memory, of 16 words in most parts, takes less than registers."""


class DelayLine(wiring.Component):
    """`output` is what `input` was `latency` = `cycles` cycles with `enable` before; it holds in all others.

    One value a cycle.  Nothing is reset: until the line has filled, what leaves may be anything.
    """

    def __init__(self, shape: Any, cycles: int) -> None:
        self.width, self.latency = Shape.cast(shape).width, cycles
        super().__init__({"enable": In(1, init=1), "input": In(shape), "output": Out(shape)})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        value, left = Value.cast(self.input), self.latency
        if left >= FEWEST_IN_MEMORY:
            words = left - 1  # and the output register
            m.submodules.memory = memory = Memory(shape=unsigned(self.width), depth=words, init=[])
            write, read = memory.write_port(), memory.read_port(domain="comb")
            # each place is read just before it is written again
            place = Signal(range(words), reset_less=True)
            place_at_end = Signal(reset_less=True)
            next_place = Signal.like(place)
            m.d.comb += [
                next_place.eq(Mux(place_at_end, 0, place + 1)),
                write.en.eq(self.enable),
                write.addr.eq(place),
                write.data.eq(value),
                read.addr.eq(place),
            ]
            with m.If(self.enable):
                m.d.sync += [place.eq(next_place), place_at_end.eq(next_place == words - 1)]
            value, left = read.data, 1
        for n in range(left):
            register = Signal(unsigned(self.width), name=f"stage_{n}", reset_less=True)
            with m.If(self.enable):
                m.d.sync += register.eq(value)
            value = register
        m.d.comb += Value.cast(self.output).eq(value)
        return m
