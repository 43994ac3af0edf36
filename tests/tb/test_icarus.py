"""The engine in a simulator of four states that executes events as the standards order them, in both languages."""

from __future__ import annotations

import shutil

import pytest

from gradsieve.hw.config import preset
from gradsieve.tb.runner import Simulator, run_bench

TESTS = ("identity", "modes_and_masks", "accumulation", "clear_command", "null_beats", "short_reset", "hard_reset")
"""Those of `gradsieve.tb.bench_engine`; its faults take twice as long, and are in the heavy suite."""
LANGUAGES: tuple[Simulator, ...] = ("icarus_2005", "icarus_2012")
"""Verilog-2005 and SystemVerilog."""

pytestmark = pytest.mark.skipif(
    shutil.which("iverilog") is None, reason="iverilog is not installed (the session's last line says so)"
)


@pytest.mark.parametrize("simulator", LANGUAGES)
def test_engine(simulator: Simulator) -> None:
    result = run_bench("engine", preset("tiny"), simulator=simulator, tests=TESTS)
    assert not result.failures
    assert result.passed and result.tests == len(TESTS)


def test_processes_that_nothing_wakes_are_noticed() -> None:
    def asleep(text: str) -> str:
        """The way in which Yosys wakes processes."""
        assert "  initial \\$initial <= 1'h1;\n" in text
        return text.replace("  reg \\$initial ;\n  initial \\$initial <= 1'h1;\n", "  reg \\$initial  = 0;\n")

    result = run_bench("engine", preset("tiny"), simulator="icarus_2012", tests=TESTS[:1], change=asleep)
    assert "non-0/1" in result.failures["identity"]


@pytest.mark.heavy
@pytest.mark.parametrize("simulator", LANGUAGES)
def test_engine_and_its_faults(simulator: Simulator) -> None:
    result = run_bench("engine", preset("tiny"), simulator=simulator)
    assert not result.failures
    assert result.passed
