"""Performance counters: what a run did and what it waited for, in cycles."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from gradsieve.hw.config import EngineConfig
from gradsieve.hw.gates.gate_schedule import most_saturated
from gradsieve.hw.host.registers import COUNTERS_32, COUNTERS_64
from gradsieve.hw.layouts import group_elements
from gradsieve.hw.lib.arithmetic import bits_for

LIFETIME = ("LOAD_CYCLES", "READOUT_CYCLES")
"""Counters that a start does not clear, only a reset."""


def increments(config: EngineConfig) -> dict[str, int]:
    """Largest increment a cycle of each counter that does not count by one."""
    saturated = most_saturated(config)
    return {
        "MACS": config.R * config.C,
        "ROWS_KEPT": config.gate_rows,
        "ELEMENTS_KEPT": config.gate_rows * config.C,
        "SATURATED_GATE": saturated["gate"],
        "SATURATED_FACTOR": saturated["factor"],
        "SATURATED_SIEVE": config.gate_rows_per_cycle * config.C,
        "SATURATED_ERROR": config.C,
        "SATURATED_READ": group_elements(config),
    }


class Counters(wiring.Component):
    """For each counter an input `<name>_add`, added every cycle, and an output `<name>`; `start` zeroes those of a run.

    `read` zeroes SATURATED_READ.  64-bit counters hold for ever, 32-bit ones wrap.
    """

    def __init__(self, config: EngineConfig) -> None:
        largest = increments(config)
        members: dict[str, Any] = {"start": In(1), "read": In(1)}
        for names, width in ((COUNTERS_64, 64), (COUNTERS_32, 32)):
            for name in names:
                members[f"{name.lower()}_add"] = In(bits_for(largest.get(name, 1)))
                members[name.lower()] = Out(width)
        super().__init__(members)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        # a cycle later, as what it counts
        start = Signal(init=1)
        read = Signal(init=1)  # a reset zeroes all
        m.d.sync += [start.eq(self.start), read.eq(self.read)]
        for name in (*COUNTERS_64, *COUNTERS_32):
            counter = Signal.like(getattr(self, name.lower()), name=name.lower(), reset_less=name not in LIFETIME)
            m.d.comb += getattr(self, name.lower()).eq(counter)
            add = getattr(self, f"{name.lower()}_add")
            # registered: none of these is worth a long path
            pending = Signal.like(add, name=f"{name.lower()}_pending")
            m.d.sync += [pending.eq(add), counter.eq(counter + pending)]
            if name not in LIFETIME:
                with m.If(read if name == "SATURATED_READ" else start):
                    m.d.sync += counter.eq(0)
        return m
