"""Every example runs from a foreign folder, and ends as it says."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"

RUNS: dict[str, tuple[list[str], list[str]]] = {
    "generate_and_simulate.py": (["generated"], ["dense: 100 % of the rows", ", 0 mismatches"]),
    "sieve_an_lstm.py": (["--steps", "40", "--hidden", "8"], ["outputs differ by 0.0"]),
    "device_in_the_loop.py": (["--steps", "2"], ["\n0 of 576 weights differ"]),
    "in_your_verilog/lint.py": (["generated"], ["top.v and gradsieve", ": clean"]),
    "adding_a_block/run.py": ([], ["the block: ", ", 0 differ, 100 % of bins", "a broken one: "]),
}
"""For each program its arguments, and texts that must be among its output."""
PARTS = {"adding_a_block/score_histogram.py", "adding_a_block/bench_score_histogram.py"}
"""What programs import."""


def run(program: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program in `folder`, with caches where the tests have theirs."""
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, str(program), *arguments], cwd=folder, env=env, capture_output=True, text=True, check=False
    )


def test_every_example_is_run() -> None:
    assert {p.relative_to(EXAMPLES).as_posix() for p in EXAMPLES.rglob("*.py")} == set(RUNS) | PARTS


@pytest.mark.parametrize("name", RUNS)
def test_example(name: str, tmp_path: Path) -> None:
    arguments, expected = RUNS[name]
    done = run(EXAMPLES / name, tmp_path, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    for text in expected:
        assert text in done.stdout
    assert done.stdout.count("mismatches") == done.stdout.count(" 0 mismatches")


def test_lint_sees_a_design_that_does_not_fit_the_engine(tmp_path: Path) -> None:
    folder = shutil.copytree(EXAMPLES / "in_your_verilog", tmp_path / "design")
    design = folder / "top.v"
    text = design.read_text()
    assert text.count("[7:0]          axil_araddr") == 1
    design.write_text(text.replace("[7:0]          axil_araddr", "[8:0]          axil_araddr"))
    done = run(folder / "lint.py", tmp_path, "generated")
    assert done.returncode != 0
    assert "'s_axil_araddr' expects 8 bits" in done.stderr
