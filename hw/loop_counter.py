"""A loop's counter: from 0 to an end that is steady during a run, then from 0 again."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, Value


class LoopCounter:
    """Counts in `value`; `at_end` says from a register that it stands at `end`, so that no comparison delays its users.

    `advance` and `clear` are called where the module's conditions say when.  A new `end` counts from the next cycle on.
    """

    def __init__(self, m: Module, end: Value, name: str) -> None:
        self._m = m
        self.value = Signal.like(end, name=name)
        self.at_end = Signal(name=f"{name}_at_end")
        self._next = Signal.like(end, name=f"{name}_next")
        m.d.comb += self._next.eq(self.value)
        m.d.sync += [self.value.eq(self._next), self.at_end.eq(self._next == end)]

    def advance(self) -> None:
        """To the next value, or from the end to 0."""
        self._m.d.comb += self._next.eq(Mux(self.at_end, 0, self.value + 1))

    def clear(self) -> None:
        """To 0."""
        self._m.d.comb += self._next.eq(0)
