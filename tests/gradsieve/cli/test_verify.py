"""`gradsieve verify`, as it is typed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

import gradsieve.tb.coverage_reasons
import gradsieve.tb.runner
from gradsieve.cli.application import main
from gradsieve.hw.config import EngineConfig
from gradsieve.tb.blocks import BLOCKS
from gradsieve.tb.coverage_reasons import Reason
from gradsieve.tb.runner import COUNTS_FILE, DESIGN_FILE, BenchResult
from tests.tb.test_line_coverage import BODY, branches


def result(block: str, config: EngineConfig, seed: int = 1, **_: Any) -> BenchResult:
    """What a bench that passes gives."""
    return BenchResult(block, config.name, seed, 3, {}, 1234, 0, 500, 19, 20)


def test_one_block(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "result.json"
    assert main(["verify", "--preset", "tiny", "--block", "state_store", "--seed", "3", "--json", str(file)]) == 0
    out, err = capsys.readouterr()
    assert "1 of 1 benches passed" in out
    assert "passed" in out
    assert err == ""
    (bench,) = json.loads(file.read_text())["benches"]
    assert bench["block"] == "state_store"
    assert bench["seed"] == 3
    assert bench["passed"] is True
    assert bench["comparisons"] > 100
    assert bench["mismatches"] == 0


def test_every_block_by_default(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(gradsieve.tb.runner, "run_bench", result)
    assert main(["verify", "--preset", "tiny"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in BLOCKS)
    assert f"{len(BLOCKS)} of {len(BLOCKS)} benches passed; {1234 * len(BLOCKS):,} comparisons, 0 mismatches" in out
    assert "95.0 %" in out


@pytest.mark.parametrize(
    "change", [{"failures": {"tiles": "1 of 5 differ: dx: is 3, should be 4"}}, {"mismatches": 2}, {"comparisons": 0}]
)
def test_a_bench_that_fails_is_status_1(
    change: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*arguments: Any, **settings: Any) -> BenchResult:
        return dataclasses.replace(result(*arguments, **settings), **change)

    monkeypatch.setattr(gradsieve.tb.runner, "run_bench", fails)
    assert main(["verify", "--preset", "tiny", "--block", "drain"]) == 1
    out = capsys.readouterr().out
    assert "failed" in out
    assert "0 of 1 benches passed" in out
    assert "failures" not in change or "drain.tiles: 1 of 5 differ: dx: is 3, should be 4" in out


def test_an_unknown_block_is_one_line_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--preset", "tiny", "--block", "nothing"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: --block must be one of register_file, ")
    assert len(err.splitlines()) == 1


def with_counts(second: int) -> Any:
    """A bench that passes, and in whose design the second of two branches ran so many times."""

    def run(block: str, config: EngineConfig, counts: Path, **settings: Any) -> BenchResult:
        (counts / DESIGN_FILE).write_text("module dut(clk);\n" + BODY.format(clock="clk"))
        (counts / COUNTS_FILE).write_text(branches("dut", 1, 5, second))
        return result(block, config)

    return run


@pytest.mark.parametrize(("why", "said"), [(None, "no reason given"), ("b is never high", "b is never high")])
def test_coverage_lists_what_never_ran(
    why: str | None, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = next(iter(BLOCKS))
    monkeypatch.setattr(gradsieve.tb.runner, "run_bench", with_counts(0))
    reasons = [Reason(first, "if (b)", why)] if why else []
    monkeypatch.setattr(gradsieve.tb.coverage_reasons, "known_reasons", lambda: reasons)
    file = tmp_path / "result.json"
    assert main(["verify", "--preset", "tiny", "--coverage", "--json", str(file)]) == 1  # half of the lines
    out = capsys.readouterr().out
    assert f"{first}: if (b) begin q <= 1'h0;\n  {said}" in out
    assert f"50.00 % of 4 lines ran, 50.0 % of 2 toggles; 1 gaps, {0 if why else 1} without a reason" in out
    coverage = json.loads(file.read_text())["coverage"]
    assert coverage["lines"] == [2, 4] and coverage["blocks"][0]["not_toggled"] == {"dut": ["clk:1->0"]}
    assert coverage["gaps"] == [{"block": first, "module": "dut", "text": "if (b) begin q <= 1'h0;", "reason": why}]


def test_coverage_of_all_lines_is_status_0(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(gradsieve.tb.runner, "run_bench", with_counts(7))
    assert main(["verify", "--preset", "tiny", "--coverage"]) == 0
    assert "100.00 % of 4 lines ran, 50.0 % of 2 toggles; 0 gaps, 0 without a reason" in capsys.readouterr().out


@pytest.mark.parametrize("more", [["--waves"], ["--block", "drain"]])
def test_coverage_is_of_all_benches(more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--preset", "tiny", "--coverage", *more]) == 2
    assert f"--coverage takes all blocks and no waveforms, got {more[0]} too" in capsys.readouterr().err
