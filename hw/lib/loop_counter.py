"""A loop's counter: from 0 to an end that is steady during a run, then from 0 again."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, Value


class LoopCounter:
    """Counts in `value`; `at_end` says from a register that it stands at `end`, so that no comparison delays its users.

    `advance` and `clear` are called where the module's conditions say when.  A new `end` counts after a `clear`, if it
    has stood for a cycle by then.
    """

    def __init__(self, m: Module, end: Value, name: str) -> None:
        self._m = m
        self.value = Signal.like(end, name=name)
        self.at_end = Signal(name=f"{name}_at_end")
        self._advances, self._clears = Signal(name=f"{name}_advances"), Signal(name=f"{name}_clears")
        # compared with the value at hand, so that no adder comes before a comparison; and kept here, as `end` is far
        # away, and synthesis would share a register that all counters load alike
        before_end, only_one = Signal.like(end, name=f"{name}_before_end"), Signal(name=f"{name}_only_one")
        m.d.sync += only_one.eq(end == 0)
        with m.If(self._clears):
            m.d.sync += [self.value.eq(0), self.at_end.eq(only_one), before_end.eq(end - 1)]
        with m.Elif(self._advances):
            m.d.sync += self.value.eq(Mux(self.at_end, 0, self.value + 1))
            m.d.sync += self.at_end.eq(Mux(self.at_end, only_one, self.value == before_end))

    def advance(self) -> None:
        """To the next value, or from the end to 0."""
        self._m.d.comb += self._advances.eq(1)

    def clear(self) -> None:
        """To 0."""
        self._m.d.comb += self._clears.eq(1)
