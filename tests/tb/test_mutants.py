"""Benches notice faults: operators exchanged in the Verilog of their blocks."""

from __future__ import annotations

import pytest

from gradsieve.hw.config import preset
from gradsieve.rtl_gen.verilog import component_verilog
from gradsieve.tb.blocks import BLOCKS
from gradsieve.tb.mutate import mutants
from gradsieve.tb.runner import BenchError, run_bench

NOTICED = 0.8
"""Share of mutants that a bench must notice; some change nothing that can be seen."""
EXCUSED = {"compactor": 0.7}
"""Less where it is known why: bits that `tiny` does not reach, and bits of copied expressions that nobody uses."""


def noticed(block: str, text: str) -> bool:
    """Whether the bench fails, or breaks off."""
    try:
        return not run_bench(block, preset("tiny"), change=lambda _: text).passed
    except BenchError:
        return True


def check(block: str, count: int, share: float) -> None:
    """At least a share of the mutants of a block is noticed."""
    texts = mutants(component_verilog(BLOCKS[block].component(preset("tiny")), "dut"), count)
    assert texts
    missed = [line for text, line in texts if not noticed(block, text)]
    assert len(texts) - len(missed) >= share * len(texts), "\n".join(missed)


@pytest.mark.parametrize("block", ["processing_element", "state_store"])
def test_a_fault_is_noticed(block: str) -> None:
    check(block, count=3, share=0.5)


@pytest.mark.heavy
@pytest.mark.parametrize("block", [b for b in BLOCKS if b != "engine"])
def test_faults_are_noticed(block: str) -> None:
    check(block, count=10, share=EXCUSED.get(block, NOTICED))
