"""AXI4-Lite register file, decoded from the register map."""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from gradsieve.hw.host.registers import ADDRESS_WIDTH, REGISTERS, Access
from gradsieve.hw.lib.axi import OKAY, SLAVE_ERROR, AxiLite
from gradsieve.hw.lib.idioms import gated, one_hot_choice

DATA_WIDTH = 32
REGISTER_BUS = AxiLite(ADDRESS_WIDTH, DATA_WIDTH)
"""The bus that the register map is behind, from the master's side."""
CHOICES = 8
"""Words among which one cycle chooses."""


WRITE_STEPS = ("address and word", "which register", "answer")
READ_STEPS = ("address", "which register", "choices among a few", "answer")
"""The registers that a transfer passes, a cycle each."""


class RegisterFile(wiring.Component):
    """One transfer at a time each way.

    A write answers `write_latency` cycles after its address and data are taken, a read `read_latency`.
    For each register of `gradsieve.hw.host.registers`: a read-write one is the output `<name>` (and `<name>_written`
    pulses when it has changed), a read-only one the input `<name>`, a pulse register the output `<name>`, high
    for one cycle; a live one has the input `<name>_live`, which is what it reads.  An address without a register, and
    a write to a read-only one, answer SLVERR and change nothing.
    """

    write_latency = len(WRITE_STEPS)
    read_latency = len(READ_STEPS)

    def __init__(self) -> None:
        members: dict[str, Any] = {"bus": In(REGISTER_BUS)}
        for r in REGISTERS:
            name = r.name.lower()
            if r.access is Access.READ_ONLY:
                members[name] = In(DATA_WIDTH)
            else:
                members[name] = Out(DATA_WIDTH, init=r.reset)
            if r.access is Access.READ_WRITE:
                members[f"{name}_written"] = Out(1)
            if r.live:
                members[f"{name}_live"] = In(DATA_WIDTH)
        super().__init__(members)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        bus = self.bus
        address = Signal(ADDRESS_WIDTH)
        word = Signal(DATA_WIDTH)
        strobe = Signal(DATA_WIDTH // 8)
        has_address = Signal()
        has_word = Signal()
        write = Signal()
        writes = Signal()
        m.d.comb += [
            bus.awready.eq(~has_address),
            bus.wready.eq(~has_word),
            write.eq(has_address & has_word & ~writes & (~bus.bvalid | bus.bready)),
        ]
        m.d.sync += writes.eq(write)
        with m.If(bus.awvalid & bus.awready):
            m.d.sync += [address.eq(bus.awaddr), has_address.eq(1)]
        with m.If(bus.wvalid & bus.wready):
            m.d.sync += [word.eq(bus.wdata), strobe.eq(bus.wstrb), has_word.eq(1)]
        with m.If(write):
            m.d.sync += [has_address.eq(0), has_word.eq(0)]
        with m.If(bus.bready):
            m.d.sync += bus.bvalid.eq(0)
        with m.If(writes):
            m.d.sync += [bus.bvalid.eq(1), bus.bresp.eq(SLAVE_ERROR)]
        mask = Cat(*[bit.replicate(8) for bit in strobe])
        for r in REGISTERS:
            if r.access is Access.READ_ONLY:
                continue
            name, signal = r.name.lower(), getattr(self, r.name.lower())
            # whose word it is: from a register, as is all that acts on many bits at once
            hit = Signal(name=f"hit_{name}")
            m.d.sync += hit.eq(write & (address[2:] == r.offset >> 2))
            with m.If(hit):
                m.d.sync += bus.bresp.eq(OKAY)
            if r.access is Access.PULSE:
                m.d.sync += signal.eq(gated(word & mask, hit))
            else:
                m.d.sync += getattr(self, f"{name}_written").eq(hit)
                with m.If(hit):
                    m.d.sync += signal.eq((word & mask) | (signal & ~mask))

        # the choice among all words takes three cycles: which, some of them, all of them
        read_address = Signal(ADDRESS_WIDTH)
        has_read = Signal()
        decoded = Signal()
        found = Signal()
        chosen = Signal()
        known = Signal()
        m.d.comb += bus.arready.eq(~has_read)
        with m.If(bus.arvalid & bus.arready):
            m.d.sync += [read_address.eq(bus.araddr), has_read.eq(1)]
        with m.If(bus.rready):
            m.d.sync += bus.rvalid.eq(0)
        m.d.sync += [decoded.eq(has_read), chosen.eq(decoded), known.eq(found)]
        choices, hits = [], []
        for first in range(0, len(REGISTERS), CHOICES):
            words: list[tuple[Value, Value]] = []
            for r in REGISTERS[first : first + CHOICES]:
                name = f"{r.name.lower()}_live" if r.live else r.name.lower()
                hits.append(hit := Signal(name=f"reads_{r.name.lower()}"))
                m.d.sync += hit.eq(read_address[2:] == r.offset >> 2)
                if r.access is not Access.PULSE:
                    words.append((hit, getattr(self, name)))
            choices.append(choice := Signal(DATA_WIDTH, name=f"choice_{first}"))
            m.d.sync += choice.eq(one_hot_choice(words))
        m.d.comb += found.eq(reduce(or_, hits))
        with m.If(chosen & (~bus.rvalid | bus.rready)):
            m.d.sync += [
                *[s.eq(0) for s in (has_read, decoded, chosen)],
                bus.rvalid.eq(1),
                bus.rdata.eq(reduce(or_, choices)),
                bus.rresp.eq(Mux(known, OKAY, SLAVE_ERROR)),
            ]
        return m
