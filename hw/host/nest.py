"""Counters of a packet's loops, and their turning: from a declaration in `gradsieve.hw.packets`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from operator import and_
from typing import Protocol

from amaranth.hdl import Module, Mux, Signal, Value

from gradsieve.hw.lib.loop_counter import LoopCounter
from gradsieve.hw.packets import Loop


class Counter(Protocol):
    """What stands for a loop: it is at its end or not, and advances."""

    @property
    def at_end(self) -> Value: ...

    def advance(self) -> None: ...


class FixedCounter:
    """Counts `turns`, a power of two, from 0, and begins anew."""

    def __init__(self, m: Module, turns: int, name: str) -> None:
        assert turns & (turns - 1) == 0
        self._m = m
        self.value = Signal(range(turns), name=name)
        self.at_end: Value = self.value == turns - 1 if turns > 2 else self.value

    def advance(self) -> None:
        """To the next value, or from the end to 0."""
        self._m.d.sync += self.value.eq(self.value + 1 if len(self.value) > 1 else ~self.value)


class InTurn:
    """Two loops that follow each other: `in_second` says which one turns."""

    def __init__(self, m: Module, first: LoopCounter, second: LoopCounter, in_second: Signal) -> None:
        self._m, self.first, self.second, self.in_second = m, first, second, in_second
        self.at_end: Value = in_second & second.at_end

    def advance(self) -> None:
        """To the next value, or from the end to the first loop's 0."""
        with self._m.If(self.in_second):
            self.second.advance()
            with self._m.If(self.second.at_end):
                self._m.d.sync += self.in_second.eq(0)
        with self._m.Else():
            self.first.advance()
            with self._m.If(self.first.at_end):
                self._m.d.sync += self.in_second.eq(1)


class OneOf:
    """One of two loops, as `is_first` says; both advance, as nobody asks the other one."""

    def __init__(self, is_first: Value, first: Counter, second: Counter) -> None:
        self._both = first, second
        self.at_end: Value = Mux(is_first, first.at_end, second.at_end)

    def advance(self) -> None:
        """To the next value."""
        for each in self._both:
            each.advance()


class LateCounter:
    """A loop that turns a cycle after it was told to, and the loop outside it with it: nothing asks for it before."""

    def __init__(self, m: Module, counter: LoopCounter, inside: LateCounter | None = None) -> None:
        self._m = m
        self.at_end: Value = counter.at_end
        self._turns = Signal(name=f"{counter.value.name}_ended")
        m.d.sync += self._turns.eq(0)
        self.ends = self._turns & counter.at_end
        with m.If(self._turns | inside.ends if inside else self._turns):
            counter.advance()

    def advance(self) -> None:
        """To the next value, a cycle later."""
        self._m.d.sync += self._turns.eq(1)


def at_ends(nest: Mapping[Loop, Counter]) -> Value:
    """Whether all loops of a nest, outer to inner, are at their ends."""
    return reduce(and_, (counter.at_end for counter in reversed([*nest.values()])))


def turn(m: Module, nest: Mapping[Loop, Counter], address: Signal | None = None, to: Mapping[Loop, Value] = {}) -> None:
    """Advance the innermost of a nest's loops, outer to inner, and at its end the one outside it, and so on.

    Where a loop of `to` advances, `address` goes to that value: the outermost that advances decides.
    """
    *outer, inner = nest
    nest[inner].advance()
    if address is not None and inner in to:
        m.d.sync += address.eq(to[inner])
    if outer and not isinstance(nest[inner], LateCounter):
        with m.If(nest[inner].at_end):
            turn(m, {loop: nest[loop] for loop in outer}, address, to)
