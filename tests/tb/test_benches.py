"""Every bench, for the smallest engine; with `heavy`, more seeds, rounds and configs."""

from __future__ import annotations

import pytest

from gradsieve.hw.array.systolic_array import DRAIN_GROUP
from gradsieve.hw.config import EngineConfig, preset
from gradsieve.hw.formats import FixedPoint, Formats
from gradsieve.tb.blocks import BLOCKS
from gradsieve.tb.runner import BenchError, BenchResult, run_bench
from tests.conftest import session_seed

BATCH_ONE = EngineConfig(name="batch_one", R=4, C=1, max_H=6, max_I=5, max_B=1, max_T=5, gate_rows_per_cycle=4)
"""One lane as in the preset `edge`, and the fastest gate gradient unit."""

ODD = EngineConfig(
    name="odd",
    R=3,
    C=3,
    max_H=19,
    max_I=7,
    max_B=5,
    max_T=3,
    gate_rows_per_cycle=2,
    stream_width=128,
    formats=Formats(
        weight=FixedPoint(width=10, fraction=7),
        activation=FixedPoint(width=12, fraction=11),
        cell=FixedPoint(width=14, fraction=9),
        input=FixedPoint(width=9, fraction=6),
        gradient=FixedPoint(width=13, fraction=8),
        weight_grad_width=27,
    ),
)
"""No power of two anywhere, two bitmap words, formats of different widths, and room for 127 terms only."""

TALL = EngineConfig(name="tall", R=64, C=1, max_H=5, max_I=3, max_B=2, max_T=3)
"""More rows than any size has columns: what goes from row to row of the array takes longest beside the rest."""


def check(result: BenchResult, coverage: float) -> None:
    """The bench passed, and has seen what it should."""
    assert not result.failures
    assert result.passed
    assert result.coverage >= coverage, result.uncovered


@pytest.mark.parametrize("block", BLOCKS)
def test_tiny(block: str) -> None:
    check(run_bench(block, preset("tiny")), coverage=95)


@pytest.mark.parametrize("config", [BATCH_ONE, ODD, TALL], ids=lambda c: c.name)
def test_engine_of_another_shape(config: EngineConfig) -> None:
    check(run_bench("engine", config), coverage=90)


def test_controller_of_few_terms() -> None:
    check(run_bench("controller", ODD), coverage=95)


def test_row_bitmap_of_four_rows_a_cycle() -> None:
    check(run_bench("row_bitmap", BATCH_ONE), coverage=85)


def test_verilog_that_does_not_build_is_told_in_one_line() -> None:
    with pytest.raises(
        BenchError, match=r"^Verilator does not build the simulation .*: %Error: .*design\.v:1:1: syntax .*$"
    ):
        run_bench("delay_line", preset("tiny"), change=lambda text: "modul" + text)


def test_array_with_more_rows_than_a_drain_group() -> None:
    config = preset("default")
    assert config.R > DRAIN_GROUP
    check(run_bench("systolic_array", config), coverage=95)


@pytest.mark.heavy
@pytest.mark.parametrize("config", [BATCH_ONE, ODD, preset("default")], ids=lambda c: c.name)
@pytest.mark.parametrize("block", [b for b in BLOCKS if b != "engine"])
def test_block_of_another_shape(block: str, config: EngineConfig) -> None:
    check(run_bench(block, config, seed=session_seed(), rounds=2), coverage=85)


@pytest.mark.heavy
@pytest.mark.parametrize("more", range(4))
@pytest.mark.parametrize("config", [preset("tiny"), BATCH_ONE, ODD], ids=lambda c: c.name)
def test_engine_seeds(config: EngineConfig, more: int) -> None:
    check(run_bench("engine", config, seed=session_seed() + more, rounds=4), coverage=95)


@pytest.mark.heavy
@pytest.mark.parametrize("name", ["edge", "default"])
def test_engine_presets(name: str) -> None:
    check(run_bench("engine", preset(name), seed=session_seed()), coverage=80)
