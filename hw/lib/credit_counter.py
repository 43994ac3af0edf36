"""Credit counter: how many of a limited number of things are outstanding."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from gradsieve.hw.lib.arithmetic import bits_for


class CreditCounter(wiring.Component):
    """Counts what was acquired and not yet released: entries that are reserved, tiles on their way, open transfers.

    `acquire` takes `each` credits, `release` gives one back, both of them in one cycle if need be.  `available`: the
    next `at_once` credits (by default those of one acquisition) fit into `limit`, which may change between runs and is
    `most` unless connected.  `idle`: nothing is outstanding.  Both are registers that count the cycle before.  To
    acquire while not `available`, or to release while `idle`, is the user's fault.
    """

    latency = 1
    """Cycles from `acquire` or `release` to `available` and `idle`."""

    def __init__(self, most: int, each: int = 1, at_once: int | None = None) -> None:
        self.most, self.each, self.at_once = most, each, each if at_once is None else at_once
        if not 1 <= self.each <= self.at_once <= most:
            raise ValueError(
                f"credits must be 1 <= each <= at_once <= most, got each {each}, at_once {at_once}, most {most}"
            )
        super().__init__(
            {
                "limit": In(bits_for(most), init=most),
                "acquire": In(1),
                "release": In(1),
                "available": Out(1, init=1),
                "idle": Out(1, init=1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        count = Signal(bits_for(self.most))

        def fits(taken: int) -> Value:
            return count <= self.limit - self.at_once - taken

        # compared with the count at hand, and chosen by what comes late in the cycle
        acquired = Mux(self.release, fits(self.each - 1), fits(self.each))
        m.d.sync += [
            count.eq(count + (self.each * self.acquire) - self.release),
            self.available.eq(Mux(self.acquire, acquired, Mux(self.release, fits(-1), fits(0)))),
            self.idle.eq(~self.acquire & Mux(self.release, count == 1, count == 0)),
        ]
        return m
