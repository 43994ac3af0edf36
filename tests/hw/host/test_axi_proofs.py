"""Proof of the register file: an AXI4-Lite slave from the first cycle after reset, and what its registers do."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from gradsieve.hw.host import register_file
from tests.hw.host.axi_rules import axi_lite_slave
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


SUBJECTS = {
    "register file": Subject(
        registers,
        register_file,
        [
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
        ],
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
