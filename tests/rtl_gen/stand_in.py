"""A small design with the shape of an engine, for tests of what is generated around it."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Const, Module, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from gradsieve.hw.config import EngineConfig

DEPTH = 12


class Element(wiring.Component):
    """acc += a * b."""

    def __init__(self) -> None:
        super().__init__({"a": In(signed(8)), "b": In(signed(8)), "clear": In(1), "acc": Out(signed(24))})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        with m.If(self.clear):
            m.d.sync += self.acc.eq(0)
        with m.Else():
            m.d.sync += self.acc.eq(self.acc + self.a * self.b)
        return m


class Row(wiring.Component):
    """C elements, each with its own slice of `b`: slices become ports that Amaranth names after net numbers."""

    def __init__(self, C: int) -> None:
        self.C = C
        layout = data.ArrayLayout(signed(8), C)
        super().__init__({"a": In(signed(8)), "b": In(layout), "clear": In(1), "acc": Out(signed(24)).array(C)})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        for i in range(self.C):
            m.submodules[f"pe_{i}"] = pe = Element()
            a = Signal(signed(8), name=f"scaled_{i}")
            m.d.comb += [a.eq(self.a), pe.a.eq(a), pe.b.eq(self.b[i]), pe.clear.eq(self.clear)]
            m.d.comb += self.acc[i].eq(pe.acc)
        return m


class Engine(wiring.Component):
    """R rows over a stored word; named as the real one, whose place it takes."""

    def __init__(self, config: EngineConfig) -> None:
        self.R, self.C = config.R, config.C
        super().__init__({"i": In(stream.Signature(signed(8))), "o": Out(stream.Signature(signed(24)))})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        layout = data.ArrayLayout(signed(8), self.C)
        m.submodules.store = memory = Memory(shape=layout, depth=DEPTH, init=[])
        write, read = memory.write_port(), memory.read_port()
        count = Signal(range(DEPTH))
        m.d.sync += count.eq(count + 1)
        m.d.comb += [write.addr.eq(count), read.addr.eq(count), read.en.eq(1), write.en.eq(self.i.valid)]
        m.d.comb += write.data.eq(self.i.payload.replicate(self.C))
        total: Any = Const(0, 1)
        for j in range(self.R):
            m.submodules[f"row_{j}"] = row = Row(self.C)
            m.d.comb += [row.a.eq(self.i.payload), row.b.eq(read.data), row.clear.eq(~self.i.valid)]
            for acc in row.acc:
                total = (total << 1) ^ acc
        m.d.comb += [self.o.payload.eq(total), self.o.valid.eq(1), self.i.ready.eq(self.o.ready)]
        return m
