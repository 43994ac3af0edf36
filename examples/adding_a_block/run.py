"""Runs the bench of the score histogram in Verilator, and once more with a fault that it must see."""

import sys
from pathlib import Path

from score_histogram import ScoreHistogram

from gradsieve.hw.config import preset
from gradsieve.tb.blocks import BLOCKS, Block
from gradsieve.tb.runner import BenchResult, run_bench

sys.path.insert(0, str(Path(__file__).parent))  # where the simulator looks for the bench
BLOCKS["score_histogram"] = Block(ScoreHistogram, ("bench_score_histogram",))  # in the project: a line of tb/blocks.py


def broken(text: str) -> str:
    """The Verilog with `clear` taken for its opposite."""
    changed = text.replace("if (clear)", "if (!clear)")
    assert changed != text
    return changed


def say(name: str, result: BenchResult) -> None:
    """One line of what a bench found."""
    print(f"{name}: {result.comparisons:,} comparisons, {result.mismatches:,} differ, {result.coverage:.0f} % of bins")


good = run_bench("score_histogram", preset("tiny"))
say("the block", good)
bad = run_bench("score_histogram", preset("tiny"), change=broken)
say("a broken one", bad)
sys.exit(0 if good.passed and not bad.passed else 1)
