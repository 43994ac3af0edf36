"""Proofs of the ports: AMBA's rules from the first cycle after reset, of the register file and of the whole engine."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import pytest
from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib.wiring import Out

from gradsieve.hw import engine
from gradsieve.hw.config import preset
from gradsieve.hw.core import Core
from gradsieve.hw.host import register_file
from tests.hw.host.axi_rules import axi_lite_slave, axi_stream
from tests.hw.proof import Fault, Proof, Subject, faults


def registers(module: ModuleType) -> Proof:
    """The register file, with anything in the registers that the engine writes."""
    p = Proof(block := module.RegisterFile())
    bus, state = block.bus, p.inside()
    waiting = axi_lite_slave(p, bus)
    p.lemma("knows its addresses", waiting["aw"] == state.has_address + state.writes + bus.bvalid)
    p.lemma("knows its words", waiting["w"] == state.has_word + state.writes + bus.bvalid)
    p.lemma("knows its reads", waiting["ar"] == state.has_read + bus.rvalid)
    return p


class FreeCore(Core):
    """In place of the core: nothing drives its outputs."""

    def elaborate(self, platform: Any) -> Module:
        return Module()


def ports(module: ModuleType) -> Proof:
    """The engine's ports, with a core that keeps to the rule of its stream of beats and to nothing else."""
    with patch.object(module, "Core", FreeCore):
        p = Proof(block := module.Engine(preset("tiny")))
    m = p.m
    state = p.inside()
    core, registers = state.core, p.inside(state.registers)
    p.ports += [Value.cast(value) for _, member, value in core.signature.flatten(core) if member.flow is Out]
    p.assume(p.stays(core.beats.valid, core.beats.ready, core.beats.payload, unless=state.core_reset))
    bus, taken, given = block.s_axil, block.s_axis, block.m_axis
    waiting = axi_lite_slave(p, bus)
    axi_stream(p, "s_axis", taken, sends=False)
    axi_stream(p, "m_axis", given, sends=True)

    outputs = [bus.awready, bus.wready, bus.bvalid, bus.arready, bus.rvalid, taken.tready, given.tvalid]
    p.claim("is still behind a reset", ~p.after_reset | ~Cat(*outputs).any())
    cut, inside = Signal(), Signal()  # a soft reset has been; and what the port saw: inside a packet
    ends = given.tkeep == 0
    with m.If(given.tvalid & given.tready):
        m.d.sync += [inside.eq(~given.tlast), cut.eq(cut & ~ends)]
    with m.If(core.soft_reset):
        m.d.sync += cut.eq(1)
    p.claim("has null bytes in closing beats only", ~given.tvalid | given.tkeep.all() | (ends & cut))
    p.claim("closes open packets only", ~given.tvalid | ~ends | (given.tlast & inside))

    # lemmas; the blocks are reset a cycle later than what is around the engine
    steady = ~state.reset
    p.lemma("knows its addresses", ~steady | (waiting["aw"] == registers.has_address + registers.writes + bus.bvalid))
    p.lemma("knows its words", ~steady | (waiting["w"] == registers.has_word + registers.writes + bus.bvalid))
    p.lemma("knows its reads", ~steady | (waiting["ar"] == registers.has_read + bus.rvalid))
    p.lemma("resets its blocks", state.reset == p.after_reset)
    closer, closed = p.inside(state.closer), state.closer.closed
    open_inside = Mux(closed.valid, ~closed.payload.last, inside)
    cut_inside = closer.closing | (closed.valid & (closed.payload.keep == 0))
    p.lemma("knows that it is open", ~steady | (closer.begun == open_inside))
    p.lemma("closes what is open", ~steady | ~closer.closing | closer.begun)
    p.lemma("closes what was cut", ~steady | ~cut_inside | (cut & ~(closed.valid & ends & ~inside)))
    p.lemma("was cleared", ~steady | ~state.soft_reset | cut)
    return p


SLAVE_FAULTS = [
    ("with m.If(bus.bready):", "with m.If(bus.bvalid):", "b stays"),
    ("with m.If(bus.rready):", "with m.If(bus.rvalid):", "r stays"),
    ("bresp.eq(SLAVE_ERROR)", "bresp.eq(1)", "b has a response of AXI4-Lite"),
    ("Mux(known, OKAY, SLAVE_ERROR)", "Mux(known, OKAY, 1)", "r has a response of AXI4-Lite"),
    ("has_address & has_word & ~writes", "has_address & ~writes", "b follows address and data"),
    ("has_address & has_word & ~writes", "has_word & ~writes", "b follows address and data"),
    ("chosen.eq(decoded)", "chosen.eq(1)", "r follows its address"),
    ("awready.eq(~has_address)", "awready.eq(1)", "aw waits for answers"),
    ("wready.eq(~has_word)", "wready.eq(1)", "w waits for answers"),
    ("arready.eq(~has_read)", "arready.eq(1)", "ar waits for answers"),
    ("(~bus.bvalid | bus.bready)", "bus.bready", "b comes"),
    ("(~bus.rvalid | bus.rready)", "bus.rready", "r comes"),
]
SUBJECTS = {
    "register file": Subject(
        registers,
        register_file,
        SLAVE_FAULTS,
    ),
    "engine": Subject(
        ports,
        engine,
        [
            ("out.ready.eq(self.m_axis.tready)", "out.ready.eq(1)", "m_axis stays"),
            ("out.valid & ~reset", "out.valid", "is still behind a reset"),
            ("beat.ready & ~reset", "beat.ready", "is still behind a reset"),
            ("signal = signal & ~reset", "pass", "is still behind a reset"),
            ("tkeep.eq(out.payload.keep)", "tkeep.eq(out.payload.data)", "has null bytes in closing beats only"),
            ("tlast.eq(out.payload.last)", "tlast.eq(1)", "closes open packets only"),
        ],
        others=SLAVE_FAULTS,
    ),
}


@pytest.mark.parametrize("name", SUBJECTS)
def test_is_proven(name: str, tmp_path: Path) -> None:
    SUBJECTS[name].assert_proven(tmp_path)


@pytest.mark.parametrize(("name", "fault"), faults(SUBJECTS))
def test_fault_is_found(name: str, fault: Fault, tmp_path: Path) -> None:
    SUBJECTS[name].assert_refuted(tmp_path, fault)


@pytest.mark.parametrize("name", SUBJECTS)
def test_answers_need_their_reset(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    SUBJECTS[name].assert_needs_reset(tmp_path, monkeypatch)
